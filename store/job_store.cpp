#include "store/queue_store.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <new>
#include <span>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <variant>

#include "schemas/index_list.h"
#include "schemas/job_file.h"
#include "store/database.h"
#include "store/read_report.h"
#include "store/usage_row.h"

namespace berth {

bool is_damage(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const StoreError& failure) {
    return failure.kind() == StoreError::Kind::damaged;
  } catch (...) {
    return false;
  }
}

bool is_refusal(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const StoreError& failure) {
    return failure.kind() == StoreError::Kind::refused;
  } catch (const std::bad_alloc&) {
    return false;
  } catch (...) {
    return true;
  }
}

namespace {

/// What rows of `jobs` are made with; what is left out is at its default.
constexpr std::string_view kNewJobColumns =
    "supervisor_id, user, user_id, job_user, job_user_id, host, name, account, spec, state, submit_us, "
    "group_id, spec_id, array_job_id, array_task_id";

/// Of an event: what was asked for, in whatever order its JSON has its members; null where it has none.
constexpr std::string_view kAction = "CASE WHEN json_valid(detail) THEN json_extract(detail, '$.action') END";

template <typename... Parts>
std::string joined(const Parts&... parts) {
  std::string text;
  (text.append(parts), ...);
  return text;
}

std::int64_t to_column(Timestamp instant) {
  return instant.time_since_epoch().count();
}
Timestamp to_instant(std::int64_t microseconds) {
  return Timestamp(std::chrono::microseconds(microseconds));
}

std::optional<Timestamp> to_instant(std::optional<std::int64_t> microseconds) {
  return microseconds ? std::optional(to_instant(*microseconds)) : std::nullopt;
}

/// The next column of a row at each call.
class Row {
 public:
  explicit Row(const Query& query) : query_(query) {}
  std::int64_t integer() { return query_.integer(column_++); }
  unsigned number() { return static_cast<unsigned>(integer()); }
  std::string text() { return query_.text(column_++); }
  bool next_is_null() const { return query_.is_null(column_); }
  std::optional<std::int64_t> optional_integer() { return query_.optional_integer(column_++); }
  void skip(int columns) { column_ += columns; }
  int column() const { return column_; }

 private:
  const Query& query_;
  int column_ = 0;
};

JobState to_state(const std::string& path, const std::string& word) {
  if (const auto state = parse_job_state(word)) {
    return *state;
  }
  throw StoreError(path + ": \"" + word +
                   "\" is no job state: the database was changed by hand, or is damaged; "
                   "restore a copy of it");
}

/// Everything an AccountingRecord is made of but its spec's text, without the filter; read by read_record in
/// this order. `attempt` is its number, and `is_of_job` which of `a` are the job's.
std::string record_select(const std::string& attempt, const std::string& is_of_job) {
  return "SELECT j.id, j.state, j.user, j.user_id, j.job_user, j.job_user_id, j.host, j.name, j.account, "
         "j.submit_us, j.end_us, j.spec_id, j.array_job_id, j.array_task_id, " +
         attempt +
         ", a.state, a.start_us, a.end_us, a.slot, a.cpus, a.memory_nodes, a.memory, "
         "a.cause, a.exit_code, a.signal, a.core_dumped, a.limit_name, a.limit_value, a.limit_cgroup, "
         "a.stage, a.error_number, a.message, " +
         usage_columns("u.") + " FROM jobs j LEFT JOIN attempts a ON " + is_of_job +
         " LEFT JOIN usage u ON u.job_id = a.job_id AND u.attempt = a.attempt";
}

/// Attempts that were made, and jobs that never had one; then jobs that wait for another. The conditions are
/// in it twice.
std::string records_select(const std::string& conditions) {
  static const std::string kMade = record_select("a.attempt", "a.job_id = j.id");
  static const std::string kAwaited =
      record_select("j.attempt + 1", "a.job_id = j.id AND a.attempt > j.attempt");
  return kMade + conditions + " UNION ALL " + kAwaited + conditions +
         (conditions.empty() ? " WHERE " : " AND ") +
         "j.end_us IS NULL AND j.state = 'PENDING' AND j.attempt > 0";
}

constexpr int kIdColumn = 1;
constexpr int kAttemptColumn = 15;

/// A spec that this version refuses (an older one took it) must not hide the job's record.
JobSpec read_spec(const std::string& path, JobId job, const std::string& text, const std::string& name,
                  const std::string& account) {
  try {
    return parse_stored_job(text, path + ": job " + std::to_string(job));
  } catch (const InputError&) {
    JobSpec spec;
    spec.name = name;
    spec.account = account;
    return spec;
  }
}

/// Specs of records that are read in the order of their jobs: what attempts of a job, and jobs one after the
/// other, have in common is read, parsed and kept once.
class SpecReader {
 public:
  explicit SpecReader(Database& database) : database_(database) {}

  std::shared_ptr<const JobSpec> read(JobId job, std::optional<std::int64_t> spec_id, const std::string& name,
                                      const std::string& account) {
    is_new_ = false;
    if (!spec_ || (job != job_ && (!spec_id || spec_id != spec_id_))) {
      std::string text = text_of(job);
      is_new_ = !spec_ || text != text_;
      if (is_new_) {
        text_ = std::move(text);
        spec_ = std::make_shared<const JobSpec>(read_spec(database_.path(), job, text_, name, account));
      }
    }
    job_ = job;
    spec_id_ = spec_id;
    return spec_;
  }
  /// Of the last one.
  std::size_t length() const { return text_.size(); }
  bool is_new() const { return is_new_; }

 private:
  std::string text_of(JobId job) {
    Query query = database_.query(
        "SELECT coalesce(s.text, j.spec) FROM jobs j LEFT JOIN specs s ON s.id = j.spec_id WHERE j.id = ?");
    query.bind(job).step();
    return query.text(0);
  }

  Database& database_;
  JobId job_ = 0;
  std::optional<std::int64_t> spec_id_;
  std::string text_;
  std::shared_ptr<const JobSpec> spec_;
  bool is_new_ = false;
};

std::optional<Allocation> read_allocation(Row& row) {
  if (row.next_is_null()) {
    row.skip(4);
    return std::nullopt;
  }
  Allocation allocation;
  allocation.slot = row.text();
  if (allocation.slot.empty()) {  // insert_unstarted(), or nobody knows
    row.skip(3);
    return std::nullopt;
  }
  allocation.cpus = CpuSet::parse(row.text());
  allocation.memory_nodes = CpuSet::parse(row.text());
  allocation.memory = static_cast<Bytes>(row.integer());
  return allocation;
}

/// Berths before recorded 0 and signal 0, or its exit status, of a job that never ran.
bool is_made_up(const Outcome& outcome, bool started) {
  const bool says_success = outcome.exit_code == 0 && outcome.signal == 0;
  return outcome.cause == Cause::launch_failed || (says_success && outcome.cause == Cause::node_fail) ||
         (says_success && outcome.cause == Cause::cancelled && !started);
}

std::optional<int> exit_code_of(std::optional<std::int64_t> column) {
  return column ? std::optional(static_cast<int>(*column)) : std::nullopt;
}

std::optional<Outcome> read_outcome(Row& row, JobState state, bool started) {
  if (row.next_is_null()) {
    row.skip(10);
    return std::nullopt;
  }
  Outcome outcome;
  outcome.state = state;
  outcome.cause = parse_cause(row.text()).value_or(Cause::exited);
  outcome.exit_code = exit_code_of(row.optional_integer());
  outcome.signal = static_cast<int>(row.integer());
  if (is_made_up(outcome, started)) {
    outcome.exit_code.reset();
  }
  outcome.core_dumped = row.integer() != 0;
  if (row.next_is_null()) {
    row.skip(3);
  } else {
    outcome.limit.emplace();
    outcome.limit->name = row.text();
    outcome.limit->value = row.text();
    outcome.limit->cgroup = row.text();
  }
  outcome.stage = row.text();
  outcome.error_number = static_cast<int>(row.integer());
  outcome.message = row.text();
  return outcome;
}

AccountingRecord read_record(const std::string& path, const Query& query, SpecReader& specs) {
  Row row(query);
  AccountingRecord record;
  record.job_id = row.integer();
  record.state = to_state(path, row.text());
  record.user = row.text();
  record.user_id = row.number();
  record.job_user = row.text();
  record.job_user_id = row.number();
  record.host = row.text();
  const std::string name = row.text();
  const std::string account = row.text();
  record.submit = to_instant(row.integer());
  record.end = to_instant(row.optional_integer());
  record.spec = specs.read(record.job_id, row.optional_integer(), name, account);
  record.array_job_id = row.optional_integer();
  if (const auto task = row.optional_integer()) {
    record.array_task_id = static_cast<unsigned>(*task);
  }
  record.attempt = 0;
  if (row.next_is_null()) {
    return record;  // still waiting for its first attempt
  }
  record.attempt = row.number();
  if (row.next_is_null()) {
    return record;  // waiting for another
  }
  record.state = to_state(path, row.text());
  record.start = to_instant(row.optional_integer());
  record.end = to_instant(row.optional_integer());
  record.allocation = read_allocation(row);
  record.outcome = read_outcome(row, record.state, record.start.has_value());
  record.usage = read_usage(query, row.column());
  return record;
}

/// A WHERE clause and its parameters, grown condition by condition.
class Conditions {
 public:
  void add(const std::string& condition) {
    text_ += (text_.empty() ? " WHERE (" : " AND (") + condition + ")";
  }

  template <typename Values>
  void add_any(const std::string& expression, const Values& values) {
    if (!values.empty()) {
      add(expression + " IN (" + parameters(values) + ")");
    }
  }
  /// "?, ?, …" with the values remembered for bind().
  template <typename Values>
  std::string parameters(const Values& values) {
    std::string list;
    for (const auto& value : values) {
      list += list.empty() ? "?" : ", ?";
      values_.emplace_back(value);
    }
    return list;
  }
  std::string parameter(std::int64_t value) {
    values_.emplace_back(value);
    return "?";
  }

  const std::string& text() const { return text_; }
  void bind(Query& query) const {
    for (const auto& value : values_) {
      std::visit([&](const auto& one) { query.bind(one); }, value);
    }
  }

 private:
  std::string text_;
  std::vector<std::variant<std::int64_t, std::string>> values_;
};

/// HistoryFilter::most_bytes.
constexpr std::uint64_t kBytesOfRecord = 1024;
constexpr std::int64_t kForever = std::numeric_limits<std::int64_t>::max();

/// From when on an attempt waits: its job's submission, or when the job was to wait again. What is told of
/// it while it waits has the number of the attempt before too.
constexpr const char* kWaitsSince =
    "coalesce(CASE WHEN coalesce(a.attempt, j.attempt + 1) > 1 THEN (SELECT min(e.at_us) FROM events e WHERE "
    "e.job_id = j.id AND e.attempt = coalesce(a.attempt, j.attempt + 1) - 1 AND e.state = 'PENDING') END, "
    "j.submit_us)";

/// sacct(1), --state: with a time window, "was in that state at some moment of the window"; without one,
/// "is in that state now".
std::string state_condition(JobState state, const HistoryFilter& filter, Conditions& conditions) {
  std::string in_state = "coalesce(a.state, j.state) = '" + std::string(to_string(state)) + "'";
  if (!filter.start && !filter.end) {
    return in_state;
  }
  const std::int64_t start = filter.start ? to_column(*filter.start) : 0;
  const std::int64_t end = filter.end ? to_column(*filter.end) : kForever;
  const auto overlaps = [&](const std::string& from, const std::string& to) {
    const std::string begins = from + " <= " + conditions.parameter(end);
    return begins + " AND coalesce(" + to + ", " + std::to_string(kForever) +
           ") >= " + conditions.parameter(start);
  };
  switch (state) {
    case JobState::pending:
      return overlaps(kWaitsSince, "a.configure_us, a.end_us");
    case JobState::configuring:
      return overlaps("a.configure_us", "a.start_us, a.end_us");
    case JobState::running:
      return overlaps("a.start_us", "a.end_us");
    default:
      // An array has no attempt.
      return is_final(state)
                 ? in_state + " AND " + overlaps("coalesce(a.end_us, j.end_us)", "a.end_us, j.end_us")
                 : in_state;
  }
}

/// "(?, ?), (?, ?), …": one expression, however many there are; SQLite nests one OR in another, up to 1000.
template <typename Pairs>
std::string rows_of(const Pairs& pairs, Conditions& conditions) {
  std::string rows;
  for (const auto& [first, second] : pairs) {
    rows += (rows.empty() ? "(" : ", (") + conditions.parameter(first);
    rows += ", " + conditions.parameter(std::int64_t{second}) + ")";
  }
  return rows;
}

void add_jobs(const HistoryFilter& filter, Conditions& conditions) {
  std::string jobs;
  const auto add = [&](const std::string& condition) { jobs += (jobs.empty() ? "" : " OR ") + condition; };
  if (!filter.job_ids.empty()) {
    add("j.id IN (" + conditions.parameters(filter.job_ids) + ")");
    if (filter.with_tasks) {
      add("j.array_job_id IN (" + conditions.parameters(filter.job_ids) + ")");
    }
  }
  for (const char* id : {"id", "array_job_id"}) {
    if (!filter.job_ranges.empty() && (filter.with_tasks || std::string_view(id) == "id")) {
      add("j.id IN (SELECT x.id FROM (VALUES " + rows_of(filter.job_ranges, conditions) +
          ") r CROSS JOIN jobs x ON x." + id + " >= r.column1 AND x." + id + " <= r.column2)");
    }
  }
  if (!filter.tasks.empty()) {
    add("j.id IN (SELECT x.id FROM (VALUES " + rows_of(filter.tasks, conditions) +
        ") r CROSS JOIN jobs x ON x.array_job_id = r.column1 AND x.array_task_id = r.column2)");
  }
  if (!jobs.empty()) {
    conditions.add(jobs);
  }
}

Conditions conditions_of(const HistoryFilter& filter) {
  Conditions conditions;
  add_jobs(filter, conditions);
  if (filter.user_id) {
    conditions.add("j.user_id = " + conditions.parameter(*filter.user_id));
  }
  if (!filter.users.empty()) {
    const std::string by_name = "j.user IN (" + conditions.parameters(filter.users) + ")";
    conditions.add(by_name + " OR CAST(j.user_id AS TEXT) IN (" + conditions.parameters(filter.users) + ")");
  }
  conditions.add_any("j.account", filter.accounts);
  conditions.add_any("j.name", filter.names);
  if (filter.start) {
    conditions.add("j.end_us IS NULL OR j.end_us >= " + conditions.parameter(to_column(*filter.start)));
    conditions.add("a.end_us IS NULL OR a.end_us >= " + conditions.parameter(to_column(*filter.start)));
  }
  if (filter.end) {
    const std::int64_t end = to_column(*filter.end);
    conditions.add("j.submit_us <= " + conditions.parameter(end));
    conditions.add(kWaitsSince + (" <= " + conditions.parameter(end)));
  }
  std::string states;
  for (const JobState state : filter.states) {
    states += (states.empty() ? "(" : " OR (") + state_condition(state, filter, conditions) + ")";
  }
  if (!states.empty()) {
    conditions.add(states);
  }
  return conditions;
}

/// jobs.spec where specs has the text.
const std::string kSharedSpec;

/// Rows of one statement where there are many.
constexpr std::size_t kRowsAtOnce = 32;

/// "ROW, ROW, …"
std::string repeated(std::string_view row, std::size_t count) {
  std::string list(row);
  for (std::size_t index = 1; index < count; ++index) {
    list += ", ";
    list += row;
  }
  return list;
}

std::vector<JobId> ids(Query& query) {
  std::vector<JobId> jobs;
  while (query.step()) {
    jobs.push_back(query.integer(0));
  }
  return jobs;
}

/// Where a job stands, read inside the transaction that is about to move it.
struct Standing {
  JobState state = JobState::pending;
  unsigned attempt = 0;
};

class SqliteJobStore final : public QueueStore {
 public:
  explicit SqliteJobStore(std::unique_ptr<Database> database) : database_(std::move(database)) {}

  std::vector<JobId> submit(const std::vector<NewJob>& jobs, const Supervisor& supervisor) override;
  void configure(JobId job, unsigned attempt, const Allocation& allocation, Timestamp at) override {
    configure(nullptr, job, attempt, allocation, at);
  }
  void configure_on(const Supervisor& runner, JobId job, unsigned attempt, const Allocation& allocation,
                    Timestamp at) override {
    configure(&runner, job, attempt, allocation, at);
  }
  void together(const std::function<void()>& body) override { database_->together(body, true); }
  void as_one(const std::function<void()>& body) override { database_->together(body, false); }
  void probe() override { database_->probe(); }
  void suspend(JobId job, unsigned attempt, bool suspended, Timestamp at) override;
  void requeue(JobId job, const QueueFacts& facts, Timestamp at, const std::string& detail) override;
  void change(JobId job, const QueueFacts& facts, Timestamp at, const std::string& detail,
              const std::string& spec_text) override;
  void visit_queue(const std::function<void(WaitingJob&&)>& visit) override;
  std::optional<KnownJob> find_known(JobId job) override;
  std::optional<StoredJob> find_stored(JobId job) override;
  void forget_dependency(JobId job) override;
  std::vector<JobSummary> summaries(const SummaryFilter& filter) override;
  std::vector<JobEvent> events_after(std::int64_t sequence, std::size_t limit,
                                     std::optional<unsigned> user_id, std::int64_t& looked_at) override;
  std::int64_t last_event() override;
  GivenNumbers given_numbers() override;
  void leave_out(const GivenNumbers& numbers) override;
  void move_log() override { database_->move_log(); }
  JobId add_task(JobId array_job, unsigned task, Timestamp at) override;
  bool close_array(JobId job, const Outcome& outcome, Timestamp at) override;
  std::optional<Outcome> closing(JobId array_job) override;
  std::optional<JobState> settle_array(JobId array_job, Timestamp at) override;
  std::vector<Outcome> array_outcomes(JobId array_job) override;
  std::optional<JobId> find_task(JobId array_job, unsigned task) override;
  bool has_earlier_namesake(JobId job) override;
  bool has_started(JobId job) override;
  IndexList unstarted(JobId array_job) override;
  std::optional<Outcome> last_outcome(JobId job) override;
  std::string last_hold(JobId job) override;
  bool has_tasks(JobId array_job) override;
  std::vector<JobId> open_tasks(JobId array_job) override;
  std::vector<JobId> array_tasks(JobId array_job) override;
  void note_cancel(JobId job, unsigned attempt, Timestamp at, const std::string& detail) override;
  std::optional<std::string> canceller(JobId job, unsigned attempt) override;
  bool end_waiting(JobId job, const Outcome& outcome, Timestamp at) override;
  bool has_record(JobId job, unsigned attempt) override;
  std::size_t forget_ended(const Retention& rule, std::size_t most) override;
  std::size_t give_back_pages(std::size_t most) override { return database_->give_back_pages(most); }
  std::vector<OpenAttempt> running_attempts() override;
  void run(JobId job, unsigned attempt, Timestamp at, const std::string& detail) override;
  bool finish(JobId job, unsigned attempt, const Outcome& outcome, const Usage& usage, Timestamp at) override;
  void sync() override { database_->sync(); }
  void rehearse_end(JobId job, unsigned attempt) override;
  bool run_and_finish(JobId job, unsigned attempt, const AttemptStart& start, const Outcome& outcome,
                      const Usage& usage, Timestamp at, Sync sync) override;
  std::vector<OpenAttempt> open_attempts() override;
  std::optional<Supervisor> find_supervisor(const std::string& cgroup) override;
  bool is_of_berthd() override;
  std::vector<AccountingRecord> history(const HistoryFilter& filter) override;
  std::vector<AccountingRecord> find(JobId job) override;
  std::vector<JobEvent> events(JobId job) override;
  std::vector<ReportRow> report(const ReportFilter& filter) override {
    return database_->read_at_once([&] { return read_report(*database_, filter); });
  }
  std::string check_integrity() override { return database_->check_integrity(); }

 private:
  std::int64_t supervisor_id(const Supervisor& supervisor);
  void insert_jobs(const std::vector<NewJob>& jobs, std::int64_t supervisor, std::vector<JobId>& ids);
  void insert_rows(std::span<const NewJob> jobs, std::int64_t supervisor);
  void insert_into_queue(std::span<const NewJob> jobs, std::span<const JobId> ids);
  void configure(const Supervisor* runner, JobId job, unsigned attempt, const Allocation& allocation,
                 Timestamp at);
  void read_known(Row& row, KnownJob& known) const;
  void read_open_attempt(Row& row, OpenAttempt& attempt) const;
  std::vector<JobEvent> read_events(Query& query) const;
  void insert_into_queue(JobId job, unsigned user_id, unsigned attempt, const QueueFacts& facts);
  std::optional<std::int64_t> share_spec(const std::string& text);
  void leave_queue(JobId job);
  std::optional<std::string> unstarted_tasks(JobId job);
  void reopen_array(JobId array_job, Timestamp at);
  bool is_cancelled_array(JobId array_job);
  void insert_event(JobId job, unsigned attempt, Timestamp at, JobState state, const std::string& detail);
  std::optional<Standing> standing(JobId job);
  Standing require_transition(JobId job, JobState to);
  void require_attempt(JobId job, const Standing& standing, unsigned attempt) const;
  void set_state(JobId job, JobState state, unsigned attempt);
  void set_state(JobId job, JobState state, unsigned attempt, std::optional<Timestamp> end);
  bool finish(JobId job, unsigned attempt, const AttemptStart* start, const Outcome& outcome,
              const Usage& usage, Timestamp at, Database::Durability durability);
  bool write_record(JobId job, unsigned attempt, const AttemptStart* start, const Outcome& outcome,
                    const Usage& usage, Timestamp at);
  void insert_unstarted(JobId job, unsigned attempt);
  void write_end(JobId job, unsigned attempt, std::optional<Timestamp> start, const Outcome& outcome,
                 const Usage& usage, Timestamp at);
  void write_outcome(JobId job, unsigned attempt, std::optional<Timestamp> start, const Outcome& outcome,
                     Timestamp at);
  void write_usage(JobId job, unsigned attempt, const Usage& usage);
  [[noreturn]] void refuse(JobId job, const std::string& fault) const;

  std::unique_ptr<Database> database_;
};

void SqliteJobStore::refuse(JobId job, const std::string& fault) const {
  throw StoreError(database_->path() + ": job " + std::to_string(job) + ": " + fault);
}

std::vector<JobId> SqliteJobStore::submit(const std::vector<NewJob>& jobs, const Supervisor& supervisor) {
  return database_->write([&] {
    std::vector<JobId> ids;
    ids.reserve(jobs.size());
    if (!jobs.empty()) {
      insert_jobs(jobs, supervisor_id(supervisor), ids);
    }
    return ids;
  });
}

std::optional<Supervisor> SqliteJobStore::find_supervisor(const std::string& cgroup) {
  return database_->read([&]() -> std::optional<Supervisor> {
    Query query = database_->query(
        "SELECT boot_id, pid, start_time FROM supervisors WHERE cgroup = ? ORDER BY id DESC LIMIT 1");
    query.bind(cgroup);
    if (!query.step()) {
      return std::nullopt;
    }
    return Supervisor{query.text(0), query.integer(1), static_cast<std::uint64_t>(query.integer(2)), cgroup};
  });
}

bool SqliteJobStore::is_of_berthd() {
  return database_->read([&] {
    // By the small index (migrations/0007_berthd.sql), whose condition must be repeated word for word.
    return database_
        ->query("SELECT 1 FROM supervisors INDEXED BY supervisors_of_berthd WHERE cgroup = 'berthd'")
        .step();
  });
}

std::int64_t SqliteJobStore::supervisor_id(const Supervisor& supervisor) {
  const auto bind_process = [&](Query& query) {
    query.bind(supervisor.boot_id)
        .bind(supervisor.pid)
        .bind(static_cast<std::int64_t>(supervisor.start_time));
  };
  Query known =
      database_->query("SELECT id, cgroup FROM supervisors WHERE boot_id = ? AND pid = ? AND start_time = ?");
  bind_process(known);
  if (!known.step()) {
    Query insert =
        database_->query("INSERT INTO supervisors (boot_id, pid, start_time, cgroup) VALUES (?, ?, ?, ?)");
    bind_process(insert);
    insert.bind(supervisor.cgroup).execute();
    return database_->last_row();
  }
  const std::int64_t id = known.integer(0);
  if (known.text(1) != supervisor.cgroup) {  // else there is no page to write
    database_->query("UPDATE supervisors SET cgroup = ? WHERE id = ?")
        .bind(supervisor.cgroup)
        .bind(id)
        .execute();
  }
  return id;
}

/// No RETURNING and no OR REPLACE here: SQLite would keep the old content of each page for each row, to undo
/// a row that fails half-way (https://www.sqlite.org/tempfiles.html, "statement journal files"), which took
/// twice the time of the insertion itself. Many rows are one statement, as half of the time of a row goes
/// into beginning and ending its own.
void SqliteJobStore::insert_jobs(const std::vector<NewJob>& jobs, std::int64_t supervisor,
                                 std::vector<JobId>& ids) {
  const std::span<const NewJob> all(jobs);
  for (std::size_t first = 0; first < all.size();) {
    const std::size_t count = all.size() - first >= kRowsAtOnce ? kRowsAtOnce : 1;
    insert_rows(all.subspan(first, count), supervisor);
    // Rows of one statement have consecutive numbers (AUTOINCREMENT: the largest there was, and one more).
    const JobId last = database_->last_row();
    for (JobId id = last - static_cast<JobId>(count) + 1; id <= last; ++id) {
      ids.push_back(id);
    }
    first += count;
  }
  Query events = database_->query(
      "INSERT INTO events (job_id, attempt, at_us, state, detail) SELECT id, 0, submit_us, 'PENDING', "
      "json_object('user', user, 'name', name) FROM jobs WHERE id BETWEEN ? AND ?");
  events.bind(ids.front()).bind(ids.back()).execute();
  insert_into_queue(all, ids);
}

/// The row of a text that is too long to stand in the way of what else is asked about its job, and to be
/// copied to each task of an array; nothing for a short one, which is read in less time beside its job. The
/// newest text is not kept twice: the jobs of one request, and the tasks of an array that is changed, come
/// one after the other.
std::optional<std::int64_t> SqliteJobStore::share_spec(const std::string& text) {
  constexpr std::size_t kLong = 4096;
  if (text.size() <= kLong) {
    return std::nullopt;
  }
  {
    Query newest =
        database_->query("SELECT id FROM specs WHERE id = (SELECT max(id) FROM specs) AND text = ?");
    if (newest.bind_in_place(text).step()) {
      return newest.integer(0);
    }
  }
  database_->query("INSERT INTO specs (text) VALUES (?)").bind_in_place(text).execute();
  return database_->last_row();
}

/// One job, or kRowsAtOnce of them.
void SqliteJobStore::insert_rows(std::span<const NewJob> jobs, std::int64_t supervisor) {
  static const std::string kInsert = joined("INSERT INTO jobs (", kNewJobColumns, ") VALUES ");
  constexpr std::string_view kRow = "(?, ?, ?, ?, ?, ?, ?, ?, ?, 'PENDING', ?, ?, ?, ?, ?)";
  static const std::string kOne = kInsert + std::string(kRow);
  static const std::string kMany = kInsert + repeated(kRow, kRowsAtOnce);
  Query insert = database_->query(jobs.size() == 1 ? kOne.c_str() : kMany.c_str());
  std::deque<std::string> texts;
  for (const NewJob& job : jobs) {
    const std::string& text =
        job.spec_text.empty() ? texts.emplace_back(to_json_text(job.spec)) : job.spec_text;
    insert.bind(supervisor).bind_in_place(job.user).bind(std::int64_t{job.user_id});
    insert.bind_in_place(job.job_user).bind(std::int64_t{job.job_user_id}).bind_in_place(job.host);
    const std::optional<std::int64_t> shared = share_spec(text);
    insert.bind_in_place(job.spec.name).bind_in_place(job.spec.account);
    insert.bind_in_place(shared ? kSharedSpec : text);
    insert.bind(to_column(job.submit)).bind(std::int64_t{job.group_id}).bind(shared);
    if (job.array_job_id) {
      insert.bind(*job.array_job_id).bind(std::int64_t{job.array_task_id.value_or(0)});
    } else {
      insert.bind_null().bind_null();
    }
  }
  insert.execute();
}

std::optional<Standing> SqliteJobStore::standing(JobId job) {
  Query query = database_->query("SELECT state, attempt FROM jobs WHERE id = ?");
  query.bind(job);
  if (!query.step()) {
    return std::nullopt;
  }
  return Standing{to_state(database_->path(), query.text(0)), static_cast<unsigned>(query.integer(1))};
}

Standing SqliteJobStore::require_transition(JobId job, JobState to) {
  const std::optional<Standing> now = standing(job);
  if (!now) {
    refuse(job, "there is no such job");
  }
  if (!may_transition(now->state, to)) {
    refuse(job,
           "is " + std::string(to_string(now->state)) + " and cannot become " + std::string(to_string(to)));
  }
  return *now;
}

void SqliteJobStore::require_attempt(JobId job, const Standing& standing, unsigned attempt) const {
  if (standing.attempt != attempt) {
    refuse(job,
           "attempt " + std::to_string(attempt) + " was expected to be " + std::to_string(standing.attempt));
  }
}

/// Of a job that is not over before and after: without the column that two more indexes are about.
void SqliteJobStore::set_state(JobId job, JobState state, unsigned attempt) {
  Query query = database_->query("UPDATE jobs SET state = ?, attempt = ? WHERE id = ?");
  query.bind(to_string(state)).bind(std::int64_t{attempt}).bind(job).execute();
}

void SqliteJobStore::set_state(JobId job, JobState state, unsigned attempt, std::optional<Timestamp> end) {
  Query query = database_->query("UPDATE jobs SET state = ?, attempt = ?, end_us = ? WHERE id = ?");
  query.bind(to_string(state)).bind(std::int64_t{attempt});
  if (end) {
    query.bind(to_column(*end));
  } else {
    query.bind_null();
  }
  query.bind(job).execute();
}

namespace {

constexpr std::string_view kQueueRow = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// `facts` outlive the query.
void bind_queue_row(Query& query, JobId job, unsigned user_id, unsigned attempt, const QueueFacts& facts) {
  query.bind(job).bind(std::int64_t{user_id}).bind(std::int64_t{attempt}).bind(facts.priority);
  query.bind(std::int64_t{facts.cpus});
  if (facts.memory) {
    query.bind(static_cast<std::int64_t>(*facts.memory));
  } else {
    query.bind_null();
  }
  query.bind(std::int64_t{facts.stay.count()}).bind(static_cast<std::int64_t>(facts.hold));
  for (const std::optional<Timestamp>& instant : {facts.begin, facts.deadline}) {
    if (instant) {
      query.bind(to_column(*instant));
    } else {
      query.bind_null();
    }
  }
  query.bind_in_place(facts.dependency).bind_in_place(facts.array_tasks);
  query.bind(std::int64_t{facts.array_limit}).bind_in_place(facts.shared_network);
}

}  // namespace

void SqliteJobStore::insert_into_queue(JobId job, unsigned user_id, unsigned attempt,
                                       const QueueFacts& facts) {
  static const std::string kInsert = "INSERT INTO queue VALUES " + std::string(kQueueRow);
  Query query = database_->query(kInsert.c_str());
  bind_queue_row(query, job, user_id, attempt, facts);
  query.execute();
}

/// Those of the jobs that wait in berthd's queue.
void SqliteJobStore::insert_into_queue(std::span<const NewJob> jobs, std::span<const JobId> ids) {
  static const std::string kInsert = "INSERT INTO queue VALUES " + repeated(kQueueRow, kRowsAtOnce);
  std::vector<std::size_t> waiting;
  waiting.reserve(jobs.size());
  for (std::size_t index = 0; index < jobs.size(); ++index) {
    if (jobs[index].queue) {
      waiting.push_back(index);
    }
  }
  std::size_t done = 0;
  for (; waiting.size() - done >= kRowsAtOnce; done += kRowsAtOnce) {
    Query query = database_->query(kInsert.c_str());
    for (const std::size_t index : std::span(waiting).subspan(done, kRowsAtOnce)) {
      bind_queue_row(query, ids[index], jobs[index].user_id, 0, *jobs[index].queue);
    }
    query.execute();
  }
  for (const std::size_t index : std::span(waiting).subspan(done)) {
    insert_into_queue(ids[index], jobs[index].user_id, 0, *jobs[index].queue);
  }
}

void SqliteJobStore::leave_queue(JobId job) {
  database_->query("DELETE FROM queue WHERE job_id = ?").bind(job).execute();
}

void SqliteJobStore::insert_event(JobId job, unsigned attempt, Timestamp at, JobState state,
                                  const std::string& detail) {
  Query event =
      database_->query("INSERT INTO events (job_id, attempt, at_us, state, detail) VALUES (?, ?, ?, ?, ?)");
  event.bind(job).bind(std::int64_t{attempt}).bind(to_column(at)).bind(to_string(state)).bind(detail);
  event.execute();
}

void SqliteJobStore::suspend(JobId job, unsigned attempt, bool suspended, Timestamp at) {
  database_->write([&] {
    const JobState to = suspended ? JobState::suspended : JobState::running;
    require_attempt(job, require_transition(job, to), attempt);
    set_state(job, to, attempt);
    Query update = database_->query("UPDATE attempts SET state = ? WHERE job_id = ? AND attempt = ?");
    update.bind(to_string(to)).bind(job).bind(std::int64_t{attempt}).execute();
    insert_event(job, attempt, at, to, "");
    return true;
  });
}

void SqliteJobStore::requeue(JobId job, const QueueFacts& facts, Timestamp at, const std::string& detail) {
  database_->write([&] {
    const std::optional<KnownJob> stored = find_known(job);
    if (!stored) {
      refuse(job, "there is no such job");
    }
    if (!is_final(stored->state)) {
      refuse(job, "is " + std::string(to_string(stored->state)) + ": only a job that has ended waits again");
    }
    // The record of a job that never had an attempt is no attempt's: it gives way.
    database_->query("DELETE FROM attempts WHERE job_id = ? AND attempt = 0").bind(job).execute();
    set_state(job, JobState::pending, stored->attempt, std::nullopt);
    leave_queue(job);
    insert_into_queue(job, stored->user_id, stored->attempt, facts);
    insert_event(job, stored->attempt, at, JobState::pending, detail);
    if (stored->array_job_id) {
      reopen_array(*stored->array_job_id, at);
    }
    return true;
  });
}

/// An array that has ended is settled again, after a task that runs again.
void SqliteJobStore::reopen_array(JobId array_job, Timestamp at) {
  const std::optional<Standing> now = standing(array_job);
  if (now && is_final(now->state)) {
    database_->query("DELETE FROM attempts WHERE job_id = ? AND attempt = 0").bind(array_job).execute();
    set_state(array_job, JobState::pending, 0, std::nullopt);
    insert_event(array_job, 0, at, JobState::pending, R"({"action":"reopen"})");
  }
}

void SqliteJobStore::change(JobId job, const QueueFacts& facts, Timestamp at, const std::string& detail,
                            const std::string& spec_text) {
  database_->write([&] {
    const std::optional<KnownJob> stored = find_known(job);
    if (!stored || stored->state != JobState::pending) {
      refuse(job, "does not wait any more");
    }
    QueueFacts next = facts;
    const std::optional<std::string> unstarted = unstarted_tasks(job);
    next.array_tasks = unstarted.value_or(facts.array_tasks);
    if (!spec_text.empty()) {
      const JobSpec spec = read_spec(database_->path(), job, spec_text, stored->name, "");
      const std::optional<std::int64_t> shared = share_spec(spec_text);
      Query update =
          database_->query("UPDATE jobs SET spec = ?, spec_id = ?, name = ?, account = ? WHERE id = ?");
      update.bind_in_place(shared ? kSharedSpec : spec_text).bind(shared);
      update.bind_in_place(spec.name).bind_in_place(spec.account).bind(job).execute();
    }
    leave_queue(job);
    insert_into_queue(job, stored->user_id, stored->attempt, next);
    insert_event(job, stored->attempt, at, JobState::pending, detail);
    return true;
  });
}

void SqliteJobStore::note_cancel(JobId job, unsigned attempt, Timestamp at, const std::string& detail) {
  database_->write([&] {
    const std::optional<Standing> now = standing(job);
    if (now && !is_final(now->state)) {
      insert_event(job, attempt, at, now->state, detail);
    }
    return true;
  });
}

std::optional<std::string> SqliteJobStore::canceller(JobId job, unsigned attempt) {
  return database_->read([&] {
    static const std::string kFirst = joined(
        "SELECT coalesce(json_extract(detail, '$.by'), '') FROM events WHERE job_id = ? AND attempt = ? AND ",
        kAction, " = 'cancel' ORDER BY sequence");
    Query query = database_->query(kFirst.c_str());
    query.bind(job).bind(std::int64_t{attempt});
    return query.step() ? std::optional(query.text(0)) : std::nullopt;
  });
}

void SqliteJobStore::forget_dependency(JobId job) {
  database_->write([&] {
    database_->query("UPDATE queue SET dependency = '' WHERE job_id = ?").bind(job).execute();
    return true;
  });
}

namespace {

QueueFacts read_facts(Row& row) {
  QueueFacts facts;
  facts.priority = row.integer();
  facts.cpus = row.number();
  if (const auto memory = row.optional_integer()) {
    facts.memory = static_cast<Bytes>(*memory);
  }
  facts.stay = Milliseconds(row.integer());
  facts.hold = static_cast<Hold>(row.integer());
  facts.begin = to_instant(row.optional_integer());
  facts.deadline = to_instant(row.optional_integer());
  facts.dependency = row.text();
  facts.array_tasks = row.text();
  facts.array_limit = row.number();
  facts.shared_network = row.text();
  return facts;
}

}  // namespace

void SqliteJobStore::visit_queue(const std::function<void(WaitingJob&&)>& visit) {
  database_->read([&] {
    Query query = database_->query(
        "SELECT job_id, user_id, attempt, priority, cpus, memory, stay_ms, hold, begin_us, deadline_us, "
        "dependency, array_tasks, array_limit, shared_network FROM queue ORDER BY job_id");
    while (query.step()) {
      Row row(query);
      WaitingJob job;
      job.job_id = row.integer();
      job.user_id = row.number();
      job.attempt = row.number();
      job.facts = read_facts(row);
      visit(std::move(job));
    }
    return true;
  });
}

void SqliteJobStore::read_known(Row& row, KnownJob& known) const {
  known.job_id = row.integer();
  known.state = to_state(database_->path(), row.text());
  known.attempt = row.number();
  known.name = row.text();
  known.user = row.text();
  known.user_id = row.number();
  known.group_id = row.number();
  known.array_job_id = row.optional_integer();
  if (const auto task = row.optional_integer()) {
    known.array_task_id = static_cast<unsigned>(*task);
  }
}

std::optional<KnownJob> SqliteJobStore::find_known(JobId job) {
  return database_->read([&]() -> std::optional<KnownJob> {
    Query query = database_->query(
        "SELECT id, state, attempt, name, user, user_id, group_id, array_job_id, array_task_id FROM jobs "
        "WHERE id = ?");
    if (!query.bind(job).step()) {
      return std::nullopt;
    }
    Row row(query);
    KnownJob known;
    read_known(row, known);
    return known;
  });
}

std::optional<StoredJob> SqliteJobStore::find_stored(JobId job) {
  return database_->read([&]() -> std::optional<StoredJob> {
    Query query = database_->query(
        "SELECT j.id, state, attempt, name, user, user_id, group_id, array_job_id, array_task_id, "
        "coalesce(s.text, spec) FROM jobs j LEFT JOIN specs s ON s.id = spec_id WHERE j.id = ?");
    if (!query.bind(job).step()) {
      return std::nullopt;
    }
    Row row(query);
    StoredJob stored;
    read_known(row, stored);
    stored.spec_text = row.text();
    return stored;
  });
}

namespace {

/// What lets SQLite take one of the small indexes (migrations/0005_indexes.sql, 0006_active.sql) where they
/// hold all that is asked for.
std::string index_condition(const std::vector<JobState>& states) {
  const auto is_active = [](JobState state) { return state != JobState::pending && !is_final(state); };
  if (std::all_of(states.begin(), states.end(), is_active)) {
    return " AND (j.state = 'CONFIGURING' OR j.state = 'RUNNING' OR j.state = 'SUSPENDED' OR j.state = "
           "'COMPLETING')";
  }
  return std::none_of(states.begin(), states.end(), is_final) ? " AND j.end_us IS NULL" : "";
}

}  // namespace

std::vector<JobSummary> SqliteJobStore::summaries(const SummaryFilter& filter) {
  return database_->read([&] {
    std::string states;
    for (const JobState state : filter.states) {
      states += (states.empty() ? "'" : ", '") + std::string(to_string(state)) + "'";
    }
    std::string sql =
        "SELECT j.id, CASE WHEN j.state = 'PENDING' AND j.attempt > 0 AND j.end_us IS NULL THEN j.attempt + "
        "1 "
        "ELSE j.attempt END, j.state, j.name, j.user, j.user_id, j.account, j.submit_us, a.start_us, "
        "a.end_us, u.wall, "
        "coalesce(a.slot, ''), coalesce(a.cpus, ''), a.memory, j.array_job_id, j.array_task_id, "
        "coalesce(CASE WHEN a.start_us IS NOT NULL AND a.end_us IS NULL AND json_valid(coalesce(s.text, "
        "j.spec)) "
        "THEN json_extract(coalesce(s.text, j.spec), '$.time_limit') END, ''), q.priority, "
        "q.cpus, q.memory, q.stay_ms, q.hold, q.begin_us, q.deadline_us, q.dependency, q.array_tasks, "
        "q.array_limit, q.shared_network FROM jobs j LEFT JOIN attempts a ON a.job_id = j.id AND a.attempt = "
        "j.attempt AND "
        "j.state <> 'PENDING' LEFT JOIN usage u ON u.job_id = a.job_id AND u.attempt = a.attempt LEFT JOIN "
        "queue q ON q.job_id = j.id LEFT JOIN specs s ON s.id = j.spec_id WHERE ";
    sql +=
        states.empty() ? "j.end_us IS NULL" : "j.state IN (" + states + ")" + index_condition(filter.states);
    // An array all of whose tasks have rows of their own is told of by those.
    sql +=
        " AND NOT (j.state = 'PENDING' AND q.job_id IS NULL AND EXISTS (SELECT 1 FROM jobs t WHERE "
        "t.array_job_id = j.id))";
    if (filter.user_id) {
      sql += " AND j.user_id = " + std::to_string(*filter.user_id);
    }
    sql += " ORDER BY j.id";
    if (filter.limit) {
      sql += " LIMIT " + std::to_string(*filter.limit);
    }
    SQLite::Statement statement = database_->prepare(sql);
    Query query(statement);
    std::vector<JobSummary> found;
    while (query.step()) {
      Row row(query);
      JobSummary& summary = found.emplace_back();
      summary.job_id = row.integer();
      summary.attempt = row.number();
      summary.state = to_state(database_->path(), row.text());
      summary.name = row.text();
      summary.user = row.text();
      summary.user_id = row.number();
      summary.account = row.text();
      summary.submit = to_instant(row.integer());
      summary.start = to_instant(row.optional_integer());
      summary.end = to_instant(row.optional_integer());
      if (const auto wall = row.optional_integer()) {
        summary.wall = std::chrono::microseconds(*wall);
      }
      summary.slot = row.text();
      summary.cpus = row.text();
      if (const auto memory = row.optional_integer()) {
        summary.memory = static_cast<Bytes>(*memory);
      }
      summary.array_job_id = row.optional_integer();
      if (const auto task = row.optional_integer()) {
        summary.array_task_id = static_cast<unsigned>(*task);
      }
      if (const std::string limit = row.text(); !limit.empty()) {
        summary.time_limit = parse_duration(limit, std::chrono::minutes(1));  // as in a job file
      }
      if (!row.next_is_null()) {
        summary.queue = read_facts(row);
      }
    }
    return found;
  });
}

std::vector<JobEvent> SqliteJobStore::events_after(std::int64_t sequence, std::size_t limit,
                                                   std::optional<unsigned> user_id, std::int64_t& looked_at) {
  return database_->read([&] {
    const std::int64_t last = last_event();  // before the others: what is committed in between is found later
    Query query = database_->query(
        "SELECT e.sequence, e.job_id, e.attempt, e.at_us, e.state, e.detail FROM events e JOIN jobs j ON "
        "j.id "
        "= e.job_id WHERE e.sequence > ? AND (?2 IS NULL OR j.user_id = ?2) ORDER BY e.sequence LIMIT ?3");
    query.bind(sequence);
    if (user_id) {
      query.bind(std::int64_t{*user_id});
    } else {
      query.bind_null();
    }
    query.bind(static_cast<std::int64_t>(limit));
    std::vector<JobEvent> events = read_events(query);
    looked_at = events.size() < limit ? std::max(last, sequence) : sequence;
    if (!events.empty()) {
      looked_at = std::max(looked_at, events.back().sequence);
    }
    return events;
  });
}

std::int64_t SqliteJobStore::last_event() {
  return database_->read([&] {
    Query query = database_->query("SELECT coalesce(max(sequence), 0) FROM events");
    query.step();
    return query.integer(0);
  });
}

GivenNumbers SqliteJobStore::given_numbers() {
  return database_->read([&] {
    GivenNumbers numbers;
    Query query = database_->query("SELECT name, seq FROM sqlite_sequence WHERE name IN ('jobs', 'events')");
    while (query.step()) {
      if (query.text(0) == "jobs") {
        numbers.job = query.integer(1);
      } else {
        numbers.event = query.integer(1);
      }
    }
    return numbers;
  });
}

void SqliteJobStore::leave_out(const GivenNumbers& numbers) {
  // The table has no row for a table that never had one, and no key (https://www.sqlite.org/autoinc.html).
  const auto raise = [&](const char* table, std::int64_t number) {
    Query update = database_->query("UPDATE sqlite_sequence SET seq = max(seq, ?2) WHERE name = ?1");
    update.bind(std::string_view(table)).bind(number).execute();
    Query insert = database_->query(
        "INSERT INTO sqlite_sequence (name, seq) SELECT ?1, ?2 "
        "WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = ?1)");
    insert.bind(std::string_view(table)).bind(number).execute();
  };
  together([&] {
    raise("jobs", numbers.job);
    raise("events", numbers.event);
  });
}

/// Of an array, as a list; nothing when the job is not in the queue.
std::optional<std::string> SqliteJobStore::unstarted_tasks(JobId job) {
  Query query = database_->query("SELECT array_tasks FROM queue WHERE job_id = ?");
  return query.bind(job).step() ? std::optional(query.text(0)) : std::nullopt;
}

IndexList SqliteJobStore::unstarted(JobId array_job) {
  return database_->read([&] { return IndexList::parse(unstarted_tasks(array_job).value_or("")); });
}

/// Of the row as it is, whatever its caller took it to be: commits that it reckoned with may have failed.
JobId SqliteJobStore::add_task(JobId array_job, unsigned task, Timestamp at) {
  return database_->write([&] {
    IndexList tasks = unstarted(array_job);
    if (!tasks.erase(task)) {
      refuse(array_job, "its task " + std::to_string(task) + " does not wait any more");
    }
    static const std::string kInsert = joined("INSERT INTO jobs (", kNewJobColumns, R"() SELECT
        supervisor_id, user, user_id, job_user, job_user_id, host, name, account, spec, 'PENDING', submit_us,
        group_id, spec_id, id, ? FROM jobs WHERE id = ? AND end_us IS NULL)");
    Query insert = database_->query(kInsert.c_str());
    insert.bind(std::int64_t{task}).bind(array_job);
    if (insert.execute() == 0) {
      refuse(array_job, "is over, so no task of it starts");
    }
    const JobId id = database_->last_row();
    if (tasks.empty()) {
      leave_queue(array_job);
    } else {
      Query update = database_->query("UPDATE queue SET array_tasks = ? WHERE job_id = ?");
      update.bind(tasks.to_text()).bind(array_job).execute();
    }
    insert_event(id, 0, at, JobState::pending,
                 "{\"array_job_id\":" + std::to_string(array_job) +
                     ",\"array_task_id\":" + std::to_string(task) + "}");
    return id;
  });
}

bool SqliteJobStore::close_array(JobId job, const Outcome& outcome, Timestamp at) {
  return database_->write([&] {
    {
      Query waiting = database_->query("SELECT 1 FROM queue WHERE job_id = ? AND array_tasks <> ''");
      if (!waiting.bind(job).step()) {
        return false;
      }
    }
    leave_queue(job);
    Query event = database_->query(
        "INSERT INTO events (job_id, attempt, at_us, state, detail) VALUES (?, 0, ?, 'PENDING', "
        "json_object('action', 'close', 'state', ?, 'cause', ?, 'message', ?))");
    event.bind(job).bind(to_column(at)).bind(to_string(outcome.state)).bind(to_string(outcome.cause));
    event.bind(outcome.message).execute();
    return true;
  });
}

std::optional<Outcome> SqliteJobStore::closing(JobId array_job) {
  return database_->read([&]() -> std::optional<Outcome> {
    static const std::string kClosing = joined(R"(SELECT json_extract(detail, '$.state'),
        json_extract(detail, '$.cause'), json_extract(detail, '$.message') FROM events WHERE job_id = ? AND )",
                                               kAction, " = 'close'");
    Query query = database_->query(kClosing.c_str());
    if (!query.bind(array_job).step()) {
      return std::nullopt;
    }
    Row row(query);
    Outcome outcome;
    outcome.state = to_state(database_->path(), row.text());
    outcome.cause = parse_cause(row.text()).value_or(Cause::cancelled);
    outcome.message = row.text();
    return outcome;
  });
}

/// Since it was opened again, if it was.
bool SqliteJobStore::is_cancelled_array(JobId array_job) {
  static const std::string kCancels =
      joined("SELECT 1 FROM events WHERE job_id = ?1 AND ", kAction,
             " = 'cancel' AND sequence > coalesce((SELECT max(sequence) FROM events WHERE job_id = ?1 AND ",
             kAction, " = 'reopen'), 0)");
  Query query = database_->query(kCancels.c_str());
  return query.bind(array_job).step();
}

std::optional<JobState> SqliteJobStore::settle_array(JobId array_job, Timestamp at) {
  return database_->write([&]() -> std::optional<JobState> {
    {
      Query open = database_->query(
          "SELECT 1 WHERE EXISTS (SELECT 1 FROM queue WHERE job_id = ?1) OR EXISTS (SELECT 1 FROM jobs "
          "INDEXED BY jobs_open_by_array WHERE array_job_id = ?1 AND end_us IS NULL) OR NOT EXISTS (SELECT 1 "
          "FROM jobs WHERE id = ?1 AND end_us IS NULL)");
      if (open.bind(array_job).step()) {
        return std::nullopt;
      }
    }
    if (const std::optional<Outcome> outcome = closing(array_job)) {
      set_state(array_job, outcome->state, 0, at);
      insert_unstarted(array_job, 0);
      write_end(array_job, 0, std::nullopt, *outcome, {}, at);
      return outcome->state;
    }
    JobState state = JobState::completed;
    {
      Query failed =
          database_->query("SELECT 1 FROM jobs WHERE array_job_id = ? AND state <> 'COMPLETED' LIMIT 1");
      state = failed.bind(array_job).step() ? JobState::failed : JobState::completed;
    }
    if (state == JobState::failed && is_cancelled_array(array_job)) {
      state = JobState::cancelled;
    }
    set_state(array_job, state, 0, at);
    insert_event(array_job, 0, at, state, R"({"array":"all tasks have ended"})");
    return state;
  });
}

std::vector<Outcome> SqliteJobStore::array_outcomes(JobId array_job) {
  return database_->read([&] {
    std::vector<Outcome> outcomes;
    if (const std::optional<Outcome> closed = closing(array_job)) {
      outcomes.push_back(*closed);
    }
    Query query = database_->query(
        "SELECT DISTINCT a.state, a.cause, a.exit_code, a.signal, a.stage, a.error_number FROM jobs j JOIN "
        "attempts a ON a.job_id = j.id AND a.attempt = j.attempt WHERE j.array_job_id = ? AND a.end_us IS "
        "NOT "
        "NULL");
    query.bind(array_job);
    while (query.step()) {
      Row row(query);
      Outcome& outcome = outcomes.emplace_back();
      outcome.state = to_state(database_->path(), row.text());
      outcome.cause = parse_cause(row.text()).value_or(Cause::exited);
      outcome.exit_code = exit_code_of(row.optional_integer());
      outcome.signal = static_cast<int>(row.integer());
      outcome.stage = row.text();
      outcome.error_number = static_cast<int>(row.integer());
    }
    return outcomes;
  });
}

std::optional<JobId> SqliteJobStore::find_task(JobId array_job, unsigned task) {
  return database_->read([&]() -> std::optional<JobId> {
    Query query = database_->query("SELECT id FROM jobs WHERE array_job_id = ? AND array_task_id = ?");
    query.bind(array_job).bind(std::int64_t{task});
    return query.step() ? std::optional(query.integer(0)) : std::nullopt;
  });
}

bool SqliteJobStore::has_earlier_namesake(JobId job) {
  return database_->read([&] {
    // Earlier by their own numbers; or tasks with later ones of arrays that are, and are not over before
    // them.
    Query query = database_->query(
        "WITH own AS (SELECT user_id, name, coalesce(array_job_id, id) AS place FROM jobs WHERE id = ?) "
        "SELECT 1 FROM own WHERE EXISTS (SELECT 1 FROM jobs e WHERE e.end_us IS NULL AND e.id < own.place "
        "AND e.user_id = own.user_id AND e.name = own.name) OR EXISTS (SELECT 1 FROM jobs p JOIN jobs e "
        "INDEXED BY "
        "jobs_open_by_array ON e.array_job_id = p.id WHERE p.end_us IS NULL AND p.id < own.place AND "
        "p.user_id = own.user_id AND "
        "e.end_us IS NULL AND e.name = own.name)");
    return query.bind(job).step();
  });
}

bool SqliteJobStore::has_started(JobId job) {
  return database_->read([&] {
    Query query = database_->query(
        "SELECT 1 WHERE EXISTS (SELECT 1 FROM attempts WHERE job_id = ?1 AND start_us IS NOT NULL) OR ("
        "NOT EXISTS (SELECT 1 FROM queue WHERE job_id = ?1) AND EXISTS (SELECT 1 FROM jobs WHERE "
        "array_job_id = ?1) AND NOT EXISTS (SELECT 1 FROM jobs t INDEXED BY jobs_open_by_array WHERE "
        "t.array_job_id = ?1 AND t.end_us IS NULL AND t.state IN ('PENDING', 'CONFIGURING') AND NOT EXISTS "
        "(SELECT 1 FROM attempts a WHERE a.job_id = t.id AND "
        "a.start_us IS NOT NULL)))");
    return query.bind(job).step();
  });
}

std::optional<Outcome> SqliteJobStore::last_outcome(JobId job) {
  return database_->read([&]() -> std::optional<Outcome> {
    Query query = database_->query(
        "SELECT a.state, a.start_us, a.cause, a.exit_code, a.signal, a.core_dumped, a.limit_name, "
        "a.limit_value, a.limit_cgroup, a.stage, a.error_number, a.message FROM jobs j JOIN attempts a ON "
        "a.job_id = j.id AND a.attempt = j.attempt WHERE j.id = ?");
    if (!query.bind(job).step()) {
      return std::nullopt;
    }
    Row row(query);
    const JobState state = to_state(database_->path(), row.text());
    const bool started = row.optional_integer().has_value();
    return read_outcome(row, state, started);
  });
}

std::string SqliteJobStore::last_hold(JobId job) {
  return database_->read([&] {
    static const std::string kLast = joined("SELECT detail FROM events WHERE job_id = ? AND ", kAction,
                                            " IN ('hold', 'release') ORDER BY sequence DESC LIMIT 1");
    Query query = database_->query(kLast.c_str());
    return query.bind(job).step() ? query.text(0) : std::string();
  });
}

bool SqliteJobStore::has_tasks(JobId array_job) {
  return database_->read([&] {
    Query query = database_->query("SELECT 1 FROM jobs WHERE array_job_id = ? LIMIT 1");
    return query.bind(array_job).step();
  });
}

std::vector<JobId> SqliteJobStore::open_tasks(JobId array_job) {
  return database_->read([&] {
    Query query = database_->query(
        "SELECT id FROM jobs INDEXED BY jobs_open_by_array WHERE array_job_id = ? AND end_us IS NULL ORDER "
        "BY array_task_id");
    return ids(query.bind(array_job));
  });
}

std::vector<JobId> SqliteJobStore::array_tasks(JobId array_job) {
  return database_->read([&] {
    Query query = database_->query("SELECT id FROM jobs WHERE array_job_id = ? ORDER BY array_task_id");
    return ids(query.bind(array_job));
  });
}

std::size_t SqliteJobStore::forget_ended(const Retention& rule, std::size_t most) {
  return database_->write([&]() -> std::size_t {
    std::size_t surplus = 0;  // by number
    if (rule.jobs) {
      Query count = database_->query("SELECT count(*) FROM jobs WHERE end_us IS NOT NULL");
      count.step();
      const auto ended = static_cast<std::uint64_t>(count.integer(0));
      surplus = ended > *rule.jobs ? ended - *rule.jobs : 0;
    }
    std::vector<JobId> old;
    std::unordered_set<JobId> passed = rule.needed;
    const auto take = [&](Query& query, std::size_t count) {
      while (old.size() < count && query.step()) {
        if (const JobId job = query.integer(0); passed.insert(job).second) {
          old.push_back(job);
        }
      }
    };
    if (rule.since) {
      Query query = database_->query(
          "SELECT id FROM jobs j WHERE end_us < ? AND NOT EXISTS (SELECT 1 FROM jobs p WHERE p.id = "
          "j.array_job_id AND p.end_us IS NULL) ORDER BY end_us");
      query.bind(to_column(*rule.since));
      take(query, most);
    }
    if (old.size() < std::min(most, surplus)) {
      Query ahead = database_->query("SELECT 1 FROM jobs WHERE end_us > ?");
      // Instants tell the order unless the system clock was set back; events do always, but are many.
      Query query = database_->query(
          ahead.bind(to_column(rule.now)).step()
              ? "SELECT j.id FROM events e CROSS JOIN jobs j ON j.id = e.job_id AND j.attempt = e.attempt "
                "AND j.state = e.state WHERE j.end_us IS NOT NULL AND NOT EXISTS (SELECT 1 FROM jobs p WHERE "
                "p.id = j.array_job_id AND p.end_us IS NULL) ORDER BY e.sequence"
              : "SELECT id FROM jobs j WHERE end_us IS NOT NULL AND NOT EXISTS (SELECT 1 FROM jobs p WHERE "
                "p.id = j.array_job_id AND p.end_us IS NULL) ORDER BY end_us");
      take(query, std::min(most, surplus));
    }
    for (const JobId job : old) {
      database_->query("DELETE FROM jobs WHERE id = ?").bind(job).execute();
    }
    return old.size();
  });
}

std::vector<OpenAttempt> SqliteJobStore::running_attempts() {
  return database_->read([&] {
    Query query = database_->query(
        "SELECT j.id, j.attempt, j.state, s.boot_id, s.pid, s.start_time, s.cgroup, a.start_us, a.slot, "
        "a.cpus, "
        "a.memory_nodes, a.memory FROM jobs j "
        "JOIN attempts a ON a.job_id = j.id AND a.attempt = j.attempt "
        "JOIN supervisors s ON s.id = a.supervisor_id "
        "WHERE j.state = 'CONFIGURING' OR j.state = 'RUNNING' OR j.state = 'SUSPENDED' OR j.state = "
        "'COMPLETING' ORDER BY j.id");
    std::vector<OpenAttempt> open;
    while (query.step()) {
      Row row(query);
      OpenAttempt& attempt = open.emplace_back();
      read_open_attempt(row, attempt);
      attempt.allocation = read_allocation(row);
    }
    return open;
  });
}

void SqliteJobStore::configure(const Supervisor* runner, JobId job, unsigned attempt,
                               const Allocation& allocation, Timestamp at) {
  database_->write(
      [&] {
        std::optional<std::int64_t> supervisor;
        if (runner != nullptr) {
          supervisor = supervisor_id(*runner);
          leave_queue(job);  // jobs of `berth run` are not in it
        }
        const Standing before = require_transition(job, JobState::configuring);
        require_attempt(job, {before.state, before.attempt + 1}, attempt);
        set_state(job, JobState::configuring, attempt);
        const std::string cpus = allocation.cpus.to_list();
        const std::string nodes = allocation.memory_nodes.to_list();
        const auto memory = static_cast<std::int64_t>(allocation.memory);
        Query insert = database_->query(
            "INSERT INTO attempts (job_id, attempt, supervisor_id, state, slot, cpus, memory_nodes, memory, "
            "configure_us) SELECT id, ?, coalesce(?, supervisor_id), 'CONFIGURING', ?, ?, ?, ?, ? FROM jobs "
            "WHERE id = ?");
        insert.bind(std::int64_t{attempt})
            .bind(supervisor)
            .bind(allocation.slot)
            .bind(cpus)
            .bind(nodes)
            .bind(memory);
        insert.bind(to_column(at)).bind(job).execute();
        Query event = database_->query(
            "INSERT INTO events (job_id, attempt, at_us, state, detail) VALUES (?, ?, ?, 'CONFIGURING', "
            "json_object('slot', ?, 'cpus', ?, 'memory_nodes', ?, 'memory', ?))");
        event.bind(job).bind(std::int64_t{attempt}).bind(to_column(at));
        event.bind(allocation.slot).bind(cpus).bind(nodes).bind(memory).execute();
        return true;
      },
      Database::Durability::process_kill);
}

void SqliteJobStore::run(JobId job, unsigned attempt, Timestamp at, const std::string& detail) {
  database_->write(
      [&] {
        require_attempt(job, require_transition(job, JobState::running), attempt);
        set_state(job, JobState::running, attempt);
        Query update = database_->query(
            "UPDATE attempts SET state = 'RUNNING', start_us = coalesce(start_us, ?) WHERE job_id = ? AND "
            "attempt = ?");
        update.bind(to_column(at)).bind(job).bind(std::int64_t{attempt}).execute();
        insert_event(job, attempt, at, JobState::running, detail);
        return true;
      },
      Database::Durability::process_kill);
}

bool SqliteJobStore::finish(JobId job, unsigned attempt, const Outcome& outcome, const Usage& usage,
                            Timestamp at) {
  return finish(job, attempt, nullptr, outcome, usage, at, Database::Durability::power_cut);
}

void SqliteJobStore::rehearse_end(JobId job, unsigned attempt) {
  Outcome outcome;
  outcome.state = JobState::completed;
  const AttemptStart start;
  database_->rehearse([&] { write_record(job, attempt, &start, outcome, {}, {}); },
                      Database::Durability::process_kill);
}

bool SqliteJobStore::run_and_finish(JobId job, unsigned attempt, const AttemptStart& start,
                                    const Outcome& outcome, const Usage& usage, Timestamp at, Sync sync) {
  const bool now = sync == Sync::now;
  return finish(job, attempt, &start, outcome, usage, at,
                now ? Database::Durability::power_cut : Database::Durability::process_kill);
}

bool SqliteJobStore::finish(JobId job, unsigned attempt, const AttemptStart* start, const Outcome& outcome,
                            const Usage& usage, Timestamp at, Database::Durability durability) {
  if (!is_final(outcome.state)) {
    refuse(job, "cannot end as " + std::string(to_string(outcome.state)) + ", which is not a final state");
  }
  return database_->write([&] { return write_record(job, attempt, start, outcome, usage, at); }, durability);
}

bool SqliteJobStore::write_record(JobId job, unsigned attempt, const AttemptStart* start,
                                  const Outcome& outcome, const Usage& usage, Timestamp at) {
  if (has_record(job, attempt)) {
    return false;
  }
  // Recorded at once, RUNNING is an event and a time, but no state that anybody could read.
  const std::optional<Standing> now = start != nullptr ? standing(job) : std::nullopt;
  const bool ran = now && now->state == JobState::configuring;
  const Standing before = ran ? *now : require_transition(job, outcome.state);
  require_attempt(job, before, attempt);
  if (ran) {
    insert_event(job, attempt, start->at, JobState::running, start->detail);
  }
  set_state(job, outcome.state, attempt, at);
  if (before.state == JobState::pending) {
    leave_queue(job);
  }
  if (attempt == 0) {
    insert_unstarted(job, 0);
  }
  write_end(job, attempt, ran ? std::optional(start->at) : std::nullopt, outcome, usage, at);
  return true;
}

bool SqliteJobStore::has_record(JobId job, unsigned attempt) {
  return database_->read([&] {
    Query recorded =
        database_->query("SELECT 1 FROM attempts WHERE job_id = ? AND attempt = ? AND end_us IS NOT NULL");
    return recorded.bind(job).bind(std::int64_t{attempt}).step();
  });
}

bool SqliteJobStore::end_waiting(JobId job, const Outcome& outcome, Timestamp at) {
  return database_->write([&] {
    const std::optional<Standing> now = standing(job);
    if (!now || now->state != JobState::pending) {
      return false;
    }
    const unsigned attempt = now->attempt == 0 ? 0 : now->attempt + 1;
    set_state(job, outcome.state, attempt, at);
    leave_queue(job);
    insert_unstarted(job, attempt);
    write_end(job, attempt, std::nullopt, outcome, {}, at);
    return true;
  });
}

/// The row of an attempt that was never configured: attempt 0, or one after others, whose slot has no name.
void SqliteJobStore::insert_unstarted(JobId job, unsigned attempt) {
  Query insert = database_->query(
      "INSERT INTO attempts (job_id, attempt, supervisor_id, state, slot) "
      "SELECT id, ?2, supervisor_id, state, CASE WHEN ?2 = 0 THEN NULL ELSE '' END FROM jobs WHERE id = ?1");
  insert.bind(job).bind(std::int64_t{attempt}).execute();
}

/// Record and event.
void SqliteJobStore::write_end(JobId job, unsigned attempt, std::optional<Timestamp> start,
                               const Outcome& outcome, const Usage& usage, Timestamp at) {
  write_outcome(job, attempt, start, outcome, at);
  write_usage(job, attempt, usage);
  Query event = database_->query(
      outcome.exit_code ? "INSERT INTO events (job_id, attempt, at_us, state, detail) VALUES (?, ?, ?, ?, "
                          "json_object('cause', ?, 'exit_code', ?, 'signal', ?, 'message', ?))"
                        : "INSERT INTO events (job_id, attempt, at_us, state, detail) VALUES (?, ?, ?, ?, "
                          "json_object('cause', ?, 'message', ?))");
  event.bind(job).bind(std::int64_t{attempt}).bind(to_column(at)).bind(to_string(outcome.state));
  event.bind(to_string(outcome.cause));
  if (outcome.exit_code) {
    event.bind(std::int64_t{*outcome.exit_code}).bind(std::int64_t{outcome.signal});
  }
  event.bind(outcome.message).execute();
}

void SqliteJobStore::write_outcome(JobId job, unsigned attempt, std::optional<Timestamp> start,
                                   const Outcome& outcome, Timestamp at) {
  Query query = database_->query(
      "UPDATE attempts SET start_us = coalesce(start_us, ?), state = ?, end_us = ?, cause = ?, exit_code = "
      "?, "
      "signal = ?, core_dumped = ?, limit_name = ?, limit_value = ?, limit_cgroup = ?, stage = ?, "
      "error_number = ?, message = ? WHERE job_id = ? AND attempt = ?");
  if (start) {
    query.bind(to_column(*start));
  } else {
    query.bind_null();
  }
  query.bind(to_string(outcome.state)).bind(to_column(at));
  query.bind(to_string(outcome.cause));
  if (outcome.exit_code) {
    query.bind(std::int64_t{*outcome.exit_code}).bind(std::int64_t{outcome.signal});
  } else {
    query.bind_null().bind_null();
  }
  query.bind(std::int64_t{outcome.core_dumped ? 1 : 0});
  if (outcome.limit) {
    query.bind(outcome.limit->name).bind(outcome.limit->value).bind(outcome.limit->cgroup);
  } else {
    query.bind_null().bind_null().bind_null();
  }
  query.bind(outcome.stage).bind(std::int64_t{outcome.error_number}).bind(outcome.message);
  query.bind(job).bind(std::int64_t{attempt}).execute();
}

void SqliteJobStore::write_usage(JobId job, unsigned attempt, const Usage& usage) {
  static const std::string kInsert = "INSERT INTO usage (job_id, attempt, " + usage_columns() +
                                     ") VALUES (?, ?, " + usage_parameters() + ")";
  Query query = database_->query(kInsert.c_str());
  query.bind(job).bind(std::int64_t{attempt});
  bind_usage(query, usage);
  query.execute();
}

void SqliteJobStore::read_open_attempt(Row& row, OpenAttempt& attempt) const {
  attempt.job_id = row.integer();
  attempt.attempt = row.number();
  attempt.state = to_state(database_->path(), row.text());
  attempt.supervisor.boot_id = row.text();
  attempt.supervisor.pid = row.integer();
  attempt.supervisor.start_time = static_cast<std::uint64_t>(row.integer());
  attempt.supervisor.cgroup = row.text();
  attempt.start = to_instant(row.optional_integer());
}

std::vector<OpenAttempt> SqliteJobStore::open_attempts() {
  return database_->read([&] {
    Query query = database_->query(
        "SELECT j.id, j.attempt, j.state, s.boot_id, s.pid, s.start_time, s.cgroup, a.start_us FROM jobs j "
        "LEFT JOIN attempts a ON a.job_id = j.id AND a.attempt = j.attempt "
        "JOIN supervisors s ON s.id = coalesce(a.supervisor_id, j.supervisor_id) "
        "WHERE j.end_us IS NULL ORDER BY j.id");
    std::vector<OpenAttempt> open;
    while (query.step()) {
      Row row(query);
      OpenAttempt& attempt = open.emplace_back();
      read_open_attempt(row, attempt);
    }
    return open;
  });
}

std::vector<AccountingRecord> SqliteJobStore::history(const HistoryFilter& filter) {
  return database_->read([&] {
    const Conditions conditions = conditions_of(filter);
    std::string sql = records_select(conditions.text()) + " ORDER BY " + std::to_string(kIdColumn) +
                      " DESC, " + std::to_string(kAttemptColumn) + " DESC";
    if (filter.last) {
      sql += " LIMIT " + std::to_string(std::min(*filter.last, std::uint64_t{kForever}));
    }
    SQLite::Statement statement = database_->prepare(sql);
    Query query(statement);
    conditions.bind(query);
    conditions.bind(query);
    std::vector<AccountingRecord> records;
    SpecReader specs(*database_);
    std::uint64_t bytes = 0;
    while (query.step()) {
      records.push_back(read_record(database_->path(), query, specs));
      bytes += kBytesOfRecord + (filter.counts_each_spec || specs.is_new() ? specs.length() : 0);
      if (filter.most_bytes && bytes > *filter.most_bytes) {
        throw TooMuch("these records take more than " + std::to_string(*filter.most_bytes >> 20U) +
                      " MiB: ask for fewer, by start and end or last (berth history -S, -E, --last)");
      }
    }
    std::reverse(records.begin(), records.end());
    return records;
  });
}

std::vector<AccountingRecord> SqliteJobStore::find(JobId job) {
  HistoryFilter filter;
  filter.job_ids = {job};
  return history(filter);
}

std::vector<JobEvent> SqliteJobStore::read_events(Query& query) const {
  std::vector<JobEvent> events;
  while (query.step()) {
    Row row(query);
    JobEvent& event = events.emplace_back();
    event.sequence = row.integer();
    event.job_id = row.integer();
    event.attempt = row.number();
    event.at = to_instant(row.integer());
    event.state = to_state(database_->path(), row.text());
    event.detail = row.text();
  }
  return events;
}

std::vector<JobEvent> SqliteJobStore::events(JobId job) {
  return database_->read([&] {
    Query query = database_->query(
        "SELECT sequence, job_id, attempt, at_us, state, detail FROM events WHERE job_id = ? ORDER BY "
        "sequence");
    query.bind(job);
    return read_events(query);
  });
}

std::unique_ptr<QueueStore> open_store(const std::string& path, Database::Missing missing) {
  std::unique_ptr<Database> database = Database::open(path, missing);
  return database ? std::make_unique<SqliteJobStore>(std::move(database)) : nullptr;
}

}  // namespace

std::unique_ptr<JobStore> JobStore::open(const std::string& path) {
  return open_store(path, Database::Missing::create);
}

std::unique_ptr<JobStore> JobStore::open_existing(const std::string& path) {
  return open_store(path, Database::Missing::refuse);
}

std::unique_ptr<QueueStore> QueueStore::open(const std::string& path) {
  std::unique_ptr<Database> database = Database::open(path, Database::Missing::create);
  database->tune_for_service();
  return std::make_unique<SqliteJobStore>(std::move(database));
}

std::unique_ptr<QueueStore> QueueStore::open_existing(const std::string& path) {
  return open_store(path, Database::Missing::refuse);
}

}  // namespace berth
