// The reading side of usage_report.h. Internal to store/.
#pragma once

#include <vector>

#include "store/usage_report.h"

namespace berth {

class Database;

/// Rows in the order of their keys.
std::vector<ReportRow> read_report(Database& database, const ReportFilter& filter);

}  // namespace berth
