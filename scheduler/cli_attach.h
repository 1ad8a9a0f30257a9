// berth attach: the caller's terminal, or standard output and error, at a job of berthd's that runs.
#pragma once

#include "scheduler/command_line.h"

namespace berth {

/// The exit status: the job's, as berth wait's; 0 after the detach keys; 128+n after a signal that left it.
int run_attach(const CommandLine& line);

}  // namespace berth
