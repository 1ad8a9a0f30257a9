// berth generate: what the build and scripts/docs have berth write of itself. Hidden from help.
#pragma once

#include "scheduler/command_line.h"

namespace berth {

/// Throws UsageError, and std::system_error when a file cannot be written.
int run_generate(const CommandLine& line);

}  // namespace berth
