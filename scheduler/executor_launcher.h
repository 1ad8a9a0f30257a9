// ExecutorLauncher: the Executor as the scheduler's Launcher.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "executor/executor.h"
#include "scheduler/job_streams.h"
#include "scheduler/launcher.h"
#include "scheduler/terminal_bridge.h"

namespace berth {

/// Borrows the executor and the streams, which must outlive it. Single-threaded.
class ExecutorLauncher final : public Launcher {
 public:
  /// `identities` maps every isolation.user of the run to what resolve_identity() made of it. wait()
  /// returns early when one of `wake_up` is readable; it does not read them.
  ExecutorLauncher(Executor& executor, JobStreams& streams, std::map<std::string, Identity> identities,
                   std::vector<int> wake_up);

  /// Called at least this often from within wait(), for live progress.
  void set_tick(std::chrono::milliseconds interval, std::function<void()> tick);

  /// Jobs get a terminal, which is joined to the user's by `bridge`; it must outlive this. For one job alone.
  void set_terminal(TerminalBridge* bridge) { bridge_ = bridge; }

  void start(const StartRequest& request) override;
  void stop(JobId job_id, Cause cause, StopMode mode) override;
  std::vector<LauncherEvent> wait(std::optional<std::chrono::steady_clock::time_point> deadline) override;

 private:
  using SteadyClock = std::chrono::steady_clock;
  struct Readiness {
    bool executor = false;
    bool wake_up = false;
  };

  Readiness poll_until(std::optional<SteadyClock::time_point> deadline);
  void fail_launch(JobId job_id, const std::string& stage, int error_number, const std::string& message);
  std::vector<LauncherEvent> translate(std::vector<ExecutorEvent> events);

  Executor& executor_;
  JobStreams& streams_;
  std::map<std::string, Identity> identities_;
  std::vector<int> wake_up_;
  std::map<JobId, Milliseconds> grace_periods_;
  std::deque<LauncherEvent> failed_launches_;
  std::chrono::milliseconds tick_interval_{0};
  std::function<void()> tick_;
  TerminalBridge* bridge_ = nullptr;
};

}  // namespace berth
