// `berth top`: what running jobs use, again and again.
#pragma once

#include "scheduler/command_line.h"

namespace berth {

int run_top(const CommandLine& line);

}  // namespace berth
