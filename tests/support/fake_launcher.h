// FakeLauncher: jobs that exist only as a plan on a ManualClock. wait() lets time pass to the next thing that
// happens; nothing sleeps.
//
// Each job follows the Plan that `plan` gives for it. Everything the scheduler asked is kept in `starts` and
// `stops` for the test to look at.
#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/launcher.h"
#include "tests/support/manual_clock.h"

namespace berth {

inline Outcome exited_with(int code) {
  Outcome outcome;
  outcome.state = code == 0 ? JobState::completed : JobState::failed;
  outcome.cause = Cause::exited;
  outcome.exit_code = code;
  outcome.message = "exited with " + std::to_string(code);
  return outcome;
}

inline Outcome failed_launch(const std::string& stage, int error_number) {
  Outcome outcome;
  outcome.state = JobState::failed;
  outcome.cause = Cause::launch_failed;
  outcome.stage = stage;
  outcome.error_number = error_number;
  outcome.message = stage + " failed";
  return outcome;
}

class FakeLauncher final : public Launcher {
 public:
  struct Plan {
    Milliseconds duration{1'000};
    Outcome outcome = exited_with(0);  ///< launch_failed: no JobStarted, over at once
    Usage usage;
    Milliseconds stop_delay{0};  ///< between a graceful stop and the end
    std::string start_throws;    ///< not empty: start() throws this
  };
  struct Stopped {
    JobId job_id = 0;
    Cause cause = Cause::cancelled;
    StopMode mode = StopMode::graceful;
    bool operator==(const Stopped&) const = default;
  };

  explicit FakeLauncher(ManualClock& clock) : clock_(clock) {}

  std::function<Plan(const StartRequest&)> plan = [](const StartRequest&) { return Plan{}; };
  std::vector<StartRequest> starts;
  std::vector<Stopped> stops;
  std::size_t most_at_once = 0;
  /// When a wake-up descriptor becomes readable: wait() returns then, once.
  std::optional<SteadyTime> wakes_at;

  void start(const StartRequest& request) override {
    starts.push_back(request);
    const Plan planned = plan(request);
    if (!planned.start_throws.empty()) {
      throw std::runtime_error(planned.start_throws);
    }
    if (planned.outcome.cause == Cause::launch_failed) {
      running_.push_back({request.job_id, planned, clock_.steady_now(), true});
    } else {
      running_.push_back({request.job_id, planned, clock_.steady_now() + planned.duration, false});
    }
    most_at_once = std::max(most_at_once, running_.size());
  }

  void stop(JobId job_id, Cause cause, StopMode mode) override {
    stops.push_back({job_id, cause, mode});
    for (Running& job : running_) {
      if (job.job_id == job_id) {
        const Milliseconds delay = mode == StopMode::immediate ? Milliseconds{0} : job.plan.stop_delay;
        job.end = std::min(job.end, clock_.steady_now() + delay);
        job.plan.outcome = Outcome{};
        job.plan.outcome.state = JobState::cancelled;
        job.plan.outcome.cause = cause;
        job.plan.outcome.message = "cancelled";
      }
    }
  }

  /// The exec handshakes that are due; otherwise time passes to the next end, or to the deadline.
  std::vector<LauncherEvent> wait(std::optional<SteadyTime> deadline) override {
    std::vector<LauncherEvent> events;
    for (Running& job : running_) {
      if (!job.started) {
        job.started = true;
        events.emplace_back(JobStarted{job.job_id, clock_.system_now()});
      }
    }
    if (!events.empty()) {
      return events;
    }
    const bool wakes_first = wakes_at && (!deadline || *wakes_at <= *deadline);
    if (wakes_first) {
      deadline = wakes_at;
    }
    const auto next = std::min_element(running_.begin(), running_.end(),
                                       [](const Running& a, const Running& b) { return a.end < b.end; });
    if (next == running_.end() && !deadline) {
      throw std::logic_error("the scheduler waits for nothing, for ever");
    }
    if (next == running_.end() || (deadline && *deadline < next->end)) {
      clock_.advance_to(*deadline);
      if (wakes_first) {
        wakes_at.reset();
      }
      return events;
    }
    clock_.advance_to(next->end);
    for (const Running& job : running_) {
      if (job.end <= clock_.steady_now()) {
        events.emplace_back(JobEnded{job.job_id, clock_.system_now(), job.plan.outcome, job.plan.usage});
      }
    }
    running_.erase(std::remove_if(running_.begin(), running_.end(),
                                  [&](const Running& job) { return job.end <= clock_.steady_now(); }),
                   running_.end());
    return events;
  }

 private:
  struct Running {
    JobId job_id = 0;
    Plan plan;
    SteadyTime end;
    bool started = false;
  };
  ManualClock& clock_;
  std::vector<Running> running_;
};

}  // namespace berth
