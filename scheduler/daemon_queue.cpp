// Daemon's queue: what waits for what, which job starts next, and when one will.
#include <algorithm>
#include <boost/asio/post.hpp>
#include <span>

#include "scheduler/crash_point.h"
#include "scheduler/daemon.h"
#include "scheduler/daemon_detail.h"
#include "scheduler/loop_error.h"
#include "schemas/index_list.h"
#include "schemas/job_file.h"

namespace berth {
namespace {

/// A timer sleeps no longer than this: the system clock, by which begin times and deadlines go, may jump.
constexpr std::chrono::seconds kLongestSleep{10};
/// Between attempts to start a runner.
constexpr std::chrono::seconds kRunnerRetry{5};
/// Between looks at the CPUs of other berths on the machine, while a job waits for them.
constexpr std::chrono::milliseconds kLookAtOthers{20};

/// For a runner of a build that does not know the field: its jobs have 022.
std::string without_umask(const std::string& spec_text) {
  nlohmann::json spec = nlohmann::json::parse(spec_text);
  spec.erase("umask");
  return spec.dump();
}

/// A spec may be long: it is read only where it may have one.
RetryRule rule_of(const StoredJob& stored) {
  if (stored.spec_text.find("\"retry\"") == std::string::npos &&
      stored.spec_text.find("\"requeue\"") == std::string::npos) {
    return {};
  }
  const JobSpec spec = parse_stored_job(stored.spec_text, job_name(stored.job_id));
  return {spec.requeue, spec.retry};
}

/// The job that a condition is on, and which of its tasks.
std::pair<JobId, std::optional<unsigned>> subject(const Dependency::Condition& condition) {
  return {condition.job, condition.task};
}

using Conditions = std::span<const Dependency::Condition>;

/// Those of which `of` tells `key`, of conditions in the order of that.
template <typename Key, typename Of>
Conditions equal_to(const std::vector<Dependency::Condition>& conditions, const Key& key, Of of) {
  const auto first = std::partition_point(conditions.begin(), conditions.end(),
                                          [&](const auto& condition) { return of(condition) < key; });
  const auto last = std::partition_point(first, conditions.end(),
                                         [&](const auto& condition) { return !(key < of(condition)); });
  return Conditions(conditions)
      .subspan(static_cast<std::size_t>(first - conditions.begin()), static_cast<std::size_t>(last - first));
}

/// Those on `job` and on its tasks, of conditions in the order of their subjects.
Conditions on_job(const std::vector<Dependency::Condition>& conditions, JobId job) {
  return equal_to(conditions, job, [](const Dependency::Condition& condition) { return condition.job; });
}

/// What cannot be read now, the job's next start finds out.
bool is_so_or_unknown(const std::function<bool()>& is_so) {
  try {
    return is_so();
  } catch (const StoreError&) {
    return true;
  }
}

}  // namespace

// -- dependencies and arrays ----------------------------------------------------------------------------

/// Into the queue, blocked while it depends on something; which is looked up now, unless its name, by which
/// singletons go, is still being committed.
void Daemon::enqueue(const WaitingJob& job, Timestamp now, bool is_named) {
  const std::optional<WaitingJob> before = waiting_.find(job.job_id);
  if (!before || before->facts.dependency != job.facts.dependency || unexamined_.contains(job.job_id)) {
    forget(job.job_id);  // else what is known of it stays true
  }
  waiting_.add(job, now, true);
  now_or_later(job.job_id, [&] {
    crash_point("queue.entered");
    unblock_or_link(job, now, is_named);
  });
}

/// What goes wrong with a waiting job is tried again by the next decision, which enqueues it anew.
void Daemon::now_or_later(JobId job, const std::function<void()>& call) {
  try {
    call();
  } catch (...) {
    if (!committer_) {
      throw;  // berthd does not begin with half a queue
    }
    unexamined_.insert(job);
    throw_from(loop_);
  }
}

void Daemon::unblock_or_link(const WaitingJob& job, Timestamp now, bool is_named) {
  const QueueFacts& facts = job.facts;
  if (!facts.dependency.empty()) {
    Dependent& dependent = dependents_[job.job_id];
    if (dependent.dependency.conditions.empty()) {
      link(job.job_id, parse_dependency(facts.dependency), dependent);
    }
    leave_turn(dependent);
    if (!on_job(dependent.dependency.conditions, 0).empty()) {
      const std::optional<KnownJob> stored = reader_.find_known(job.job_id);
      dependent.namesakes = {job.user_id, stored ? stored->name : ""};
      dependent.turn = {stored ? place_of(*stored) : job.job_id, job.job_id};
      singletons_[dependent.namesakes].insert(dependent.turn);
    }
  }
  const std::optional<JobId> array = throttled_array(job);
  if (array) {
    throttled_[*array].insert(job.job_id);
  }
  if (!facts.dependency.empty()) {
    if (committer_ && is_named) {  // not while the queue is being loaded
      examine(job.job_id, now);
    }
  } else if (!is_barred(array.value_or(job.job_id), facts)) {
    waiting_.unblock(job.job_id, now);
  }
}

void Daemon::link(JobId job, Dependency&& dependency, Dependent& dependent) {
  dependent.dependency = std::move(dependency);
  std::vector<Dependency::Condition>& conditions = dependent.dependency.conditions;
  std::sort(conditions.begin(), conditions.end(),
            [](const auto& one, const auto& other) { return subject(one) < subject(other); });
  for (const Dependency::Condition& condition : conditions) {
    if (condition.type != Dependency::Type::singleton) {
      (condition.task ? task_depended_on_ : depended_on_)[condition.job].insert(job);
    }
  }
}

/// A singleton waits for its turn no more.
void Daemon::leave_turn(const Dependent& dependent) {
  const auto group = singletons_.find(dependent.namesakes);
  if (group == singletons_.end()) {
    return;
  }
  group->second.erase(dependent.turn);
  if (group->second.empty()) {
    singletons_.erase(group);
  }
}

/// What it depends on is of no account any more.
void Daemon::forget(JobId job) {
  const auto dependent = dependents_.extract(job);
  if (dependent.empty()) {
    return;
  }
  leave_turn(dependent.mapped());
  for (const Dependency::Condition& condition : dependent.mapped().dependency.conditions) {
    auto& all = condition.task ? task_depended_on_ : depended_on_;
    if (const auto others = all.find(condition.job); others != all.end()) {
      others->second.erase(job);
      if (others->second.empty()) {
        all.erase(others);
      }
    }
  }
}

Fulfilment Daemon::state_of(const Dependency::Condition& condition) {
  const std::optional<JobId> on =
      condition.task ? reader_.find_task(condition.job, *condition.task) : condition.job;
  if (!on && is_without_number(condition.job, *condition.task)) {
    return Fulfilment::no;
  }
  const std::optional<KnownJob> other = on ? reader_.find_known(*on) : std::nullopt;
  if (!other) {  // it was removed from the history, or is a task of an array that ended without it
    return Fulfilment::never;
  }
  const Fulfilment state = fulfilment(condition.type, other->state);
  // Between two attempts, or as an array, which is PENDING until its last task has ended.
  const bool has_started =
      condition.type == Dependency::Type::after && state == Fulfilment::no && reader_.has_started(*on);
  return has_started ? Fulfilment::yes : state;
}

/// The others of its name that wait for that come after the first of them, or that one's array: only these
/// need a look.
Fulfilment Daemon::state_of_singleton(JobId job, const Dependent& dependent) {
  const bool is_first = singletons_.at(dependent.namesakes).begin()->first == dependent.turn.first;
  return is_first && !reader_.has_earlier_namesake(job) ? Fulfilment::yes : Fulfilment::no;
}

void Daemon::Dependent::set_state(std::size_t index, Fulfilment state) {
  const Fulfilment before = std::exchange(states[index], state);
  yeses = yeses - (before == Fulfilment::yes ? 1 : 0) + (state == Fulfilment::yes ? 1 : 0);
  nevers = nevers - (before == Fulfilment::never ? 1 : 0) + (state == Fulfilment::never ? 1 : 0);
}

/// Does what the job depends on allow it now? What has `changed` is looked up; at first all of it.
void Daemon::examine(JobId job, Timestamp now, const std::optional<Change>& changed) {
  now_or_later(job, [&] { examine_now(job, now, changed); });
}

void Daemon::examine_now(JobId job, Timestamp now, const std::optional<Change>& changed) {
  const auto found = dependents_.find(job);
  if (found == dependents_.end()) {
    return;
  }
  Dependent& dependent = found->second;
  const std::vector<Dependency::Condition>& conditions = dependent.dependency.conditions;
  const auto look_up = [&](Conditions some) {
    for (const Dependency::Condition& condition : some) {
      const Fulfilment state = condition.type == Dependency::Type::singleton
                                   ? state_of_singleton(job, dependent)
                                   : state_of(condition);
      dependent.set_state(static_cast<std::size_t>(&condition - conditions.data()), state);
    }
  };
  if (dependent.states.empty()) {
    dependent.states.resize(conditions.size(), Fulfilment::no);
    look_up(conditions);
  } else {
    look_up(on_job(conditions, 0));  // a singleton
    if (changed) {
      look_up(on_job(conditions, changed->job));
    }
    if (changed && changed->array) {
      for (const auto& task : std::set<std::optional<unsigned>>{std::nullopt, changed->task}) {
        look_up(equal_to(conditions, std::pair{*changed->array, task}, subject));
      }
    }
  }
  const std::size_t all = conditions.size();
  dependent.never = dependent.dependency.any ? dependent.nevers == all : dependent.nevers > 0;
  if (dependent.dependency.any ? dependent.yeses > 0 : dependent.yeses == all) {
    const Namesakes namesakes = dependent.namesakes;
    forget(job);
    waiting_.forget_dependency(job);
    unblock(job, now);
    schedule();
    // What it depended on may leave the history, or run again: neither is of account any more. Lost in a
    // crash, it is found out again.
    if (committer_) {
      committer_->commit_soon([job](QueueStore& store) { store.forget_dependency(job); },
                              [](const std::exception_ptr&) {});
    }
    if (singletons_.contains(namesakes)) {
      boost::asio::post(loop_, [this, namesakes] { examine_first(namesakes); });
    }
  }
}

/// Not when the pool is smaller than the one that it was submitted to: nothing would ever pass it.
bool Daemon::fits_ever(const QueueFacts& facts) const {
  return !pool_.never_fits({facts.cpus, facts.memory});
}

void Daemon::unblock(JobId job, Timestamp now) {
  const std::optional<WaitingJob> waiting = waiting_.find(job);
  if (waiting && !is_barred(throttled_array(*waiting).value_or(job), waiting->facts)) {
    waiting_.unblock(job, now);
  }
}

void Daemon::examine_first(const Namesakes& namesakes) {
  const auto group = singletons_.find(namesakes);
  if (group == singletons_.end()) {
    return;
  }
  const std::set<Turn>& turns = group->second;
  std::vector<JobId> first;  // examine() may change the group
  for (auto turn = turns.begin(); turn != turns.end() && turn->first == turns.begin()->first; ++turn) {
    first.push_back(turn->second);
  }
  for (const JobId job : first) {
    examine(job, clock_.system_now());
  }
}

/// Those that wait for the start of an array.
void Daemon::add_after(JobId array, std::set<JobId>& jobs) const {
  const auto found = depended_on_.find(array);
  if (found == depended_on_.end()) {
    return;
  }
  for (const JobId job : found->second) {
    const Conditions conditions = on_job(dependents_.at(job).dependency.conditions, array);
    if (std::any_of(conditions.begin(), conditions.end(), [](const Dependency::Condition& condition) {
          return condition.type == Dependency::Type::after;
        })) {
      jobs.insert(job);
    }
  }
}

/// After the commit that changed the job's state. What cannot be read now is looked up by the next decision,
/// and keeps nobody from being told.
void Daemon::release_dependents(JobId ended, std::optional<JobId> array) {
  const Timestamp now = clock_.system_now();
  std::set<JobId> waiting;  // a copy: examine() may change it
  if (const auto found = depended_on_.find(ended); found != depended_on_.end()) {
    waiting = found->second;
  }
  // On an array having started, of which this may have been the last task to.
  if (array && !waiting_.contains(*array)) {
    add_after(*array, waiting);
  }
  // On its tasks: of one of them, or of an array that ended without some.
  const auto on_tasks = task_depended_on_.find(array.value_or(ended));
  if (on_tasks != task_depended_on_.end()) {
    waiting.insert(on_tasks->second.begin(), on_tasks->second.end());
  }
  std::optional<KnownJob> stored;
  try {
    crash_point("release.read");
    if (!singletons_.empty() || (array && on_tasks != task_depended_on_.end())) {
      stored = reader_.find_known(ended);
    }
  } catch (...) {
    throw_from(loop_);
    unexamined_.insert(waiting.begin(), waiting.end());
    examine_singletons();
    schedule();
    return;
  }
  const Change changed{ended, array, array && stored ? stored->array_task_id : std::nullopt};
  for (const JobId job : waiting) {
    examine(job, now, changed);
  }
  if (stored) {
    examine_first({stored->user_id, stored->name});
  }
}

/// After a job has got another name.
void Daemon::examine_singletons() {
  std::vector<Namesakes> all;
  all.reserve(singletons_.size());
  for (const auto& [namesakes, turns] : singletons_) {
    all.push_back(namesakes);
  }
  for (const Namesakes& namesakes : all) {
    examine_first(namesakes);
  }
}

/// Whether a job of `array`, its own number if it is none's, may not start because as many tasks run as its
/// throttle allows, or because it never fits.
bool Daemon::is_barred(JobId array, const QueueFacts& facts) const {
  const auto found = arrays_.find(array);
  const bool is_full = facts.array_limit > 0 && found != arrays_.end() && found->second >= facts.array_limit;
  return is_full || !fits_ever(facts);
}

/// The array with a throttle that a job with a number of its own is a task of.
std::optional<JobId> Daemon::throttled_array(const WaitingJob& job) {
  if (job.facts.array_limit == 0 || !job.facts.array_tasks.empty()) {
    return std::nullopt;
  }
  const std::optional<KnownJob> stored = reader_.find_known(job.job_id);
  return stored ? stored->array_job_id : std::nullopt;
}

/// After the number of its running tasks has changed: what waits of the array may start, or may not.
void Daemon::throttle(JobId array) {
  std::vector<JobId> waiting{array};
  if (const auto tasks = throttled_.find(array); tasks != throttled_.end()) {
    std::erase_if(tasks->second, [this](JobId task) { return !waiting_.contains(task); });
    waiting.insert(waiting.end(), tasks->second.begin(), tasks->second.end());
    if (tasks->second.empty()) {
      throttled_.erase(tasks);
    }
  }
  for (const JobId job : waiting) {
    const std::optional<WaitingJob> one = waiting_.find(job);
    if (!one || dependents_.contains(job)) {
      continue;
    }
    if (is_barred(array, one->facts)) {
      waiting_.block(job);
    } else {
      waiting_.unblock(job, clock_.system_now());
    }
  }
}

/// One task less of the array runs.
void Daemon::uncount_task(JobId array) {
  const auto found = arrays_.find(array);
  if (found == arrays_.end()) {
    return;
  }
  --found->second;
  throttle(array);
  if (found->second == 0 && !waiting_.contains(array)) {
    arrays_.erase(found);
  }
}

// -- deciding -------------------------------------------------------------------------------------------

/// Decides once, after everything that is happening now.
void Daemon::schedule() {
  if (!scheduled_) {
    boost::asio::post(loop_, [this] {
      scheduled_ = false;
      decide();
    });
    scheduled_ = true;
  }
}

/// With what other berths hold, until `others_end`.
std::vector<RunningJob> Daemon::running_jobs(SteadyTime others_end) const {
  std::vector<RunningJob> running;
  running.reserve(active_.size());
  for (const auto& [job, active] : active_) {
    if (active.lease) {
      running.push_back({active.holds, active.latest_end});
    }
  }
  if (pool_.withheld() > 0) {
    running.push_back({{pool_.withheld(), 0, 0}, others_end});
  }
  return running;
}

Resources Daemon::allowance(unsigned user_id) const {
  const DaemonConfig::UserLimits& limits = config_.user_limits;
  Resources rest{limits.cpus.value_or(CpuSet::kMaximumCpu + 1), limits.memory.value_or(~Bytes{0} >> 1U),
                 limits.running_jobs.value_or(CpuSet::kMaximumCpu + 1)};
  if (!limits.cpus && !limits.memory && !limits.running_jobs) {
    return rest;
  }
  for (const auto& [job, active] : active_) {
    if (active.user_id == user_id && active.lease) {
      rest.cpus -= std::min(rest.cpus, active.holds.cpus);
      rest.memory -= std::min(rest.memory, active.holds.memory);
      rest.slots -= std::min(rest.slots, active.holds.slots);
    }
  }
  return rest;
}

/// What goes wrong is tried again when the timer says so: all jobs wait on.
void Daemon::decide() {
  call_apart(loop_, [this] { start_jobs(); });
  arm_timer();
}

void Daemon::start_jobs() {
  notice_clock();
  const Timestamp now = clock_.system_now();
  for (const JobId job : std::exchange(unexamined_, {})) {
    if (const std::optional<WaitingJob> waiting = waiting_.find(job)) {
      forget(job);
      enqueue(*waiting, now);
    }
  }
  for (const JobId job : waiting_.overdue(now)) {
    end_waiting(
        job, ended_before_start(JobState::deadline, Cause::deadline, "its deadline passed before it started"),
        {});
    waiting_.remove(job);
    forget(job);
  }
  waiting_.advance(now);
  while (!draining_ && store_trouble().empty() && has_runner()) {
    pool_.look_at_others();
    const Resources free{pool_.free_cpus(), pool_.free_memory(), pool_.free_slots()};
    // As though others ended now: what waits for their CPUs first is passed by no other job then.
    const std::optional<WaitingJob> next =
        waiting_.take_next(free, running_jobs(clock_.steady_now()), clock_.steady_now(),
                           [this](unsigned user_id) { return allowance(user_id); });
    if (!next) {
      break;
    }
    try {
      if (!start_or_end(*next, now)) {
        break;
      }
    } catch (...) {  // until the next decision, so that it holds up no other
      waiting_.add(*next, now, true);
      unexamined_.insert(next->job_id);
      throw_from(loop_);
    }
  }
  pool_.set_waiting(waits_for_others());
}

/// False when there is no place for it after all. When it throws nothing has become of the job.
bool Daemon::start_or_end(const WaitingJob& job, Timestamp now) {
  const QueueFacts& facts = job.facts;
  if (!facts.deadline || facts.stay >= kUnlimited || now + facts.stay <= *facts.deadline) {
    return start(job);
  }
  end_waiting(job.job_id,
              ended_before_start(JobState::deadline, Cause::deadline,
                                 "its time limit would have ended after its deadline"),
              {});
  forget(job.job_id);
  return true;
}

/// Whether a job waits that the CPUs which other berths have could be for.
bool Daemon::waits_for_others() const {
  if (pool_.withheld() == 0 || draining_ || !store_trouble().empty() || !has_runner()) {
    return false;
  }
  const std::vector<QueuedJob> first = waiting_.first(1);
  return !first.empty() && allowance(first.front().owner).holds(first.front().wants);
}

void Daemon::arm_timer() {
  std::chrono::milliseconds sleep = kLongestSleep;
  if (const std::optional<Timestamp> next = waiting_.next_instant()) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*next - clock_.system_now());
    sleep = std::clamp<std::chrono::milliseconds>(left, std::chrono::milliseconds(1), sleep);
  }
  if (lacks_runners()) {
    sleep = std::min<std::chrono::milliseconds>(sleep, kRunnerRetry);
  }
  if (waits_for_others()) {
    sleep = std::min(sleep, kLookAtOthers);
  }
  const SteadyTime wake = std::chrono::steady_clock::now() + sleep;
  if (wake >= wakes_at_) {
    return;  // it decides again too early rather than be set again at each decision
  }
  timer_.expires_at(wake);
  timer_.async_wait([this](const boost::system::error_code& error) {
    if (error || stopping_) {
      return;
    }
    wakes_at_ = SteadyTime::max();
    call_apart(loop_, [this] { replace_runners(); });
    decide();
  });
  wakes_at_ = wake;
}

bool Daemon::start(const WaitingJob& job) {
  std::optional<SlotLease> lease = pool_.lease({job.facts.cpus, job.facts.memory});
  if (!lease) {
    waiting_.add(job, clock_.system_now());
    return false;
  }
  IndexList tasks = IndexList::parse(job.facts.array_tasks);
  const std::optional<unsigned> task = tasks.take_first();
  const JobId key = task ? --last_placeholder_ : job.job_id;
  Active& active = active_[key];
  try {
    active.id = {key, job.attempt + 1};
    active.user_id = job.user_id;
    active.waiting = job;
    active.lease = std::move(lease);
    active.holds = {job.facts.cpus, active.lease->allocation().memory, 1};
    active.latest_end = clock_.steady_now() + job.facts.stay;
    active.runner = runner_for(job.facts.shared_network);
    ++active.runner->jobs;
    take_from_queue(active, task, tasks.to_text());
    commit_configuring(key, active);
  } catch (...) {
    call_apart(loop_, [&] { uncount(active); });
    active_.erase(key);
    throw;
  }
  return true;
}

/// `rest`: the tasks of the array that wait on.
void Daemon::take_from_queue(Active& active, std::optional<unsigned> task, const std::string& rest) {
  const JobId job = active.waiting.job_id;
  std::optional<JobId> array;
  if (task) {
    array = job;
    active.task = task;
    if (!rest.empty()) {
      active.waiting.facts.array_tasks = rest;
      waiting_.add(active.waiting, clock_.system_now());  // what it depended on has been fulfilled
    }
    active.waiting.facts.array_tasks.clear();
  } else {
    forget(job);
    array = throttled_array(active.waiting);
  }
  if (array) {
    ++arrays_[*array];
    active.array = array;
    throttle(*array);
  }
}

void Daemon::commit_configuring(JobId key, const Active& active) {
  const auto stored = std::make_shared<std::optional<StoredJob>>();
  crash_point("start.leased");
  committer_->commit(
      [job = active.waiting.job_id, task = active.task, attempt = active.id.attempt,
       allocation = active.lease->allocation(), runner = active.runner->runner(), at = clock_.system_now(),
       stored](QueueStore& store) {
        const JobId id = task ? store.add_task(job, *task, at) : job;
        store.configure_on(runner, id, attempt, allocation, at);
        *stored = store.find_stored(id);
        crash_point("start.before_commit");
      },
      [this, key, stored](const std::exception_ptr& error) { commit_start(key, stored, error); });
}

/// It does not come to be.
void Daemon::uncount(const Active& active) {
  if (active.runner) {
    --active.runner->jobs;
  }
  if (active.array) {
    uncount_task(*active.array);
  }
}

/// The start is on the disk, or could not be.
void Daemon::commit_start(JobId key, const std::shared_ptr<std::optional<StoredJob>>& stored,
                          const std::exception_ptr& error) {
  auto node = active_.extract(key);
  if (node.empty()) {
    return;
  }
  if (error || !stored->has_value()) {
    log_error(job_name(node.mapped().waiting.job_id) + ": " + (error ? text_of(error) : "is gone"));
    give_back(node.mapped());
    hold_refused(node.mapped().waiting.job_id, error);
    return;
  }
  const AttemptId id{(*stored)->job_id, node.mapped().id.attempt};
  node.key() = id.job_id;
  Active& active = active_.insert(std::move(node)).position->second;
  active.start_committed = true;
  active.id = id;
  active.waiting.job_id = id.job_id;
  if (active.stop) {
    active.stop->id = id;
  }
  if (!active.array && (*stored)->array_job_id) {  // a task that had a number before
    ++arrays_[*(*stored)->array_job_id];
    active.array = (*stored)->array_job_id;
  }
  tell_task((*stored)->array_job_id, (*stored)->array_task_id, id.job_id);
  send_start(id, **stored);
  committed();
}

/// What could not be committed waits again, or is over.
void Daemon::give_back(const Active& active) {
  uncount(active);
  if (active.array || active.canceller) {
    schedule();  // others of its tasks may start, or in its place
  }
  const JobId waiting = active.waiting.job_id;  // of a task: its array's
  if (active.canceller) {
    end_waiting(waiting, cancelled_before_start(*active.canceller), {});
  } else if (active.task) {
    give_task_back(active.waiting, *active.task);
    tell_task(active.array, active.task, 0);
  } else if (store_holds_as_waiting(waiting)) {
    enqueue(active.waiting, clock_.system_now());
  }
}

/// When its start was refused for what the job is, and not for the database's sake, it would be again at each
/// decision: it waits for an administrator, as with Slurm ("launch failed requeued held").
void Daemon::hold_refused(JobId job, const std::exception_ptr& error) {
  std::optional<WaitingJob> waiting = waiting_.find(job);
  if (!waiting || !error || !is_refusal(error)) {
    return;
  }
  waiting->facts.hold = Hold::administrator;
  enqueue(*waiting, clock_.system_now());
  schedule();  // others may start in its place
  committer_->commit(
      [job, facts = waiting->facts, at = clock_.system_now(),
       detail = hold_detail("its start was refused: " + text_of(error))](QueueStore& store) {
        store.change(job, facts, at, detail, "");
      },
      [this, job](const std::exception_ptr& failed) {
        if (failed) {
          log_warning(job_name(job) + ": that it is held could not be recorded: " + text_of(failed));
        }
        committed();
      });
}

/// A task that could not be committed waits in its array again, unless that is over; beside those that wait
/// there now, as other tasks may be being committed. `array` as it was, if all its tasks have left it.
void Daemon::give_task_back(const WaitingJob& array, unsigned task) {
  if (!is_so_or_unknown([&] { return reader_.unstarted(array.job_id).contains(task); })) {
    return;
  }
  WaitingJob rest = waiting_.find(array.job_id).value_or(array);
  IndexList tasks = IndexList::parse(rest.facts.array_tasks);
  tasks.insert(task);
  rest.facts.array_tasks = tasks.to_text();
  enqueue(rest, clock_.system_now());
}

bool Daemon::store_holds_as_waiting(JobId job) {
  return is_so_or_unknown([&] {
    const std::optional<KnownJob> stored = reader_.find_known(job);
    return stored && stored->state == JobState::pending;
  });
}

/// What keeps it from being sent ends the attempt, which would else be CONFIGURING until berthd is restarted.
void Daemon::send_start(AttemptId id, const StoredJob& stored) {
  Active* active = find_active(id.job_id);
  if (active == nullptr || active->id != id || !active->runner) {
    return;  // its runner died meanwhile
  }
  const std::shared_ptr<RunnerLink> runner = active->runner;
  if (runner->leaving) {
    finish(*active,
           active->canceller ? cancelled_before_start(*active->canceller) : refused_by_leaving_runner(), {},
           clock_.system_now(), runner);
    return;
  }
  try {
    active->rule = rule_of(stored);  // before anything that may end the attempt: whether it runs again
    if (!runner->is_open()) {        // it died while the start was being committed
      throw std::runtime_error("that died");
    }
    crash_point("start.after_commit");
    const RunnerMessage message = start_message(*active, stored);
    if (auto waiters = start_waiters_.extract(id.job_id)) {
      for (const auto& [number, reply] : waiters.mapped()) {
        call_apart(loop_, [&, &answer = reply] { answer({id, runner->runner().cgroup}); });
      }
    }
    runner->send(message);
    active->sent = true;
    crash_point("start.after_send");
    if (active->stop) {
      runner->send(*active->stop);
    }
  } catch (const std::exception& error) {
    if (active->sent) {
      throw;
    }
    const std::string reason = std::string("berthd could not send it to its berth-runner: ") + error.what();
    log_error(job_name(id.job_id) + ": " + reason);
    finish(*active, ended_before_start(JobState::node_fail, Cause::node_fail, reason), {},
           clock_.system_now(), runner);
  }
}

RunnerMessage Daemon::start_message(const Active& active, const StoredJob& stored) const {
  RunnerMessage message;
  message.kind = RunnerMessage::Kind::start;
  message.id = active.id;
  message.user = stored.user;
  message.user_id = stored.user_id;
  message.group_id = stored.group_id;
  message.array_job_id = stored.array_job_id;
  message.array_task_id = stored.array_task_id;
  message.spec_text = active.runner->hello().knows_umask ? stored.spec_text : without_umask(stored.spec_text);
  message.network = config_.network.of_user(stored.user_id);
  message.counters = true;
  if (active.lease) {
    message.allocation = active.lease->allocation();
  }
  return message;
}

// -- why, and when --------------------------------------------------------------------------------------

std::optional<WaitReason> Daemon::reason(JobId job) {
  if (!waiting_.contains(job)) {
    return std::nullopt;
  }
  if (const auto own = waiting_.own_reason(job, clock_.system_now())) {
    const auto dependent = dependents_.find(job);
    if (*own != WaitReason::dependency && *own != WaitReason::array_task_limit) {
      return own;
    }
    if (dependent == dependents_.end()) {
      return fits_ever(waiting_.find(job)->facts) ? WaitReason::array_task_limit : WaitReason::never_fits;
    }
    return dependent->second.never ? WaitReason::dependency_never_satisfied : WaitReason::dependency;
  }
  if (draining_) {
    return WaitReason::draining;
  }
  const WaitingJob waiting = *waiting_.find(job);
  if (!allowance(waiting.user_id).holds(waiting_.wanted_by(waiting.facts))) {
    return WaitReason::user_limit;
  }
  const std::vector<QueuedJob> first = waiting_.first(1);
  return !first.empty() && first.front().sequence == static_cast<std::size_t>(job) ? WaitReason::resources
                                                                                   : WaitReason::priority;
}

std::string Daemon::held_because(JobId job) {
  const nlohmann::json detail = nlohmann::json::parse(reader_.last_hold(job), nullptr, false);
  return detail.is_object() ? detail.value("because", "") : "";
}

std::size_t Daemon::jobs_before(JobId job) const {
  const std::vector<QueuedJob> first = waiting_.first(kLookedAhead);
  const auto found = std::find_if(first.begin(), first.end(), [&](const QueuedJob& queued) {
    return queued.sequence == static_cast<std::size_t>(job);
  });
  return static_cast<std::size_t>(found - first.begin());
}

std::optional<Timestamp> Daemon::expected_start(JobId job) {
  const std::optional<Timestamp> start =
      start_of(static_cast<std::size_t>(job), waiting_.first(kLookedAhead));
  const std::optional<WaitingJob> waiting = waiting_.find(job);
  const bool is_overdue = start && waiting && waiting->facts.deadline && *waiting->facts.deadline <= *start;
  return is_overdue ? std::nullopt : start;
}

/// Up to the job, with each task of an array on its own; nothing where these start one after the other.
std::optional<std::vector<QueuedJob>> Daemon::jobs_up_to(std::size_t sequence,
                                                         const std::vector<QueuedJob>& waiting) const {
  std::vector<QueuedJob> jobs;
  for (const QueuedJob& job : waiting) {
    if (job.sequence == sequence) {
      jobs.push_back(job);
      return jobs;
    }
    const QueueFacts facts = waiting_.find(static_cast<JobId>(job.sequence))->facts;
    const std::size_t tasks =
        facts.array_tasks.empty() ? 1 : std::max<std::size_t>(1, IndexList::parse(facts.array_tasks).size());
    if ((tasks > 1 && facts.array_limit > 0) || tasks > kLookedAhead - jobs.size()) {
      return std::nullopt;
    }
    jobs.insert(jobs.end(), tasks, job);
  }
  return std::nullopt;
}

/// Whether what cannot start yet may come first by then: a begin time comes, or a dependency is fulfilled.
bool Daemon::may_be_passed(const QueuedJob& job, Timestamp by) const {
  return waiting_.any_unready_before(job, by, [&](JobId other) {
    const auto dependent = dependents_.find(other);
    return !(dependent != dependents_.end() && dependent->second.never) &&
           fits_ever(waiting_.find(other)->facts);
  });
}

std::optional<Timestamp> Daemon::start_of(std::size_t sequence, const std::vector<QueuedJob>& waiting) {
  const std::optional<std::vector<QueuedJob>> jobs = jobs_up_to(sequence, waiting);
  if (draining_ || !jobs) {
    return std::nullopt;
  }
  const Resources free{pool_.free_cpus(), pool_.free_memory(), pool_.free_slots()};
  const SteadyTime now = clock_.steady_now();
  const std::optional<SteadyTime> start =
      latest_start(sequence, *jobs, free, running_jobs(SteadyTime::max()), now);
  if (!start) {
    return std::nullopt;
  }
  const Timestamp at = clock_.system_now() + std::chrono::duration_cast<Timestamp::duration>(*start - now);
  return may_be_passed(jobs->back(), at) ? std::nullopt : std::optional(at);
}

}  // namespace berth
