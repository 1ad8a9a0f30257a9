// What --help, the manual pages and docs/commands.md say beside the option tables of command.h.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "scheduler/command.h"

namespace berth {

/// A word of the interface and what it means, without markup.
struct Meaning {
  std::string_view term;
  std::string_view text;
};

/// Paragraphs.
std::span<const std::string_view> program_description();
std::span<const Example> program_examples();
std::span<const Meaning> exit_status_of(const CommandSpec& command);
/// Of the commands that have none of their own.
std::span<const Meaning> common_exit_status();
std::span<const Meaning> environment_variables();
std::span<const Meaning> files_of_berth();

/// An option's description with its default, without the final full stop.
std::string option_text(const Option& option);

}  // namespace berth
