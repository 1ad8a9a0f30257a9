// Daemon's runners: what a restart takes over of them, their messages, their end.
#include <algorithm>
#include <boost/asio/post.hpp>
#include <filesystem>
#include <tuple>

#include "scheduler/crash_point.h"
#include "scheduler/daemon.h"
#include "scheduler/daemon_detail.h"
#include "scheduler/loop_error.h"
#include "scheduler/number_mark.h"
#include "scheduler/recovery.h"
#include "scheduler/stream_request.h"
#include "schemas/input_error.h"
#include "schemas/job_file.h"

namespace berth {
namespace {

/// Between attempts to remove what a dead runner has left.
constexpr std::chrono::seconds kLeftoverRetry{5};

/// Slurm's max_batch_requeue.
constexpr unsigned kMostFailedStarts = 5;

/// It ran, and its runner was told that its record is on the disk: of a newer database than this one.
constexpr const char* kRecordLost = "its record was lost when the database was restored from an older copy";

/// An attempt that started after the copy was made that the database was restored from. What it was granted
/// nobody knows.
void start_unheard_of(QueueStore& store, const RunnerMessage& ended) {
  store.configure_on(queue_supervisor(), ended.id.job_id, ended.id.attempt, {}, *ended.started_at);
  store.run(ended.id.job_id, ended.id.attempt, *ended.started_at);
}

/// For how long the attempt has been suspended, as its events tell.
SteadyTime::duration suspended_until(const std::vector<JobEvent>& events, unsigned attempt, Timestamp now) {
  SteadyTime::duration sum{0};
  std::optional<Timestamp> since;
  for (const JobEvent& event : events) {
    if (event.attempt == attempt && event.state == JobState::suspended) {
      since = since ? since : event.at;
    } else if (since) {
      sum += std::max(event.at - *since, Timestamp::duration(0));
      since.reset();
    }
  }
  return since ? sum + std::max(now - *since, Timestamp::duration(0)) : sum;
}

/// A database that was begun anew, or an older copy, gives none of these numbers again, nor one of these
/// jobs'.
void leave_out_numbers(QueueStore& store, GivenNumbers numbers, const std::vector<AttemptId>& jobs) {
  for (const AttemptId& id : jobs) {
    numbers.job = std::max(numbers.job, id.job_id);
  }
  store.leave_out(numbers);
}

bool knows(const RunnerLink& runner, const AttemptId& id) {
  const std::vector<AttemptId>& known = runner.hello().jobs;
  return std::find(known.begin(), known.end(), id) != known.end();
}

/// Nothing where this build refuses what another took: berthd starts all the same, and no attempt follows.
std::optional<JobSpec> read_spec(const StoredJob& stored) {
  try {
    return parse_stored_job(stored.spec_text, job_name(stored.job_id));
  } catch (const InputError& error) {
    log_error(job_name(stored.job_id) +
              " cannot be read from the database, and does not run again by itself: " + error.what());
    return std::nullopt;
  }
}

/// What a job is known to hold of which nothing else can be read.
QueueFacts facts_of(const Allocation& allocation) {
  QueueFacts facts;
  facts.cpus = static_cast<unsigned>(allocation.cpus.size());
  facts.memory = allocation.memory;
  facts.stay = kUnlimited;
  return facts;
}

/// Those of an attempt that was granted so much: after OUT_OF_MEMORY more than its job file says.
QueueFacts with_granted(QueueFacts facts, const JobSpec& spec, unsigned attempt, Bytes memory) {
  if (attempt > 1 && spec.retry && spec.retry->memory_factor > 1) {
    facts.memory = std::max(facts.memory.value_or(0), memory);
  }
  return facts;
}

/// As which it runs again after an attempt that ended so.
std::optional<QueueFacts> facts_of_next(QueueStore& store, const StoredJob& stored, AttemptId id,
                                        const Outcome& outcome, Timestamp now) {
  const std::optional<JobSpec> spec = read_spec(stored);
  if (!spec) {
    return std::nullopt;
  }
  const std::vector<AccountingRecord> records = store.find(id.job_id);
  const bool has_memory = !records.empty() && records.back().allocation;
  const Bytes memory = has_memory ? records.back().allocation->memory : 0;
  const QueueFacts facts = with_granted(task_facts(*spec, stored), *spec, id.attempt, memory);
  if (outcome.cause == Cause::preempted) {  // by berth requeue, or by a runner that is leaving
    return facts;
  }
  return facts_of_retry({spec->requeue, spec->retry}, facts, memory, id.attempt, outcome, now);
}

/// Names of the cgroups of those that began since the machine was started.
std::set<std::string> runners_of(const std::vector<OpenAttempt>& attempts) {
  std::set<std::string> runners;
  for (const OpenAttempt& open : attempts) {
    if (of_this_boot(open.supervisor)) {
      runners.insert(open.supervisor.cgroup);
    }
  }
  return runners;
}

/// A job that its runner did not start any more, as that was leaving, waits again, unless it was cancelled.
void tell_canceller(RunnerMessage& ended, const std::string& canceller) {
  if (!canceller.empty() && !ended.started_at && ended.outcome.state == JobState::preempted) {
    ended.outcome = cancelled_before_start(canceller);
  }
  name_canceller(ended.outcome, canceller);
}

}  // namespace

// -- taking over after a restart ------------------------------------------------------------------------

/// Records of jobs that ended while there was no berthd.
void Daemon::take_in_spool(QueueStore& store) {
  std::vector<std::string> problems;
  std::vector<RunnerMessage> records = spool_.read_all(problems);
  std::vector<AttemptId> spooled;
  spooled.reserve(records.size());
  for (const RunnerMessage& record : records) {
    spooled.push_back(record.id);
  }
  leave_out_numbers(store, read_number_mark(config_.number_file()).value_or(GivenNumbers{}), spooled);
  for (RunnerMessage& record : records) {
    try {
      store.together([&] {
        if (store.has_record(record.id.job_id, record.id.attempt)) {
          return;  // with what followed from it; berthd ended before it could remove the file
        }
        const std::optional<KnownJob> stored = store.find_known(record.id.job_id);
        const bool is_unheard_of = stored && stored->state == JobState::pending &&
                                   record.id.attempt > stored->attempt && record.started_at;
        if (is_unheard_of) {
          start_unheard_of(store, record);
        } else if (stored && stored->state == JobState::configuring && record.started_at) {
          store.run(record.id.job_id, record.id.attempt, *record.started_at);
        }
        tell_canceller(record, store.canceller(record.id.job_id, record.id.attempt).value_or(""));
        store.finish(record.id.job_id, record.id.attempt, record.outcome, record.usage, record.at);
        settle_attempt(store, record.id, record.outcome);
      });
    } catch (const StoreError& error) {
      const std::optional<KnownJob> stored = store.find_known(record.id.job_id);
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

/// A retry with more memory has all that there is at most.
QueueFacts Daemon::fitted(QueueFacts facts) const {
  if (facts.memory) {
    facts.memory = std::min(*facts.memory, pool_.total_memory());
  }
  return facts;
}

/// What follows from the end of an attempt that no berthd was there to see: the next one, or its array's end.
void Daemon::settle_attempt(QueueStore& store, AttemptId id, const Outcome& outcome) {
  const StoredJob stored = *store.find_stored(id.job_id);
  const std::optional<QueueFacts> again = facts_of_next(store, stored, id, outcome, clock_.system_now());
  if (again && !store.canceller(id.job_id, id.attempt)) {
    store.requeue(id.job_id, fitted(*again), clock_.system_now(),
                  outcome.cause == Cause::preempted ? R"({"action":"requeue"})" : R"({"action":"retry"})");
  } else if (stored.array_job_id) {
    store.settle_array(*stored.array_job_id, clock_.system_now());
  }
}

void Daemon::take_over(QueueStore& store) {
  FoundRunners runners = find_runners(loop_, runner_paths(), runners_of(store.running_attempts()));
  take_in_spool(store);  // what runners have spooled before they ended, while others were waited for
  const std::vector<OpenAttempt> open_attempts = store.running_attempts();
  links_ = std::move(runners.alive);
  const std::string program = program_identity(config_.runner_program);
  for (const auto& link : links_) {
    link->outdated = link->hello().program != program;
  }
  std::vector<AttemptId> held;
  for (const auto& link : links_) {
    held.insert(held.end(), link->hello().jobs.begin(), link->hello().jobs.end());
  }
  leave_out_numbers(store, {}, held);
  const auto was_killed = [&](const Supervisor& runner) {
    return of_this_boot(runner) &&
           std::find(runners.killed.begin(), runners.killed.end(), runner.cgroup) != runners.killed.end();
  };
  std::vector<Supervisor> dead;
  for (const OpenAttempt& open : open_attempts) {
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
                                    : node_failure(open.supervisor, id, usage, was_killed(open.supervisor));
    store.together([&] {
      store.finish(open.job_id, open.attempt, outcome, usage,
                   latest_end(of_this_boot(open.supervisor), open.start, clock_.system_now()));
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
    if (of_this_boot(runner)) {
      remove_leftovers(runner);
    }
  }
  spool_.remove_unfinished(held);
}

/// An attempt of a runner that lives. One that the runner does not know was never sent to it.
void Daemon::adopt(const OpenAttempt& open, const StoredJob& stored) {
  const auto link = *std::find_if(links_.begin(), links_.end(),
                                  [&](const auto& one) { return one->runner() == open.supervisor; });
  const std::optional<JobSpec> spec = read_spec(stored);
  const AttemptId id{open.job_id, open.attempt};
  Active& active = active_[open.job_id];
  active.id = id;
  active.user_id = stored.user_id;
  active.waiting.job_id = open.job_id;
  active.waiting.user_id = stored.user_id;
  const Bytes memory = open.allocation->memory;
  active.waiting.facts = spec ? with_granted(task_facts(*spec, stored), *spec, open.attempt, memory)
                              : facts_of(*open.allocation);
  active.lease = pool_.adopt(*open.allocation);
  active.holds = {active.waiting.facts.cpus, memory, 1};
  active.latest_end = clock_.steady_now() + active.waiting.facts.stay;
  active.runner = link;
  active.state = open.state;
  active.start_committed = true;
  if (active.state == JobState::suspended) {
    active.latest_end += kUnlimited;
    active.suspended_at = clock_.steady_now();
  }
  active.suspended_for = suspended_until(reader_.events(id.job_id), id.attempt, clock_.system_now());
  active.sent = knows(*link, id);
  if (!active.lease) {
    log_warning(job_name(open.job_id) + " goes on beside the pool, which has not got its CPUs any more");
  }
  active.rule = spec ? RetryRule{spec->requeue, spec->retry} : RetryRule{};
  active.canceller = reader_.canceller(id.job_id, id.attempt);
  active.stopping = active.canceller.has_value();
  active.array = stored.array_job_id;
  if (active.array) {
    ++arrays_[*active.array];
  }
  if (active.sent) {
    boost::asio::post(loop_, [this, id] { tell_again(id); });
  } else {
    if (active.canceller) {
      active.stop = stop_message(id, true, *active.canceller);
    }
    ++link->jobs;
    boost::asio::post(loop_, [this, id, stored] { send_start(id, stored); });
  }
}

/// What the berthd before told the runner may not have come into the database, nor what it recorded to the
/// runner.
void Daemon::tell_again(AttemptId id) {
  Active* active = find_active(id.job_id);
  if (active == nullptr || active->id != id || !active->runner) {
    return;
  }
  active->runner->send(pause_message(id, active->state == JobState::suspended));
  if (const auto canceller = reader_.canceller(id.job_id, id.attempt)) {
    stop(*active, stop_message(id, false, *canceller));
  }
}

/// A job that waits, and that a runner has a later attempt of, waits in an older copy of the database
/// (berthd --restore): it is held, lest it run a second time. Where a runner has jobs that the copy does not
/// know at all, so is every array, whose tasks they may be.
void Daemon::load_queue(QueueStore& store) {
  const Timestamp now = clock_.system_now();
  std::unordered_map<JobId, unsigned> attempts;
  bool has_unknown = false;
  for (const auto& link : links_) {
    for (const AttemptId& id : link->hello().jobs) {
      attempts[id.job_id] = std::max(attempts[id.job_id], id.attempt);
      if (!store.find_known(id.job_id)) {
        has_unknown = true;
        log_error(job_name(id.job_id) + " runs in " + link->runner().cgroup +
                  " and is not in the database, which is an older copy: nothing of it will be recorded");
      }
    }
  }
  std::vector<WaitingJob> running;
  store.visit_queue([&](WaitingJob&& job) {
    const auto attempt = attempts.find(job.job_id);
    const bool may_run = has_unknown && !job.facts.array_tasks.empty();
    if (may_run || (attempt != attempts.end() && attempt->second > job.attempt)) {
      running.push_back(std::move(job));
    } else {
      enqueue(job, now);
    }
  });
  for (WaitingJob& job : running) {
    log_warning(job_name(job.job_id) + " waits in the database and runs, or tasks of it may: it is held");
    job.facts.hold = Hold::administrator;
    store.change(job.job_id, job.facts, now,
                 hold_detail("it may run already, as the database is an older copy"), "");
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

// -- runners --------------------------------------------------------------------------------------------

bool Daemon::lacks_runners() const {
  const auto usable = std::count_if(links_.begin(), links_.end(),
                                    [](const auto& link) { return !link->outdated && !link->leaving; });
  return static_cast<std::size_t>(usable) < wanted_runners();
}

bool Daemon::has_runner() const {
  return std::any_of(links_.begin(), links_.end(), [](const auto& link) { return !link->leaving; });
}

/// As far as they can be started.
void Daemon::start_first_runners() {
  while (lacks_runners()) {
    try {
      links_.push_back(start_runner(loop_, runner_paths()));
    } catch (const std::exception& error) {
      log_error(error.what());
      return;
    }
  }
}

/// Those that have died, one after the other. It takes seconds where systemd does not answer: nobody waits.
void Daemon::replace_runners() {
  if (!starting_runner_ && lacks_runners()) {
    starting_runner_ = std::make_unique<SideThread>([this, paths = runner_paths()] {
      std::shared_ptr<RunnerLink> link;
      std::string problem;
      try {
        link = start_runner(loop_, paths);
      } catch (const std::exception& error) {
        problem = error.what();
      }
      boost::asio::post(loop_, [this, link, problem] { handle_runner_start(link, problem); });
    });
  }
  const std::vector<std::shared_ptr<RunnerLink>> links = links_;
  for (const auto& link : links) {
    retire_if_outdated(link);
  }
}

/// Without `link` it is tried again when the timer says so.
void Daemon::handle_runner_start(const std::shared_ptr<RunnerLink>& link, const std::string& problem) {
  starting_runner_.reset();
  if (!link) {
    log_error(problem);
    return;
  }
  links_.push_back(link);
  attach(link);
  replace_runners();
  schedule();
}

void Daemon::attach(const std::shared_ptr<RunnerLink>& link) {
  controllers_ = link->hello().controllers;
  log_debug("runner " + link->runner().cgroup + " with " + std::to_string(link->jobs) + " jobs");
  link->start([this](const auto& from, const RunnerMessage& message) { handle(from, message); },
              [this](const auto& from) { handle_gone(from); });
}

/// After an upgrade: runners of the build before go on for as long as they have jobs.
void Daemon::retire_if_outdated(const std::shared_ptr<RunnerLink>& link) {
  const auto found = std::find(links_.begin(), links_.end(), link);
  if (!link->outdated || link->jobs > 0 || found == links_.end() || lacks_runners()) {
    return;
  }
  log_info("runner " + link->runner().cgroup + " is of another build and has no job: it ends");
  RunnerMessage message;
  message.kind = RunnerMessage::Kind::retire;
  link->send(message);
  links_.erase(found);
}

/// It got SIGTERM. Another is started when the timer says so: at a shutdown berthd has got it too by then.
void Daemon::let_leave(const std::shared_ptr<RunnerLink>& link, const RunnerMessage& message) {
  log_info("runner " + link->runner().cgroup + " was told to end, and ends its jobs");
  link->leaving = true;
  link->send(message);
  schedule();
}

/// The one that holds fewest jobs, of the present build if there is one; but jobs of one shared network are
/// held by one runner, which has it. By its name alone, whoever's it is: the runner keeps users apart.
std::shared_ptr<RunnerLink> Daemon::runner_for(const std::string& shared_network) const {
  if (!shared_network.empty()) {
    for (const auto& [job, active] : active_) {
      if (active.runner && active.runner->is_open() && !active.runner->leaving &&
          active.waiting.facts.shared_network == shared_network) {
        return active.runner;
      }
    }
  }
  const auto least = std::min_element(links_.begin(), links_.end(), [](const auto& a, const auto& b) {
    return std::tuple(a->leaving, a->outdated, a->jobs) < std::tuple(b->leaving, b->outdated, b->jobs);
  });
  return least == links_.end() || (*least)->leaving ? nullptr : *least;
}

void Daemon::handle(const std::shared_ptr<RunnerLink>& link, const RunnerMessage& message) {
  if (message.kind == RunnerMessage::Kind::ended) {
    handle_ended(link, message);
    return;
  }
  if (message.kind == RunnerMessage::Kind::samples) {
    samples_.take(*link, message);
    return;
  }
  if (message.kind == RunnerMessage::Kind::retire) {
    let_leave(link, message);
    return;
  }
  Active* active = find_active(message.id.job_id);
  if (message.kind == RunnerMessage::Kind::started && active != nullptr && active->id == message.id) {
    handle_started(*active, {message.at, message.detail});
  } else if (message.kind == RunnerMessage::Kind::paused && active != nullptr && active->id == message.id) {
    handle_paused(*active, message.detail);
  }
}

void Daemon::handle_started(Active& active, const AttemptStart& start) {
  crash_point("run.received");
  if (active.state != JobState::configuring) {
    return;  // told again after a restart
  }
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
  active.state = JobState::running;  // only now: what throws is called again
  ++totals_.started;
}

void Daemon::handle_ended(const std::shared_ptr<RunnerLink>& link, const RunnerMessage& message) {
  crash_point("end.received");
  Active* active = find_active(message.id.job_id);
  if (active == nullptr || active->id != message.id) {
    const std::optional<WaitingJob> waiting = waiting_.find(message.id.job_id);
    if (waiting && waiting->attempt < message.id.attempt && message.started_at) {
      finish_unheard_of(link, message);
    } else {
      // Its record was committed, and berthd was killed before it could say so.
      acknowledge(link, message.id);
      --link->jobs;
      call_apart(loop_, [&] { retire_if_outdated(link); });
    }
    return;
  }
  if (!active->runner) {
    return;  // told twice: its commit is under way
  }
  finish_as_told(*active, message, link);
}

void Daemon::finish_as_told(Active& active, const RunnerMessage& ended,
                            const std::shared_ptr<RunnerLink>& link) {
  if (active.state == JobState::configuring && ended.started_at) {
    handle_started(active, {*ended.started_at, ended.detail});
  }
  RunnerMessage told = ended;
  tell_canceller(told, active.canceller.value_or(""));
  finish(active, told.outcome, told.usage, told.at, link);
}

void Daemon::acknowledge(const std::shared_ptr<RunnerLink>& link, const AttemptId& id) {
  RunnerMessage message;
  message.kind = RunnerMessage::Kind::acknowledge;
  message.id = id;
  link->send(message);
  retire_if_outdated(link);
}

/// The end of what load_queue() holds because it runs.
void Daemon::finish_unheard_of(const std::shared_ptr<RunnerLink>& link, const RunnerMessage& message) {
  const auto array_end = std::make_shared<ArrayEnd>();
  committer_->commit_surely(
      [message, array_end](QueueStore& store) {
        start_unheard_of(store, message);
        store.finish(message.id.job_id, message.id.attempt, message.outcome, message.usage, message.at);
        const std::optional<KnownJob> stored = store.find_known(message.id.job_id);
        if (stored && stored->array_job_id) {
          *array_end = {stored->array_job_id, store.settle_array(*stored->array_job_id, message.at)};
        }
      },
      [this, link, id = message.id, outcome = message.outcome, array_end](const std::exception_ptr& error) {
        if (error) {
          log_error(job_name(id.job_id) + ": " + text_of(error));
        }
        acknowledge(link, id);
        tell_end(id.job_id, {outcome.state, exit_status(outcome)});
        release_dependents(id.job_id, array_end->array);
        if (array_end->state) {
          tell_array_end(*array_end->array, *array_end->state);
        }
        committed();
      });
  totals_.count_end(message.outcome, message.usage);
  --link->jobs;
  waiting_.remove(message.id.job_id);
  forget(message.id.job_id);
}

/// Rather than by its rule. Another berthd may have been asked for it, or its runner was leaving.
bool Daemon::is_requeued(const Active& active, const Outcome& outcome) {
  return active.requeue || outcome.cause == Cause::preempted;
}

/// As which an attempt that ended so runs again; nothing when it does not.
std::optional<WaitingJob> Daemon::next_attempt(const Active& active, const Outcome& outcome,
                                               Timestamp at) const {
  if (active.canceller) {
    return std::nullopt;
  }
  const std::optional<QueueFacts> facts =
      is_requeued(active, outcome) ? std::optional(active.waiting.facts)
                                   : facts_of_retry(active.rule, active.waiting.facts, active.holds.memory,
                                                    active.id.attempt, outcome, at);
  if (!facts) {
    return std::nullopt;
  }
  WaitingJob again = active.waiting;
  again.job_id = active.id.job_id;
  again.attempt = active.id.attempt;
  again.facts = fitted(*facts);
  return again;
}

/// False when it is the last of too many in a row that their runner died with before they had started: it may
/// be the job that it dies of, and others' with it.
bool Daemon::count_failed_start(const Active& active, const Outcome& outcome) {
  const bool has_failed = outcome.state == JobState::node_fail && active.state == JobState::configuring;
  if (has_failed && ++failed_starts_[active.id.job_id] < kMostFailedStarts) {
    return true;
  }
  failed_starts_.erase(active.id.job_id);
  return !has_failed;
}

/// The attempt is over: its slot is free at once; the job is over when that is on the disk. Without `link`
/// its runner is gone, and may have left the record in the spool. When it throws nothing has become of it.
void Daemon::finish(Active& active, const Outcome& outcome, const Usage& usage, Timestamp at,
                    const std::shared_ptr<RunnerLink>& link) {
  call_apart(loop_, [&] { handle_paused(active, "it has ended"); });
  schedule();  // before the commit is asked for, so that the next job's start is a part of it
  std::optional<WaitingJob> again = next_attempt(active, outcome, at);
  std::string detail = is_requeued(active, outcome) ? R"({"action":"requeue"})" : R"({"action":"retry"})";
  if (!count_failed_start(active, outcome) && again) {
    again->facts.hold = Hold::administrator;
    detail = hold_detail(std::to_string(kMostFailedStarts) +
                         " attempts in a row ended before they had started: " + outcome.message);
  }
  const auto array_end = std::make_shared<std::optional<JobState>>();
  const auto start = std::make_shared<std::optional<AttemptStart>>();  // of a short job
  crash_point("end.decided");
  committer_->commit_surely(
      [id = active.id, start, outcome, usage, at, again, detail, array = active.array,
       array_end](QueueStore& store) {
        if (*start) {
          crash_point("run.before_commit");
          store.run_and_finish(id.job_id, id.attempt, **start, outcome, usage, at, Sync::now);
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
      [this, id = active.id, start, outcome, link, again, array = active.array,
       array_end](const std::exception_ptr& error) {
        if (error) {
          log_error(job_name(id.job_id) + ": " + text_of(error));
        }
        if (*start) {
          crash_point("run.after_commit");
        }
        crash_point("end.after_commit");
        if (link && link->is_open()) {
          acknowledge(link, id);
          crash_point("end.after_acknowledge");
        } else {
          spool_.remove(id);  // of a runner that has gone
        }
        const auto ended = active_.extract(id.job_id);
        if (again && !ended.empty() && ended.mapped().canceller) {
          // cancel() ends it.
        } else if (again && !error) {
          enqueue(*again, clock_.system_now());
          release_dependents(id.job_id, array);  // those that wait for its start alone
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
  if (active.start_commit != 0 && committer_->withdraw(active.start_commit)) {
    *start = std::move(active.start);  // both are recorded at once
  }
  totals_.count_end(outcome, usage);
  active.lease.reset();
  active.runner.reset();
  if (link) {
    --link->jobs;
  }
  if (active.array) {  // before the next job is chosen, which may be the next of its tasks
    call_apart(loop_, [&] { uncount_task(*active.array); });
  }
}

Outcome Daemon::node_failure(const Supervisor& runner, AttemptId id, Usage& usage, bool was_killed) {
  const bool same_boot = of_this_boot(runner);
  if (same_boot && leftovers_.collect) {
    try {
      usage = leftovers_.collect(runner, id.job_id, id.attempt).value_or(Usage{});
    } catch (const std::exception& error) {
      log_warning("leftovers of " + job_name(id.job_id) + ": " + error.what());
    }
  }
  const std::string end = was_killed ? ") did not answer, and was killed" : ") died";
  return ended_before_start(JobState::node_fail, Cause::node_fail,
                            same_boot
                                ? "the berth-runner that held it (pid " + std::to_string(runner.pid) + end
                                : std::string("the machine was restarted under it"));
}

void Daemon::handle_gone(const std::shared_ptr<RunnerLink>& link) {
  if (stopping_) {
    return;
  }
  samples_.lose(*link);
  if (std::erase(links_, link) == 0) {
    return;  // it was retired, and removes what it has by itself
  }
  call_apart(loop_, [this] { replace_runners(); });  // else tried again by the timer
  schedule();
  // Before its jobs are said to be over. That may take a while, as in uninterruptible sleep.
  end_runner(loop_, link->runner().cgroup, [this, link] {
    if (!stopping_) {
      settle_gone(*link);
    }
  });
}

/// Records that runners have spooled, by their attempts. What is in the database already is removed.
std::map<AttemptId, RunnerMessage> Daemon::spooled_records() {
  std::vector<std::string> problems;
  std::map<AttemptId, RunnerMessage> records;
  try {
    for (RunnerMessage& record : spool_.read_all(problems)) {
      if (reader_.has_record(record.id.job_id, record.id.attempt)) {
        spool_.remove(record.id);
      } else {
        records.emplace(record.id, std::move(record));
      }
    }
  } catch (const std::exception& error) {
    problems.emplace_back(error.what());
  }
  for (const std::string& problem : problems) {
    log_warning(problem);
  }
  return records;
}

/// Of a dead runner. What does not go, as while a process is in uninterruptible sleep, is tried again.
void Daemon::remove_leftovers(const Supervisor& runner, bool was_told) {
  if (!leftovers_.remove) {
    return;
  }
  try {
    leftovers_.remove(runner);
    if (was_told) {
      log_info("leftovers of runner " + runner.cgroup + ": removed now");
    }
    return;
  } catch (const std::exception& error) {
    if (!was_told) {
      log_error("leftovers of runner " + runner.cgroup + ": " + error.what() + "; trying again");
    }
  }
  const auto timer = std::make_shared<boost::asio::steady_timer>(loop_, kLeftoverRetry);
  timer->async_wait([this, timer, runner](const boost::system::error_code& error) {
    if (!error && !stopping_) {
      remove_leftovers(runner, true);
    }
  });
}

/// Its jobs have ended as it has told in the spool, or with it.
void Daemon::settle_gone(const RunnerLink& link) {
  const Supervisor& runner = link.runner();
  if (link.leaving) {
    log_info("runner " + runner.cgroup + " has ended");
  } else {
    log_error("runner " + runner.cgroup + " died");
  }
  std::vector<JobId> lost;
  for (const auto& [job, active] : active_) {
    if (active.runner.get() == &link && active.start_committed) {  // else commit_start() sees to it
      lost.push_back(job);
    }
  }
  const std::map<AttemptId, RunnerMessage> records = spooled_records();
  for (const JobId job : lost) {
    call_apart(loop_, [&] {
      Active& active = active_.at(job);
      if (const auto record = records.find(active.id); record != records.end()) {
        finish_as_told(active, record->second, nullptr);
        return;
      }
      Usage usage;
      const Outcome outcome = node_failure(runner, active.id, usage);
      finish(active, outcome, usage, clock_.system_now(), nullptr);
    });
  }
  remove_leftovers(runner);
  std::filesystem::remove(config_.runtime_directory + "/runners/" + runner.cgroup + ".sock");
  std::filesystem::remove(streams_socket_of(runner_folder(), runner.cgroup));
}

}  // namespace berth
