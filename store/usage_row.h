// Usage to and from the columns of table usage. Internal to store/.
#pragma once

#include <string>

#include "schemas/usage.h"
#include "store/database.h"

namespace berth {

/// "wall, cpu_total, …": the columns in the order in which bind_usage and read_usage take them, each with
/// `prefix` before it.
std::string usage_columns(const std::string& prefix = "");
/// "?, ?, …", one for each column.
std::string usage_parameters();

/// Binds every column in order; an absent counter becomes NULL.
void bind_usage(Query& query, const Usage& usage);
/// Reads every column from `first_column` on; NULL becomes an absent counter.
Usage read_usage(const Query& query, int first_column);

}  // namespace berth
