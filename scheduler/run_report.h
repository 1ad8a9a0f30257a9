// What `berth run` tells at its end: the usage table, the structured records and the exit status.
#pragma once

#include <string>
#include <vector>

#include "schemas/accounting_record.h"

namespace berth {

/// One line per job: id, name, state, exit code, elapsed, CPU time, peak memory.
std::string usage_table(const std::vector<AccountingRecord>& records);

/// One JSON object for one record, an array for several (or none).
std::string records_json(const std::vector<AccountingRecord>& records);

/// 0 when all COMPLETED, else exit_status() of the first in submit order that did not. When a signal to
/// berth cancelled jobs: 128 + its number. 0 for `signal_number`: none came.
int run_exit_status(const std::vector<AccountingRecord>& records, int signal_number);

}  // namespace berth
