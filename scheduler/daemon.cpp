#include "scheduler/daemon.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "scheduler/backup_keeper.h"
#include "scheduler/crash_point.h"
#include "scheduler/log.h"
#include "scheduler/recovery.h"
#include "scheduler/stream_request.h"
#include "scheduler/submission.h"
#include "schemas/index_list.h"
#include "schemas/input_error.h"
#include "schemas/job_file.h"

namespace berth {
namespace {

using Kind = RunnerMessage::Kind;

/// A timer sleeps no longer than this: the system clock, by which begin times and deadlines go, may jump.
constexpr std::chrono::seconds kLongestSleep{10};
/// Ended jobs are forgotten so many at a time, in a transaction of some milliseconds, with a pause for
/// others' work.
constexpr std::size_t kForgottenAtOnce = 200;
constexpr std::size_t kPagesAtOnce = 200;
constexpr std::chrono::milliseconds kForgettingPause{50};
constexpr std::chrono::seconds kForgettingInterval{10};
/// Between attempts to start a runner.
constexpr std::chrono::seconds kRunnerRetry{5};
/// Jobs before one whose start is asked for.
constexpr std::size_t kLookedAhead = 1000;

Outcome ended_before_start(JobState state, Cause cause, const std::string& message) {
  Outcome outcome;
  outcome.state = state;
  outcome.cause = cause;
  outcome.message = message;
  return outcome;
}

SlotPool make_pool(const DaemonConfig::Pool& pool) {
  return SlotPool(detect_topology(), {pool.slots, pool.cpus, pool.memory});
}

Milliseconds lead_of(const Clock& clock) {
  return std::chrono::duration_cast<Milliseconds>(clock.system_now().time_since_epoch() -
                                                  clock.steady_now().time_since_epoch());
}

/// It ran, and its runner was told that its record is on the disk: of a newer database than this one.
constexpr const char* kRecordLost = "its record was lost when the database was restored from an older copy";

/// An attempt that started after the copy was made that the database was restored from.
void start_unheard_of(QueueStore& store, const RunnerMessage& ended) {
  store.configure_on(queue_supervisor(), ended.id.job_id, ended.id.attempt, {"unknown", {}, {}, 0},
                     *ended.started_at);
  store.run(ended.id.job_id, ended.id.attempt, *ended.started_at);
}

bool knows(const RunnerLink& runner, const AttemptId& id) {
  const std::vector<AttemptId>& known = runner.hello().jobs;
  return std::find(known.begin(), known.end(), id) != known.end();
}

std::string job_name(JobId job) {
  return "job " + std::to_string(job);
}

/// What the job, or the one task of an array, is scheduled by when it waits again.
QueueFacts task_facts(const JobSpec& spec, const StoredJob& stored) {
  QueueFacts facts = queue_facts(spec);
  if (stored.array_job_id) {
    facts.array_tasks.clear();
    facts.array_limit = 0;
  }
  if (stored.array_job_id || stored.attempt > 0) {
    facts.dependency.clear();  // it has been fulfilled
  }
  return facts;
}

std::string action_detail(const std::string& action, const Actor& actor) {
  return nlohmann::json{{"action", action}, {"by", actor.name}}.dump();
}

}  // namespace

const Supervisor& queue_supervisor() {
  static const Supervisor kQueue{"", 0, 0, "berthd"};
  return kQueue;
}

Daemon::Daemon(boost::asio::io_context& loop, DaemonConfig config, std::unique_ptr<QueueStore> writer,
               QueueStore& reader, const Clock& clock, LeftoverActions leftovers)
    : loop_(loop),
      config_(std::move(config)),
      reader_(reader),
      clock_(clock),
      pool_(make_pool(config_.pool)),
      leftovers_(std::move(leftovers)),
      spool_(config_.state_directory + "/spool"),
      waiting_([this](unsigned cpus, std::optional<Bytes> wish) {
        return pool_.memory_for({cpus, wish});
      }),
      first_clock_lead_(lead_of(clock_)),
      clock_lead_(first_clock_lead_),
      samples_(loop),
      timer_(loop),
      retention_timer_(loop) {
  draining_ = std::filesystem::exists(config_.drain_file());
  take_in_spool(*writer);
  take_over(*writer);
  load_queue(*writer);
  committer_ =
      std::make_unique<Committer>(std::move(writer), loop, [this](const std::exception_ptr& trouble) {
        store_trouble_ = trouble ? text_of(trouble) : "";
        if (!trouble) {
          log_warning("the job database works again");
          schedule();
        } else {
          log_error(store_trouble_);
          note_damage(trouble);
        }
      });
  keep_runners();
  if (links_.empty()) {
    throw std::runtime_error("no runner could be started: " + runner_paths().log_file + " says why");
  }
  for (const auto& link : links_) {
    attach(link);
  }
  schedule();
  forget_again_after(kForgettingPause);
}

Daemon::~Daemon() {
  stopping_ = true;
  for (const auto& link : links_) {
    link->close();  // the runners go on
  }
  committer_.reset();
}

RunnerPaths Daemon::runner_paths() const {
  return {config_.runner_program, config_.runtime_directory + "/runners", config_.state_directory + "/spool",
          config_.state_directory + "/runners.log", config_.armed_ahead};
}

unsigned Daemon::wanted_runners() const {
  constexpr unsigned kMostByDefault = 8;
  return config_.runners > 0 ? config_.runners : std::min(pool_.total_cpus(), kMostByDefault);
}

ControllerReport Daemon::controllers() const {
  return links_.empty() ? ControllerReport{} : links_.front()->hello().controllers;
}

// -- taking over after a restart ------------------------------------------------------------------------

/// Records of jobs that ended while there was no berthd.
void Daemon::take_in_spool(QueueStore& store) {
  std::vector<std::string> problems;
  for (const RunnerMessage& record : spool_.read_all(problems)) {
    try {
      store.together([&] {
        const std::optional<StoredJob> stored = store.find_stored(record.id.job_id);
        const bool is_unheard_of = stored && stored->state == JobState::pending &&
                                   record.id.attempt > stored->attempt && record.started_at;
        if (is_unheard_of) {
          start_unheard_of(store, record);
        } else if (stored && stored->state == JobState::configuring && record.started_at) {
          store.run(record.id.job_id, record.id.attempt, *record.started_at);
        }
        store.finish(record.id.job_id, record.id.attempt, record.outcome, record.usage, record.at);
        settle_attempt(store, record.id, record.outcome);
      });
    } catch (const StoreError& error) {
      const std::optional<StoredJob> stored = store.find_stored(record.id.job_id);
      if (stored && stored->attempt == record.id.attempt && !is_final(stored->state)) {
        throw;
      }
      log_warning("spooled record of " + job_name(record.id.job_id) + ": " + error.what());
    }
    crash_point("spool.after_commit");
    spool_.remove(record.id);
    crash_point("spool.after_remove");
  }
  for (const std::string& problem : problems) {
    log_warning(problem);
  }
}

/// What follows from the end of an attempt that no berthd was there to see: the next one, or its array's end.
void Daemon::settle_attempt(QueueStore& store, AttemptId id, const Outcome& outcome) {
  const StoredJob stored = *store.find_stored(id.job_id);
  const JobSpec spec = parse_stored_job(stored.spec_text, job_name(id.job_id));
  const std::vector<AccountingRecord> records = store.find(id.job_id);
  const bool has_memory = !records.empty() && records.back().allocation;
  const bool requeued = outcome.cause == Cause::preempted;  // by berth requeue alone
  const std::optional<QueueFacts> again =
      requeued ? task_facts(spec, stored)
               : facts_of_retry({spec.requeue, spec.retry}, task_facts(spec, stored),
                                has_memory ? records.back().allocation->memory : 0, id.attempt, outcome,
                                clock_.system_now());
  if (again) {
    store.requeue(id.job_id, *again, clock_.system_now(),
                  requeued ? R"({"action":"requeue"})" : R"({"action":"retry"})");
  } else if (stored.array_job_id) {
    store.settle_array(*stored.array_job_id, clock_.system_now());
  }
}

void Daemon::take_over(QueueStore& store) {
  FoundRunners runners = find_runners(loop_, runner_paths());
  links_ = std::move(runners.alive);
  std::vector<Supervisor> dead;
  for (const OpenAttempt& open : store.running_attempts()) {
    const std::optional<StoredJob> stored = store.find_stored(open.job_id);
    const auto runner = std::find_if(links_.begin(), links_.end(),
                                     [&](const auto& link) { return link->runner() == open.supervisor; });
    const AttemptId id{open.job_id, open.attempt};
    const bool is_lost =
        runner != links_.end() && open.state != JobState::configuring && !knows(**runner, id);
    if (runner != links_.end() && !is_lost) {
      adopt(open, *stored);
      continue;
    }
    Usage usage;
    const Outcome outcome = is_lost ? ended_before_start(JobState::node_fail, Cause::node_fail, kRecordLost)
                                    : node_failure(open.supervisor, id, usage);
    store.together([&] {
      store.finish(open.job_id, open.attempt, outcome, usage, clock_.system_now());
      settle_attempt(store, id, outcome);
    });
    log_warning(job_name(open.job_id) + ": " + outcome.message + "; recorded NODE_FAIL");
    if (!is_lost && std::find(dead.begin(), dead.end(), open.supervisor) == dead.end()) {
      dead.push_back(open.supervisor);
    }
  }
  for (const std::string& cgroup : runners.dead) {
    const std::optional<Supervisor> runner = supervisor_of_cgroup(cgroup);
    if (runner && std::find(dead.begin(), dead.end(), *runner) == dead.end() && !supervisor_alive(*runner)) {
      dead.push_back(*runner);
    }
  }
  for (const Supervisor& runner : dead) {
    if (of_this_boot(runner) && leftovers_.remove) {
      leftovers_.remove(runner);
    }
  }
  std::vector<AttemptId> held;
  for (const auto& link : links_) {
    held.insert(held.end(), link->hello().jobs.begin(), link->hello().jobs.end());
  }
  spool_.remove_unfinished(held);
}

/// An attempt of a runner that lives. One that the runner does not know was never sent to it.
void Daemon::adopt(const OpenAttempt& open, const StoredJob& stored) {
  const auto link = *std::find_if(links_.begin(), links_.end(),
                                  [&](const auto& one) { return one->runner() == open.supervisor; });
  const JobSpec spec = parse_stored_job(stored.spec_text, job_name(open.job_id));
  const AttemptId id{open.job_id, open.attempt};
  Active& active = active_[open.job_id];
  active.id = id;
  active.user_id = stored.user_id;
  active.waiting.job_id = open.job_id;
  active.waiting.user_id = stored.user_id;
  active.waiting.facts = task_facts(spec, stored);
  active.lease = pool_.adopt(*open.allocation);
  active.holds = {spec.cpus_per_task, open.allocation->memory, 1};
  active.latest_end = clock_.steady_now() + longest_stay(spec);
  active.runner = link;
  active.state = open.state;
  active.sent = knows(*link, id);
  if (!active.lease) {
    log_warning(job_name(open.job_id) + " goes on beside the pool, which has not got its CPUs any more");
  }
  active.rule = {spec.requeue, spec.retry};
  active.requeue.reset();
  active.array = stored.array_job_id;
  if (active.array) {
    ++arrays_[*active.array].running;
  }
  if (!active.sent) {
    ++link->jobs;
    boost::asio::post(loop_, [this, id, stored] { send_start(id, stored); });
  }
}

/// A job that waits, and that a runner has a later attempt of, waits in an older copy of the database
/// (berthd --restore): it is held, lest it run a second time.
void Daemon::load_queue(QueueStore& store) {
  const Timestamp now = clock_.system_now();
  std::unordered_map<JobId, unsigned> attempts;
  for (const auto& link : links_) {
    for (const AttemptId& id : link->hello().jobs) {
      attempts[id.job_id] = std::max(attempts[id.job_id], id.attempt);
    }
  }
  std::vector<WaitingJob> running;
  store.visit_queue([&](WaitingJob&& job) {
    const auto attempt = attempts.find(job.job_id);
    if (attempt != attempts.end() && attempt->second > job.attempt) {
      running.push_back(std::move(job));
    } else {
      enqueue(job, now);
    }
  });
  for (WaitingJob& job : running) {
    log_warning(job_name(job.job_id) + " waits in the database and runs: it is held");
    job.facts.hold = Hold::administrator;
    store.change(job.job_id, job.facts, now, R"({"action":"hold","by":"berthd"})", "");
    enqueue(job, now);
  }
  // Only now is every job known that another may depend on.
  std::vector<JobId> waiting;
  for (const auto& [job, dependent] : dependents_) {
    waiting.push_back(job);
  }
  for (const JobId job : waiting) {
    examine(job, now);
  }
}

// -- dependencies and arrays ----------------------------------------------------------------------------

/// Into the queue, blocked while it depends on something.
void Daemon::enqueue(const WaitingJob& job, Timestamp now) {
  const QueueFacts& facts = job.facts;
  forget(job.job_id);
  if (!facts.dependency.empty()) {
    Dependent& dependent = dependents_[job.job_id];
    dependent.dependency = parse_dependency(facts.dependency);
    for (const Dependency::Condition& condition : dependent.dependency.conditions) {
      if (condition.type == Dependency::Type::singleton) {
        const std::optional<StoredJob> stored = reader_.find_stored(job.job_id);
        dependent.namesakes = {job.user_id, stored ? stored->name : ""};
        singletons_[dependent.namesakes].insert(job.job_id);
      } else {
        (condition.task ? task_depended_on_ : depended_on_)[condition.job].insert(job.job_id);
      }
    }
  }
  const bool is_full = !facts.array_tasks.empty() && facts.array_limit > 0 && arrays_.contains(job.job_id) &&
                       arrays_[job.job_id].running >= facts.array_limit;
  waiting_.add(job, now, is_full || dependents_.contains(job.job_id) || !fits_ever(facts));
  if (committer_) {  // not while the queue is being loaded
    examine(job.job_id, now);
  }
}

/// What it depends on is of no account any more.
void Daemon::forget(JobId job) {
  const auto dependent = dependents_.extract(job);
  if (dependent.empty()) {
    return;
  }
  for (const Dependency::Condition& condition : dependent.mapped().dependency.conditions) {
    if (condition.type == Dependency::Type::singleton) {
      if (const auto group = singletons_.find(dependent.mapped().namesakes); group != singletons_.end()) {
        group->second.erase(job);
        if (group->second.empty()) {
          singletons_.erase(group);
        }
      }
    } else {
      auto& all = condition.task ? task_depended_on_ : depended_on_;
      if (const auto others = all.find(condition.job); others != all.end()) {
        others->second.erase(job);
        if (others->second.empty()) {
          all.erase(others);
        }
      }
    }
  }
}

Fulfilment Daemon::state_of(const Dependency::Condition& condition) {
  const std::optional<JobId> on =
      condition.task ? reader_.find_task(condition.job, *condition.task) : condition.job;
  if (!on && has_waiting_task(condition.job, *condition.task)) {
    return Fulfilment::no;
  }
  const std::optional<StoredJob> other = on ? reader_.find_stored(*on) : std::nullopt;
  // What is not there was removed from the history, or is a task of an array that ended without it.
  return other ? fulfilment(condition.type, other->state) : Fulfilment::never;
}

/// Does what the job depends on allow it now?
void Daemon::examine(JobId job, Timestamp now) {
  const auto found = dependents_.find(job);
  if (found == dependents_.end()) {
    return;
  }
  const Dependency& dependency = found->second.dependency;
  std::size_t yes = 0;
  std::size_t never = 0;
  for (const Dependency::Condition& condition : dependency.conditions) {
    Fulfilment state = Fulfilment::yes;
    if (condition.type == Dependency::Type::singleton) {
      // The others of its name that wait for that come after the first of them: only that one needs a look.
      const bool is_first = *singletons_.at(found->second.namesakes).begin() == job;
      state = is_first && !reader_.has_earlier_namesake(job) ? Fulfilment::yes : Fulfilment::no;
    } else {
      state = state_of(condition);
    }
    yes += state == Fulfilment::yes ? 1U : 0U;
    never += state == Fulfilment::never ? 1U : 0U;
  }
  const std::size_t all = dependency.conditions.size();
  found->second.never = dependency.any ? never == all : never > 0;
  if (dependency.any ? yes > 0 : yes == all) {
    const Namesakes namesakes = found->second.namesakes;
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
    if (singletons_.contains(namesakes)) {  // a task that was separated from its array does not wait for it
      boost::asio::post(loop_, [this, namesakes] { examine_first(namesakes); });
    }
  }
}

/// Not when the pool is smaller than the one that it was submitted to: nothing would ever pass it.
bool Daemon::fits_ever(const QueueFacts& facts) const {
  return !pool_.never_fits({facts.cpus, facts.memory});
}

void Daemon::unblock(JobId job, Timestamp now) {
  if (const std::optional<WaitingJob> waiting = waiting_.find(job); waiting && fits_ever(waiting->facts)) {
    waiting_.unblock(job, now);
  }
}

void Daemon::examine_first(const Namesakes& namesakes) {
  if (const auto group = singletons_.find(namesakes); group != singletons_.end()) {
    examine(*group->second.begin(), clock_.system_now());
  }
}

/// After the commit that changed the job's state.
void Daemon::release_dependents(JobId ended, std::optional<JobId> array) {
  const Timestamp now = clock_.system_now();
  std::set<JobId> waiting;  // a copy: examine() may change it
  if (const auto found = depended_on_.find(ended); found != depended_on_.end()) {
    waiting = found->second;
  }
  // On its tasks: of one of them, or of an array that ended without some.
  if (const auto found = task_depended_on_.find(array.value_or(ended)); found != task_depended_on_.end()) {
    waiting.insert(found->second.begin(), found->second.end());
  }
  for (const JobId job : waiting) {
    examine(job, now);
  }
  if (singletons_.empty()) {
    return;
  }
  if (const std::optional<StoredJob> stored = reader_.find_stored(ended)) {
    examine_first({stored->user_id, stored->name});
  }
}

/// After a job has got another name.
void Daemon::examine_singletons() {
  std::vector<JobId> first;
  first.reserve(singletons_.size());
  for (const auto& [namesakes, jobs] : singletons_) {
    first.push_back(*jobs.begin());
  }
  for (const JobId job : first) {
    examine(job, clock_.system_now());
  }
}

/// One task less of the array runs.
void Daemon::task_left(JobId array) {
  const auto found = arrays_.find(array);
  if (found == arrays_.end()) {
    return;
  }
  --found->second.running;
  if (!dependents_.contains(array)) {
    unblock(array, clock_.system_now());
  }
  if (found->second.running == 0 && !waiting_.contains(array)) {
    arrays_.erase(found);
  }
  schedule();
}

// -- runners --------------------------------------------------------------------------------------------

void Daemon::keep_runners() {
  while (links_.size() < wanted_runners()) {
    try {
      links_.push_back(start_runner(loop_, runner_paths()));
    } catch (const std::exception& error) {
      log_error(error.what());
      return;
    }
  }
}

void Daemon::attach(const std::shared_ptr<RunnerLink>& link) {
  log_debug("runner " + link->runner().cgroup + " with " + std::to_string(link->jobs) + " jobs");
  link->start([this](const auto& from, const RunnerMessage& message) { handle(from, message); },
              [this](const auto& from) { handle_gone(from); });
}

/// The one that holds fewest jobs; but jobs of one shared network are held by one runner, which has it. By
/// its name alone, whoever's it is: the runner keeps users apart.
std::shared_ptr<RunnerLink> Daemon::runner_for(const std::string& shared_network) const {
  if (!shared_network.empty()) {
    for (const auto& [job, active] : active_) {
      if (active.runner && active.runner->is_open() &&
          active.waiting.facts.shared_network == shared_network) {
        return active.runner;
      }
    }
  }
  const auto least = std::min_element(links_.begin(), links_.end(),
                                      [](const auto& a, const auto& b) { return a->jobs < b->jobs; });
  return least == links_.end() ? nullptr : *least;
}

void Daemon::handle(const std::shared_ptr<RunnerLink>& link, const RunnerMessage& message) {
  if (message.kind == Kind::ended) {
    handle_ended(link, message);
    return;
  }
  if (message.kind == Kind::samples) {
    samples_.take(message);
    return;
  }
  Active* active = find_active(message.id.job_id);
  if (message.kind == Kind::started && active != nullptr && active->id == message.id) {
    handle_started(*active, {message.at, message.detail});
  }
}

void Daemon::handle_started(Active& active, const AttemptStart& start) {
  crash_point("run.received");
  if (active.state != JobState::configuring) {
    return;  // told again after a restart
  }
  active.state = JobState::running;
  active.latest_end = clock_.steady_now() + active.waiting.facts.stay;
  active.start = start;
  active.start_commit = committer_->commit_soon(  // lost in a crash, the runner tells it again
      [id = active.id, start](QueueStore& store) {
        store.run(id.job_id, id.attempt, start.at, start.detail);
        crash_point("run.before_commit");
      },
      [this, id = active.id](const std::exception_ptr& error) {
        if (error) {
          log_warning(job_name(id.job_id) + ": " + text_of(error));
        }
        crash_point("run.after_commit");
        const Active* started = find_active(id.job_id);
        release_dependents(id.job_id, started == nullptr ? std::nullopt : started->array);
        committed();
      });
}

void Daemon::handle_ended(const std::shared_ptr<RunnerLink>& link, const RunnerMessage& message) {
  crash_point("end.received");
  Active* active = find_active(message.id.job_id);
  if (active == nullptr || active->id != message.id) {
    const std::optional<WaitingJob> waiting = waiting_.find(message.id.job_id);
    if (waiting && waiting->attempt < message.id.attempt && message.started_at) {
      finish_unheard_of(link, message);
    } else {
      acknowledge(link,
                  message.id);  // its record was committed, and berthd was killed before it could say so
    }
    return;
  }
  if (!active->runner) {
    return;  // told twice: its commit is under way
  }
  if (active->state == JobState::configuring && message.started_at) {
    handle_started(*active, {*message.started_at, message.detail});
  }
  finish(*active, message.outcome, message.usage, message.at, link);
}

void Daemon::acknowledge(const std::shared_ptr<RunnerLink>& link, const AttemptId& id) {
  RunnerMessage message;
  message.kind = Kind::acknowledge;
  message.id = id;
  link->send(message);
}

/// The end of what load_queue() holds because it runs.
void Daemon::finish_unheard_of(const std::shared_ptr<RunnerLink>& link, const RunnerMessage& message) {
  const JobId job = message.id.job_id;
  waiting_.remove(job);
  forget(job);
  const std::optional<StoredJob> stored = reader_.find_stored(job);
  const std::optional<JobId> array = stored ? stored->array_job_id : std::nullopt;
  committer_->commit_surely(
      [message](QueueStore& store) {
        start_unheard_of(store, message);
        store.finish(message.id.job_id, message.id.attempt, message.outcome, message.usage, message.at);
      },
      [this, link, id = message.id, outcome = message.outcome, array](const std::exception_ptr& error) {
        if (error) {
          log_error(job_name(id.job_id) + ": " + text_of(error));
        }
        acknowledge(link, id);
        tell_end(id.job_id, {outcome.state, exit_status(outcome)});
        release_dependents(id.job_id, array);
        committed();
      });
}

/// As which an attempt that ended so runs again; nothing when it does not.
std::optional<WaitingJob> Daemon::next_attempt(const Active& active, const Outcome& outcome,
                                               Timestamp at) const {
  const bool requeued = active.requeue.value_or(outcome.cause == Cause::preempted);
  const std::optional<QueueFacts> facts =
      requeued ? std::optional(active.waiting.facts)
               : facts_of_retry(active.rule, active.waiting.facts, active.holds.memory, active.id.attempt,
                                outcome, at);
  if (!facts) {
    return std::nullopt;
  }
  WaitingJob again = active.waiting;
  again.job_id = active.id.job_id;
  again.attempt = active.id.attempt;
  again.facts = *facts;
  if (again.facts.memory) {
    again.facts.memory = std::min(*again.facts.memory, pool_.total_memory());
  }
  return again;
}

/// The attempt is over: its slot is free at once; the job is over when that is on the disk.
void Daemon::finish(Active& active, const Outcome& outcome, const Usage& usage, Timestamp at,
                    const std::shared_ptr<RunnerLink>& link) {
  active.lease.reset();
  active.runner.reset();
  if (link) {
    --link->jobs;
  }
  if (active.array) {
    task_left(*active.array);  // before the next job is chosen, which may be the next of its tasks
  }
  schedule();  // before the commit is asked for, so that the next job's start is a part of it
  const std::optional<WaitingJob> again = next_attempt(active, outcome, at);
  const std::string detail = active.requeue.value_or(outcome.cause == Cause::preempted)
                                 ? R"({"action":"requeue"})"
                                 : R"({"action":"retry"})";
  const auto array_end = std::make_shared<std::optional<JobState>>();
  std::optional<AttemptStart> start;  // of a short job: both are recorded at once
  if (active.start_commit != 0 && committer_->withdraw(active.start_commit)) {
    start = active.start;
  }
  committer_->commit_surely(
      [id = active.id, start, outcome, usage, at, again, detail, array = active.array,
       array_end](QueueStore& store) {
        if (start) {
          crash_point("run.before_commit");
          store.run_and_finish(id.job_id, id.attempt, *start, outcome, usage, at, Sync::now);
        } else {
          store.finish(id.job_id, id.attempt, outcome, usage, at);
        }
        if (again) {
          store.requeue(id.job_id, again->facts, at, detail);
        } else if (array) {
          *array_end = store.settle_array(*array, at);
        }
        crash_point("end.before_commit");
      },
      [this, id = active.id, started = start.has_value(), outcome, link, again, array = active.array,
       array_end](const std::exception_ptr& error) {
        if (error) {
          log_error(job_name(id.job_id) + ": " + text_of(error));
        }
        if (started) {
          crash_point("run.after_commit");
        }
        crash_point("end.after_commit");
        if (link) {
          acknowledge(link, id);
          crash_point("end.after_acknowledge");
        }
        active_.erase(id.job_id);
        if (again) {
          enqueue(*again, clock_.system_now());
          schedule();
        } else {
          tell_end(id.job_id, {outcome.state, exit_status(outcome)});
          release_dependents(id.job_id, array);
        }
        if (*array_end) {
          tell_array_end(*array, **array_end);
        }
        committed();
      });
}

Outcome Daemon::node_failure(const Supervisor& runner, AttemptId id, Usage& usage) {
  const bool same_boot = of_this_boot(runner);
  if (same_boot && leftovers_.collect) {
    try {
      usage = leftovers_.collect(runner, id.job_id, id.attempt).value_or(Usage{});
    } catch (const std::exception& error) {
      log_warning("leftovers of " + job_name(id.job_id) + ": " + error.what());
    }
  }
  return ended_before_start(
      JobState::node_fail, Cause::node_fail,
      same_boot ? "the berth-runner that held it (pid " + std::to_string(runner.pid) + ") died"
                : std::string("the machine was restarted under it"));
}

void Daemon::handle_gone(const std::shared_ptr<RunnerLink>& link) {
  if (stopping_) {
    return;
  }
  log_error("runner " + link->runner().cgroup + " died");
  links_.erase(std::remove(links_.begin(), links_.end(), link), links_.end());
  std::vector<JobId> lost;
  for (const auto& [job, active] : active_) {
    if (active.runner == link) {
      lost.push_back(job);
    }
  }
  for (const JobId job : lost) {
    Active& active = active_.at(job);
    Usage usage;
    const Outcome outcome = node_failure(link->runner(), active.id, usage);
    finish(active, outcome, usage, clock_.system_now(), nullptr);
  }
  if (leftovers_.remove) {
    leftovers_.remove(link->runner());
  }
  std::filesystem::remove(config_.runtime_directory + "/runners/" + link->runner().cgroup + ".sock");
  std::filesystem::remove(streams_socket_of(runner_folder(), link->runner().cgroup));
  const std::size_t before = links_.size();
  keep_runners();
  for (std::size_t index = before; index < links_.size(); ++index) {
    attach(links_[index]);
  }
  schedule();
}

// -- deciding -------------------------------------------------------------------------------------------

/// Decides once, after everything that is happening now.
void Daemon::schedule() {
  if (!scheduled_) {
    scheduled_ = true;
    boost::asio::post(loop_, [this] {
      scheduled_ = false;
      decide();
    });
  }
}

std::vector<RunningJob> Daemon::running_jobs() const {
  std::vector<RunningJob> running;
  running.reserve(active_.size());
  for (const auto& [job, active] : active_) {
    if (active.lease) {
      running.push_back({active.holds, active.latest_end});
    }
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

void Daemon::decide() {
  notice_clock();
  const Timestamp now = clock_.system_now();
  for (const JobId job : waiting_.take_overdue(now)) {
    forget(job);
    end_waiting(
        job, 0,
        ended_before_start(JobState::deadline, Cause::cancelled, "its deadline passed before it started"),
        {});
  }
  waiting_.advance(now);
  while (!draining_ && store_trouble().empty() && !links_.empty()) {
    const Resources free{pool_.free_cpus(), pool_.free_memory(), pool_.free_slots()};
    const std::optional<WaitingJob> next = waiting_.take_next(
        free, running_jobs(), clock_.steady_now(), [this](unsigned user_id) { return allowance(user_id); });
    if (!next) {
      break;
    }
    if (next->facts.deadline && next->facts.stay < kUnlimited &&
        now + next->facts.stay > *next->facts.deadline) {
      forget(next->job_id);
      end_waiting(next->job_id, next->attempt,
                  ended_before_start(JobState::deadline, Cause::cancelled,
                                     "its time limit would have ended after its deadline"),
                  {});
      continue;
    }
    if (!start(*next)) {
      break;
    }
  }
  arm_timer();
}

/// What goes by the system clock changes with it; the log says why.
void Daemon::notice_clock() {
  constexpr Milliseconds kNoticed{5000};
  const Milliseconds lead = lead_of(clock_);
  const Milliseconds change = lead - clock_lead_;
  clock_lead_ = lead;
  if (std::chrono::abs(change) > kNoticed) {
    log_warning("the system clock was set " + format_duration(std::chrono::abs(change)) +
                (change.count() > 0 ? " forwards" : " backwards") + ": begin times and deadlines go by it");
  }
}

void Daemon::arm_timer() {
  std::chrono::milliseconds sleep = kLongestSleep;
  if (const std::optional<Timestamp> next = waiting_.next_instant()) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*next - clock_.system_now());
    sleep = std::clamp<std::chrono::milliseconds>(left, std::chrono::milliseconds(1), sleep);
  }
  if (links_.size() < wanted_runners()) {
    sleep = std::min<std::chrono::milliseconds>(sleep, kRunnerRetry);
  }
  const SteadyTime wake = std::chrono::steady_clock::now() + sleep;
  if (wake >= wakes_at_) {
    return;  // it decides again too early rather than be set again at each decision
  }
  wakes_at_ = wake;
  timer_.expires_at(wake);
  timer_.async_wait([this](const boost::system::error_code& error) {
    if (error || stopping_) {
      return;
    }
    wakes_at_ = SteadyTime::max();
    const std::size_t before = links_.size();
    keep_runners();
    for (std::size_t index = before; index < links_.size(); ++index) {
      attach(links_[index]);
    }
    decide();
  });
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
  active.id = {key, job.attempt + 1};
  active.user_id = job.user_id;
  active.waiting = job;
  active.holds = {job.facts.cpus, lease->allocation().memory, 1};
  active.latest_end = clock_.steady_now() + job.facts.stay;
  active.runner = runner_for(job.facts.shared_network);
  ++active.runner->jobs;
  if (task) {
    active.array = job.job_id;
    active.task = task;
    active.waiting.facts.array_tasks.clear();
    active.waiting.facts.array_limit = 0;
    ++arrays_[job.job_id].running;
    if (!tasks.empty()) {
      WaitingJob rest = job;
      rest.facts.array_tasks = tasks.to_text();
      enqueue_rest(rest);
    }
  } else {
    forget(job.job_id);
  }
  const auto stored = std::make_shared<std::optional<StoredJob>>();
  committer_->commit(
      [job, task, left = tasks.to_text(), attempt = active.id.attempt, allocation = lease->allocation(),
       runner = active.runner->runner(), at = clock_.system_now(), stored](QueueStore& store) {
        const JobId id = task ? store.add_task(job.job_id, *task, left, at) : job.job_id;
        store.configure_on(runner, id, attempt, allocation, at);
        *stored = store.find_stored(id);
        crash_point("start.before_commit");
      },
      [this, key, stored](const std::exception_ptr& error) { commit_start(key, stored, error); });
  active.lease = std::move(lease);
  return true;
}

/// What is left of an array after a task has been taken from it: its dependencies have been fulfilled.
void Daemon::enqueue_rest(const WaitingJob& array) {
  const ArrayState& state = arrays_[array.job_id];
  waiting_.add(array, clock_.system_now(),
               array.facts.array_limit > 0 && state.running >= array.facts.array_limit);
}

/// The start is on the disk, or could not be.
void Daemon::commit_start(JobId key, const std::shared_ptr<std::optional<StoredJob>>& stored,
                          const std::exception_ptr& error) {
  crash_point("start.after_commit");
  auto node = active_.extract(key);
  if (node.empty()) {
    return;
  }
  Active& active = node.mapped();
  if (!error && stored->has_value()) {
    active.id.job_id = (*stored)->job_id;
    active.waiting.job_id = (*stored)->job_id;
    if (active.stop) {
      active.stop->id = active.id;
    }
    const std::string& text = (*stored)->spec_text;
    if (text.find("\"retry\"") != std::string::npos || text.find("\"requeue\"") != std::string::npos) {
      const JobSpec spec = parse_stored_job(text, job_name(active.id.job_id));
      active.rule = {spec.requeue, spec.retry};
    }
    if (!active.array && (*stored)->array_job_id) {  // a task that had a number before
      active.array = (*stored)->array_job_id;
      ++arrays_[*active.array].running;
    }
    const AttemptId id = active.id;
    node.key() = id.job_id;
    active_.insert(std::move(node));
    if (!active_.at(id.job_id).runner || !active_.at(id.job_id).runner->is_open()) {
      // The runner died while the start was being committed: nothing of it has run.
      Usage usage;
      const Outcome outcome = ended_before_start(JobState::node_fail, Cause::node_fail,
                                                 "the berth-runner that was to hold it died");
      finish(active_.at(id.job_id), outcome, usage, clock_.system_now(), nullptr);
      return;
    }
    if ((*stored)->array_job_id) {
      tell_task((*stored)->array_job_id, (*stored)->array_task_id, id.job_id);
    }
    send_start(id, **stored);
    committed();
    return;
  }
  if (active.runner) {
    --active.runner->jobs;
  }
  log_error(job_name(active.waiting.job_id) + ": " + (error ? text_of(error) : "is gone"));
  if (active.task) {
    task_left(*active.array);
    give_task_back(*active.array);
    tell_task(active.array, active.task, 0);
  } else if (active.stop) {
    end_waiting(active.waiting.job_id, active.waiting.attempt,
                ended_before_start(JobState::cancelled, Cause::cancelled, "cancelled before it started"), {});
  } else if (store_holds_as_waiting(active.waiting.job_id)) {
    enqueue(active.waiting, clock_.system_now());
  }
}

/// The database has the truth about which tasks have not started.
void Daemon::give_task_back(JobId array) {
  for (const JobSummary& job : reader_.summaries({std::nullopt, {JobState::pending}, std::nullopt})) {
    if (job.job_id == array && job.queue) {
      enqueue({array, job.user_id, 0, *job.queue}, clock_.system_now());
    }
  }
}

bool Daemon::store_holds_as_waiting(JobId job) {
  const std::optional<StoredJob> stored = reader_.find_stored(job);
  return stored && stored->state == JobState::pending;
}

void Daemon::send_start(AttemptId id, const StoredJob& stored) {
  Active* active = find_active(id.job_id);
  if (active == nullptr || active->id != id || !active->runner) {
    return;  // its runner died meanwhile
  }
  RunnerMessage message;
  message.kind = Kind::start;
  message.id = id;
  message.user = stored.user;
  message.user_id = stored.user_id;
  message.group_id = stored.group_id;
  message.array_job_id = stored.array_job_id;
  message.array_task_id = stored.array_task_id;
  message.spec_text = stored.spec_text;
  message.network = config_.network.of_user(stored.user_id);
  message.counters = true;
  if (active->lease) {
    message.allocation = active->lease->allocation();
  }
  if (auto waiters = start_waiters_.extract(id.job_id)) {
    for (const auto& [number, reply] : waiters.mapped()) {
      reply({id, active->runner->runner().cgroup});
    }
  }
  active->runner->send(message);
  crash_point("start.after_send");
  active->sent = true;
  if (active->stop) {
    active->runner->send(*active->stop);
  }
}

// -- what callers ask for -------------------------------------------------------------------------------

void Daemon::committed() {
  if (on_commit_) {
    on_commit_();
  }
}

void Daemon::check(const std::vector<NewJob>& jobs, const Actor& actor) {
  if (const auto most = config_.user_limits.waiting_jobs;
      most && !jobs.empty() && waiting_.size_of_user(jobs.front().user_id) + jobs.size() > *most) {
    throw ApiError(429, "with these more than " + std::to_string(*most) +
                            " of your jobs would wait (user_limits.waiting_jobs); wait for some to start");
  }
  std::vector<InputFault> faults;
  for (const NewJob& job : jobs) {
    if (const auto reason = pool_.never_fits({job.spec.cpus_per_task, job.spec.memory_per_node})) {
      faults.push_back({"job \"" + job.spec.name + "\"", "", "can never run here: it " + *reason});
    }
    try {
      check_dependency(job.spec.dependency, actor);
    } catch (const ApiError& error) {
      faults.push_back({"job \"" + job.spec.name + "\"", "/dependency", error.what()});
    }
  }
  if (!faults.empty()) {
    throw InputError(std::move(faults));
  }
}

/// On jobs that there are, and that the actor may see; and, of a job that waits already, not on itself over
/// whatever way.
void Daemon::check_dependency(const std::string& text, const Actor& actor, JobId dependent) {
  if (text.empty()) {
    return;
  }
  std::vector<JobId> way;
  for (const Dependency::Condition& condition : parse_dependency(text).conditions) {
    if (condition.type == Dependency::Type::singleton) {
      continue;
    }
    (void)require(condition.job, actor);
    if (condition.task && !reader_.find_task(condition.job, *condition.task) &&
        !has_waiting_task(condition.job, *condition.task)) {
      throw ApiError(
          404, "job " + std::to_string(condition.job) + " has no task " + std::to_string(*condition.task));
    }
    way.push_back(condition.job);
  }
  std::set<JobId> seen;
  while (dependent != 0 && !way.empty()) {
    const JobId job = way.back();
    way.pop_back();
    if (job == dependent) {
      throw ApiError(422, job_name(dependent) + " would wait for itself");
    }
    const auto found = seen.insert(job).second ? dependents_.find(job) : dependents_.end();
    for (std::size_t index = 0;
         found != dependents_.end() && index < found->second.dependency.conditions.size(); ++index) {
      way.push_back(found->second.dependency.conditions[index].job);
    }
  }
}

std::optional<Timestamp> Daemon::would_start(const NewJob& job) {
  const QueueFacts& facts = *job.queue;
  if (draining_ || facts.hold != Hold::none || !facts.dependency.empty() ||
      !allowance(job.user_id).holds(waiting_.wanted_by(facts))) {
    return std::nullopt;
  }
  constexpr auto kLast = static_cast<std::size_t>(std::numeric_limits<std::int64_t>::max());
  std::vector<QueuedJob> before = waiting_.first(kLookedAhead);
  const auto place = std::find_if(before.begin(), before.end(),
                                  [&](const QueuedJob& queued) { return queued.priority < facts.priority; });
  if (place == before.end() && before.size() == kLookedAhead) {
    return std::nullopt;  // somewhere behind
  }
  before.insert(place, {facts.priority, kLast, waiting_.wanted_by(facts), facts.stay, job.user_id});
  const std::optional<Timestamp> start = start_of(kLast, before);
  return start && facts.begin ? std::max(*start, *facts.begin) : start;
}

void Daemon::submit(std::vector<NewJob> jobs, const Actor& actor, SubmitReply reply) {
  check(jobs, actor);
  const auto ids = std::make_shared<std::vector<JobId>>();
  const auto shared = std::make_shared<std::vector<NewJob>>(std::move(jobs));
  committer_->commit(
      [shared, ids](QueueStore& store) {
        *ids = store.submit(*shared, queue_supervisor());
        crash_point("submit.before_commit");
      },
      [this, shared, ids, reply = std::move(reply)](const std::exception_ptr& error) {
        crash_point("submit.after_commit");
        if (!error) {
          const Timestamp now = clock_.system_now();
          for (std::size_t index = 0; index < ids->size(); ++index) {
            const NewJob& job = (*shared)[index];
            enqueue({(*ids)[index], job.user_id, 0, *job.queue}, now);
          }
          schedule();
        }
        reply(error, *ids);
        committed();
      });
}

Daemon::Active* Daemon::find_active(JobId job) {
  const auto found = active_.find(job);
  return found == active_.end() ? nullptr : &found->second;
}

StoredJob Daemon::require(JobId job, const Actor& actor) {
  std::optional<StoredJob> stored = reader_.find_stored(job);
  if (!stored || (!actor.administrator && stored->user_id != actor.user_id)) {
    throw ApiError(404, "there is no job " + std::to_string(job) + (stored ? " of yours" : ""));
  }
  return std::move(*stored);
}

WaitingJob Daemon::require_waiting(JobId job, const Actor& actor) {
  const StoredJob stored = require(job, actor);
  std::optional<WaitingJob> waiting = waiting_.find(job);
  if (!waiting) {
    throw ApiError(409, job_name(job) + " is " + std::string(to_string(stored.state)) + " and does not wait");
  }
  return std::move(*waiting);
}

Daemon::Active& Daemon::require_active(JobId job, const Actor& actor) {
  const StoredJob stored = require(job, actor);
  Active* active = find_active(job);
  if (active == nullptr || !active->runner) {
    throw ApiError(409, job_name(job) + " is " + std::string(to_string(stored.state)) + " and does not run");
  }
  return *active;
}

void Daemon::end_waiting(JobId job, unsigned attempt, const Outcome& outcome, Reply reply) {
  const auto array_end = std::make_shared<ArrayEnd>();
  committer_->commit_surely(
      [job, attempt, outcome, array_end, at = clock_.system_now()](QueueStore& store) {
        const std::optional<StoredJob> stored = store.find_stored(job);
        store.finish(job, stored ? stored->attempt : attempt, outcome, {}, at);
        if (stored && stored->array_job_id) {
          *array_end = {stored->array_job_id, store.settle_array(*stored->array_job_id, at)};
        }
        crash_point("cancel.before_commit");
      },
      [this, job, outcome, array_end, reply = std::move(reply)](const std::exception_ptr& error) {
        crash_point("cancel.after_commit");
        if (error) {
          log_error(job_name(job) + ": " + text_of(error));
        }
        tell_end(job, {outcome.state, exit_status(outcome)});
        release_dependents(job, array_end->array);
        if (array_end->state) {
          tell_array_end(*array_end->array, *array_end->state);
        }
        if (reply) {
          reply(error);
        }
        committed();
      });
}

void Daemon::cancel(JobId job, const Actor& actor, bool at_once, Reply reply) {
  const StoredJob stored = require(job, actor);
  if (Active* active = find_active(job); active != nullptr && active->runner) {
    active->requeue = false;
    RunnerMessage stop;
    stop.kind = Kind::stop;
    stop.id = active->id;
    stop.at_once = at_once;
    crash_point("cancel.before_send");
    if (active->sent) {
      active->runner->send(stop);
      crash_point("cancel.after_send");
    } else {
      active->stop = stop;
    }
    reply(nullptr);
    return;
  }
  const std::vector<JobId> tasks = stored.array_job_id ? std::vector<JobId>() : reader_.array_tasks(job);
  for (const JobId task : tasks) {
    if (is_over(task)) {
      continue;
    }
    try {
      cancel(task, actor, at_once, [](const std::exception_ptr&) {});
    } catch (const ApiError&) {
      // It has just ended.
    }
  }
  for (auto& [key, active] : active_) {
    if (active.array == job && key < 0) {  // a task whose start is being committed
      active.stop.emplace();
      active.stop->kind = Kind::stop;
      active.stop->at_once = at_once;
    }
  }
  if (const std::optional<WaitingJob> waiting = waiting_.find(job)) {
    waiting_.remove(job);
    forget(job);
    end_waiting(job, waiting->attempt,
                ended_before_start(JobState::cancelled, Cause::cancelled,
                                   "cancelled by " + actor.name + " before it started"),
                std::move(reply));
    return;
  }
  if (!tasks.empty() && !is_final(stored.state)) {
    reply(nullptr);
    return;
  }
  throw ApiError(
      409, job_name(job) + " is " + std::string(to_string(stored.state)) + ": there is nothing to cancel");
}

void Daemon::change(const WaitingJob& job, const std::string& action, const Actor& actor,
                    const std::string& spec_text, Reply reply) {
  const auto before = std::make_shared<WaitingJob>(waiting_.find(job.job_id).value_or(job));
  // Holds from now on, so that the job does not start with what it is being changed from; but it goes on
  // waiting, so that it can be cancelled, or changed again, meanwhile.
  enqueue(job, clock_.system_now());
  committer_->commit([job, detail = action_detail(action, actor), spec_text, at = clock_.system_now()](
                         QueueStore& store) { store.change(job.job_id, job.facts, at, detail, spec_text); },
                     [this, job, before, reply = std::move(reply)](const std::exception_ptr& error) {
                       settle_change(*before, job, error != nullptr);
                       reply(error);
                       committed();
                     });
}

/// The change is on the disk, or could not be. The job may have started, ended or been changed again since.
void Daemon::settle_change(const WaitingJob& before, const WaitingJob& changed, bool failed) {
  std::optional<WaitingJob> now = waiting_.find(changed.job_id);
  if (!now) {
    return;
  }
  const std::string tasks = now->facts.array_tasks;
  QueueFacts asked = changed.facts;
  asked.array_tasks = tasks;
  if (failed && now->facts == asked) {
    now->facts = before.facts;
    now->facts.array_tasks = tasks;
  }
  enqueue(*now, clock_.system_now());  // the name, by which singletons go, is in the database only now
  examine_singletons();
  schedule();
}

void Daemon::hold(JobId job, const Actor& actor, Reply reply) {
  WaitingJob waiting = require_waiting(job, actor);
  // Nobody weakens an administrator's hold by a hold of their own.
  const bool is_administrators =
      waiting.facts.hold == Hold::administrator || (actor.administrator && waiting.user_id != actor.user_id);
  waiting.facts.hold = is_administrators ? Hold::administrator : Hold::user;
  change(waiting, "hold", actor, "", std::move(reply));
}

void Daemon::release(JobId job, const Actor& actor, Reply reply) {
  WaitingJob waiting = require_waiting(job, actor);
  if (waiting.facts.hold == Hold::administrator && !actor.administrator) {
    throw ApiError(403, job_name(job) + " is held by an administrator, who alone can release it");
  }
  waiting.facts.hold = Hold::none;
  change(waiting, "release", actor, "", std::move(reply));
}

void Daemon::update(JobId job, const Actor& actor, const std::function<void(QueueFacts&, std::string&)>& edit,
                    Reply reply) {
  WaitingJob waiting = require_waiting(job, actor);
  std::string spec_text = require(job, actor).spec_text;
  edit(waiting.facts, spec_text);
  change(waiting, "update", actor, spec_text, std::move(reply));
}

void Daemon::suspend(JobId job, const Actor& actor, bool suspended, Reply reply) {
  Active& active = require_active(job, actor);
  const JobState wanted = suspended ? JobState::running : JobState::suspended;
  if (active.state != wanted) {
    throw ApiError(409, job_name(job) + " is " + std::string(to_string(active.state)) + ", not " +
                            std::string(to_string(wanted)));
  }
  RunnerMessage message;
  message.kind = suspended ? Kind::suspend : Kind::resume;
  message.id = active.id;
  active.runner->send(message);
  active.state = suspended ? JobState::suspended : JobState::running;
  active.start_commit = 0;  // a suspension is recorded between start and end
  committer_->commit_surely([id = active.id, suspended, at = clock_.system_now()](
                                QueueStore& store) { store.suspend(id.job_id, id.attempt, suspended, at); },
                            [this, reply = std::move(reply)](const std::exception_ptr& error) {
                              reply(error);
                              committed();
                            });
}

void Daemon::signal(JobId job, const Actor& actor, int signal_number, const Reply& reply) {
  Active& active = require_active(job, actor);
  if (active.state == JobState::configuring) {
    throw ApiError(409, job_name(job) + " has not started yet");
  }
  RunnerMessage message;
  message.kind = Kind::signal;
  message.id = active.id;
  message.signal_number = signal_number;
  active.runner->send(message);
  reply(nullptr);
}

Daemon::RunningAttempt Daemon::require_running(JobId job, const Actor& actor) {
  const Active& active = require_active(job, actor);
  if (active.state != JobState::running) {
    throw ApiError(409,
                   job_name(job) + " is " + std::string(to_string(active.state)) +
                       (active.state == JobState::suspended ? "; resume it first" : " and does not run yet"));
  }
  return {active.id, active.runner->runner().cgroup};
}

std::optional<Daemon::RunningAttempt> Daemon::find_attempt(JobId job, unsigned after) const {
  const auto found = active_.find(job);
  if (found == active_.end() || !found->second.sent || !found->second.runner ||
      found->second.id.attempt <= after) {
    return std::nullopt;
  }
  return RunningAttempt{found->second.id, found->second.runner->runner().cgroup};
}

std::uint64_t Daemon::wait_for_start(JobId job, StartReply reply) {
  start_waiters_[job].emplace(++last_waiter_, std::move(reply));
  return last_waiter_;
}

void Daemon::cancel_wait_for_start(JobId job, std::uint64_t number) {
  const auto found = start_waiters_.find(job);
  if (found != start_waiters_.end() && found->second.erase(number) > 0 && found->second.empty()) {
    start_waiters_.erase(found);
  }
}

void Daemon::requeue(JobId job, const Actor& actor, Reply reply) {
  const StoredJob stored = require(job, actor);
  if (Active* active = find_active(job); active != nullptr) {
    if (!active->runner) {
      throw ApiError(409, job_name(job) + " is ending; try again");
    }
    active->requeue = true;
    RunnerMessage stop;
    stop.kind = Kind::stop;
    stop.id = active->id;
    stop.cause = Cause::preempted;
    if (active->sent) {
      active->runner->send(stop);
    } else {
      active->stop = stop;
    }
    reply(nullptr);
    return;
  }
  if (!is_final(stored.state)) {
    throw ApiError(409, job_name(job) + " is " + std::string(to_string(stored.state)) + " and waits already");
  }
  WaitingJob again;
  again.job_id = job;
  again.user_id = stored.user_id;
  again.attempt = stored.attempt;
  again.facts = task_facts(parse_stored_job(stored.spec_text, job_name(job)), stored);
  again.facts.hold = Hold::none;
  again.facts.begin.reset();
  if (!again.facts.array_tasks.empty()) {
    throw ApiError(409, job_name(job) + " is an array: requeue its tasks, or submit it again");
  }
  committer_->commit(
      [again, detail = action_detail("requeue", actor), at = clock_.system_now()](QueueStore& store) {
        store.requeue(again.job_id, again.facts, at, detail);
        crash_point("requeue.before_commit");
      },
      [this, again, reply = std::move(reply)](const std::exception_ptr& error) {
        crash_point("requeue.after_commit");
        if (!error) {
          enqueue(again, clock_.system_now());
          schedule();
        }
        reply(error);
        committed();
      });
}

std::uint64_t Daemon::wait_for(JobId job, EndReply reply) {
  const std::optional<StoredJob> stored = reader_.find_stored(job);
  if (stored && is_final(stored->state) && !waiting_.contains(job) && !active_.contains(job)) {
    const std::vector<AccountingRecord> records = reader_.find(job);
    const bool has_outcome =
        !records.empty() && records.back().outcome && stored->state == records.back().state;
    // An array has no outcome of its own.
    const int without = stored->state == JobState::completed   ? 0
                        : stored->state == JobState::cancelled ? 143
                                                               : 1;
    reply({stored->state, has_outcome ? exit_status(*records.back().outcome) : without});
    return 0;
  }
  waiters_[job].emplace(++last_waiter_, std::move(reply));
  return last_waiter_;
}

void Daemon::cancel_wait(JobId job, std::uint64_t number) {
  const auto found = waiters_.find(job);
  if (found != waiters_.end()) {
    found->second.erase(number);
    if (found->second.empty()) {
      waiters_.erase(found);
    }
  }
}

void Daemon::tell_end(JobId job, const JobEnd& end) {
  tell_task(job, std::nullopt, 0);
  if (auto waiters = waiters_.extract(job)) {
    for (const auto& [number, reply] : waiters.mapped()) {
      reply(end);
    }
  }
}

void Daemon::tell_array_end(JobId array, JobState state) {
  tell_end(array, {state, state == JobState::completed ? 0 : 1});
  release_dependents(array, std::nullopt);
}

// -- tasks of arrays that have no number yet ------------------------------------------------------------

bool Daemon::is_task_on_its_way(JobId array, unsigned task) const {
  return separating_.contains({array, task}) ||
         std::any_of(active_.begin(), active_.end(), [&](const auto& one) {
           return one.first < 0 && one.second.array == array && one.second.task == task;
         });
}

bool Daemon::has_waiting_task(JobId array, unsigned task) const {
  const std::optional<WaitingJob> waiting = waiting_.find(array);
  return waiting && IndexList::parse(waiting->facts.array_tasks).contains(task);
}

void Daemon::separate_task(JobId array, unsigned task, TaskReply reply) {
  WaitingJob rest = *waiting_.find(array);
  WaitingJob single = rest;
  single.facts.array_tasks.clear();
  single.facts.array_limit = 0;
  if (!dependents_.contains(array)) {
    single.facts.dependency.clear();  // it has been fulfilled
  }
  IndexList tasks = IndexList::parse(rest.facts.array_tasks);
  tasks.erase(task);
  rest.facts.array_tasks = tasks.to_text();
  if (tasks.empty()) {
    waiting_.remove(array);
    forget(array);
  } else {
    enqueue(rest, clock_.system_now());
  }
  separating_.emplace(array, task);
  const auto id = std::make_shared<JobId>(0);
  committer_->commit(
      [array, task, single, id, left = tasks.to_text(), at = clock_.system_now()](QueueStore& store) {
        *id = store.add_task(array, task, left, at);
        store.change(*id, single.facts, at, R"({"action":"separate"})", "");
      },
      [this, array, task, single, id, reply = std::move(reply)](const std::exception_ptr& error) mutable {
        separating_.erase({array, task});
        if (error) {
          give_task_back(array);
          tell_task(array, task, 0);
          reply(error, 0);
          return;
        }
        single.job_id = *id;
        enqueue(single, clock_.system_now());
        schedule();
        tell_task(array, task, *id);
        reply(nullptr, *id);
        committed();
      });
}

std::uint64_t Daemon::wait_for_task(JobId array, unsigned task, std::function<void(JobId)> reply) {
  task_waiters_[array].emplace(++last_waiter_, TaskWaiter{task, std::move(reply)});
  return last_waiter_;
}

void Daemon::cancel_wait_for_task(JobId array, std::uint64_t number) {
  const auto found = task_waiters_.find(array);
  if (found != task_waiters_.end() && found->second.erase(number) > 0 && found->second.empty()) {
    task_waiters_.erase(found);
  }
}

/// The task has a number; 0: it will never have one. `task` empty: of all tasks.
void Daemon::tell_task(std::optional<JobId> array, std::optional<unsigned> task, JobId id) {
  const auto found = array ? task_waiters_.find(*array) : task_waiters_.end();
  if (found == task_waiters_.end()) {
    return;
  }
  std::vector<std::function<void(JobId)>> replies;
  for (auto waiter = found->second.begin(); waiter != found->second.end();) {
    if (!task || waiter->second.task == *task) {
      replies.push_back(std::move(waiter->second.reply));
      waiter = found->second.erase(waiter);
    } else {
      ++waiter;
    }
  }
  if (found->second.empty()) {
    task_waiters_.erase(found);
  }
  for (const auto& reply : replies) {
    reply(id);
  }
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

std::size_t Daemon::jobs_before(JobId job) const {
  const std::vector<QueuedJob> first = waiting_.first(kLookedAhead);
  const auto found = std::find_if(first.begin(), first.end(), [&](const QueuedJob& queued) {
    return queued.sequence == static_cast<std::size_t>(job);
  });
  return static_cast<std::size_t>(found - first.begin());
}

std::optional<Timestamp> Daemon::expected_start(JobId job) {
  return start_of(static_cast<std::size_t>(job), waiting_.first(kLookedAhead));
}

std::optional<Timestamp> Daemon::start_of(std::size_t sequence, const std::vector<QueuedJob>& waiting) {
  const Resources free{pool_.free_cpus(), pool_.free_memory(), pool_.free_slots()};
  const std::optional<SteadyTime> start =
      latest_start(sequence, waiting, free, running_jobs(), clock_.steady_now());
  if (draining_ || !start) {
    return std::nullopt;
  }
  return clock_.system_now() + std::chrono::duration_cast<Timestamp::duration>(*start - clock_.steady_now());
}

/// Lasts over restarts: a file says so.
void Daemon::drain(bool draining) {
  if (draining) {
    std::ofstream file(config_.drain_file());
    if (!file.flush()) {
      throw ApiError(507,
                     config_.drain_file() + ": cannot be made, so draining would not last over a restart");
    }
  } else {
    std::filesystem::remove(config_.drain_file());
  }
  draining_ = draining;
  schedule();
}

std::vector<Daemon::RunningView> Daemon::running() const {
  std::vector<RunningView> views;
  for (const auto& [job, active] : active_) {
    if (active.lease && active.runner && job > 0) {  // below 0: a task that has no number yet
      views.push_back({job, active.user_id, active.lease->allocation(), active.runner->runner().cgroup});
    }
  }
  return views;
}

void Daemon::note_damage(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const StoreError& failure) {
    if (failure.kind() == StoreError::Kind::damaged && store_damage_.empty()) {
      store_damage_ = std::string(failure.what()) + "\n" + remedy_for_damage(config_, clock_.system_now());
      log_error(store_damage_);
    }
  } catch (const std::exception&) {
    // Of something else.
  }
}

// -- retention ------------------------------------------------------------------------------------------

void Daemon::forget_again_after(std::chrono::milliseconds pause) {
  retention_timer_.expires_after(pause);
  retention_timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error && !stopping_) {
      forget_old_jobs();
    }
  });
}

/// The system clock, but not ahead of when berthd started and what has passed since: history that a clock set
/// to the next year makes old is not forgotten.
Timestamp Daemon::cautious_now() const {
  const Milliseconds ahead = lead_of(clock_) - first_clock_lead_;
  return clock_.system_now() - std::max(ahead, Milliseconds(0));
}

/// One step; the next one follows soon when there was something to do.
void Daemon::forget_old_jobs() {
  const DaemonConfig::Retain& retain = config_.retain;
  if ((!retain.age && !retain.jobs) || !store_trouble().empty()) {
    forget_again_after(kForgettingInterval);
    return;
  }
  Retention rule;
  if (retain.age) {
    rule.since = cautious_now() - *retain.age;
  }
  rule.jobs = retain.jobs;
  for (const auto& [job, dependents] : depended_on_) {
    rule.needed.push_back(job);
  }
  for (const auto& [array, dependents] : task_depended_on_) {
    const std::vector<JobId> tasks = reader_.array_tasks(array);
    rule.needed.push_back(array);
    rule.needed.insert(rule.needed.end(), tasks.begin(), tasks.end());
  }
  for (const auto& [job, waiters] : waiters_) {
    rule.needed.push_back(job);
  }
  const auto is_done = std::make_shared<bool>(true);
  committer_->commit(
      [rule, is_done](QueueStore& store) {
        const std::size_t forgotten = store.forget_ended(rule, kForgottenAtOnce);
        *is_done = forgotten < kForgottenAtOnce && store.give_back_pages(kPagesAtOnce) < kPagesAtOnce;
      },
      [this, is_done](const std::exception_ptr& error) {
        if (error) {
          log_warning("ended jobs were not removed from the database: " + text_of(error));
        }
        forget_again_after(error || *is_done ? kForgettingInterval : kForgettingPause);
      });
}

void Daemon::reconfigure(const DaemonConfig& config) {
  DaemonConfig next = config_;
  next.user_limits = config.user_limits;
  next.api = config.api;
  next.administrators = config.administrators;
  next.retain = config.retain;
  next.backup = config.backup;
  next.log_level = config.log_level;
  next.network = config.network;
  if (!(next == config)) {
    log_warning(
        "only user_limits, api, administrators, network, history and log_level change without a restart of "
        "berthd");
  }
  config_ = std::move(next);
  schedule();
  forget_again_after(kForgettingPause);
}

}  // namespace berth
