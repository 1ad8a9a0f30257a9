// `berth submit`: jobs to berthd.
#pragma once

#include "scheduler/command_line.h"
#include "scheduler/run_jobs_input.h"

namespace berth {

/// `texts` are what the operands name. Returns the exit status. Throws UsageError, InputError, ApiRefusal,
/// NoDaemon.
int run_submit(const CommandLine& line, JobTexts& texts);

}  // namespace berth
