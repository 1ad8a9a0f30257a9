// `berth history`, `show`, `efficiency` and `report`: option words to requests, answers to standard output.
#pragma once

#include "scheduler/command_line.h"
#include "scheduler/listing.h"

namespace berth {

/// Each returns the exit status, and throws InputError and StoreError.
int run_history(const CommandLine& line);
int run_show(const CommandLine& line);
int run_efficiency(const CommandLine& line);
int run_report(const CommandLine& line);

/// What --noheader, --parsable, --parsable2 and --delimiter ask for, of those that the command has.
ListingStyle listing_style(const CommandLine& line);

}  // namespace berth
