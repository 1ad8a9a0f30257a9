// `berth check`: job files and scripts validated without running them.
#pragma once

#include "scheduler/command_line.h"

namespace berth {

/// Returns the exit status.
int run_check(const CommandLine& line);

}  // namespace berth
