// `berth report`: sums over ended jobs as a table or JSON.
//
// Pure functions; shared by the command line, which reads a database of its own, and berthd, which answers
// for its.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "scheduler/listing.h"
#include "store/usage_report.h"

namespace berth {

/// The options' values as typed; each list holds words separated by commas.
struct ReportRequest {
  std::optional<std::string> by;     ///< user, account, name or day; absent: user
  std::optional<std::string> start;  ///< as parse_instant() takes it
  std::optional<std::string> end;
  std::vector<std::string> users;
  std::vector<std::string> accounts;
};
/// Throws InputError with every fault.
ReportFilter make_report_filter(const ReportRequest& request, Timestamp now);

/// Columns by name, in any case, each optionally with a width ("Jobs%12"); absent: all. Throws InputError for
/// one that there is not, TooMuch beyond style.most_bytes.
std::string format_report(const std::vector<ReportRow>& rows, ReportKey key,
                          const std::optional<std::string>& format, const ListingStyle& style);
/// Of the style only most_bytes counts.
std::string report_json(const std::vector<ReportRow>& rows, ReportKey key, const ListingStyle& style = {});
/// "Jobs Attempts …": names and what they mean, one a line.
std::string report_help();

}  // namespace berth
