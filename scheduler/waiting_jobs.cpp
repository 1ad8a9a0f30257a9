#include "scheduler/waiting_jobs.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

namespace berth {

std::string_view to_string(WaitReason reason) {
  constexpr std::array kNames{"Resources",
                              "Priority",
                              "JobHeldUser",
                              "JobHeldAdmin",
                              "BeginTime",
                              "Dependency",
                              "DependencyNeverSatisfied",
                              "JobArrayTaskLimit",
                              "AssocMaxJobsLimit",
                              "NodeDown",
                              "BadConstraints"};
  return kNames.at(static_cast<std::size_t>(reason));
}

QueuedJob WaitingJobs::queued(JobId job, const Entry& entry) const {
  const Bytes memory = memory_of_(entry.cpus, entry.memory == 0 ? std::nullopt : std::optional(entry.memory));
  return {entry.priority, static_cast<std::size_t>(job), {entry.cpus, memory, 1}, entry.stay, entry.user_id};
}

WaitingJob WaitingJobs::whole(JobId job, const Entry& entry) const {
  WaitingJob result;
  result.job_id = job;
  result.user_id = entry.user_id;
  result.attempt = entry.attempt;
  QueueFacts& facts = result.facts;
  facts.priority = entry.priority;
  facts.cpus = entry.cpus;
  facts.memory = entry.memory == 0 ? std::nullopt : std::optional(entry.memory);
  facts.stay = entry.stay;
  facts.hold = entry.hold;
  if (entry.extras) {
    facts.begin = entry.extras->begin;
    facts.deadline = entry.extras->deadline;
    facts.dependency = entry.extras->dependency;
    facts.array_tasks = entry.extras->array_tasks;
    facts.array_limit = entry.extras->array_limit;
    facts.shared_network = entry.extras->shared_network;
  }
  return result;
}

/// Puts the job where it belongs at now_.
void WaitingJobs::settle(JobId job, Entry& entry) {
  const bool is_due = !entry.extras || !entry.extras->begin || *entry.extras->begin <= now_;
  const bool eligible = entry.hold == Hold::none && !entry.blocked && is_due;
  if (eligible && !entry.queued) {
    queue_.push(queued(job, entry));
  } else if (!eligible && entry.queued) {
    queue_.erase(queued(job, entry));
  }
  entry.queued = eligible;
  if (eligible || entry.hold != Hold::none) {
    unready_.erase(job);
  } else {
    unready_.insert(job);
  }
}

bool WaitingJobs::any_unready_before(const QueuedJob& job, Timestamp until,
                                     const std::function<bool(JobId)>& is) const {
  return std::any_of(unready_.begin(), unready_.end(), [&](JobId other) {
    const Entry& entry = jobs_.at(other);
    const bool is_first = entry.priority != job.priority ? entry.priority > job.priority
                                                         : static_cast<std::size_t>(other) < job.sequence;
    const bool begins_later = entry.extras && entry.extras->begin && *entry.extras->begin > until;
    return is_first && !begins_later && is(other);
  });
}

void WaitingJobs::add(const WaitingJob& job, Timestamp now, bool blocked) {
  advance(now);
  remove(job.job_id);
  const QueueFacts& facts = job.facts;
  Entry& entry = jobs_[job.job_id];
  ++of_users_[job.user_id];
  entry.priority = facts.priority;
  entry.memory = facts.memory.value_or(0);
  entry.stay = facts.stay;
  entry.user_id = job.user_id;
  entry.cpus = facts.cpus;
  entry.attempt = job.attempt;
  entry.hold = facts.hold;
  entry.blocked = blocked;
  if (facts.begin || facts.deadline || !facts.dependency.empty() || !facts.array_tasks.empty() ||
      facts.array_limit > 0 || !facts.shared_network.empty()) {
    entry.extras =
        std::make_unique<Extras>(Extras{facts.begin, facts.deadline, facts.dependency, facts.array_tasks,
                                        facts.array_limit, facts.shared_network, std::nullopt});
    if (facts.begin) {
      begins_.emplace(*facts.begin, job.job_id);
    }
    if (facts.deadline) {
      deadlines_.emplace(*facts.deadline, job.job_id);
    }
  }
  settle(job.job_id, entry);
}

bool WaitingJobs::remove(JobId job) {
  const auto found = jobs_.find(job);
  if (found == jobs_.end()) {
    return false;
  }
  const Entry& entry = found->second;
  --of_users_[entry.user_id];
  if (entry.queued) {
    queue_.erase(queued(job, entry));
  }
  unready_.erase(job);
  if (entry.extras && entry.extras->begin) {
    begins_.erase({*entry.extras->begin, job});
  }
  if (entry.extras && entry.extras->deadline) {
    deadlines_.erase({*entry.extras->deadline, job});
  }
  jobs_.erase(found);
  return true;
}

std::optional<WaitingJob> WaitingJobs::find(JobId job) const {
  const auto found = jobs_.find(job);
  return found == jobs_.end() ? std::nullopt : std::optional(whole(job, found->second));
}

bool WaitingJobs::has_task(JobId array, unsigned task) const {
  const auto found = jobs_.find(array);
  if (found == jobs_.end() || !found->second.extras) {
    return false;
  }
  Extras& extras = *found->second.extras;
  if (!extras.parsed_tasks) {
    extras.parsed_tasks = IndexList::parse(extras.array_tasks);
  }
  return extras.parsed_tasks->contains(task);
}

void WaitingJobs::unblock(JobId job, Timestamp now) {
  advance(now);
  const auto found = jobs_.find(job);
  if (found != jobs_.end()) {
    found->second.blocked = false;
    settle(job, found->second);
  }
}

void WaitingJobs::block(JobId job) {
  const auto found = jobs_.find(job);
  if (found != jobs_.end()) {
    found->second.blocked = true;
    settle(job, found->second);
  }
}

void WaitingJobs::forget_dependency(JobId job) {
  const auto found = jobs_.find(job);
  if (found != jobs_.end() && found->second.extras) {
    found->second.extras->dependency.clear();
  }
}

WaitingJobs::Instants::const_iterator WaitingJobs::begins_after(Timestamp instant) const {
  return begins_.upper_bound({instant, std::numeric_limits<JobId>::max()});
}

void WaitingJobs::advance(Timestamp now) {
  const Timestamp before = std::exchange(now_, now);
  const auto last = begins_after(std::max(before, now));
  for (auto begin = begins_after(std::min(before, now)); begin != last; ++begin) {
    settle(begin->second, jobs_.at(begin->second));
  }
}

std::vector<JobId> WaitingJobs::overdue(Timestamp now) const {
  std::vector<JobId> jobs;
  for (auto entry = deadlines_.begin(); entry != deadlines_.end() && entry->first <= now; ++entry) {
    jobs.push_back(entry->second);
  }
  return jobs;
}

std::optional<Timestamp> WaitingJobs::next_instant() const {
  std::optional<Timestamp> next;
  if (const auto begin = begins_after(now_); begin != begins_.end()) {
    next = begin->first;
  }
  if (!deadlines_.empty()) {
    next = std::min(next.value_or(Timestamp::max()), deadlines_.begin()->first);
  }
  return next;
}

std::optional<WaitingJob> WaitingJobs::take_next(const Resources& free,
                                                 const std::vector<RunningJob>& running, SteadyTime now,
                                                 const JobQueue::Allowance& allowance) {
  const std::optional<QueuedJob> next = queue_.take_next(free, running, now, allowance);
  if (!next) {
    return std::nullopt;
  }
  const auto job = static_cast<JobId>(next->sequence);
  Entry& entry = jobs_.at(job);
  entry.queued = false;
  WaitingJob taken = whole(job, entry);
  remove(job);
  return taken;
}

Resources WaitingJobs::wanted_by(const QueueFacts& facts) const {
  return {facts.cpus, memory_of_(facts.cpus, facts.memory), 1};
}

std::optional<WaitReason> WaitingJobs::own_reason(JobId job, Timestamp now) const {
  const auto found = jobs_.find(job);
  if (found == jobs_.end() || found->second.queued) {
    return std::nullopt;
  }
  const Entry& entry = found->second;
  if (entry.hold != Hold::none) {
    return entry.hold == Hold::user ? WaitReason::job_held_user : WaitReason::job_held_admin;
  }
  if (entry.extras && entry.extras->begin && *entry.extras->begin > now) {
    return WaitReason::begin_time;
  }
  return entry.extras && entry.extras->dependency.empty() && entry.extras->array_limit > 0
             ? WaitReason::array_task_limit
             : WaitReason::dependency;
}

}  // namespace berth
