#include "scheduler/executor_launcher.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

namespace berth {
namespace {

Timestamp now() {
  return std::chrono::time_point_cast<Timestamp::duration>(std::chrono::system_clock::now());
}

/// poll(2)'s timeout; rounded up, so that it never returns just before the deadline and spins.
int milliseconds_until(std::chrono::steady_clock::time_point deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  return static_cast<int>(std::clamp<std::chrono::milliseconds::rep>(left.count(), 0, 3'600'000));
}

OutputSink sink_of(StreamSink stream) {
  if (!stream) {
    return {};
  }
  return [stream = std::move(stream)](const char* data, std::size_t size) {
    switch (stream(data, size)) {
      case StreamState::wait:
        return SinkState::wait;
      case StreamState::closed:
        return SinkState::closed;
      default:
        return SinkState::more;
    }
  };
}

}  // namespace

ExecutorLauncher::ExecutorLauncher(Executor& executor, JobStreams& streams,
                                   std::map<std::string, Identity> identities, std::vector<int> wake_up)
    : executor_(executor),
      streams_(streams),
      identities_(std::move(identities)),
      wake_up_(std::move(wake_up)) {}

void ExecutorLauncher::set_tick(std::chrono::milliseconds interval, std::function<void()> tick) {
  tick_interval_ = interval;
  tick_ = std::move(tick);
}

void ExecutorLauncher::start(const StartRequest& request) {
  try {
    JobStreams::Streams streams = streams_.open(request.job_id, request.spec);
    LaunchRequest launch;
    launch.job_id = request.job_id;
    launch.attempt = request.attempt;
    launch.spec = request.spec;
    launch.allocation = request.allocation;
    launch.identity = identities_.at(request.spec.isolation.user);
    launch.standard_input = streams.standard_input;
    launch.standard_output = sink_of(std::move(streams.standard_output));
    launch.standard_error = sink_of(std::move(streams.standard_error));
    launch.join_streams = streams.joined;
    if (bridge_ != nullptr) {
      const TerminalWindow window = bridge_->window();
      launch.terminal = TerminalSize{window.rows, window.columns};
    }
    grace_periods_[request.job_id] = request.spec.grace_period;
    executor_.launch(std::move(launch));
  } catch (const LaunchError& error) {
    fail_launch(request.job_id, error.stage(), error.error_number(), error.what());
  } catch (const std::system_error& error) {
    fail_launch(request.job_id, "set-up", error.code().value(), error.what());
  }
}

void ExecutorLauncher::stop(JobId job_id, Cause cause, StopMode mode) {
  const auto grace = grace_periods_.find(job_id);
  if (grace != grace_periods_.end()) {
    executor_.stop(job_id, cause, mode == StopMode::graceful ? grace->second : Milliseconds(0));
  }
}

std::vector<LauncherEvent> ExecutorLauncher::wait(std::optional<SteadyClock::time_point> deadline) {
  while (true) {
    if (!failed_launches_.empty()) {
      std::vector<LauncherEvent> events(failed_launches_.begin(), failed_launches_.end());
      failed_launches_.clear();
      return events;
    }
    const Readiness ready = poll_until(deadline);
    std::vector<LauncherEvent> events;
    if (ready.executor) {
      events = translate(executor_.dispatch());
    }
    if (!events.empty() || ready.wake_up || (deadline && SteadyClock::now() >= *deadline)) {
      return events;
    }
  }
}

ExecutorLauncher::Readiness ExecutorLauncher::poll_until(std::optional<SteadyClock::time_point> deadline) {
  std::vector<pollfd> descriptors{{executor_.event_descriptor(), POLLIN, 0}};
  for (const int descriptor : wake_up_) {
    descriptors.push_back({descriptor, POLLIN, 0});
  }
  const std::size_t readers = descriptors.size();
  streams_.add_pending(descriptors);
  const std::size_t writers = descriptors.size();
  if (bridge_ != nullptr) {
    bridge_->add_descriptors(descriptors);
  }
  int timeout = deadline ? milliseconds_until(*deadline) : -1;
  if (tick_) {
    const int tick = static_cast<int>(tick_interval_.count());
    timeout = timeout < 0 ? tick : std::min(timeout, tick);
  }
  if (::poll(descriptors.data(), descriptors.size(), timeout) < 0 && errno != EINTR) {
    throw std::system_error(errno, std::generic_category(), "poll");
  }
  if (tick_) {
    tick_();
  }
  if (writers > readers && streams_.flush_some()) {
    executor_.resume_output();
  }
  if (bridge_ != nullptr) {
    bridge_->handle();
  }
  Readiness ready;
  ready.executor = descriptors[0].revents != 0;
  for (std::size_t i = 1; i < readers; ++i) {
    ready.wake_up = ready.wake_up || descriptors[i].revents != 0;
  }
  return ready;
}

void ExecutorLauncher::fail_launch(JobId job_id, const std::string& stage, int error_number,
                                   const std::string& message) {
  streams_.close(job_id);
  grace_periods_.erase(job_id);
  JobEnded ended;
  ended.job_id = job_id;
  ended.at = now();
  ended.outcome.state = JobState::failed;
  ended.outcome.cause = Cause::launch_failed;
  ended.outcome.stage = stage;
  ended.outcome.error_number = error_number;
  ended.outcome.message = message;
  failed_launches_.emplace_back(std::move(ended));
}

std::vector<LauncherEvent> ExecutorLauncher::translate(std::vector<ExecutorEvent> events) {
  std::vector<LauncherEvent> result;
  for (ExecutorEvent& event : events) {
    if (const auto* started = std::get_if<Started>(&event)) {
      result.emplace_back(JobStarted{started->job_id, started->at, started->detail()});
    } else if (const auto* ended = std::get_if<Ended>(&event)) {
      if (bridge_ != nullptr) {
        bridge_->close();
      }
      streams_.close(ended->job_id);
      grace_periods_.erase(ended->job_id);
      result.emplace_back(JobEnded{ended->job_id, ended->at, ended->outcome, ended->usage});
    } else if (auto* terminal = std::get_if<TerminalOpened>(&event);
               terminal != nullptr && bridge_ != nullptr) {
      bridge_->open(std::move(terminal->master));
    }
  }
  return result;
}

}  // namespace berth
