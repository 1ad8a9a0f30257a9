// `berth history`, `show`, `efficiency` and `report`: option words to requests, answers to standard output.
#pragma once

#include "scheduler/command_line.h"

namespace berth {

/// Each returns the exit status, and throws InputError and StoreError.
int run_history(const CommandLine& line);
int run_show(const CommandLine& line);
int run_efficiency(const CommandLine& line);
int run_report(const CommandLine& line);

}  // namespace berth
