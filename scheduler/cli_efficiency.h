// `berth efficiency`: what a job used against what it was granted, in the layout and with the formulas of
// Slurm's seff.
#pragma once

#include <functional>
#include <string>

#include "schemas/accounting_record.h"

namespace berth {

/// The name of a user's primary group; empty when it has none. Replaced in tests.
using GroupOfUser = std::function<std::string(unsigned user_id)>;
/// From the system's user database (getpwuid_r(3), getgrgid_r(3)).
std::string primary_group(unsigned user_id);

/// seff's lines for one attempt, and a warning line while it runs or when it never ran.
std::string efficiency_text(const AccountingRecord& record, Timestamp now,
                            const GroupOfUser& group_of = primary_group);
/// The same as one JSON object: times in microseconds, sizes in bytes, efficiencies in per cent; what was
/// not measured is left out.
std::string efficiency_json(const AccountingRecord& record, Timestamp now,
                            const GroupOfUser& group_of = primary_group);

}  // namespace berth
