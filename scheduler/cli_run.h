// `berth run`: jobs in, records out, in this process.
#pragma once

#include "scheduler/command_line.h"
#include "scheduler/run_jobs_input.h"

namespace berth {

/// `texts` are what the operands name. Returns the exit status of docs/cli.md. Throws UsageError, InputError,
/// StoreError, LaunchError and std::exception for what keeps the whole run from taking place.
int run_jobs(const CommandLine& line, JobTexts& texts);

}  // namespace berth
