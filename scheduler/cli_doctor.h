// `berth doctor`: what this machine offers to jobs.
#pragma once

#include "scheduler/command_line.h"

namespace berth {

/// Returns the exit status.
int run_doctor(const CommandLine& line);

}  // namespace berth
