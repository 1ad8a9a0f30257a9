// JobStore: jobs, attempts, usage and events in one SQLite file.
//
// Owns its connection; one JobStore per process and thread. Several processes may use one file at once
// (WAL, busy timeout). Every call is one transaction. submit() and finish() are on the disk when they return
// (synchronous=FULL); configure() and run() survive the death of this process, and a power cut at that moment
// leaves an earlier state, which recovery ends as NODE_FAIL all the same.
// Throws StoreError: the message names the file and what to do (full disk, read-only, newer schema,
// not a database, locked too long).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "schemas/accounting_record.h"

namespace berth {

class StoreError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Which running berth supervises an attempt. Identity across restarts is boot id + pid + start time,
/// never a bare pid (proc_pid_stat(5) field 22, /proc/sys/kernel/random/boot_id).
struct Supervisor {
  std::string boot_id;
  std::int64_t pid = 0;
  std::uint64_t start_time = 0;  ///< clock ticks after boot
  std::string cgroup;            ///< name of its cgroup below berth's own, "run-PID-STARTTIME"
  bool operator==(const Supervisor&) const = default;
};

/// Who keeps a waiting job from starting until it is released.
enum class Hold { none, user, administrator };

/// What berthd schedules a waiting job by; kept beside the job so that a restart reads no spec.
struct QueueFacts {
  std::int64_t priority = 0;  ///< effective: priority - nice
  unsigned cpus = 1;
  std::optional<Bytes> memory;  ///< absent: the pool's share
  Milliseconds stay{0};         ///< longest stay in a slot
  Hold hold = Hold::none;
  std::optional<Timestamp> begin;     ///< not before
  std::optional<Timestamp> deadline;  ///< must have ended by then
  std::string dependency;             ///< as sbatch's --dependency; empty: none
  std::string array_tasks;            ///< an array's tasks that have not started, as a list; empty: no array
  unsigned array_limit = 0;           ///< its tasks at once; 0: no limit
  bool operator==(const QueueFacts&) const = default;
};

/// A row of the queue.
struct WaitingJob {
  JobId job_id = 0;
  unsigned user_id = 0;
  unsigned attempt = 0;  ///< attempts made before
  QueueFacts facts;
};

/// What starting, showing and judging access to a job needs; without parsing its spec.
struct StoredJob {
  JobId job_id = 0;
  JobState state = JobState::pending;
  unsigned attempt = 0;
  std::string name;
  std::string user;
  unsigned user_id = 0;
  unsigned group_id = 0;
  std::optional<JobId> array_job_id;
  std::optional<unsigned> array_task_id;
  std::string spec_text;  ///< JSON
};

/// One line of a listing of jobs that are not over, or that the listing was asked for.
struct JobSummary {
  JobId job_id = 0;
  unsigned attempt = 0;
  JobState state = JobState::pending;
  std::string name;
  std::string user;
  unsigned user_id = 0;
  std::string account;
  Timestamp submit;
  std::optional<Timestamp> start;
  std::string slot;
  std::string cpus;  ///< granted, as a list
  std::optional<Bytes> memory;
  std::optional<JobId> array_job_id;
  std::optional<unsigned> array_task_id;
  std::optional<QueueFacts> queue;  ///< while it waits
};

struct SummaryFilter {
  std::optional<unsigned> user_id;  ///< only of this user
  std::vector<JobState> states;     ///< empty: all that are not final
  std::optional<std::uint64_t> limit;
};

struct NewJob {
  JobSpec spec;
  std::string spec_text;  ///< the spec as canonical JSON, where the caller has it; empty: made from it
  std::string user;
  unsigned user_id = 0;
  std::string job_user;
  unsigned job_user_id = 0;
  std::string host;
  Timestamp submit;
  unsigned group_id = 0;
  std::optional<QueueFacts> queue = std::nullopt;  ///< of berthd: the job waits in its queue
  std::optional<JobId> array_job_id = std::nullopt;
  std::optional<unsigned> array_task_id = std::nullopt;
};

/// An attempt without a final record.
struct OpenAttempt {
  JobId job_id = 0;
  unsigned attempt = 0;  ///< 0: the job never left PENDING
  JobState state = JobState::pending;
  Supervisor supervisor;
  std::optional<Timestamp> start;
  std::optional<Allocation> allocation;
};

/// sacct's filters; an empty one matches all. A job matches a time window when it was in any state
/// within it, as `sacct -S -E` defines it.
struct HistoryFilter {
  std::vector<JobId> job_ids;
  std::vector<std::string> users;
  std::vector<std::string> accounts;
  std::vector<std::string> names;
  std::vector<JobState> states;
  std::optional<Timestamp> start;
  std::optional<Timestamp> end;
  std::optional<std::uint64_t> last;  ///< only the newest N
};

/// One row of the append-only events table; replaying a job's events gives its state.
struct JobEvent {
  std::int64_t sequence = 0;
  JobId job_id = 0;
  unsigned attempt = 0;
  Timestamp at;
  JobState state = JobState::pending;
  std::string detail;  ///< JSON object text, or empty
};

/// The state that a job's events (all of them, oldest first) lead to. Throws StoreError when they are not
/// a legal history.
JobState replay(const std::vector<JobEvent>& events);

class JobStore {
 public:
  /// Opens or creates the file and its folder (0700), runs missing migrations after a backup, checks
  /// integrity cheaply. ":memory:" gives a private one for tests.
  static std::unique_ptr<JobStore> open(const std::string& path);
  /// As open(), but refuses to create: for `history` and the like. Null when there is no such file.
  static std::unique_ptr<JobStore> open_existing(const std::string& path);

  virtual ~JobStore() = default;

  // -- the scheduler's side, in the order of a job's life --
  /// All or none; returns their ids in order. State PENDING under `supervisor`.
  virtual std::vector<JobId> submit(const std::vector<NewJob>& jobs, const Supervisor& supervisor) = 0;
  /// `runner`: which process supervises the attempt, where that is not the job's own supervisor.
  virtual void configure(JobId job, unsigned attempt, const Allocation& allocation, Timestamp at,
                         const Supervisor* runner = nullptr) = 0;
  virtual void run(JobId job, unsigned attempt, Timestamp at) = 0;
  /// Final record and state in one transaction. A second final record for one attempt is refused
  /// (returns false and changes nothing). attempt 0: the job ends without ever having had one.
  virtual bool finish(JobId job, unsigned attempt, const Outcome& outcome, const Usage& usage,
                      Timestamp at) = 0;

  // -- berthd's side --
  /// Runs `body`, whose writes become one durable transaction. A write that throws undoes itself alone; when
  /// together() throws, nothing of `body` has happened.
  virtual void together(const std::function<void()>& body) = 0;
  /// RUNNING to SUSPENDED and back.
  virtual void suspend(JobId job, unsigned attempt, bool suspended, Timestamp at) = 0;
  /// A job that ended, or whose attempt came to nothing, waits again; `detail` is a JSON object for its
  /// event.
  virtual void requeue(JobId job, const QueueFacts& facts, Timestamp at, const std::string& detail) = 0;
  /// What a waiting job is scheduled by changes. `spec_text`, when not empty, replaces its spec.
  virtual void change(JobId job, const QueueFacts& facts, Timestamp at, const std::string& detail,
                      const std::string& spec_text) = 0;
  /// Every row of the queue, in the order of job ids.
  virtual void visit_queue(const std::function<void(WaitingJob&&)>& visit) = 0;
  virtual std::optional<StoredJob> find_stored(JobId job) = 0;
  virtual std::vector<JobSummary> summaries(const SummaryFilter& filter) = 0;
  /// Events after `sequence`, oldest first, at most `limit`; only of one user's jobs when given.
  virtual std::vector<JobEvent> events_after(std::int64_t sequence, std::size_t limit,
                                             std::optional<unsigned> user_id) = 0;
  virtual std::int64_t last_event() = 0;
  /// The tasks of an array that have rows of their own.
  virtual std::vector<JobId> array_tasks(JobId array_job) = 0;

  // -- recovery --
  /// As open_attempts(), but only those that have an attempt; with their allocations.
  virtual std::vector<OpenAttempt> running_attempts() = 0;
  /// Every job that is not final, of every supervisor, oldest first.
  virtual std::vector<OpenAttempt> open_attempts() = 0;
  /// The newest supervisor of this database with that cgroup name.
  virtual std::optional<Supervisor> find_supervisor(const std::string& cgroup) = 0;

  // -- reading --
  virtual std::vector<AccountingRecord> history(const HistoryFilter& filter) = 0;
  /// All attempts of one job, oldest first; a job that never started gives one record.
  virtual std::vector<AccountingRecord> find(JobId job) = 0;
  virtual std::vector<JobEvent> events(JobId job) = 0;
  /// PRAGMA integrity_check; empty when sound.
  virtual std::string check_integrity() = 0;
};

}  // namespace berth
