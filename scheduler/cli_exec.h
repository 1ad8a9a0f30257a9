// `berth exec`: a further command beside a running job of berthd's.
#pragma once

#include "scheduler/command_line.h"

namespace berth {

/// Exits as the command did; 125 for what berth itself could not do.
int run_exec(const CommandLine& line);

}  // namespace berth
