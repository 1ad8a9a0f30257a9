// QueueStore: JobStore with berthd's queue: jobs that wait over restarts, several writes in one transaction.
//
// As JobStore: one per process and thread; every call is one durable transaction, or a part of together()'s.
// Throws StoreError.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "schemas/index_list.h"
#include "store/job_store.h"
#include "store/usage_report.h"

namespace berth {

/// A row of the queue.
struct WaitingJob {
  JobId job_id = 0;
  unsigned user_id = 0;
  unsigned attempt = 0;  ///< attempts made before
  QueueFacts facts;
};

/// Whose a job is and where it stands, for judging access to it and what depends on it. In little time,
/// however long its spec is.
struct KnownJob {
  JobId job_id = 0;
  JobState state = JobState::pending;
  unsigned attempt = 0;
  std::string name;
  std::string user;
  unsigned user_id = 0;
  unsigned group_id = 0;
  std::optional<JobId> array_job_id;
  std::optional<unsigned> array_task_id;
};

/// And what starting it needs; without parsing its spec.
struct StoredJob : KnownJob {
  std::string spec_text;  ///< JSON
};

/// One line of a listing of jobs that are not over, or that the listing was asked for.
struct JobSummary {
  JobId job_id = 0;
  unsigned attempt = 0;  ///< its last; while it waits to run again the next one; 0: none yet
  JobState state = JobState::pending;
  std::string name;
  std::string user;
  unsigned user_id = 0;
  std::string account;
  Timestamp submit;
  std::optional<Timestamp> start;
  std::optional<Timestamp> end;                   ///< of its last attempt
  std::optional<std::chrono::microseconds> wall;  ///< that was measured of it
  std::optional<Milliseconds> time_limit;         ///< while it runs, if it has one
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

/// Which ended jobs stay: those that ended since `since`, and of all at most `jobs`, those whose ends were
/// recorded last, whatever the system clock said then; absent: all.
struct Retention {
  std::optional<Timestamp> since;
  std::optional<std::uint64_t> jobs;
  std::unordered_set<JobId> needed;  ///< stay in any case
  /// Jobs whose ends lie after it tell that the system clock was set back.
  Timestamp now = Timestamp::max();
};

/// The highest numbers that a database has given to jobs and to events. They grow for as long as it lives.
struct GivenNumbers {
  JobId job = 0;
  std::int64_t event = 0;
  bool operator==(const GivenNumbers&) const = default;
};

class QueueStore : public JobStore {
 public:
  /// As JobStore's functions of these names.
  static std::unique_ptr<QueueStore> open(const std::string& path);
  static std::unique_ptr<QueueStore> open_existing(const std::string& path);

  /// Writes what is there already: throws when nothing can be written, or the disk has hardly any room left.
  virtual void probe() = 0;

  /// JobStore::configure() of an attempt that another process, `runner`, supervises.
  virtual void configure_on(const Supervisor& runner, JobId job, unsigned attempt,
                            const Allocation& allocation, Timestamp at) = 0;
  /// RUNNING to SUSPENDED and back.
  virtual void suspend(JobId job, unsigned attempt, bool suspended, Timestamp at) = 0;
  /// A job that ended, or whose attempt came to nothing, waits again; `detail` is a JSON object for its
  /// event. The array that it is a task of is not over any more.
  virtual void requeue(JobId job, const QueueFacts& facts, Timestamp at, const std::string& detail) = 0;
  /// What a waiting job is scheduled by changes, but not which tasks of an array have not started.
  /// `spec_text`, when not empty, replaces its spec, and its name and account with it.
  virtual void change(JobId job, const QueueFacts& facts, Timestamp at, const std::string& detail,
                      const std::string& spec_text) = 0;
  /// Records that somebody asked for the end of a job's attempt, so that none follows it; `detail` as in
  /// requeue(). Does nothing when the job is over.
  virtual void note_cancel(JobId job, unsigned attempt, Timestamp at, const std::string& detail) = 0;
  /// Who is "by" in the detail of the attempt's first note_cancel(); nothing when there was none.
  virtual std::optional<std::string> canceller(JobId job, unsigned attempt) = 0;
  /// A job that waits ends without another attempt, which is a record of its own: attempt 0 of one that never
  /// had an attempt, else of the one that it waited for. False, and nothing is done, when it does not wait.
  virtual bool end_waiting(JobId job, const Outcome& outcome, Timestamp at) = 0;
  /// Whether the attempt has ended.
  virtual bool has_record(JobId job, unsigned attempt) = 0;
  /// What a waiting job depended on is fulfilled; does nothing when it does not wait any more.
  virtual void forget_dependency(JobId job) = 0;
  /// Every row of the queue, in the order of job ids.
  virtual void visit_queue(const std::function<void(WaitingJob&&)>& visit) = 0;
  virtual std::optional<KnownJob> find_known(JobId job) = 0;
  virtual std::optional<StoredJob> find_stored(JobId job) = 0;
  /// Without arrays that run: those whose tasks have rows of their own, all of them.
  virtual std::vector<JobSummary> summaries(const SummaryFilter& filter) = 0;
  /// Events after `sequence`, oldest first, at most `limit`; only of one user's jobs when given. `looked_at`
  /// is the last one that need not be looked at again, whosever it is.
  virtual std::vector<JobEvent> events_after(std::int64_t sequence, std::size_t limit,
                                             std::optional<unsigned> user_id, std::int64_t& looked_at) = 0;
  virtual std::int64_t last_event() = 0;
  /// A job of its own for one task of an array, as a copy of the array's job; refused unless the task is one
  /// of those that have not started. With the last of them the array leaves the queue.
  virtual JobId add_task(JobId array_job, unsigned task, Timestamp at) = 0;
  /// When the job is an array that waits, those of its tasks that have not started never will: that, and why,
  /// is recorded, and true returned. Else nothing is done.
  virtual bool close_array(JobId job, const Outcome& outcome, Timestamp at) = 0;
  /// Why tasks of an array never started; nothing when all have, or may yet.
  virtual std::optional<Outcome> closing(JobId array_job) = 0;
  /// When no task of the array waits or runs any more: its final state is recorded and returned. That of
  /// close_array(); else COMPLETED when all its tasks are, CANCELLED after note_cancel() of the array, or
  /// FAILED.
  virtual std::optional<JobState> settle_array(JobId array_job, Timestamp at) = 0;
  /// How the tasks of an array ended, each way once, and closing(); without their limits and messages.
  virtual std::vector<Outcome> array_outcomes(JobId array_job) = 0;
  /// The job that is this task; nothing when there is none yet.
  virtual std::optional<JobId> find_task(JobId array_job, unsigned task) = 0;
  /// Whether an earlier job of the same user and name waits or runs. A task is as early as its array,
  /// whenever it got a number of its own, and the tasks of one array are no namesakes.
  virtual bool has_earlier_namesake(JobId job) = 0;
  /// Whether an attempt of the job has started; of an array, of each task that has not ended without one.
  virtual bool has_started(JobId job) = 0;
  /// The tasks of an array that wait in the queue without a row of their own; none when it does not wait.
  virtual IndexList unstarted(JobId array_job) = 0;
  /// How the job's last attempt ended, without its usage and spec; nothing while there is no such record.
  virtual std::optional<Outcome> last_outcome(JobId job) = 0;
  /// The detail of the job's last "hold" or "release"; empty when there was none.
  virtual std::string last_hold(JobId job) = 0;
  /// Whether tasks of an array have rows of their own.
  virtual bool has_tasks(JobId array_job) = 0;
  /// Those of them that are not over.
  virtual std::vector<JobId> open_tasks(JobId array_job) = 0;
  /// The tasks of an array that have rows of their own.
  virtual std::vector<JobId> array_tasks(JobId array_job) = 0;

  /// Sums over ended attempts, in the order of their keys.
  virtual std::vector<ReportRow> report(const ReportFilter& filter) = 0;
  /// Deletes at most `most` of the ended jobs that the rule does not keep, the oldest first, with their
  /// attempts, usage and events; returns how many. A task of an array that is not over stays.
  virtual std::size_t forget_ended(const Retention& rule, std::size_t most) = 0;
  /// Gives at most `most` unused pages back to the file system, but for some that further jobs will fill;
  /// returns how many. 0 for a file that an older berth made (auto_vacuum).
  virtual std::size_t give_back_pages(std::size_t most) = 0;

  virtual GivenNumbers given_numbers() = 0;
  /// The next job and the next event get numbers above these.
  virtual void leave_out(const GivenNumbers& numbers) = 0;
  /// The write-ahead log into the file, which is then whole without it.
  virtual void move_log() = 0;

  /// As open_attempts(), but only those that have an attempt; with their allocations.
  virtual std::vector<OpenAttempt> running_attempts() = 0;
};

}  // namespace berth
