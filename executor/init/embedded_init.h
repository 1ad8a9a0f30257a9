// The freestanding init program, built with us and embedded in our image.
#pragma once

#include <string_view>

namespace berth {

std::string_view embedded_init();

}  // namespace berth
