// docs/commands.md, made from the option tables of command.h.
#pragma once

#include <string>

namespace berth {

std::string reference_page();

}  // namespace berth
