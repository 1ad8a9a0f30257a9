// The sums are SQLite's; what is grouped further here is only what SQL cannot count: the CPUs of a list such
// as "0-3,8", of which a machine has few different ones.
#include "store/usage_report.h"

#include "schemas/cpu_set.h"
#include "store/database.h"
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

}  // namespace

std::vector<ReportRow> read_report(Database& database, const ReportFilter& filter) {
  const ReportConditions conditions(filter);
  const std::string key = key_expression(filter);
  std::map<std::string, ReportRow> rows;
  {
    SQLite::Statement statement =
        database.prepare("SELECT " + key + ", count(DISTINCT a.job_id)" + conditions.text() + " GROUP BY 1");
    Query query(statement);
    conditions.bind(query);
    while (query.step()) {
      ReportRow& row = rows[query.text(0)];
      row.key = query.text(0);
      row.jobs = static_cast<std::uint64_t>(query.integer(1));
    }
  }
  SQLite::Statement statement = database.prepare(
      "SELECT " + key +
      ", a.cpus, a.state, count(*), total(u.wall), total(u.cpu_total), total(u.wall / 1e6 * a.memory), "
      "total(u.oom_kills), total(CASE WHEN u.wall IS NOT NULL THEN u.cpu_total END)" +
      conditions.text() + " GROUP BY 1, 2, 3");
  Query query(statement);
  conditions.bind(query);
  while (query.step()) {
    ReportRow& row = rows[query.text(0)];
    const auto count = static_cast<std::uint64_t>(query.integer(3));
    const std::chrono::microseconds elapsed{query.integer(4)};
    const std::size_t cpus = query.is_null(1) ? 0 : CpuSet::parse(query.text(1)).size();
    row.attempts += count;
    row.states[parse_job_state(query.text(2)).value_or(JobState::failed)] += count;
    row.elapsed += elapsed;
    row.cpu_granted += elapsed * static_cast<std::int64_t>(cpus);
    row.cpu_used += std::chrono::microseconds{query.integer(5)};
    row.memory_granted += query.real(6);
    row.oom_kills += static_cast<std::uint64_t>(query.integer(7));
    row.cpu_used_of_granted += std::chrono::microseconds{query.integer(8)};
  }
  std::vector<ReportRow> list;
  list.reserve(rows.size());
  for (auto& [name, row] : rows) {
    list.push_back(std::move(row));
  }
  return list;
}

}  // namespace berth
