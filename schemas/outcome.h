// Outcome: how one attempt of a job ended, and why; the verdict that the executor reaches.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "schemas/job.h"

namespace berth {

/// The cause, in the order of precedence in which the executor decides (docs/verdict.md):
/// launch_failed; then the kill reason latched before our signal was sent; then the kernel's.
enum class Cause {
  launch_failed,  ///< a step before or at exec failed: stage and error_number say which
  wall_time,      ///< time_limit
  cpu_time,       ///< limits.cpu_time, of the whole process tree
  output_limit,   ///< limits.output
  no_output,      ///< no_output_timeout
  cancelled,      ///< by its user or by Ctrl-C
  preempted,
  deadline,           ///< it could not start, or not end, before its deadline
  node_fail,          ///< the supervising berth died with it (kill -9, power cut)
  out_of_memory,      ///< main process SIGKILLed and the cgroup counts an oom_kill
  seccomp_violation,  ///< SIGSYS from the seccomp filter
  signalled,
  exited,
};

std::string_view to_string(Cause cause);
std::optional<Cause> parse_cause(std::string_view text);

/// The limit that ended the job (or, for out_of_memory, the one that was hit).
struct LimitHit {
  std::string name;    ///< job-file field ("time_limit", "memory_per_node", "limits.output")
  std::string value;   ///< as applied, formatted ("512M", "00:10:00")
  std::string cgroup;  ///< limiting cgroup: a path below the controller's mount; empty when none
  bool operator==(const LimitHit&) const = default;
};

struct Outcome {
  JobState state = JobState::failed;  ///< always a final state
  Cause cause = Cause::exited;
  /// Of the main process; 0 when a signal ended it. Absent when it never ran, or nobody saw its end.
  std::optional<int> exit_code;
  int signal = 0;  ///< that ended the main process; 0 when it exited, and without an exit code
  bool core_dumped = false;
  std::optional<LimitHit> limit;
  std::string stage;     ///< launch_failed: the step, e.g. "exec", "mount /data"
  int error_number = 0;  ///< launch_failed: errno
  std::string message;   ///< one sentence for people; never empty
  bool operator==(const Outcome&) const = default;
};

/// Exit status of `berth run`: the job's own 0-123 (and 126, 127 …, as it exited); 124 timed out (wall,
/// CPU, no output); 125 berth failed or refused; 126 not executable; 127 not found; 128+n killed by
/// signal n (137 for out of memory). A job that we stopped (cancel, preempt, output limit) and that then
/// exited 0 counts as ended by SIGTERM (143), never as a success.
int exit_status(const Outcome& outcome);

/// sacct's ExitCode: "code:signal". Without an exit code its exit_status is in its place, which is never 0.
std::string exit_code_field(const Outcome& outcome);

}  // namespace berth
