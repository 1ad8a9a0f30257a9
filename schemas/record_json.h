// The parts of an AccountingRecord as JSON text, and back; for storage and for other programs.
//
// The names are those of docs/accounting.md. Durations are integers in microseconds and end in "_usec",
// sizes are integers in bytes, what is absent is left out. Readers ignore keys that they do not know, so
// that an older berth can read a newer record; they throw std::invalid_argument on anything else.
#pragma once

#include <string>
#include <string_view>

#include "schemas/accounting_record.h"

namespace berth {

/// {"wall_usec":1000000,"memory_peak":4096,…}; the keys are UsageField::key.
std::string to_json_text(const Usage& usage);
Usage parse_usage(std::string_view json_text);

/// "wall=1000000 memory_peak=4096 …": what for_each_usage_field names; a tenth of the time of JSON, for what
/// programs of berth's say to each other. Throws std::invalid_argument; names that it does not know are left
/// out.
std::string to_counters(const Usage& usage);
Usage parse_counters(std::string_view text);

std::string to_json_text(const Outcome& outcome);
Outcome parse_outcome(std::string_view json_text);

std::string to_json_text(const Allocation& allocation);
Allocation parse_allocation(std::string_view json_text);

}  // namespace berth
