// --help, made from the option tables of command.h.
#pragma once

#include <string>

#include "scheduler/command.h"

namespace berth {

/// "berth --help".
std::string program_help(unsigned width);
/// "berth COMMAND --help".
std::string command_help(const CommandSpec& command, unsigned width);
/// "berthd --help".
std::string daemon_help(unsigned width);
/// $COLUMNS, else the terminal's width, else 80; kept between 60 and 120.
unsigned help_width();

}  // namespace berth
