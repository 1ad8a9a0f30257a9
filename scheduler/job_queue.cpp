#include "scheduler/job_queue.h"

#include <algorithm>
#include <limits>

namespace berth {
namespace {

/// When the blocked first job can start at the latest, and what is then left over beside it.
struct Reservation {
  SteadyTime start;
  Resources spare;
};

Reservation reserve(const Resources& wants, Resources free, std::vector<RunningJob> running) {
  std::stable_sort(running.begin(), running.end(),
                   [](const RunningJob& a, const RunningJob& b) { return a.latest_end < b.latest_end; });
  Reservation reservation{SteadyTime::max(), {}};
  for (const RunningJob& job : running) {
    free += job.holds;
    if (free.holds(wants)) {
      reservation.start = job.latest_end;
      reservation.spare = free;
      reservation.spare -= wants;
      break;
    }
  }
  return reservation;
}

}  // namespace

Resources& Resources::operator+=(const Resources& other) {
  cpus += other.cpus;
  memory += other.memory;
  slots += other.slots;
  return *this;
}

Resources& Resources::operator-=(const Resources& other) {
  cpus -= other.cpus;
  memory -= other.memory;
  slots -= other.slots;
  return *this;
}

Milliseconds longest_stay(const JobSpec& spec) {
  if (!spec.time_limit || *spec.time_limit >= kUnlimited) {
    return kUnlimited;
  }
  return std::min<Milliseconds>(*spec.time_limit + std::min<Milliseconds>(spec.grace_period, kUnlimited),
                                kUnlimited);
}

std::int64_t effective_priority(const JobSpec& spec) {
  std::int64_t result = 0;
  if (__builtin_sub_overflow(spec.priority, spec.nice, &result)) {
    return spec.nice > 0 ? std::numeric_limits<std::int64_t>::min()
                         : std::numeric_limits<std::int64_t>::max();
  }
  return result;
}

void JobQueue::push(const QueuedJob& job) {
  jobs_.insert(job);
}

std::optional<QueuedJob> JobQueue::take_first() {
  if (jobs_.empty()) {
    return std::nullopt;
  }
  return jobs_.extract(jobs_.begin()).value();
}

std::optional<QueuedJob> JobQueue::take_next(const Resources& free, const std::vector<RunningJob>& running,
                                             SteadyTime now) {
  if (jobs_.empty() || free.cpus == 0 || free.slots == 0) {
    return std::nullopt;
  }
  const auto first = jobs_.begin();
  if (free.holds(first->wants)) {
    return jobs_.extract(first).value();
  }
  const Reservation reservation = reserve(first->wants, free, running);
  std::size_t tried = 0;
  for (auto job = std::next(first); job != jobs_.end() && tried < kBackfillDepth; ++job, ++tried) {
    const bool over_in_time = job->stay < kUnlimited && job->stay <= reservation.start - now;
    if (free.holds(job->wants) && (over_in_time || reservation.spare.holds(job->wants))) {
      return jobs_.extract(job).value();
    }
  }
  return std::nullopt;
}

}  // namespace berth
