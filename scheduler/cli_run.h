// `berth run`: jobs in, records out, in this process.
#pragma once

#include "scheduler/command_line.h"

namespace berth {

/// Returns the exit status of docs/cli.md. Throws UsageError, InputError, StoreError, LaunchError and
/// std::exception for what keeps the whole run from taking place.
int run_jobs(const CommandLine& line);

}  // namespace berth
