// `berth submit`: jobs to berthd.
#pragma once

#include "scheduler/command_line.h"

namespace berth {

/// Returns the exit status. Throws UsageError, InputError, ApiRefusal, NoDaemon.
int run_submit(const CommandLine& line);

}  // namespace berth
