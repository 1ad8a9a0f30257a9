#include "executor/attempt.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <csignal>

#include "executor/job_limits.h"
#include "executor/os/syscall.h"
#include "schemas/job_file.h"

namespace berth {
namespace {

using std::chrono::milliseconds;
using Micros = std::chrono::microseconds;

/// Set-up takes milliseconds; only a hanging network file system takes longer.
constexpr std::chrono::seconds kLaunchPatience{60};
/// For init to end what a job's main process left, before it is ended with it.
constexpr std::chrono::seconds kEndPatience{10};
/// A job that was stopped and whose start is not told by then is in set-up still, and never begins.
constexpr milliseconds kStartIsTold{200};
/// A kill that did not end the cgroup (a task in uninterruptible sleep) is sent again.
constexpr std::chrono::seconds kKillAgain{1};
/// Between attempts to tell init what its full channel did not take.
constexpr milliseconds kTellAgain{100};
constexpr milliseconds kLongestSampleInterval{1000};
constexpr milliseconds kShortestCpuCheck{10};
/// Reads of one stream before others get their turn.
constexpr int kReadsPerTurn = 16;
/// A pipe holds 256 packets at most, each of which may take a read (pipe(7), O_DIRECT).
constexpr int kTurnsAtTheEnd = 32;

/// Takes the CPU time of set-up out of a cgroup's: whole, and in proportion from its user and system parts.
void subtract_setup(Usage& usage, Micros setup) {
  if (!usage.cpu_total || usage.cpu_total->count() == 0) {
    return;
  }
  const Micros total = std::max(*usage.cpu_total - setup, Micros::zero());
  // The kernel rounds each of the three down.
  const bool is_whole = usage.cpu_user && usage.cpu_system &&
                        *usage.cpu_total - *usage.cpu_user - *usage.cpu_system <= Micros(2);
  const auto scale = [&](std::optional<Micros>& part) {
    if (part) {
      part = Micros(
          static_cast<std::int64_t>(static_cast<double>(part->count()) * static_cast<double>(total.count()) /
                                    static_cast<double>(usage.cpu_total->count())));
    }
  };
  scale(usage.cpu_user);
  scale(usage.cpu_system);
  if (is_whole) {
    usage.cpu_system = std::max(total - *usage.cpu_user, Micros::zero());
  }
  usage.cpu_total = total;
}

/// What could not be executed. A script itself is there, and may be: it is its interpreter then.
std::string executed(const sandbox::Report& report, std::string_view script) {
  const std::string_view interpreter = interpreter_of(script);
  return interpreter.empty() || report.error == E2BIG
             ? report.object
             : std::string(interpreter) + ", the interpreter in the script's first line";
}

bool is_due(const std::optional<Attempt::Time>& deadline, Attempt::Time now) {
  return deadline && *deadline <= now;
}

}  // namespace

Timestamp wall_clock_at(Attempt::Time instant) {
  const auto ago = std::max(Attempt::Clock::now() - instant, Attempt::Time::duration(0));
  return std::chrono::time_point_cast<Micros>(std::chrono::system_clock::now()) -
         std::chrono::duration_cast<Micros>(ago);
}

Attempt::Attempt(LaunchRequest request, std::unique_ptr<Sandbox> sandbox, UniqueFd output, UniqueFd error,
                 Time now)
    : request_(std::move(request)),
      sandbox_(std::move(sandbox)),
      output_(std::move(output)),
      error_(std::move(error)),
      launch_deadline_(now + kLaunchPatience) {}

/// Of a working directory that is not there because a mount is in its place.
std::string Attempt::hiding_mount(const std::string& directory) const {
  const std::vector<Mount>& mounts = request_.spec.isolation.mounts;
  const auto hides = [&](const Mount& mount) { return (directory + '/').starts_with(mount.target + '/'); };
  const auto mount = std::find_if(mounts.rbegin(), mounts.rend(), hides);
  return mount == mounts.rend() ? "" : mount->target;
}

std::string Attempt::explain_mount(const sandbox::Report& report) const {
  const std::string problem = std::string("cannot mount at ") + report.object + ": ";
  switch (report.error) {
    case ENOENT:
    case EROFS:
    case EACCES:
      if (report.object == std::string_view("/run/berth")) {
        return problem + std::generic_category().message(report.error) +
               "; berth's own files for the job go there (its script, /etc/hosts): make that folder in what "
               "is at /run, or mount elsewhere";
      }
      return problem + std::generic_category().message(report.error) +
             "; use a target that exists, a new one directly below /, or one below /tmp";
    case EEXIST:
      return problem +
             "berth's own files for the job are there (its script, /etc/hosts); name another target";
    case EISDIR:
      return problem + "it is a folder in the job, and what is mounted is a file; name a file as the target";
    case ENOTDIR:
      return problem +
             "it, or a part of its path, is a file in the job; mount a folder on a folder, and a file "
             "on a file";
    case ESTALE:
      return problem + "what is there was changed while the job was started; start it again";
    case ELOOP:
      return problem +
             "links in the job's root lead to / itself, into /proc, /sys or /dev, or in a circle; name "
             "another target";
    default:
      return {};  // stage and errno say it
  }
}

std::string Attempt::explain(const sandbox::Report& report, std::string_view script) const {
  const std::string why = std::generic_category().message(report.error);
  switch (report.step) {
    case sandbox::Step::exec:
      return "cannot execute " + executed(report, script) + ": " + why;
    case sandbox::Step::change_directory:
      if (const std::string mount = hiding_mount(report.object); report.error == ENOENT && !mount.empty()) {
        return std::string("there is no working directory ") + report.object + " in what is mounted at " +
               mount + "; choose another (-D), or mount elsewhere";
      }
      return "the job's user " + request_.identity.name + " (uid " +
             std::to_string(request_.identity.outside_uid) +
             " on the host) cannot enter its working directory " + report.object + ": " + why +
             "; choose another (-D), open it to that user, or name a user that may (--user)";
    case sandbox::Step::mount_bind:
    case sandbox::Step::mount_tmpfs:
      return explain_mount(report);
    default:
      return {};  // stage and errno say it
  }
}

bool Attempt::handle_reports(Time now) {
  bool just_started = false;
  while (const std::optional<sandbox::Report> report = sandbox_->receive_report(&channel_closed_)) {
    switch (report->kind) {
      case sandbox::ReportKind::ready:
        break;
      case sandbox::ReportKind::failed:
        fail(
            {step_name(report->step, report->object), report->error, explain(*report, request_.spec.script)});
        break;
      case sandbox::ReportKind::started: {
        just_started = true;
        started_ = Time(std::chrono::nanoseconds(report->at));
        setup_cpu_ = std::chrono::duration_cast<Micros>(std::chrono::nanoseconds(report->setup_cpu));
        launch_deadline_.reset();
        if (grace_end_) {
          kill_at_ = grace_end_;
        }
        const JobSpec& spec = request_.spec;
        if (spec.time_limit) {
          wall_deadline_ = *started_ + *spec.time_limit;  // whenever we hear of the start
          if (spec.kill_warning_signal != 0) {
            warning_at_ = std::max(now, *wall_deadline_ - spec.kill_warning_delay);
          }
        }
        if (spec.no_output_timeout) {
          silence_deadline_ = now + *spec.no_output_timeout;
        }
        if (spec.limits.cpu_time) {
          cpu_check_at_ = now + kShortestCpuCheck;
        }
        sample_at_ = now + sample_interval_;
        break;
      }
      case sandbox::ReportKind::overdue:
        latch(Cause::wall_time);
        break;
      case sandbox::ReportKind::exited:
        wait_status_ = report->wait_status;
        main_ended_ = Time(std::chrono::nanoseconds(report->at));
        let_the_rest_end(now);
        break;
      case sandbox::ReportKind::terminal:
        take_terminal(report->command);
        break;
      case sandbox::ReportKind::command_failed:
        end_command({{job_id(), report->command},
                     0,
                     report->error,
                     step_name(report->step, report->object),
                     explain_command(*report)});
        break;
      case sandbox::ReportKind::command_exited:
        end_command({{job_id(), report->command}, report->wait_status, 0, "", ""});
        break;
      case sandbox::ReportKind::gone:
        switches_ = Switches{static_cast<Usage::Count>(report->voluntary_switches),
                             static_cast<Usage::Count>(report->involuntary_switches)};
        break;
    }
  }
  if (just_started && latched_ == Cause::output_limit) {  // before it was known to run
    stop(Cause::output_limit, request_.spec.grace_period, now);
  }
  if (just_started) {
    tell_init(now);
  }
  return just_started;
}

/// The main process has ended, and init ends what it left. Were init frozen before we heard of that, or
/// stopped from outside, it never would.
void Attempt::let_the_rest_end(Time now) {
  for (std::optional<Time>* deadline :
       {&wall_deadline_, &warning_at_, &silence_deadline_, &cpu_check_at_, &sample_at_, &tell_at_}) {
    deadline->reset();
  }
  if (!kill_at_) {
    kill_at_ = now + kEndPatience;
  }
  if (!frozen_at_) {
    return;
  }
  frozen_for_ += std::max(*main_ended_ - *std::exchange(frozen_at_, std::nullopt), Time::duration::zero());
  try {
    sandbox_->cgroup().freeze(false);
  } catch (const CgroupError&) {
    kill(now);
  }
}

std::string Attempt::explain_command(const sandbox::Report& report) const {
  if (report.step == sandbox::Step::fork && report.error == EAGAIN) {
    return "the job has no room for another process: limits.pids, or " +
           std::to_string(sandbox::kMaximumCommands) + " commands beside it";
  }
  const std::string better =
      report.step == sandbox::Step::change_directory ? "" : explain(report, std::string_view());
  return better.empty()
             ? step_name(report.step, report.object) + ": " + std::generic_category().message(report.error)
             : better;
}

void Attempt::take_terminal(std::uint32_t number) {
  UniqueFd master = sandbox_->take_terminal();
  if (!master) {
    return;
  }
  if (number == 0) {
    UniqueFd duplicate{::fcntl(master.get(), F_DUPFD_CLOEXEC, 0)};
    output_ = std::move(master);
    new_output_ = true;
    command_events_.emplace_back(TerminalOpened{{job_id(), 0}, std::move(duplicate)});
  } else if (commands_.contains(number)) {
    command_events_.emplace_back(TerminalOpened{{job_id(), number}, std::move(master)});
  }
}

/// The first report counts: a child whose exec failed tells so, and then it exits as well.
void Attempt::end_command(CommandEnded ended) {
  if (commands_.erase(ended.id.number) > 0) {
    std::erase_if(untold_.signals, [&](const auto& signal) { return signal.target == ended.id.number; });
    command_events_.emplace_back(std::move(ended));
  }
}

CommandId Attempt::start_command(const CommandRequest& request, const PlanContext& context) {
  const auto refuse = [](int error_number, const std::string& message) {
    throw LaunchError("command", error_number, message);
  };
  if (!started_ || wait_status_ || stopping()) {
    refuse(ESRCH, started_ ? "the job is ending" : "the job has not started yet");
  }
  if (frozen_at_) {
    refuse(EBUSY, "the job is suspended; resume it first");
  }
  if (commands_.size() >= sandbox::kMaximumCommands) {
    refuse(EAGAIN, std::to_string(sandbox::kMaximumCommands) + " commands run beside the job already");
  }
  PreparedPlan plan = prepare_command(request_, request, last_command_ + 1, context);
  const UniqueFd null = open_at(AT_FDCWD, "/dev/null", O_RDWR);
  const auto given = [&](int descriptor) { return descriptor >= 0 ? descriptor : null.get(); };
  const int error_number = sandbox_->send_command(
      plan, given(request.standard_input), given(request.standard_output), given(request.standard_error));
  if (error_number != 0) {
    refuse(error_number, error_number == EAGAIN ? "the job does not take further commands now; try again"
                                                : "the job is ending");
  }
  commands_.insert(++last_command_);
  return {job_id(), last_command_};
}

void Attempt::signal(int signal_number, bool batch_job, Time now) {
  tell_signal(signal_number, batch_job ? sandbox::kMainProcess : 0, now);
}

void Attempt::signal_command(std::uint32_t number, int signal_number, Time now) {
  if (commands_.contains(number)) {
    tell_signal(signal_number, number, now);
  }
}

/// As one that a process blocks (signal(7)), but the same for real-time signals: it waits once, however often
/// it comes. The last of SIGSTOP and SIGCONT stays the last.
void Attempt::tell_signal(int signal_number, std::uint32_t target, Time now) {
  const Untold::Signal signal{signal_number, target};
  std::erase(untold_.signals, signal);
  untold_.signals.push_back(signal);
  if (started_ && !frozen_at_) {
    tell_init(now);
  }
}

/// As much as its channel takes; the rest is tried again.
void Attempt::tell_init(Time now) {
  tell_at_.reset();
  if (wait_status_) {
    return;  // it listens no more
  }
  if (untold_.pause != Time::duration::zero()) {
    if (sandbox_->send_pause(untold_.pause) == EAGAIN) {
      tell_at_ = now + kTellAgain;
      return;
    }
    untold_.pause = Time::duration::zero();
  }
  auto next = untold_.signals.begin();
  while (next != untold_.signals.end() && sandbox_->send_signal(next->number, next->target) != EAGAIN) {
    ++next;
  }
  if (next != untold_.signals.end()) {
    tell_at_ = now + kTellAgain;
  }
  untold_.signals.erase(untold_.signals.begin(), next);
}

SinkState Attempt::deliver(Stream stream, const char* data, std::size_t size, Time now) {
  const std::optional<Bytes>& limit = request_.spec.limits.output;
  const Bytes before = output_bytes_;
  output_bytes_ += size;
  if (request_.spec.no_output_timeout && silence_deadline_) {
    silence_deadline_ = now + *request_.spec.no_output_timeout;
  }
  std::size_t allowed = size;
  if (limit && output_bytes_ > *limit) {
    allowed = before >= *limit ? 0 : *limit - before;
    output_bytes_ = *limit;
    latch(Cause::output_limit);  // also of what is read after its end: some of its output is lost
    if (started_) {
      stop(Cause::output_limit, request_.spec.grace_period, now);
    }  // else when init has told that it runs, which it does a millisecond later
  }
  const OutputSink& sink = stream == Stream::output ? request_.standard_output : request_.standard_error;
  return !sink || allowed == 0 ? SinkState::more : sink(data, allowed);
}

SinkState Attempt::handle_output(Stream stream, Time now) {
  UniqueFd& descriptor = stream == Stream::output ? output_ : error_;
  static std::array<char, std::size_t{64} * 1024> buffer;
  for (int turn = 0; turn < kReadsPerTurn && descriptor; ++turn) {
    const ssize_t count = retry_eintr([&] { return ::read(descriptor.get(), buffer.data(), buffer.size()); });
    if (count < 0 && errno == EAGAIN) {
      return SinkState::more;
    }
    const SinkState state =
        count <= 0 ? SinkState::closed : deliver(stream, buffer.data(), static_cast<std::size_t>(count), now);
    if (state == SinkState::closed && !has_terminal()) {
      descriptor.reset();
    }
    waiting_[static_cast<std::size_t>(stream)] = state == SinkState::wait;
    if (state != SinkState::more) {
      return state;
    }
  }
  return SinkState::more;
}

void Attempt::fail(LaunchFailure failure) {
  if (!failure_) {
    failure_ = std::move(failure);
  }
}

bool Attempt::freeze(bool frozen, Time now) {
  if (!started_ || wait_status_ || (frozen && latched_)) {
    return false;
  }
  if (frozen == frozen_at_.has_value()) {
    return true;
  }
  if (frozen) {
    sandbox_->cgroup().freeze(true);
    frozen_at_ = now;
    return true;
  }
  const auto pause = now - *frozen_at_;
  frozen_at_ = now;
  frozen_for_ += pause;
  untold_.pause += pause;
  for (std::optional<Time>* deadline : {&wall_deadline_, &warning_at_, &silence_deadline_}) {
    if (*deadline) {
      **deadline += pause;
    }
  }
  tell_init(now);  // first: init is frozen too, and finds it when it goes on
  sandbox_->cgroup().freeze(false);
  frozen_at_.reset();
  return true;
}

void Attempt::latch(Cause cause) {
  if (!latched_ || (latched_ == Cause::preempted && cause == Cause::cancelled)) {
    latched_ = cause;
  }
}

void Attempt::stop(Cause cause, milliseconds grace, Time now) {
  if (wait_status_) {
    return;  // its main process has ended by itself
  }
  latch(cause);  // before the first signal, so that its effect is never taken for the cause
  // Before it is known to run the signals wait for that: init tells it a moment after the first instruction.
  bool graceful = grace > milliseconds::zero();
  try {
    freeze(false, now);
  } catch (const CgroupError&) {
    graceful = false;    // it answers no signal
    frozen_at_.reset();  // and is killed until it is gone
  }
  if (!graceful) {
    kill(now);
  } else if (!kill_at_) {
    signal(SIGTERM, false, now);
    signal(SIGCONT, false, now);
    grace_end_ = now + grace;
    kill_at_ = started_ ? *grace_end_ : now + std::min(grace, kStartIsTold);
  }
}

void Attempt::kill(Time now) {
  if (started_) {
    sandbox_->cgroup().kill_all();
  }
  sandbox_->kill_init();
  grace_end_.reset();
  kill_at_ = now + kKillAgain;
}

void Attempt::check_cpu_time(Time now) {
  const Micros limit = *request_.spec.limits.cpu_time;
  std::optional<Micros> used = sandbox_->cgroup().cpu_time();
  if (used) {
    *used -= setup_cpu_;  // as the record counts it
  }
  if (used && *used >= limit) {
    cpu_check_at_.reset();
    stop(Cause::cpu_time, request_.spec.grace_period, now);
    return;
  }
  // All its CPUs at work could use up the rest no sooner than this.
  const auto cpus = static_cast<long>(std::max<std::size_t>(1, request_.allocation.cpus.size()));
  const Micros rest = (limit - used.value_or(Micros::zero())) / cpus;
  cpu_check_at_ = now + std::max<Micros>(rest, kShortestCpuCheck);
}

void Attempt::sample(Time now) {
  sandbox_->cgroup().sample();
  sample_interval_ = std::min(sample_interval_ * 2, kLongestSampleInterval);
  sample_at_ = now + sample_interval_;
}

void Attempt::handle_time(Time now) {
  if (is_due(launch_deadline_, now)) {
    launch_deadline_.reset();
    fail({"set-up", ETIMEDOUT, "its set-up did not finish within a minute; is a file system hanging?"});
    kill(now);
  }
  if (frozen_at_) {
    return;  // no limit of time counts
  }
  if (is_due(warning_at_, now)) {
    warning_at_.reset();
    signal(request_.spec.kill_warning_signal, request_.spec.kill_warning_batch_job, now);
  }
  if (is_due(wall_deadline_, now)) {
    wall_deadline_.reset();
    stop(Cause::wall_time, request_.spec.grace_period, now);
  }
  if (is_due(silence_deadline_, now) && (waiting_[0] || waiting_[1])) {
    silence_deadline_ = now + *request_.spec.no_output_timeout;  // it is our reader that keeps it silent
  } else if (is_due(silence_deadline_, now)) {
    silence_deadline_.reset();
    stop(Cause::no_output, request_.spec.grace_period, now);
  }
  if (is_due(cpu_check_at_, now)) {
    check_cpu_time(now);
  }
  if (is_due(sample_at_, now)) {
    sample(now);
  }
  if (is_due(kill_at_, now)) {
    kill(now);
  }
  if (is_due(tell_at_, now)) {
    tell_init(now);
  }
}

std::optional<Attempt::Time> Attempt::next_deadline() const {
  std::optional<Time> next;
  if (frozen_at_) {
    return launch_deadline_;
  }
  for (const auto& deadline : {launch_deadline_, wall_deadline_, warning_at_, silence_deadline_,
                               cpu_check_at_, sample_at_, kill_at_, tell_at_}) {
    if (deadline && (!next || *deadline < *next)) {
      next = deadline;
    }
  }
  return next;
}

Observation Attempt::observe(const CgroupCounters& counters) {
  Observation observation;
  observation.launch_failure = failure_;
  observation.latched = latched_;
  observation.wait_status = wait_status_;
  observation.oom_kills = counters.usage.oom_kills.value_or(0);
  observation.refused_forks = counters.usage.pids_limit_hits.value_or(0);
  observation.own_cgroup = sandbox_->cgroup().path(Controller::memory);
  if (observation.oom_kills > 0) {
    observation.limiting_cgroup = sandbox_->cgroup().limiting_cgroup();
    observation.limiting_is_own = observation.limiting_cgroup == observation.own_cgroup;
  }
  if (!started_ && !failure_ && !latched_ && !wait_status_ && observation.oom_kills == 0) {
    observation.launch_failure =
        LaunchFailure{"set-up", ECHILD, "its init died during set-up; was it killed from outside?"};
  }
  return observation;
}

Usage Attempt::total_usage(const CgroupCounters& counters, Time now) {
  Usage usage = counters.usage;
  if (started_) {
    const Time end = main_ended_.value_or(now);
    const auto frozen =
        frozen_for_ + (frozen_at_ ? std::max(end - *frozen_at_, Time::duration(0)) : Time::duration(0));
    usage.wall = std::chrono::duration_cast<Micros>(end - *started_ - frozen);
  }
  usage.memory_limit_hits = counters.memory_limit_hits ? counters.memory_limit_hits : usage.memory_limit_hits;
  subtract_setup(usage, setup_cpu_);
  leave_init_out(usage);
  usage.output_bytes = output_bytes_;
  if (switches_) {
    usage.voluntary_switches = switches_->voluntary;
    usage.involuntary_switches = switches_->involuntary;
  }
  sandbox_->read_network(usage);
  return usage;
}

Ended Attempt::finish(Time now) {
  handle_reports(now);
  if (!gone() && sandbox_->pidfd() >= 0) {
    // Init was killed, and the job with it: its end is near, if it has not come.
    if (const std::optional<rusage> resources = sandbox_->reap()) {
      switches_ = Switches{static_cast<Usage::Count>(resources->ru_nvcsw),
                           static_cast<Usage::Count>(resources->ru_nivcsw)};
    }
  }
  for (const Stream stream : {Stream::output, Stream::error}) {
    // Every writer of the job is gone, so this ends at end-of-file, or when a pipe that was passed outside is
    // empty; or has been emptied many times over, by someone outside who goes on writing.
    for (int turn = 0; turn < kTurnsAtTheEnd && descriptor(stream) >= 0; ++turn) {
      pollfd waiting{descriptor(stream), POLLIN, 0};
      if (handle_output(stream, now) == SinkState::closed || ::poll(&waiting, 1, 0) <= 0) {
        break;
      }
    }
  }
  for (const std::uint32_t number : std::exchange(commands_, {})) {
    command_events_.emplace_back(CommandEnded{{job_id(), number}, SIGKILL, 0, "", "its job has ended"});
  }
  const CgroupCounters counters = sandbox_->cgroup().read();
  Ended ended;
  ended.job_id = request_.job_id;
  ended.at = wall_clock_at(main_ended_.value_or(now));
  ended.outcome = decide_outcome(observe(counters), request_.spec, request_.allocation.memory);
  ended.usage = total_usage(counters, now);
  return ended;
}

}  // namespace berth
