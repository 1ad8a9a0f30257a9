// berthd's command line as data, for its --help and its manual page.
#pragma once

#include <span>

#include "scheduler/help_text.h"

namespace berth {

const CommandSpec& daemon_command();
std::span<const Meaning> daemon_signals();
std::span<const Meaning> daemon_exit_status();
std::span<const Meaning> daemon_files();

}  // namespace berth
