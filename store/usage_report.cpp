// The sums are SQLite's; what is grouped further here is only what SQL cannot count: the CPUs of a list such
// as "0-3,8", of which a machine has few different ones.
#include "store/usage_report.h"

#include <algorithm>

#include "schemas/cpu_set.h"
#include "store/database.h"
#include "store/job_store.h"
#include "store/read_report.h"

namespace berth {
namespace {

/// The day on which an attempt ended.
std::string day_expression(const std::optional<TimeZone>& zone) {
  if (!zone) {
    return "date(a.end_us / 1000000, 'unixepoch', 'localtime')";
  }
  std::string offset = std::to_string(zone->first_offset());
  if (!zone->changes().empty()) {
    std::string branches;
    for (const TimeZone::Change& change : zone->changes()) {
      branches += " WHEN a.end_us < " + std::to_string(change.since) + "000000 THEN " + offset;
      offset = std::to_string(change.offset);
    }
    offset = "CASE" + branches + " ELSE " + offset + " END";
  }
  return "date(a.end_us / 1000000 + (" + offset + "), 'unixepoch')";
}

std::string key_expression(const ReportFilter& filter) {
  switch (filter.key) {
    case ReportKey::user:
      return "j.user";
    case ReportKey::account:
      return "j.account";
    case ReportKey::name:
      return "j.name";
    case ReportKey::day:
      return day_expression(filter.zone);
  }
  return "j.user";
}

class ReportConditions {
 public:
  explicit ReportConditions(const ReportFilter& filter) : filter_(filter) {
    // The array's own row ends with its last task, and is no attempt of anything.
    text_ =
        " FROM attempts a JOIN jobs j ON j.id = a.job_id LEFT JOIN usage u ON u.job_id = a.job_id AND "
        "u.attempt = a.attempt WHERE a.end_us IS NOT NULL";
    text_ += filter.start ? " AND a.end_us >= ?" : "";
    text_ += filter.end ? " AND a.end_us < ?" : "";
    text_ += filter.user_id ? " AND j.user_id = ?" : "";
    if (!filter.users.empty()) {
      const std::string list = places(filter.users.size());
      text_ += " AND (j.user IN (" + list + ") OR CAST(j.user_id AS TEXT) IN (" + list + "))";
    }
    if (!filter.accounts.empty()) {
      text_ += " AND j.account IN (" + places(filter.accounts.size()) + ")";
    }
  }
  const std::string& text() const { return text_; }

  void bind(Query& query) const {
    for (const auto& instant : {filter_.start, filter_.end}) {
      if (instant) {
        query.bind(std::int64_t{instant->time_since_epoch().count()});
      }
    }
    if (filter_.user_id) {
      query.bind(std::int64_t{*filter_.user_id});
    }
    for (int repeat = 0; repeat < 2; ++repeat) {
      for (const std::string& user : filter_.users) {
        query.bind(user);
      }
    }
    for (const std::string& account : filter_.accounts) {
      query.bind(account);
    }
  }

 private:
  static std::string places(std::size_t count) {
    std::string list = "?";
    for (std::size_t index = 1; index < count; ++index) {
      list += ", ?";
    }
    return list;
  }

  const ReportFilter& filter_;
  std::string text_;
};

/// A real number, as SQLite takes a sum of integers beyond 64 bits for an error.
constexpr const char* kElapsed = "(CASE WHEN a.start_us IS NULL THEN 0.0 ELSE 1.0 * u.wall END)";
/// The attempt ran, and both what it used and what it was granted are known.
constexpr const char* kIsComparable =
    "a.start_us IS NOT NULL AND a.cpus <> '' AND u.wall IS NOT NULL AND u.cpu_total IS NOT NULL";

ReportRow::Time time_in(const Query& query, int column, std::int64_t times = 1) {
  return query.is_null(column) ? std::nullopt
                               : std::optional(std::chrono::microseconds{query.integer(column)} * times);
}

template <typename Sum>
void add(std::optional<Sum>& sum, const std::optional<Sum>& more) {
  sum = more ? sum.value_or(Sum{}) + *more : sum;
}

template <typename Most>
void raise(std::optional<Most>& most, const std::optional<Most>& other) {
  most = std::max(most, other);  // absent is less than all
}

}  // namespace

std::vector<ReportRow> read_report(Database& database, const ReportFilter& filter) {
  const ReportConditions conditions(filter);
  const std::string key = key_expression(filter);
  constexpr std::uint64_t kBytesOfRow = 1024;
  std::map<std::string, ReportRow> rows;
  std::uint64_t bytes = 0;
  {
    SQLite::Statement statement =
        database.prepare("SELECT " + key + ", count(DISTINCT a.job_id)" + conditions.text() + " GROUP BY 1");
    Query query(statement);
    conditions.bind(query);
    while (query.step()) {
      ReportRow& row = rows[query.text(0)];
      row.key = query.text(0);
      row.jobs = static_cast<std::uint64_t>(query.integer(1));
      bytes += kBytesOfRow + row.key.size();
      if (filter.most_bytes && bytes > *filter.most_bytes) {
        throw TooMuch(
            "this report takes more than " + std::to_string(*filter.most_bytes >> 20U) +
            " MiB: ask for less, by start and end, users or accounts (berth report -S, -E, -u, -A), "
            "or by another key");
      }
    }
  }
  SQLite::Statement statement = database.prepare(
      "SELECT " + key + ", a.cpus, a.state, count(*), sum(" + kElapsed + "), sum(1.0 * u.cpu_total), sum(" +
      kElapsed + " / 1e6 * nullif(a.memory, 0)), sum(1.0 * u.oom_kills), sum(CASE WHEN " + kIsComparable +
      " THEN 1.0 * u.wall END), sum(CASE WHEN " + kIsComparable +
      " THEN 1.0 * u.cpu_total END), max(CASE WHEN a.start_us IS NOT NULL THEN u.wall END), "
      "max(u.memory_peak)" +
      conditions.text() + " GROUP BY 1, 2, 3");
  Query query(statement);
  conditions.bind(query);
  while (query.step()) {
    ReportRow& row = rows[query.text(0)];
    const auto count = static_cast<std::uint64_t>(query.integer(3));
    const auto cpus = query.is_null(1) ? 0 : static_cast<std::int64_t>(CpuSet::parse(query.text(1)).size());
    row.attempts += count;
    row.states[parse_job_state(query.text(2)).value_or(JobState::failed)] += count;
    add(row.elapsed, time_in(query, 4));
    const bool is_unknown = !query.is_null(1) && cpus == 0;  // of a record that was lost and told again
    add(row.cpu_granted, is_unknown ? std::nullopt : time_in(query, 4, cpus));
    add(row.cpu_used, time_in(query, 5));
    add(row.memory_granted, query.is_null(6) ? std::nullopt : std::optional(query.real(6)));
    add(row.oom_kills,
        query.is_null(7) ? std::nullopt : std::optional(static_cast<std::uint64_t>(query.integer(7))));
    raise(row.longest, time_in(query, 10));
    raise(row.memory_peak,
          query.is_null(11) ? std::nullopt : std::optional(static_cast<Bytes>(query.integer(11))));
    row.granted_to_compare += time_in(query, 8, cpus).value_or(std::chrono::microseconds(0));
    row.used_to_compare += time_in(query, 9).value_or(std::chrono::microseconds(0));
  }
  std::vector<ReportRow> list;
  list.reserve(rows.size());
  for (auto& [name, row] : rows) {
    list.push_back(std::move(row));
  }
  return list;
}

}  // namespace berth
