// The bash completion script, made from the option tables of command.h.
#pragma once

#include <string>
#include <string_view>

namespace berth {

/// `columns` are the names that Completion::columns offers, separated by spaces.
std::string bash_completion(std::string_view columns);

}  // namespace berth
