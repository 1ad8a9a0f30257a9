// Attempt: supervision of one launched job, from its plan to its verdict.
//
// Watches init's reports, the job's output and the limits that the kernel does not enforce (wall time, CPU
// time of the tree, output size, silence); stops the job in order: latch the cause, signal, grace, kill of
// the whole cgroup. Single-threaded; time is given by the caller (CLOCK_MONOTONIC).
#pragma once

#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "executor/executor.h"
#include "executor/sandbox.h"
#include "executor/verdict.h"

namespace berth {

class Attempt {
 public:
  using Clock = std::chrono::steady_clock;
  using Time = Clock::time_point;
  enum class Stream { output, error };

  Attempt(LaunchRequest request, std::unique_ptr<Sandbox> sandbox, UniqueFd output, UniqueFd error, Time now);

  JobId job_id() const { return request_.job_id; }
  const JobSpec& spec() const { return request_.spec; }
  const CpuSet& cpus() const { return request_.allocation.cpus; }
  Sandbox& sandbox() { return *sandbox_; }
  int descriptor(Stream stream) const { return (stream == Stream::output ? output_ : error_).get(); }

  /// Everything init reported by now. True when the job's exec has just succeeded.
  bool handle_reports(Time now);
  /// True once, when the descriptor of standard output has come to be: a terminal.
  bool take_new_output() { return std::exchange(new_output_, false); }
  bool has_terminal() const { return request_.terminal.has_value(); }
  void close_output() { output_.reset(); }
  /// Reads what the job wrote. `closed` at end of file: the descriptor is gone, that of a terminal apart.
  /// `wait`: the descriptor is not to be watched until resume().
  SinkState handle_output(Stream stream, Time now);
  /// Whether the stream waits for its reader; it does no longer afterwards.
  bool resume(Stream stream) { return std::exchange(waiting_[static_cast<std::size_t>(stream)], false); }
  /// Fires every deadline that has passed.
  void handle_time(Time now);
  /// The next instant at which handle_time() has something to do.
  std::optional<Time> next_deadline() const;

  void fail(LaunchFailure failure);
  void stop(Cause cause, std::chrono::milliseconds grace, Time now);
  /// Executor::signal.
  void signal(int signal_number, bool batch_job, Time now);
  /// Freezes or thaws its processes, once it has started. Frozen time counts against no limit; a stop thaws.
  /// False when it does not run, or is ending. Throws CgroupError; nothing has changed then.
  bool freeze(bool frozen, Time now);
  bool started() const { return started_.has_value(); }
  /// Of one that has started: when its first instruction ran.
  Time started_at() const { return *started_; }
  /// Executor::start_command.
  CommandId start_command(const CommandRequest& request, const PlanContext& context);
  void signal_command(std::uint32_t number, int signal_number, Time now);
  /// What became of commands and terminals since the last call.
  std::vector<ExecutorEvent> take_command_events() { return std::exchange(command_events_, {}); }
  bool stopping() const { return latched_.has_value() || failure_.has_value(); }
  /// Init has closed its end: its channel has nothing more to say.
  bool channel_closed() const { return channel_closed_; }

  /// Nothing of the job is left, though init may be.
  bool gone() const { return switches_.has_value(); }

  /// When the job is gone or init's pidfd became readable: drains the output, reads the counters. Called
  /// once.
  Ended finish(Time now);
  std::unique_ptr<Sandbox> release_sandbox() { return std::move(sandbox_); }

 private:
  /// A sentence with the remedy for a failed step, or nothing where there is no better one than the step.
  /// `script`: which it was to execute, if it was one.
  std::string explain(const sandbox::Report& report, std::string_view script) const;
  std::string explain_mount(const sandbox::Report& report) const;
  std::string hiding_mount(const std::string& directory) const;
  void let_the_rest_end(Time now);
  void latch(Cause cause);
  void kill(Time now);
  void tell_signal(int signal_number, std::uint32_t target, Time now);
  void tell_init(Time now);
  std::string explain_command(const sandbox::Report& report) const;
  void take_terminal(std::uint32_t number);
  void end_command(CommandEnded ended);
  SinkState deliver(Stream stream, const char* data, std::size_t size, Time now);
  void check_cpu_time(Time now);
  void sample(Time now);
  Observation observe(const CgroupCounters& counters);
  Usage total_usage(const CgroupCounters& counters, Time now);

  LaunchRequest request_;
  std::unique_ptr<Sandbox> sandbox_;
  UniqueFd output_;
  UniqueFd error_;
  Bytes output_bytes_ = 0;
  std::chrono::microseconds setup_cpu_{0};  ///< of init, before the job: charged to the cgroup, not the job's
  bool channel_closed_ = false;
  std::array<bool, 2> waiting_{};
  bool new_output_ = false;
  std::optional<Time> started_;
  std::optional<Time> main_ended_;
  std::optional<int> wait_status_;
  struct Switches {
    Usage::Count voluntary;
    Usage::Count involuntary;
  };
  std::optional<Switches> switches_;  ///< of its processes; known when all of them are gone
  std::optional<LaunchFailure> failure_;
  std::optional<Cause> latched_;
  std::optional<Time> launch_deadline_;
  std::optional<Time> wall_deadline_;
  std::optional<Time> warning_at_;
  std::optional<Time> silence_deadline_;
  std::optional<Time> cpu_check_at_;
  std::optional<Time> kill_at_;
  std::optional<Time> grace_end_;  ///< of the first stop()
  std::optional<Time> frozen_at_;
  Time::duration frozen_for_{};  ///< before that
  std::optional<Time> sample_at_;
  /// What init has not been sent: it does not run yet, is frozen with its job, or does not read.
  struct Untold {
    struct Signal {
      int number;
      std::uint32_t target;  ///< SignalMessage::command
      bool operator==(const Signal&) const = default;
    };
    std::vector<Signal> signals;  ///< each once, in the order in which they were asked for last
    Time::duration pause{};       ///< in which it was frozen
  };
  Untold untold_;
  std::optional<Time> tell_at_;
  std::chrono::milliseconds sample_interval_{10};
  std::set<std::uint32_t> commands_;  // that have not ended
  std::uint32_t last_command_ = 0;
  std::vector<ExecutorEvent> command_events_;
};

/// What the wall clock, as it is set now, showed at a past instant.
Timestamp wall_clock_at(Attempt::Time instant);

}  // namespace berth
