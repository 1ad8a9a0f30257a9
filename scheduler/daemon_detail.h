// What the sources of Daemon share (daemon*.cpp) and nobody else needs.
#pragma once

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "scheduler/daemon.h"
#include "scheduler/log.h"
#include "scheduler/submission.h"

namespace berth {

/// Jobs before one whose start is asked for.
inline constexpr std::size_t kLookedAhead = 1000;

inline Outcome ended_before_start(JobState state, Cause cause, const std::string& message) {
  Outcome outcome;
  outcome.state = state;
  outcome.cause = cause;
  outcome.message = message;
  return outcome;
}

inline Outcome cancelled_before_start(const std::string& by) {
  return ended_before_start(JobState::cancelled, Cause::cancelled,
                            "cancelled by " + by + " before it started");
}

/// The same of an array, of which some tasks may have started.
inline Outcome of_unstarted_tasks(const Outcome& outcome) {
  constexpr std::string_view kOfJob = "before it started";
  Outcome of_tasks = outcome;
  if (of_tasks.message.ends_with(kOfJob)) {
    of_tasks.message.replace(of_tasks.message.size() - kOfJob.size(), kOfJob.size(),
                             "before all its tasks had started");
  }
  return of_tasks;
}

/// An array has no outcome of its own: the highest of its tasks, as with sbatch --wait.
inline int exit_status_of_array(JobState state, const std::vector<Outcome>& tasks) {
  int highest = state == JobState::completed ? 0 : 1;
  for (const Outcome& outcome : tasks) {
    highest = std::max(highest, exit_status(outcome));
  }
  return highest;
}

inline std::string job_name(JobId job) {
  return "job " + std::to_string(job);
}

/// Its place among singletons of its name: a task has its array's, whenever it got a number of its own.
inline JobId place_of(const KnownJob& job) {
  return job.array_job_id.value_or(job.job_id);
}

/// What the job, or the one task of an array, is scheduled by when it waits again.
inline QueueFacts task_facts(const JobSpec& spec, const KnownJob& stored) {
  QueueFacts facts = queue_facts(spec);
  facts.hold = Hold::none;
  facts.begin.reset();
  if (stored.array_job_id) {
    facts.array_tasks.clear();
  }
  if (stored.array_job_id || stored.attempt > 0) {
    facts.dependency.clear();  // it has been fulfilled
  }
  return facts;
}

inline RunnerMessage stop_message(const AttemptId& id, bool at_once, const std::string& by,
                                  Cause cause = Cause::cancelled) {
  RunnerMessage message;
  message.kind = RunnerMessage::Kind::stop;
  message.id = id;
  message.cause = cause;
  message.by = by;
  message.at_once = at_once;
  return message;
}

inline RunnerMessage pause_message(const AttemptId& id, bool suspended) {
  RunnerMessage message;
  message.kind = suspended ? RunnerMessage::Kind::suspend : RunnerMessage::Kind::resume;
  message.id = id;
  return message;
}

/// Of a hold by berthd itself; held_because() reads it.
inline std::string hold_detail(const std::string& because) {
  return nlohmann::json{{"action", "hold"}, {"by", "berthd"}, {"because", because}}.dump();
}

inline std::string action_detail(const std::string& action, const Actor& actor) {
  return nlohmann::json{{"action", action}, {"by", actor.name}}.dump();
}

}  // namespace berth
