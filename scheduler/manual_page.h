// Manual pages (man(7)), made from the option tables of command.h.
#pragma once

#include <string>

#include "scheduler/command.h"

namespace berth {

/// berth(1).
std::string program_manual_page();
/// berth-COMMAND(1).
std::string command_manual_page(const CommandSpec& command);
/// berthd(8).
std::string daemon_manual_page();

}  // namespace berth
