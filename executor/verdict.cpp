#include "executor/verdict.h"

#include <sys/wait.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <system_error>

namespace berth {
namespace {

std::string signal_name(int number) {
  const char* abbreviation = ::sigabbrev_np(number);
  return abbreviation != nullptr ? std::string("SIG") + abbreviation : "signal " + std::to_string(number);
}

void take_wait_status(Outcome& outcome, const std::optional<int>& status) {
  outcome.exit_code = 0;
  if (!status) {
    outcome.signal = SIGKILL;  // the whole namespace was killed, the main process with it
  } else if (WIFSIGNALED(*status)) {
    outcome.signal = WTERMSIG(*status);
    outcome.core_dumped = WCOREDUMP(*status);
  } else {
    outcome.exit_code = WEXITSTATUS(*status);
  }
}

/// What to do about errno values that name something else than what is the matter.
std::string remedy_of(const LaunchFailure& failure) {
  const bool makes_namespaces = failure.stage == "clone" || failure.stage.ends_with(" namespace");
  if (failure.error_number == ENOSPC && makes_namespaces) {
    return "; the user has as many namespaces as it may (sysctl user.max_net_namespaces and the like), or "
           "they "
           "are nested too deeply";
  }
  if (failure.error_number == EAGAIN && (failure.stage == "clone" || failure.stage == "fork")) {
    return "; there is no room for another process (ulimit -u, kernel.pid_max, pids.max of a cgroup above)";
  }
  constexpr int kNotSupported = 524;  // the kernel's ENOTSUPP, which no header has
  if (failure.error_number == kNotSupported && failure.stage == "seccomp") {
    return "; the machine's memory for filters is used up (sysctl net.core.bpf_jit_limit)";
  }
  return {};
}

Outcome launch_failed(const LaunchFailure& failure) {
  Outcome outcome;
  outcome.state = JobState::failed;
  outcome.cause = Cause::launch_failed;
  outcome.stage = failure.stage;
  outcome.error_number = failure.error_number;
  outcome.message = failure.message.empty()
                        ? "could not start: " + failure.stage + ": " +
                              std::generic_category().message(failure.error_number) + remedy_of(failure)
                        : failure.message;
  return outcome;
}

/// Slurm's form has no fractions of a second: "250ms" rather than "00:00:00".
std::string duration_text(const std::optional<Milliseconds>& duration) {
  if (!duration) {
    return {};
  }
  return duration->count() % 1000 == 0 ? format_duration(*duration)
                                       : std::to_string(duration->count()) + "ms";
}

/// A stop of ours: the state, the limit and the sentence for each latched cause.
void apply_latched(Outcome& outcome, Cause cause, const JobSpec& spec) {
  outcome.cause = cause;
  outcome.state = JobState::timeout;
  switch (cause) {
    case Cause::wall_time:
      outcome.limit = LimitHit{"time_limit", duration_text(spec.time_limit), ""};
      outcome.message = "ran longer than its time_limit of " + outcome.limit->value;
      break;
    case Cause::cpu_time:
      outcome.limit = LimitHit{"limits.cpu_time", duration_text(spec.limits.cpu_time), ""};
      outcome.message = "used more CPU time than its limits.cpu_time of " + outcome.limit->value;
      break;
    case Cause::no_output:
      outcome.limit = LimitHit{"no_output_timeout", duration_text(spec.no_output_timeout), ""};
      outcome.message = "wrote nothing for its no_output_timeout of " + outcome.limit->value;
      break;
    case Cause::output_limit:
      outcome.state = JobState::failed;
      outcome.limit =
          LimitHit{"limits.output", spec.limits.output ? format_size(*spec.limits.output) : "", ""};
      outcome.message = "wrote more than its limits.output of " + outcome.limit->value;
      break;
    case Cause::preempted:
      outcome.state = JobState::preempted;
      outcome.message = "preempted";
      break;
    case Cause::node_fail:
      outcome.state = JobState::node_fail;
      outcome.message = "the supervising berth died with it";
      break;
    default:
      outcome.state = JobState::cancelled;
      outcome.message = "cancelled";
      break;
  }
}

bool killed_by(const Observation& observation, int signal) {
  return !observation.wait_status
             ? signal == SIGKILL
             : WIFSIGNALED(*observation.wait_status) && WTERMSIG(*observation.wait_status) == signal;
}

/// How a shell says that its command was: the status of a script that ends with it.
bool passes_on_sigkill(const Observation& observation) {
  constexpr int kShellsBase = 128;
  return observation.wait_status && WIFEXITED(*observation.wait_status) &&
         WEXITSTATUS(*observation.wait_status) == kShellsBase + SIGKILL;
}

void apply_out_of_memory(Outcome& outcome, const Observation& observation, const JobSpec& spec,
                         Bytes memory_limit) {
  outcome.cause = Cause::out_of_memory;
  outcome.state = JobState::out_of_memory;
  if (observation.limiting_is_own) {
    outcome.limit = LimitHit{"memory_per_node", format_size(memory_limit), observation.own_cgroup};
    outcome.message =
        "ran out of memory: its limit of " + outcome.limit->value + " (" +
        (spec.memory_per_node ? "memory_per_node" : "its share of the pool's memory; set memory_per_node") +
        ") was reached in cgroup " + observation.own_cgroup;
  } else if (observation.limiting_cgroup.empty()) {
    outcome.message = "killed because memory ran out, at its own limit of " + format_size(memory_limit) +
                      ", at that of a cgroup above it or the machine's: this kernel does not tell";
  } else {
    outcome.limit = LimitHit{"ancestor memory limit", "", observation.limiting_cgroup};
    outcome.message =
        observation.limiting_cgroup == "/"
            ? "killed because the machine ran out of memory, below the job's own limit of " +
                  format_size(memory_limit)
            : "killed because cgroup " + observation.limiting_cgroup + " above it ran out of memory";
  }
}

std::string some_of(std::uint64_t count, const std::string& what) {
  return "; " + std::to_string(count) + " of its " + what + (count == 1 ? " was " : " were ");
}

/// What did not end it, but may be why it did not do better.
std::string notes(const Observation& observation) {
  std::string text;
  if (observation.oom_kills > 0) {
    text += some_of(observation.oom_kills, "processes") + "killed for lack of memory";
  }
  const bool completed = observation.wait_status && *observation.wait_status == 0;
  if (observation.refused_forks > 0 && !completed) {
    text += some_of(observation.refused_forks, "forks") + "refused (limits.pids)";
  }
  return text;
}

}  // namespace

Outcome decide_outcome(const Observation& observation, const JobSpec& spec, Bytes memory_limit) {
  if (observation.launch_failure && observation.latched != Cause::cancelled) {
    return launch_failed(*observation.launch_failure);
  }
  Outcome outcome;
  if (observation.launch_failure) {  // cancelled while being set up
    apply_latched(outcome, Cause::cancelled, spec);
    outcome.message = "cancelled before it started";
    return outcome;
  }
  take_wait_status(outcome, observation.wait_status);
  if (observation.latched) {
    apply_latched(outcome, *observation.latched, spec);
  } else if (observation.oom_kills > 0 &&
             (killed_by(observation, SIGKILL) || passes_on_sigkill(observation))) {
    apply_out_of_memory(outcome, observation, spec, memory_limit);
  } else if (killed_by(observation, SIGSYS) && spec.isolation.seccomp) {
    outcome.cause = Cause::seccomp_violation;
    outcome.state = JobState::failed;
    outcome.message = "killed by SIGSYS: it made a system call that the default seccomp profile forbids";
  } else if (outcome.signal != 0) {
    outcome.cause = Cause::signalled;
    outcome.state = JobState::failed;
    outcome.message =
        "killed by " + signal_name(outcome.signal) + (outcome.core_dumped ? " (core dumped)" : "");
    if (outcome.signal == SIGXFSZ && spec.limits.file_size) {
      outcome.limit = LimitHit{"limits.file_size", format_size(*spec.limits.file_size), ""};
      outcome.message += ": it wrote a file beyond its limits.file_size of " + outcome.limit->value;
    }
    outcome.message += notes(observation);
  } else {
    outcome.cause = Cause::exited;
    outcome.state = outcome.exit_code == 0 ? JobState::completed : JobState::failed;
    outcome.message =
        outcome.exit_code == 0 ? "completed" : "exited with status " + std::to_string(*outcome.exit_code);
    outcome.message += notes(observation);
  }
  return outcome;
}

}  // namespace berth
