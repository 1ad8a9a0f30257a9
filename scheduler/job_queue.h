// JobQueue: waiting jobs, and which of them starts next. Pure: the time and what is free are parameters.
//
// Order: priority minus nice, larger first; then the order of submission.
//
// The rule is Slurm's sched/backfill, as EASY backfill (Lifka, "The ANL/IBM SP Scheduling System", 1995):
// the first job starts as soon as it fits. While it does not, it has a reservation: the time at which enough
// of the running jobs must have ended, by their time limits, for it to start. A later job may pass it when
// that cannot move the reservation, because the later job's own time limit ends before it, or because it
// fits into what the first job leaves over. A job without a time limit is reckoned with kUnlimited, as Slurm
// does: jobs without limits therefore run strictly in order, and giving a time limit is what lets a short job
// slip in. The first job is never starved: each job that passes it is over, by force if need be, before its
// reservation.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "scheduler/clock.h"
#include "schemas/job_spec.h"

namespace berth {

/// What is free, or what a job takes. Amounts alone decide whether a request fits (scheduler/slot_pool.h).
struct Resources {
  unsigned cpus = 0;
  Bytes memory = 0;
  unsigned slots = 0;

  bool holds(const Resources& other) const {
    return cpus >= other.cpus && memory >= other.memory && slots >= other.slots;
  }
  Resources& operator+=(const Resources& other);
  Resources& operator-=(const Resources& other);
  bool operator==(const Resources&) const = default;
};

/// What Slurm's backfill assumes of a job without a time limit: a year.
inline constexpr std::chrono::hours kUnlimited{24 * 365};

/// The longest that a job may hold its slot: time limit and grace period, or kUnlimited.
Milliseconds longest_stay(const JobSpec& spec);

/// priority - nice, without overflow.
std::int64_t effective_priority(const JobSpec& spec);

struct RunningJob;
struct QueuedJob;

/// When `sequence`, one of `waiting` in their order, starts at the latest if no later job passes it and all
/// jobs use up their longest stay; nothing when it is not there, or a job without a time limit is in its way.
std::optional<SteadyTime> latest_start(std::size_t sequence, const std::vector<QueuedJob>& waiting,
                                       Resources free, std::vector<RunningJob> running, SteadyTime now);

struct QueuedJob {
  std::int64_t priority = 0;  ///< effective_priority()
  std::size_t sequence = 0;   ///< order of submission; also identifies the job
  Resources wants;
  Milliseconds stay{0};  ///< longest_stay()
  unsigned owner = 0;    ///< whose limits it counts against
};

/// A started job, as seen by the queue.
struct RunningJob {
  Resources holds;
  SteadyTime latest_end;
};

class JobQueue {
 public:
  /// What an owner may still take; asked once for each owner and decision.
  using Allowance = std::function<Resources(unsigned owner)>;

  /// How many jobs behind a blocked first one are tried, as Slurm's bf_max_job_test.
  static constexpr std::size_t kBackfillDepth = 500;
  /// How many jobs that their owner's allowance does not hold are passed over in one decision; what the
  /// owner has behind them waits for the next one with less before it.
  static constexpr std::size_t kPassedOver = 5000;

  void push(const QueuedJob& job);
  /// By owner, priority and sequence; false when it is not there.
  bool erase(const QueuedJob& job);
  /// Takes out and returns the job that starts now; nothing when none may. A job that its owner's allowance
  /// does not hold is passed over as though it were not there. Without `allowance` owners have no limits.
  std::optional<QueuedJob> take_next(const Resources& free, const std::vector<RunningJob>& running,
                                     SteadyTime now, const Allowance& allowance = {});
  /// Takes out and returns the first job in order, whether it fits or not; nothing when there is none.
  std::optional<QueuedJob> take_first();

  /// The first `most` jobs in order.
  std::vector<QueuedJob> first(std::size_t most) const;

  bool empty() const { return size_ == 0; }
  std::size_t size() const { return size_; }

 private:
  struct Before {
    bool operator()(const QueuedJob& a, const QueuedJob& b) const {
      return a.priority != b.priority ? a.priority > b.priority : a.sequence < b.sequence;
    }
  };
  using Jobs = std::set<QueuedJob, Before>;
  class Merge;

  QueuedJob take(unsigned owner, Jobs::const_iterator job);

  // By owner, so that one whose allowance is used up is passed over in one step, however much it has waiting.
  std::map<unsigned, Jobs> owners_;
  std::size_t size_ = 0;
};

}  // namespace berth
