// JobStore: jobs, attempts, usage and events in one SQLite file.
//
// Owns its connection; one JobStore per process and thread. Several processes may use one file at once
// (WAL, busy timeout). Every call is one transaction, or a part of together()'s. submit() and finish() are on
// the disk when they return (synchronous=FULL); the others survive the death of this process, and a power cut
// at that moment leaves an earlier state, which recovery ends as NODE_FAIL all the same. Throws
// StoreError: the message names the file and what to do (full disk, read-only, newer schema, not a database,
// locked too long).
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "schemas/accounting_record.h"
#include "store/queue_facts.h"

namespace berth {

class StoreError : public std::runtime_error {
 public:
  enum class Kind {
    refused,     ///< what was asked for: an illegal transition, another program's file
    unwritable,  ///< what is under the database: a full disk, missing rights, a lock
    damaged,     ///< what is in it
  };
  explicit StoreError(const std::string& message, Kind kind = Kind::refused)
      : std::runtime_error(message), kind_(kind) {}
  Kind kind() const { return kind_; }

 private:
  Kind kind_;
};

/// What was asked for takes more memory than its caller allows.
class TooMuch : public StoreError {
 public:
  using StoreError::StoreError;
};

/// Whether it is a StoreError of a damaged database. `error` is not null.
bool is_damage(const std::exception_ptr& error);
/// Whether it tells of what was asked for, not of the database or memory: so it does whenever it is asked for
/// again. `error` is not null.
bool is_refusal(const std::exception_ptr& error);

/// Which running berth supervises an attempt. Identity across restarts is boot id + pid + start time,
/// never a bare pid (proc_pid_stat(5) field 22, /proc/sys/kernel/random/boot_id).
struct Supervisor {
  std::string boot_id;
  std::int64_t pid = 0;
  std::uint64_t start_time = 0;  ///< clock ticks after boot
  std::string cgroup;            ///< name of its cgroup below berth's own, "run-PID-STARTTIME"
  bool operator==(const Supervisor&) const = default;
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

/// When an attempt started, and what its RUNNING event tells.
struct AttemptStart {
  Timestamp at;
  std::string detail;
};

/// When a commit is to be on the disk.
enum class Sync {
  now,    ///< when the call returns
  later,  ///< after JobStore::sync(): until then a power cut may undo it
};

/// sacct's filters; an empty one matches all. A job matches a time window when it was in any state
/// within it, as `sacct -S -E` defines it.
struct HistoryFilter {
  std::vector<JobId> job_ids;
  std::vector<std::pair<JobId, JobId>> job_ranges;  ///< first and last, beside job_ids
  bool with_tasks = false;                          ///< of arrays among both their tasks too
  std::vector<std::pair<JobId, unsigned>> tasks;    ///< of arrays, beside both
  std::optional<unsigned> user_id;                  ///< only of this user, whatever `users` says
  std::vector<std::string> users;
  std::vector<std::string> accounts;
  std::vector<std::string> names;
  std::vector<JobState> states;
  std::optional<Timestamp> start;
  std::optional<Timestamp> end;
  std::optional<std::uint64_t> last;  ///< only the newest N
  /// What the records may take: 1 KiB each, and the length of their specs, a spec that many have once. Beyond
  /// it TooMuch is thrown.
  std::optional<std::uint64_t> most_bytes;
  bool counts_each_spec = false;  ///< for what tells it with every record
};

/// One row of the append-only events table; the last of a job's events has its state.
struct JobEvent {
  std::int64_t sequence = 0;
  JobId job_id = 0;
  unsigned attempt = 0;
  Timestamp at;
  JobState state = JobState::pending;
  std::string detail;  ///< JSON object text, or empty
};

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
  virtual void configure(JobId job, unsigned attempt, const Allocation& allocation, Timestamp at) = 0;
  virtual void run(JobId job, unsigned attempt, Timestamp at, const std::string& detail = {}) = 0;
  /// Final record and state in one transaction. A second final record for one attempt is refused
  /// (returns false and changes nothing). attempt 0: the job ends without ever having had one.
  virtual bool finish(JobId job, unsigned attempt, const Outcome& outcome, const Usage& usage,
                      Timestamp at) = 0;
  /// Prepares run_and_finish() of an attempt that is configured, so that it takes less time when the job has
  /// ended; changes nothing. Throws StoreError as that would.
  virtual void rehearse_end(JobId /*job*/, unsigned /*attempt*/) {}
  /// run(), unless that has been recorded, and finish(), in less time.
  virtual bool run_and_finish(JobId job, unsigned attempt, const AttemptStart& start, const Outcome& outcome,
                              const Usage& usage, Timestamp at, Sync sync) = 0;
  /// Puts on the disk what was committed. Another thread may call it while this one leaves the store alone.
  virtual void sync() = 0;
  /// Runs `body`, whose writes become one durable transaction. A write that throws undoes itself alone; when
  /// together() throws, nothing of `body` has happened.
  virtual void together(const std::function<void()>& body) = 0;
  /// As together(), but a write that throws undoes all, so its exception must leave `body`. In less time, as
  /// SQLite need not be able to undo each.
  virtual void as_one(const std::function<void()>& body) = 0;

  // -- recovery --
  /// Every job that is not final, of every supervisor, oldest first.
  virtual std::vector<OpenAttempt> open_attempts() = 0;
  /// The newest supervisor of this database with that cgroup name.
  virtual std::optional<Supervisor> find_supervisor(const std::string& cgroup) = 0;
  /// Whether a berthd ever kept its queue here.
  virtual bool is_of_berthd() = 0;

  // -- reading --
  virtual std::vector<AccountingRecord> history(const HistoryFilter& filter) = 0;
  /// All attempts of one job, oldest first; a job that never started gives one record.
  virtual std::vector<AccountingRecord> find(JobId job) = 0;
  virtual std::vector<JobEvent> events(JobId job) = 0;
  /// PRAGMA integrity_check; empty when sound.
  virtual std::string check_integrity() = 0;
};

}  // namespace berth
