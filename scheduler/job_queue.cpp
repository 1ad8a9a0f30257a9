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

constexpr Resources kNoLimit{std::numeric_limits<unsigned>::max(), std::numeric_limits<Bytes>::max(),
                             std::numeric_limits<unsigned>::max()};

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

std::optional<SteadyTime> latest_start(std::size_t sequence, const std::vector<QueuedJob>& waiting,
                                       Resources free, std::vector<RunningJob> running, SteadyTime now) {
  const auto later = [](const RunningJob& a, const RunningJob& b) { return a.latest_end > b.latest_end; };
  std::make_heap(running.begin(), running.end(), later);
  SteadyTime at = now;
  for (const QueuedJob& job : waiting) {
    while (!free.holds(job.wants)) {
      if (running.empty() || running.front().latest_end - now >= kUnlimited / 2) {
        return std::nullopt;
      }
      std::pop_heap(running.begin(), running.end(), later);
      at = std::max(at, running.back().latest_end);
      free += running.back().holds;
      running.pop_back();
    }
    if (job.sequence == sequence) {
      return at;
    }
    free -= job.wants;
    running.push_back({job.wants, at + job.stay});
    std::push_heap(running.begin(), running.end(), later);
  }
  return std::nullopt;
}

/// The jobs of several owners in the queue's order.
class JobQueue::Merge {
 public:
  struct Head {
    Jobs::const_iterator job;
    Jobs::const_iterator end;
  };

  void add(const Jobs& jobs) { heads_.push_back({jobs.begin(), jobs.end()}); }
  void start() { std::make_heap(heads_.begin(), heads_.end(), after); }
  bool empty() const { return heads_.empty(); }
  Jobs::const_iterator front() const { return heads_.front().job; }
  /// The rest of the front job's owner's.
  void drop() {
    std::pop_heap(heads_.begin(), heads_.end(), after);
    heads_.pop_back();
  }
  void advance() {
    std::pop_heap(heads_.begin(), heads_.end(), after);
    if (++heads_.back().job == heads_.back().end) {
      heads_.pop_back();
    } else {
      std::push_heap(heads_.begin(), heads_.end(), after);
    }
  }

 private:
  static bool after(const Head& a, const Head& b) { return Before{}(*b.job, *a.job); }
  std::vector<Head> heads_;
};

void JobQueue::push(const QueuedJob& job) {
  Jobs& jobs = owners_[job.owner];
  const std::size_t before = jobs.size();
  jobs.insert(jobs.end(), job);  // most come last: then nothing is searched
  size_ += jobs.size() - before;
}

QueuedJob JobQueue::take(unsigned owner, Jobs::const_iterator job) {
  const auto jobs = owners_.find(owner);
  const QueuedJob taken = jobs->second.extract(job).value();
  if (jobs->second.empty()) {
    owners_.erase(jobs);
  }
  --size_;
  return taken;
}

bool JobQueue::erase(const QueuedJob& job) {
  const auto jobs = owners_.find(job.owner);
  if (jobs == owners_.end()) {
    return false;
  }
  const auto found = jobs->second.find(job);
  if (found == jobs->second.end()) {
    return false;
  }
  take(job.owner, found);
  return true;
}

std::vector<QueuedJob> JobQueue::first(std::size_t most) const {
  Merge merge;
  for (const auto& [owner, jobs] : owners_) {
    merge.add(jobs);
  }
  merge.start();
  std::vector<QueuedJob> found;
  for (; !merge.empty() && found.size() < most; merge.advance()) {
    found.push_back(*merge.front());
  }
  return found;
}

std::optional<QueuedJob> JobQueue::take_first() {
  const std::vector<QueuedJob> front = first(1);
  if (!front.empty()) {
    erase(front.front());
  }
  return front.empty() ? std::nullopt : std::optional(front.front());
}

std::optional<QueuedJob> JobQueue::take_next(const Resources& free, const std::vector<RunningJob>& running,
                                             SteadyTime now, const Allowance& allowance) {
  if (empty() || free.cpus == 0 || free.slots == 0) {
    return std::nullopt;
  }
  std::map<unsigned, Resources> allowed;
  Merge merge;
  for (const auto& [owner, jobs] : owners_) {
    const Resources limit = allowance ? allowance(owner) : kNoLimit;
    if (limit.cpus > 0 && limit.memory > 0 && limit.slots > 0) {
      allowed[owner] = limit;
      merge.add(jobs);
    }
  }
  merge.start();
  std::optional<Reservation> reservation;  // of the first job, once it is known to be blocked
  std::map<unsigned, std::size_t> passed_over;
  for (std::size_t tried = 0; !merge.empty() && tried <= kBackfillDepth;) {
    const auto job = merge.front();
    if (!allowed[job->owner].holds(job->wants)) {
      if (++passed_over[job->owner] < kPassedOver) {
        merge.advance();
      } else {
        merge.drop();
      }
      continue;
    }
    ++tried;
    merge.advance();
    if (!reservation) {
      if (free.holds(job->wants)) {
        return take(job->owner, job);
      }
      reservation = reserve(job->wants, free, running);
      continue;
    }
    const bool over_in_time = job->stay < kUnlimited && job->stay <= reservation->start - now;
    if (free.holds(job->wants) && (over_in_time || reservation->spare.holds(job->wants))) {
      return take(job->owner, job);
    }
  }
  return std::nullopt;
}

}  // namespace berth
