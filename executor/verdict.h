// The verdict: from what was observed of one attempt to its Outcome. Pure, so that every precedence is a
// unit test. docs/verdict.md states the rules for users.
#pragma once

#include <optional>
#include <string>

#include "schemas/job_spec.h"
#include "schemas/outcome.h"
#include "schemas/usage.h"

namespace berth {

/// A step before the job's first instruction that failed.
struct LaunchFailure {
  std::string stage;  ///< "exec", "mount /data"
  int error_number = 0;
  std::string message;  ///< a sentence with the remedy; empty: one is made from stage and errno
};

struct Observation {
  std::optional<LaunchFailure> launch_failure;
  std::optional<Cause> latched;     ///< why we stopped it, latched before the first signal was sent
  std::optional<int> wait_status;   ///< of the main process, wait(2) format; absent when init died first
  std::uint64_t oom_kills = 0;      ///< in the attempt's cgroup
  std::uint64_t refused_forks = 0;  ///< likewise, by its limit of processes
  std::string limiting_cgroup;      ///< whose memory limit was hit, when oom_kills > 0; empty: not known
  bool limiting_is_own = true;      ///< the attempt's own cgroup, rather than an ancestor or the machine
  std::string own_cgroup;           ///< memory controller's path of the attempt
};

Outcome decide_outcome(const Observation& observation, const JobSpec& spec, Bytes memory_limit);

}  // namespace berth
