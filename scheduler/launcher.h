// Launcher: what scheduling needs from execution, and no more.
//
// The scheduler owns this interface; scheduler/executor_launcher adapts the Executor to it and
// tests/support/fake_launcher replaces it. Single-threaded: all calls come from the scheduler's thread.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "schemas/accounting_record.h"

namespace berth {

/// One attempt to start: the scheduler has committed CONFIGURING and holds the lease.
struct StartRequest {
  JobId job_id = 0;
  unsigned attempt = 1;
  JobSpec spec;
  Allocation allocation;
};

/// The job's exec succeeded.
struct JobStarted {
  JobId job_id = 0;
  Timestamp at;
  std::string detail = {};  ///< for the RUNNING event: a JSON object with what was decided only now, or empty
};

/// The attempt is over, its processes are gone and its usage is final.
struct JobEnded {
  JobId job_id = 0;
  Timestamp at;
  Outcome outcome;
  Usage usage;
};

using LauncherEvent = std::variant<JobStarted, JobEnded>;

enum class StopMode { graceful, immediate };  ///< TERM, grace period, kill of the cgroup | the kill alone

class Launcher {
 public:
  virtual ~Launcher() = default;
  Launcher() = default;
  Launcher(const Launcher&) = delete;
  Launcher& operator=(const Launcher&) = delete;

  /// Begins an attempt. Never throws for a fault of the job: that arrives as JobEnded with
  /// Cause::launch_failed.
  virtual void start(const StartRequest& request) = 0;
  /// Latches `cause` (cancelled, preempted …) and stops the job; a second call may only escalate.
  virtual void stop(JobId job_id, Cause cause, StopMode mode) = 0;
  /// Waits until something happened, `deadline` passed, or a wake-up descriptor the launcher was given
  /// became readable; returns what happened, in order, possibly nothing.
  virtual std::vector<LauncherEvent> wait(std::optional<std::chrono::steady_clock::time_point> deadline) = 0;
};

}  // namespace berth
