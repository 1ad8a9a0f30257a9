// What callers ask Daemon for: to submit, change, stop and await jobs and tasks of arrays.
#include <algorithm>
#include <limits>

#include "scheduler/crash_point.h"
#include "scheduler/daemon.h"
#include "scheduler/daemon_detail.h"
#include "scheduler/loop_error.h"
#include "schemas/index_list.h"
#include "schemas/input_error.h"
#include "schemas/job_file.h"

namespace berth {
namespace {

/// In one request: each is looked up, on the event loop.
constexpr std::size_t kMostConditions = 100'000;
/// On the way back to a job that would wait for itself: a look at the database counts for ten.
constexpr std::size_t kMostSteps = 1'000'000;
constexpr std::size_t kStepsOfLook = 10;

/// Replies when it has been called so many times, with the first error.
Daemon::Reply joined(std::size_t count, Daemon::Reply reply) {
  struct Rest {
    std::size_t count;
    std::exception_ptr error;
  };
  return [rest = std::make_shared<Rest>(Rest{count, nullptr}),
          reply = std::move(reply)](const std::exception_ptr& error) {
    rest->error = rest->error ? rest->error : error;
    if (--rest->count == 0) {
      reply(rest->error);
    }
  };
}

[[noreturn]] void refuse_to_cancel(JobId job, JobState state, const Cancellation& asked) {
  throw ApiError(409, job_name(job) + " is " + std::string(to_string(state)) +
                          (asked.concerns(state) || is_final(state) ? ": there is nothing to cancel"
                                                                    : ": it is in none of these states"));
}

/// Throws ApiError 404 where there is no such job, or none that the actor may see.
template <typename Job>
Job owned(std::optional<Job>&& found, JobId job, const Actor& actor) {
  if (!found || (!actor.administrator && found->user_id != actor.user_id)) {
    throw ApiError(404, "there is no job " + std::to_string(job) + (found ? " of yours" : ""));
  }
  return std::move(*found);
}

InputFault fault_of(const std::string& file, const std::vector<NewJob>& jobs, std::size_t index,
                    const std::string& field, const std::string& message) {
  const std::string place = jobs.size() > 1 ? "/" + std::to_string(index) : "";
  return {file, place + field, "job \"" + jobs[index].spec.name + "\": " + message};
}

/// What was looked up when it was asked for may have left the history since, by a transaction before. The
/// lists of arrays are read once, into `unstarted`.
bool is_kept(QueueStore& store, const Dependency::Condition& condition,
             std::map<JobId, IndexList>& unstarted) {
  if (condition.type == Dependency::Type::singleton) {
    return true;
  }
  if (!condition.task) {
    return store.find_known(condition.job).has_value();
  }
  if (store.find_task(condition.job, *condition.task)) {
    return true;
  }
  if (!unstarted.contains(condition.job)) {
    unstarted.emplace(condition.job, store.unstarted(condition.job));
  }
  return unstarted.at(condition.job).contains(*condition.task);
}

void count_steps(std::size_t more, std::size_t& steps) {
  steps += more;
  if (steps > kMostSteps) {
    throw ApiError(413,
                   "too many jobs would be waited for, one after the other, to tell whether a job would wait "
                   "for itself; submit it again instead, or change fewer at a time, such as 36_[0-9]");
  }
}

std::string removed(const Dependency::Condition& condition) {
  return "there is no job " + std::to_string(condition.job) +
         (condition.task ? "_" + std::to_string(*condition.task) : "") +
         " any more: it has just been removed from the history (history.retain)";
}

}  // namespace

void Daemon::check(const std::vector<NewJob>& jobs, const Actor& actor, const std::string& file) {
  const auto submitting = submitting_.find(actor.user_id);
  const std::size_t waiting =
      waiting_.size_of_user(actor.user_id) + (submitting == submitting_.end() ? 0 : submitting->second);
  if (const auto most = config_.user_limits.waiting_jobs;
      most && !jobs.empty() && waiting + jobs.size() > *most) {
    throw ApiError(429, "with these more than " + std::to_string(*most) +
                            " of your jobs would wait (user_limits.waiting_jobs); wait for some to start");
  }
  std::size_t conditions = 0;
  for (const NewJob& job : jobs) {
    conditions += job.spec.dependency.empty() ? 0 : parse_dependency(job.spec.dependency).conditions.size();
  }
  if (conditions > kMostConditions) {
    throw ApiError(413, "one request names at most " + std::to_string(kMostConditions) +
                            " jobs to depend on; send several, or depend on an array");
  }
  LookedUp looked_up;
  std::vector<InputFault> faults;
  for (std::size_t index = 0; index < jobs.size(); ++index) {
    if (faults.size() >= kMostFaults) {
      faults.push_back(too_many_faults(file));
      break;
    }
    const NewJob& job = jobs[index];
    const auto add_fault = [&](const char* field, const std::string& message) {
      faults.push_back(fault_of(file, jobs, index, field, message));
    };
    if (const auto reason = pool_.never_fits({job.spec.cpus_per_task, job.spec.memory_per_node})) {
      add_fault("", "can never run here: it " + *reason);
    }
    try {
      check_deadline(*job.queue);
    } catch (const ApiError& error) {
      add_fault("/deadline", error.what());
    }
    try {
      require_dependency(job.spec.dependency, actor, looked_up);
    } catch (const ApiError& error) {
      add_fault("/dependency", error.what());
    }
  }
  if (!faults.empty()) {
    throw InputError(std::move(faults));
  }
}

void Daemon::check_deadline(const QueueFacts& facts) const {
  if (facts.deadline && *facts.deadline <= clock_.system_now()) {
    throw ApiError(422, "the deadline has passed already");
  }
  const Timestamp start = std::max(clock_.system_now(), facts.begin.value_or(Timestamp()));
  if (facts.deadline && facts.stay < kUnlimited && start + facts.stay > *facts.deadline) {
    throw ApiError(422,
                   "its time limit and grace period cannot end before its deadline; give a shorter one or a "
                   "later deadline");
  }
}

void Daemon::require_dependency(const std::string& text, const Actor& actor, LookedUp& looked_up) {
  if (text.empty()) {
    return;
  }
  for (const Dependency::Condition& condition : parse_dependency(text).conditions) {
    if (condition.type == Dependency::Type::singleton) {
      continue;
    }
    if (!looked_up.known.contains(condition.job)) {
      (void)require(condition.job, actor);
      looked_up.known.insert(condition.job);
    }
    if (condition.task && !reader_.find_task(condition.job, *condition.task) &&
        !is_without_number(condition.job, *condition.task)) {
      throw ApiError(
          404, "job " + std::to_string(condition.job) + " has no task " + std::to_string(*condition.task));
    }
  }
}

void Daemon::refuse_circle(const std::string& text, JobId dependent, const std::string& name,
                           LookedUp& looked_up) {
  const Dependency dependency = text.empty() ? Dependency() : parse_dependency(text);
  looked_up.conditions += dependency.conditions.size();
  if (looked_up.conditions > kMostConditions) {
    throw ApiError(413, "the tasks that wait by themselves name more than " +
                            std::to_string(kMostConditions) +
                            " jobs to depend on together; change some at a time, such as 36_[0-9]");
  }
  std::optional<KnownJob> own = reader_.find_known(dependent);
  if (own) {
    own->name = name;
  }
  if (own && leads_back(dependency, *own, looked_up.steps)) {
    throw ApiError(422, job_name(dependent) + " would wait for itself");
  }
}

/// Whether `own`, if it waited for that, would wait for itself over whatever way.
bool Daemon::leads_back(const Dependency& dependency, const KnownJob& own, std::size_t& steps) {
  bool back = false;
  std::vector<JobId> way;
  std::map<Namesakes, JobId> added;
  std::set<std::pair<JobId, std::optional<unsigned>>> reached;
  const auto add = [&](const Dependency& one, const KnownJob& whose) {
    for (const Dependency::Condition& condition : one.conditions) {
      if (condition.type == Dependency::Type::singleton) {
        add_earlier_namesakes(whose, own, added, way);
        continue;
      }
      if (!reached.emplace(condition.job, condition.task).second) {
        continue;
      }
      if (!condition.task) {
        back = back || condition.job == own.array_job_id;  // one of whose tasks it is
        way.push_back(condition.job);
        const std::vector<JobId> tasks = reader_.open_tasks(condition.job);
        way.insert(way.end(), tasks.begin(), tasks.end());
      } else {
        way.push_back(reader_.find_task(condition.job, *condition.task).value_or(condition.job));
      }
    }
  };
  add(dependency, own);
  std::set<JobId> seen;
  while (!back && !way.empty()) {
    const JobId job = way.back();
    way.pop_back();
    back = job == own.job_id;
    const auto found = seen.insert(job).second ? dependents_.find(job) : dependents_.end();
    count_steps(1, steps);
    if (const auto whose = found != dependents_.end() ? reader_.find_known(job) : std::nullopt) {
      const std::size_t before = reached.size();
      add(found->second.dependency, *whose);
      count_steps(found->second.dependency.conditions.size() + kStepsOfLook * (1 + reached.size() - before),
                  steps);
    }
  }
  return back;
}

/// The jobs that a singleton waits for, as far as they are singletons too, and not in `added` yet; and
/// `asking`, if it is one.
void Daemon::add_earlier_namesakes(const KnownJob& singleton, const KnownJob& asking,
                                   std::map<Namesakes, JobId>& added, std::vector<JobId>& jobs) {
  if (place_of(asking) < place_of(singleton) && asking.user_id == singleton.user_id &&
      asking.name == singleton.name) {
    jobs.push_back(asking.job_id);
  }
  const auto group = singletons_.find({singleton.user_id, singleton.name});
  if (group == singletons_.end()) {
    return;
  }
  JobId& last = added[group->first];
  for (auto turn = group->second.lower_bound({last + 1, 0});
       turn != group->second.end() && turn->first < place_of(singleton); ++turn) {
    jobs.push_back(turn->second);
    last = turn->first;
  }
}

std::optional<Timestamp> Daemon::would_start(const NewJob& job) {
  const QueueFacts& facts = *job.queue;
  const bool begins_later = facts.begin && *facts.begin > clock_.system_now();
  if (draining_ || facts.hold != Hold::none || !facts.dependency.empty() || begins_later ||
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
  return start && facts.deadline && *facts.deadline <= *start ? std::nullopt : start;
}

void Daemon::submit(std::vector<NewJob> jobs, const Actor& actor, const std::string& file,
                    SubmitReply reply) {
  check(jobs, actor, file);
  const auto ids = std::make_shared<std::vector<JobId>>();
  const auto shared = std::make_shared<std::vector<NewJob>>(std::move(jobs));
  const auto needs = std::make_shared<Needs>();
  for (std::size_t index = 0; index < shared->size(); ++index) {
    if (const std::string& text = (*shared)[index].spec.dependency; !text.empty()) {
      for (const Dependency::Condition& condition : parse_dependency(text).conditions) {
        needs->emplace_back(index, condition);
      }
    }
  }
  submitting_[actor.user_id] += shared->size();
  submitting_needs_.insert(needs);
  committer_->commit(
      [shared, needs, file, ids](QueueStore& store) {
        std::map<JobId, IndexList> unstarted;
        for (const auto& [index, condition] : *needs) {
          if (!is_kept(store, condition, unstarted)) {
            throw InputError({fault_of(file, *shared, index, "/dependency", removed(condition))});
          }
        }
        *ids = store.submit(*shared, queue_supervisor());
        crash_point("submit.before_commit");
      },
      [this, shared, needs, ids, user_id = actor.user_id,
       reply = std::move(reply)](const std::exception_ptr& error) {
        submitting_needs_.erase(needs);
        if ((submitting_[user_id] -= shared->size()) == 0) {
          submitting_.erase(user_id);
        }
        if (!error) {
          totals_.submitted += ids->size();
          const Timestamp now = clock_.system_now();
          for (std::size_t index = 0; index < ids->size(); ++index) {
            const NewJob& job = (*shared)[index];
            call_apart(loop_, [&] {
              enqueue({(*ids)[index], job.user_id, 0, *job.queue}, now);
              crash_point("submit.after_commit");
            });
          }
          schedule();
        }
        reply(error, *ids);
        committed();
      });
}

/// Before what is done once and then recorded.
void Daemon::require_store() const {
  if (!store_trouble().empty()) {
    throw ApiError(507, "not while the database cannot be used: " + store_trouble());
  }
}

/// It waited, and its end is being committed.
void Daemon::refuse_while_ending(JobId job) const {
  if (ending_.contains(job)) {
    throw ApiError(409, job_name(job) + " is ending; try again");
  }
}

Daemon::Active* Daemon::find_active(JobId job) {
  const auto found = active_.find(job);
  return found == active_.end() ? nullptr : &found->second;
}

KnownJob Daemon::require(JobId job, const Actor& actor) {
  return owned(reader_.find_known(job), job, actor);
}

StoredJob Daemon::require_stored(JobId job, const Actor& actor) {
  return owned(reader_.find_stored(job), job, actor);
}

Daemon::Active& Daemon::require_active(JobId job, const Actor& actor) {
  const KnownJob stored = require(job, actor);
  Active* active = find_active(job);
  if (active == nullptr || !active->runner) {
    throw ApiError(409, job_name(job) + " is " + std::string(to_string(stored.state)) + " and does not run");
  }
  return *active;
}

/// Of an array: that of its tasks which have not started; it ends with the last of those that have.
void Daemon::end_waiting(JobId job, const Outcome& outcome, Reply reply) {
  const auto array_end = std::make_shared<ArrayEnd>();
  committer_->commit_surely(
      [job, outcome, array_end, at = clock_.system_now()](QueueStore& store) {
        if (store.close_array(job, of_unstarted_tasks(outcome), at) || store.closing(job)) {
          *array_end = {job, store.settle_array(job, at)};
        } else {
          const std::optional<KnownJob> stored = store.find_known(job);
          store.end_waiting(job, outcome, at);
          if (stored && stored->array_job_id) {
            *array_end = {stored->array_job_id, store.settle_array(*stored->array_job_id, at)};
          }
        }
        crash_point("cancel.before_commit");
      },
      [this, job, outcome, array_end, reply = std::move(reply)](const std::exception_ptr& error) {
        crash_point("cancel.after_commit");
        ending_.erase(ending_.find(job));
        if (error) {
          log_error(job_name(job) + ": " + text_of(error));
        }
        if (array_end->array == job) {
          tell_task(job, std::nullopt, 0);
        } else {
          tell_end(job, {outcome.state, exit_status(outcome)});
        }
        release_dependents(job, array_end->array);
        if (array_end->state) {
          tell_array_end(*array_end->array, *array_end->state);
        }
        if (reply) {
          reply(error);
        }
        committed();
      });
  ending_.insert(job);
}

void Daemon::cancel(JobId job, const Actor& actor, const Cancellation& asked, Reply reply) {
  const KnownJob stored = require(job, actor);
  Active* const active = find_active(job);
  if (active != nullptr && !asked.concerns(active->state)) {
    refuse_to_cancel(job, active->state, asked);
  }
  if (active != nullptr && active->runner) {
    cancel_running(*active, actor, asked.at_once, std::move(reply));
    return;
  }
  if (active != nullptr) {  // its end is being committed, with which it may wait for another attempt
    require_store();
    active->canceller = actor.name;
    end_waiting(job, cancelled_before_start(actor.name), std::move(reply));
    return;
  }
  const bool ends_waiting = waiting_.contains(job) && asked.concerns(JobState::pending);
  if (asked.states.empty() && !stored.array_job_id && !waiting_.contains(job) && !is_final(stored.state)) {
    committer_->commit(  // before any of its tasks ends, with which it may
        [job, detail = action_detail("cancel", actor), at = clock_.system_now()](QueueStore& store) {
          store.note_cancel(job, 0, at, detail);
        },
        [this](const std::exception_ptr&) { committed(); });
  }
  const CancelledTasks tasks = !stored.array_job_id && !is_final(stored.state)
                                   ? cancel_tasks(job, actor, asked)
                                   : CancelledTasks::none;
  if (ends_waiting) {
    require_store();
    end_waiting(job, cancelled_before_start(actor.name), std::move(reply));
    waiting_.remove(job);
    forget(job);
    schedule();  // others may have waited behind it
    return;
  }
  if (tasks != CancelledTasks::none) {  // behind what was asked for its tasks
    const auto nothing = [](QueueStore&) {};
    const auto done = [reply = std::move(reply)](const std::exception_ptr&) { reply(nullptr); };
    // Those that run are stopped also when that cannot be recorded.
    tasks == CancelledTasks::waiting ? committer_->commit_surely(nothing, done)
                                     : committer_->commit(nothing, done);
    return;
  }
  if (ending_.contains(job) && asked.concerns(JobState::pending)) {
    require_store();
    committer_->commit_surely([](QueueStore&) {}, std::move(reply));  // behind its end
    return;
  }
  if (!asked.states.empty() && !is_final(stored.state) && reader_.has_tasks(job)) {
    throw ApiError(409, "of array " + std::to_string(job) + " no task is in one of these states");
  }
  refuse_to_cancel(job, stored.state, asked);
}

/// At once, or as soon as its start is sent.
void Daemon::stop(Active& active, const RunnerMessage& message) {
  active.stopping = true;
  if (active.sent) {
    active.runner->send(message);
    if (active.state == JobState::suspended) {
      note_suspension(active, false, [](const std::exception_ptr&) {});  // it must run to end in order
    }
  } else {
    active.stop = message;
  }
}

void Daemon::cancel_running(Active& active, const Actor& actor, bool at_once, Reply reply) {
  active.canceller = active.canceller.value_or(actor.name);
  crash_point("cancel.before_send");
  stop(active, stop_message(active.id, at_once, actor.name));
  if (active.sent) {
    crash_point("cancel.after_send");
  }
  // The next berthd has to know it too: that no attempt follows, and that this one is stopped. The job is
  // stopped also when that cannot be recorded.
  committer_->commit(
      [id = active.id, detail = action_detail("cancel", actor), at = clock_.system_now()](QueueStore& store) {
        store.note_cancel(id.job_id, id.attempt, at, detail);
      },
      [this, job = active.id.job_id, reply = std::move(reply)](const std::exception_ptr& error) {
        if (error) {
          log_warning(job_name(job) + ": " + text_of(error));
        }
        reply(nullptr);
        committed();
      });
}

/// Those tasks of an array that have left its row, or are about to. What the database cannot record of one is
/// thrown when the others have been stopped.
Daemon::CancelledTasks Daemon::cancel_tasks(JobId array, const Actor& actor, const Cancellation& asked) {
  const std::vector<JobId> tasks = reader_.open_tasks(array);
  bool any = asked.states.empty() && reader_.has_tasks(array);
  bool waiting = false;
  std::exception_ptr refusal;
  for (const JobId task : tasks) {
    if (is_over(task)) {
      continue;
    }
    const bool waits = waiting_.contains(task);
    try {
      cancel(task, actor, asked, [](const std::exception_ptr&) {});
      any = true;
      waiting = waiting || waits;
    } catch (const ApiError& error) {  // else it has just ended, or is in another state
      refusal = error.status() == 507 ? std::current_exception() : refusal;
    }
  }
  std::vector<unsigned> nameless;  // their numbers are being committed, before what is committed here
  for (auto& [task, canceller] : separating_) {
    if (task.first == array && asked.concerns(JobState::pending)) {
      canceller = actor.name;
      nameless.push_back(task.second);
    }
  }
  for (auto& [key, active] : active_) {
    if (active.array == array && key < 0 && asked.concerns(active.state)) {
      active.canceller = actor.name;
      active.stop = stop_message(active.id, asked.at_once, actor.name);
      nameless.push_back(*active.task);
    }
  }
  if (!nameless.empty()) {
    committer_->commit(
        [array, nameless, detail = action_detail("cancel", actor),
         outcome = cancelled_before_start(actor.name), at = clock_.system_now()](QueueStore& store) {
          for (const unsigned task : nameless) {
            const std::optional<JobId> id = store.find_task(array, task);
            const std::optional<KnownJob> stored = id ? store.find_known(*id) : std::nullopt;
            if (stored && !store.end_waiting(*id, outcome, at)) {
              store.note_cancel(*id, stored->attempt, at, detail);
            }
          }
        },
        [this](const std::exception_ptr&) { committed(); });  // an error: their own commits have failed too
  }
  if (refusal) {
    std::rethrow_exception(refusal);
  }
  if (waiting) {
    return CancelledTasks::waiting;
  }
  return any || !nameless.empty() ? CancelledTasks::running : CancelledTasks::none;
}

/// `spec_text` null: as it was.
void Daemon::change(const WaitingJob& job, const std::string& action, const Actor& actor,
                    const std::shared_ptr<const std::string>& spec_text, Reply reply) {
  const QueueFacts before = waiting_.find(job.job_id).value_or(job).facts;
  Dependency asked;
  if (job.facts.dependency != before.dependency && !job.facts.dependency.empty()) {
    asked = parse_dependency(job.facts.dependency);
  }
  Changing& changing = changing_[job.job_id];
  if (changing.asked == 0) {
    changing.recorded = before;
  }
  const unsigned own = changing.asked + 1;
  committer_->commit(
      [job, asked, detail = action_detail(action, actor), spec_text, refused = changing.refused, own,
       at = clock_.system_now()](QueueStore& store) {
        if (*refused != 0 && *refused < own) {  // else it is done again, after one behind it was refused
          throw ApiError(409, job_name(job.job_id) +
                                  ": what was asked for just before was refused, and so is this; try again");
        }
        *refused = own;
        std::map<JobId, IndexList> unstarted;
        for (const Dependency::Condition& condition : asked.conditions) {
          if (!is_kept(store, condition, unstarted)) {
            throw ApiError(404, removed(condition));
          }
        }
        store.change(job.job_id, job.facts, at, detail, spec_text ? *spec_text : std::string());
        *refused = 0;
      },
      [this, job, own, refused = changing.refused,
       reply = std::move(reply)](const std::exception_ptr& error) {
        if (error && *refused == 0) {
          *refused = own;  // the transaction as a whole
        }
        settle_change(job, error != nullptr);
        reply(error);
        committed();
      });
  changing.asked = own;
  // Holds from now on, so that the job does not start with what it is being changed from; but it goes on
  // waiting, so that it can be cancelled, or changed again, meanwhile.
  enqueue(job, clock_.system_now(), spec_text == nullptr);
}

/// The change is on the disk, or could not be. The job may have started, ended or been changed again since.
void Daemon::settle_change(const WaitingJob& changed, bool failed) {
  Changing& changing = changing_.at(changed.job_id);
  changing.has_failed = changing.has_failed || failed;
  if (!failed) {
    changing.recorded = changed.facts;
  }
  std::optional<QueueFacts> recorded;
  if (++changing.settled == changing.asked) {
    recorded = changing.has_failed ? std::optional(changing.recorded) : std::nullopt;
    changing_.erase(changed.job_id);
  }
  std::optional<WaitingJob> now = waiting_.find(changed.job_id);
  if (!now) {
    return;
  }
  if (recorded && now->attempt == changed.attempt) {  // but what has come to be in other ways stays
    recorded->array_tasks = now->facts.array_tasks;
    if (now->facts.dependency.empty() && !changed.facts.dependency.empty()) {
      recorded->dependency.clear();
    }
    if (now->facts.hold != changed.facts.hold) {
      recorded->hold = now->facts.hold;
    }
    now->facts = *recorded;
  }
  enqueue(*now, clock_.system_now());  // the name, by which singletons go, is in the database only now
  examine_singletons();
  schedule();
}

/// Whether tasks of the array come to wait when what is being committed is on the disk.
bool Daemon::has_tasks_on_their_way(JobId array) {
  return std::any_of(separating_.begin(), separating_.end(),
                     [array](const auto& one) { return one.first.first == array; }) ||
         std::any_of(active_.begin(), active_.end(),
                     [array](const auto& one) { return one.second.array == array && !one.second.runner; }) ||
         std::any_of(requeueing_.begin(), requeueing_.end(), [&](JobId job) {
           const std::optional<KnownJob> stored = reader_.find_known(job);
           return stored && stored->array_job_id == array;
         });
}

/// The job, or all of the array that waits: what has not started, and tasks that wait by themselves.
void Daemon::change_waiting(JobId job, const Actor& actor, const std::string& action, const Edit& edit,
                            Reply reply) {
  require(job, actor);
  if (!has_tasks_on_their_way(job)) {
    change_all(job, actor, action, edit, std::move(reply));
    return;
  }
  committer_->commit([](QueueStore&) {},  // behind what is under way
                     [this, job, actor, action, edit, reply](const std::exception_ptr&) {
                       try {
                         change_all(job, actor, action, edit, reply);
                       } catch (...) {
                         reply(std::current_exception());
                       }
                     });
}

/// Those of them that wait, as `edit` makes them; `refusal` where it refuses one.
std::vector<Daemon::Changed> Daemon::edited(const std::vector<JobId>& rows, const Edit& edit,
                                            std::exception_ptr& refusal) {
  // Read and edited on the event loop. The tasks of an array mostly have one text.
  constexpr std::size_t kMostText = std::size_t{256} << 20U;
  std::size_t length = 0;
  std::vector<Changed> all;
  std::shared_ptr<const std::string> last_text;
  for (const JobId row : rows) {
    std::optional<WaitingJob> waiting = waiting_.find(row);
    const std::optional<StoredJob> own =
        waiting && edit.of_spec ? reader_.find_stored(row) : std::optional<StoredJob>();
    if (!waiting || (edit.of_spec && !own)) {
      continue;
    }
    const QueueFacts before = waiting->facts;
    std::string spec_text = own ? own->spec_text : std::string();
    length += spec_text.size();
    if (length > kMostText) {
      throw ApiError(413,
                     "the tasks that wait by themselves have more than 256 MiB of specs together; change "
                     "some at a time, such as 36_[0-9]");
    }
    try {
      edit.apply(row, waiting->facts, spec_text);
    } catch (const std::exception& error) {
      const auto* const answer = dynamic_cast<const ApiError*>(&error);
      if (answer != nullptr && answer->status() == 413) {
        throw;  // too much of all of them together
      }
      refusal = refusal ? refusal : std::current_exception();
      continue;
    }
    const bool is_changed = own && spec_text != own->spec_text;
    if (is_changed && (!last_text || *last_text != spec_text)) {
      last_text = std::make_shared<const std::string>(std::move(spec_text));
    }
    all.push_back({std::move(*waiting), is_changed ? last_text : nullptr, before});
  }
  return all;
}

void Daemon::change_all(JobId job, const Actor& actor, const std::string& action, const Edit& edit,
                        Reply reply) {
  const KnownJob stored = require(job, actor);
  std::vector<JobId> rows{job};
  if (!is_final(stored.state)) {
    const std::vector<JobId> tasks = reader_.open_tasks(job);
    rows.insert(rows.end(), tasks.begin(), tasks.end());
  }
  std::exception_ptr refusal;
  std::vector<Changed> all = edited(rows, edit, refusal);
  if (all.empty() && refusal) {
    std::rethrow_exception(refusal);
  }
  if (all.empty()) {
    refuse_while_ending(job);
    throw ApiError(
        409, reader_.has_tasks(job)
                 ? "of array " + std::to_string(job) + " no task waits"
                 : job_name(job) + " is " + std::string(to_string(stored.state)) + " and does not wait");
  }
  // What stays as it is makes no event; its answer comes behind what is being committed.
  std::erase_if(all, [](const Changed& one) { return !one.spec_text && one.job.facts == one.before; });
  if (all.empty()) {
    committer_->commit([](QueueStore&) {},
                       [reply = std::move(reply)](const std::exception_ptr& error) { reply(error); });
    return;
  }
  const Reply each = joined(all.size(), std::move(reply));
  for (const Changed& one : all) {
    change(one.job, action, actor, one.spec_text, each);
  }
}

void Daemon::hold(JobId job, const Actor& actor, Reply reply) {
  change_waiting(job, actor, "hold",
                 {[administrator = actor.administrator, owner = require(job, actor).user_id == actor.user_id](
                      JobId, QueueFacts& facts, std::string&) {
                   // Nobody weakens an administrator's hold by a hold of their own.
                   const bool is_administrators =
                       facts.hold == Hold::administrator || (administrator && !owner);
                   facts.hold = is_administrators ? Hold::administrator : Hold::user;
                 }},
                 std::move(reply));
}

void Daemon::release(JobId job, const Actor& actor, Reply reply) {
  change_waiting(job, actor, "release",
                 {[administrator = actor.administrator](JobId row, QueueFacts& facts, std::string&) {
                   if (facts.hold == Hold::administrator && !administrator) {
                     throw ApiError(403,
                                    job_name(row) + " is held by an administrator, who alone can release it");
                   }
                   facts.hold = Hold::none;
                 }},
                 std::move(reply));
}

void Daemon::update(JobId job, const Actor& actor, const Edit& edit, Reply reply) {
  change_waiting(job, actor, "update", edit, std::move(reply));
}

/// The job, or those tasks of the array that run, in the order of their numbers.
std::vector<JobId> Daemon::runs_of(JobId job, const Actor& actor) {
  require(job, actor);
  std::vector<JobId> running;
  for (const auto& [key, active] : active_) {
    if (active.array == job && key > 0 && active.runner && active.state != JobState::configuring) {
      running.push_back(key);
    }
  }
  if (running.empty() && reader_.has_tasks(job)) {
    throw ApiError(409, "of array " + std::to_string(job) + " no task runs");
  }
  if (running.empty()) {
    require_active(job, actor);
    running.push_back(job);
  }
  std::sort(running.begin(), running.end());
  return running;
}

void Daemon::suspend(JobId job, const Actor& actor, bool suspended, Reply reply) {
  const JobState wanted = suspended ? JobState::running : JobState::suspended;
  std::vector<JobId> jobs = runs_of(job, actor);
  const JobState state = active_.at(jobs.front()).state;
  std::erase_if(jobs, [&](JobId one) { return active_.at(one).state != wanted; });
  if (jobs.empty()) {
    throw ApiError(409, job_name(job) + " is " + std::string(to_string(state)) + ", not " +
                            std::string(to_string(wanted)));
  }
  std::erase_if(jobs, [&](JobId one) { return active_.at(one).stopping; });
  if (jobs.empty()) {
    throw ApiError(409, job_name(job) + " is being ended: it cannot be suspended any more");
  }
  std::erase_if(jobs, [&](JobId one) { return active_.at(one).pause.has_value(); });
  if (jobs.empty()) {
    throw ApiError(409, job_name(job) + " is being suspended or resumed; try again");
  }
  require_store();
  const Reply each = joined(jobs.size(), std::move(reply));
  for (const JobId one : jobs) {
    suspend_one(active_.at(one), suspended, each);
  }
}

void Daemon::suspend_one(Active& active, bool suspended, Reply reply) {
  RunnerMessage message = pause_message(active.id, suspended);
  message.tells_pauses = active.runner->hello().tells_pauses;
  active.runner->send(message);
  if (message.tells_pauses) {
    active.pause = {suspended, std::move(reply)};
  } else {
    note_suspension(active, suspended, std::move(reply));
  }
}

/// The runner has done it, or could not (`problem`).
void Daemon::handle_paused(Active& active, const std::string& problem) {
  if (!active.pause) {
    return;
  }
  const Active::Pause pause = *active.pause;
  const bool has_failed = !problem.empty() || (pause.suspended && active.stopping);
  const bool is_done = active.state == (pause.suspended ? JobState::suspended : JobState::running);
  if (!has_failed && !is_done) {
    note_suspension(active, pause.suspended, pause.reply);  // when it throws, this is called again
  }
  active.pause.reset();
  if (has_failed) {
    const std::string action = pause.suspended ? "suspended" : "resumed";
    pause.reply(
        std::make_exception_ptr(ApiError(409, job_name(active.id.job_id) + " cannot be " + action + ": " +
                                                  (problem.empty() ? "it is being ended" : problem))));
  } else if (is_done) {  // it was resumed to be ended
    pause.reply(nullptr);
  }
}

/// What the runner does by now. When it throws nothing has changed.
void Daemon::note_suspension(Active& active, bool suspended, Reply reply) {
  if (!suspended) {
    schedule();
  }
  committer_->commit_surely([id = active.id, suspended, at = clock_.system_now()](
                                QueueStore& store) { store.suspend(id.job_id, id.attempt, suspended, at); },
                            [this, reply = std::move(reply)](const std::exception_ptr& error) {
                              reply(error);
                              committed();
                            });
  active.start_commit = 0;  // a suspension is recorded between start and end
  active.state = suspended ? JobState::suspended : JobState::running;
  // Its limits of time wait meanwhile (Executor::freeze).
  active.latest_end += suspended ? SteadyTime::duration(kUnlimited) : SteadyTime::duration(-kUnlimited);
  if (suspended) {
    active.suspended_at = clock_.steady_now();
  } else {
    const auto pause = clock_.steady_now() - active.suspended_at;
    active.latest_end += pause;
    active.suspended_for += pause;
  }
}

std::chrono::microseconds Daemon::suspended_time(JobId job) const {
  const auto found = active_.find(job);
  if (found == active_.end()) {
    return {};
  }
  const Active& active = found->second;
  const bool is_suspended = active.state == JobState::suspended;
  return std::chrono::duration_cast<std::chrono::microseconds>(
      active.suspended_for +
      (is_suspended ? clock_.steady_now() - active.suspended_at : SteadyTime::duration(0)));
}

void Daemon::signal(JobId job, const Actor& actor, int signal_number, bool batch_job, const Reply& reply) {
  for (const JobId one : runs_of(job, actor)) {
    const Active& active = active_.at(one);
    if (active.state == JobState::configuring) {
      throw ApiError(409, job_name(job) + " has not started yet");
    }
    RunnerMessage message;
    message.kind = RunnerMessage::Kind::signal;
    message.id = active.id;
    message.signal_number = signal_number;
    message.batch_job = batch_job;
    active.runner->send(message);
  }
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
  const StoredJob stored = require_stored(job, actor);
  if (Active* active = find_active(job); active != nullptr) {
    if (!active->runner) {
      throw ApiError(409, job_name(job) + " is ending; try again");
    }
    if (active->canceller) {
      throw ApiError(409, job_name(job) + " is being cancelled: requeue it when it has ended");
    }
    active->requeue = true;
    stop(*active, stop_message(active->id, false, actor.name, Cause::preempted));
    reply(nullptr);
    return;
  }
  refuse_while_ending(job);
  if (!is_final(stored.state)) {
    throw ApiError(409, job_name(job) + " is " + std::string(to_string(stored.state)) + " and waits already");
  }
  if (waiting_.contains(job) || requeueing_.contains(job)) {
    throw ApiError(409, job_name(job) + " is on its way into the queue already");
  }
  WaitingJob again;
  again.job_id = job;
  again.user_id = stored.user_id;
  again.attempt = stored.attempt;
  again.facts = task_facts(parse_stored_job(stored.spec_text, job_name(job)), stored);
  if (!again.facts.array_tasks.empty()) {
    throw ApiError(409, job_name(job) + " is an array: requeue its tasks, or submit it again");
  }
  if (again.facts.deadline && *again.facts.deadline <= clock_.system_now()) {
    throw ApiError(409, job_name(job) + "'s deadline has passed: submit it again with a later one");
  }
  requeueing_.insert(job);
  committer_->commit(
      [again, detail = action_detail("requeue", actor), at = clock_.system_now()](QueueStore& store) {
        store.requeue(again.job_id, again.facts, at, detail);
        crash_point("requeue.before_commit");
      },
      [this, again, array = stored.array_job_id, reply = std::move(reply)](const std::exception_ptr& error) {
        crash_point("requeue.after_commit");
        requeueing_.erase(again.job_id);
        if (!error) {
          enqueue(again, clock_.system_now());
          // What it fulfilled is open again, and what it could never fulfil, it may.
          release_dependents(again.job_id, array);
          if (array) {
            release_dependents(*array, std::nullopt);
          }
          schedule();
        }
        reply(error);
        committed();
      });
}

std::optional<JobState> Daemon::ended_as(JobId job) {
  const std::optional<KnownJob> stored = is_over(job) ? reader_.find_known(job) : std::nullopt;
  return stored && is_final(stored->state) ? std::optional(stored->state) : std::nullopt;
}

JobEnd Daemon::end_of(QueueStore& store, JobId job, JobState state) {
  if (store.has_tasks(job) || store.closing(job)) {
    return {state, exit_status_of_array(state, store.array_outcomes(job))};
  }
  const std::optional<Outcome> outcome = store.last_outcome(job);
  return {state, outcome ? exit_status(*outcome) : exit_status_of_array(state, {})};
}

std::uint64_t Daemon::wait_for(JobId job, EndReply reply) {
  if (const std::optional<JobState> state = ended_as(job)) {
    reply(end_of(reader_, job, *state));
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
  failed_starts_.erase(job);
  tell_task(job, std::nullopt, 0);
  if (auto waiters = waiters_.extract(job)) {
    for (const auto& [number, reply] : waiters.mapped()) {
      call_apart(loop_, [&, &answer = reply] { answer(end); });
    }
  }
}

void Daemon::tell_array_end(JobId array, JobState state) {
  std::vector<Outcome> tasks;
  call_apart(loop_, [&] {
    if (waiters_.contains(array)) {
      tasks = reader_.array_outcomes(array);
    }
  });
  tell_end(array, {state, exit_status_of_array(state, tasks)});
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
  return waiting_.has_task(array, task);
}

bool Daemon::is_without_number(JobId array, unsigned task) const {
  return has_waiting_task(array, task) || is_task_on_its_way(array, task);
}

std::optional<Outcome> Daemon::never_started(JobId array, unsigned task) {
  const std::optional<StoredJob> stored = reader_.find_stored(array);
  if (!stored || stored->array_job_id || waiting_.contains(array) || is_task_on_its_way(array, task)) {
    return std::nullopt;
  }
  const QueueFacts facts = queue_facts(parse_stored_job(stored->spec_text, job_name(array)));
  return IndexList::parse(facts.array_tasks).contains(task) ? reader_.closing(array) : std::nullopt;
}

void Daemon::separate_task(JobId array, unsigned task, TaskReply reply) {
  WaitingJob rest = *waiting_.find(array);
  WaitingJob single = rest;
  single.facts.array_tasks.clear();
  if (!dependents_.contains(array)) {
    single.facts.dependency.clear();  // it has been fulfilled
  }
  IndexList tasks = IndexList::parse(rest.facts.array_tasks);
  tasks.erase(task);
  if (tasks.ranges() > IndexList::kMostRanges) {
    throw ApiError(409, "array " + std::to_string(array) + " would be left in more than " +
                            std::to_string(IndexList::kMostRanges) +
                            " ranges and single tasks: take tasks out of it that follow each other");
  }
  rest.facts.array_tasks = tasks.to_text();
  if (tasks.empty()) {
    waiting_.remove(array);
    forget(array);
  } else {
    enqueue(rest, clock_.system_now());
  }
  separating_.emplace(std::pair{array, task}, "");
  const auto id = std::make_shared<JobId>(0);
  committer_->commit(
      [array, task, single, id, at = clock_.system_now()](QueueStore& store) {
        *id = store.add_task(array, task, at);
        store.change(*id, single.facts, at, R"({"action":"separate"})", "");
      },
      [this, array, task, single, id, reply = std::move(reply)](const std::exception_ptr& error) mutable {
        const std::string canceller = separating_.extract({array, task}).mapped();
        if (error) {
          if (canceller.empty()) {
            give_task_back(single, task);
            tell_task(array, task, 0);
          } else {
            end_waiting(array, cancelled_before_start(canceller), {});
          }
          reply(error, 0);
          return;
        }
        single.job_id = *id;
        if (!canceller.empty()) {
          end_waiting(*id, cancelled_before_start(canceller), {});
        } else {
          enqueue(single, clock_.system_now());
          schedule();
        }
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
    call_apart(loop_, [&] { reply(id); });
  }
}

}  // namespace berth
