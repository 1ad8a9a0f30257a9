// WaitingJobs: berthd's queue in memory: which jobs may start at all, and which of those starts next.
//
// A job is eligible when it is not held, its begin time has come and it depends on nothing that is not over;
// eligible jobs are in the JobQueue, the others are only known. Pure: no system calls, time is a parameter.
// Single-threaded. A plain job costs some 200 bytes; what few jobs have (times, dependencies, arrays) is kept
// apart from it. An array is one job here until its last task has started.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "scheduler/job_queue.h"
#include "schemas/index_list.h"
#include "schemas/job.h"
#include "store/queue_store.h"

namespace berth {

/// What keeps a waiting job, in squeue's words ("JOB REASON CODES").
enum class WaitReason {
  resources,  ///< the first in order: waits for CPUs, memory or a slot
  priority,   ///< others come first
  job_held_user,
  job_held_admin,
  begin_time,
  dependency,
  dependency_never_satisfied,
  array_task_limit,
  user_limit,  ///< its user has as much as the administrator allows
  draining,    ///< nothing starts
  never_fits,  ///< the pool has become too small for it
};
/// "Resources", "JobHeldUser" …
std::string_view to_string(WaitReason reason);

class WaitingJobs {
 public:
  /// `memory_of` is what a lease for so many CPUs and that wish takes (SlotPool::memory_for).
  using MemoryOf = std::function<Bytes(unsigned cpus, std::optional<Bytes> wish)>;
  explicit WaitingJobs(MemoryOf memory_of) : memory_of_(std::move(memory_of)) {}

  /// `blocked`: it depends on something that is not over.
  void add(const WaitingJob& job, Timestamp now, bool blocked = false);
  bool remove(JobId job);
  bool contains(JobId job) const { return jobs_.contains(job); }
  std::optional<WaitingJob> find(JobId job) const;
  /// Whether the array waits, and the task in it. However often it is asked, a list is parsed once until it
  /// changes.
  bool has_task(JobId array, unsigned task) const;
  std::size_t size() const { return jobs_.size(); }
  std::size_t size_of_user(unsigned user_id) const {
    const auto found = of_users_.find(user_id);
    return found == of_users_.end() ? 0 : found->second;
  }
  std::size_t eligible() const { return queue_.size(); }

  /// What the job depended on is over; or an array has a task less than its limit.
  void unblock(JobId job, Timestamp now);
  void block(JobId job);
  /// What it depended on is over, for good.
  void forget_dependency(JobId job);
  /// Jobs whose begin time has come become eligible; after a clock that was set back, those whose begin time
  /// is to come are so no more. add() and unblock() do that too.
  void advance(Timestamp now);
  /// Jobs whose deadline has passed.
  std::vector<JobId> overdue(Timestamp now) const;
  /// When advance() has something to do next, or a deadline passes.
  std::optional<Timestamp> next_instant() const;

  /// Takes out and returns the job that starts now (scheduler/job_queue.h).
  std::optional<WaitingJob> take_next(const Resources& free, const std::vector<RunningJob>& running,
                                      SteadyTime now, const JobQueue::Allowance& allowance);
  Resources wanted_by(const QueueFacts& facts) const;

  /// Why it waits, as far as the job itself says it; nothing for one that is eligible.
  std::optional<WaitReason> own_reason(JobId job, Timestamp now) const;
  /// The first eligible jobs in order.
  std::vector<QueuedJob> first(std::size_t most) const { return queue_.first(most); }
  /// Whether `is` holds for any of those before `job` in order that cannot start yet, and may before `until`
  /// without being released; ends with the first.
  bool any_unready_before(const QueuedJob& job, Timestamp until, const std::function<bool(JobId)>& is) const;

 private:
  struct Extras {
    std::optional<Timestamp> begin;
    std::optional<Timestamp> deadline;
    std::string dependency;
    std::string array_tasks;
    unsigned array_limit = 0;
    std::string shared_network;
    std::optional<IndexList> parsed_tasks;  ///< array_tasks, when it has been asked for
  };
  struct Entry {
    std::int64_t priority = 0;
    Bytes memory = 0;  ///< 0: the share
    Milliseconds stay{0};
    std::unique_ptr<Extras> extras;
    unsigned user_id = 0;
    unsigned cpus = 0;
    unsigned attempt = 0;
    Hold hold = Hold::none;
    bool blocked = false;
    bool queued = false;
  };

  QueuedJob queued(JobId job, const Entry& entry) const;
  WaitingJob whole(JobId job, const Entry& entry) const;
  void settle(JobId job, Entry& entry);
  using Instants = std::set<std::pair<Timestamp, JobId>>;
  Instants::const_iterator begins_after(Timestamp instant) const;

  MemoryOf memory_of_;
  std::unordered_map<JobId, Entry> jobs_;
  std::unordered_map<unsigned, std::size_t> of_users_;
  JobQueue queue_;
  std::set<JobId> unready_;  ///< neither eligible nor held
  Timestamp now_;            ///< by which begin times were last judged
  Instants begins_;          ///< also those that have come
  Instants deadlines_;
};

}  // namespace berth
