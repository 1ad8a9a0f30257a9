// Help, manual pages and bash completion, all made from the option tables of command.h.
#pragma once

#include <string>
#include <string_view>

#include "scheduler/command.h"

namespace berth {

/// "berth --help".
std::string program_help(unsigned width);
/// "berth COMMAND --help".
std::string command_help(const CommandSpec& command, unsigned width);
/// $COLUMNS, else the terminal's width, else 80; kept between 60 and 120.
unsigned help_width();

/// roff for man(7): berth(1), and one page per command.
std::string program_manual_page();
std::string command_manual_page(const CommandSpec& command);

/// A bash script; `columns` are the names that Completion::columns offers, separated by spaces.
std::string bash_completion(std::string_view columns);

/// Writes berth.1 and berth-COMMAND.1 into a directory. Throws std::system_error.
void write_manual_pages(const std::string& directory);
/// Throws std::system_error.
void write_text_file(const std::string& path, std::string_view text);

}  // namespace berth
