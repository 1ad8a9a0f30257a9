#include "scheduler/runner.h"

#include <poll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <system_error>

#include "executor/os/syscall.h"
#include "executor/os/unix_socket.h"
#include "scheduler/crash_point.h"
#include "scheduler/imagined_cpus.h"
#include "scheduler/log.h"
#include "scheduler/output_files.h"
#include "schemas/index_list.h"
#include "schemas/input_error.h"
#include "schemas/job_file.h"

namespace berth {
namespace {

using Kind = RunnerMessage::Kind;

Timestamp wall_clock() {
  return std::chrono::time_point_cast<Timestamp::duration>(std::chrono::system_clock::now());
}

UniqueFd listen_at(const std::string& path) {
  UniqueFd socket = bind_private(path, SOCK_STREAM);
  check(::listen(socket.get(), 4), "listen", path);
  return socket;
}

/// SIGTERM as a descriptor; blocked before the launcher is forked, which resets it for its own.
UniqueFd termination_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  check(::sigprocmask(SIG_BLOCK, &set, nullptr), "sigprocmask");
  return UniqueFd{check(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), "signalfd")};
}

std::string name_of(AttemptId id) {
  return "job " + std::to_string(id.job_id) + " attempt " + std::to_string(id.attempt);
}

Outcome launch_failure(const std::string& stage, int error_number, const std::string& what) {
  Outcome outcome;
  outcome.state = JobState::failed;
  outcome.cause = Cause::launch_failed;
  outcome.stage = stage;
  outcome.error_number = error_number;
  outcome.message = what;
  return outcome;
}

/// sbatch(1), "OUTPUT ENVIRONMENT VARIABLES"; a task's spec is its array's.
void add_array_variables(JobId array, unsigned task, JobSpec& spec) {
  const auto set = [&](const std::string& name, auto value) {
    spec.environment["SLURM_ARRAY_" + name] = spec.environment["BERTH_ARRAY_" + name] = std::to_string(value);
  };
  set("JOB_ID", array);
  set("TASK_ID", task);
  if (!spec.array.empty()) {
    const IndexList tasks = parse_array(spec.array).tasks;
    set("TASK_COUNT", tasks.size());
    set("TASK_MIN", tasks.lowest());
    set("TASK_MAX", tasks.highest());
    set("TASK_STEP", tasks.step());
  }
}

}  // namespace

Runner::Runner(const RunnerOptions& options, Supervisor self)
    : self_(std::move(self)),
      spool_(options.spool_folder),
      socket_path_(options.socket_folder + "/" + self_.cgroup + ".sock"),
      listener_(listen_at(socket_path_)),
      signals_(termination_signals()),
      executor_({.cgroup = self_.cgroup, .armed_ahead = options.armed_ahead, .own_scope = true}),
      streams_(executor_, streams_socket_of(options.socket_folder, self_.cgroup),
               [this](AttemptId id) { return look(id); }),
      idle_since_(std::chrono::steady_clock::now()) {
  std::string problem;  // berthd says so
  cpus_ = CpuLocks::of_this_machine(problem);
  executor_.wait_until_ready();
}

Runner::~Runner() {
  ::unlink(socket_path_.c_str());
}

void Runner::run() {
  while (!may_end()) {
    std::array<pollfd, 5> descriptors{{{executor_.event_descriptor(), POLLIN, 0},
                                       {listener_.get(), POLLIN, 0},
                                       {connection_.get(), POLLIN, 0},
                                       {signals_.get(), POLLIN, 0},
                                       {streams_.descriptor(), POLLIN, 0}}};
    if (!unsent_.empty()) {
      descriptors[2].events |= POLLOUT;
    }
    if (::poll(descriptors.data(), descriptors.size(), longest_sleep()) < 0 && errno != EINTR) {
      throw std::system_error(errno, std::generic_category(), "poll");
    }
    if (descriptors[0].revents != 0) {
      for (ExecutorEvent& event : executor_.dispatch()) {
        report(event);
      }
    }
    if (descriptors[3].revents != 0) {  // before a start that has come too
      end_jobs();
    }
    if (descriptors[4].revents != 0) {
      streams_.dispatch();
    }
    if (connection_ && (descriptors[2].revents & (POLLIN | POLLHUP | POLLERR)) != 0) {
      read_connection();
    }
    if (descriptors[1].revents != 0) {
      accept_connection();
    }
    flush();
    if (!is_idle()) {
      idle_since_ = std::chrono::steady_clock::now();
    }
  }
}

/// For poll(): until may_end() may have changed by itself.
int Runner::longest_sleep() const {
  constexpr int kWhileLeavingMs = 500;
  constexpr int kWhileIdleMs = 30'000;
  return terminated_ ? kWhileLeavingMs : is_idle() ? kWhileIdleMs : -1;
}

/// Neither holds jobs nor is to be given any.
bool Runner::is_idle() const {
  return jobs_.empty() && (!connection_ || retiring_);
}

bool Runner::may_end() const {
  if (!jobs_.empty() || executor_.running() > 0) {
    return false;
  }
  if (terminated_) {
    // What was not acknowledged is in the spool. An older berthd does not answer.
    return retiring_ || !connection_ || std::chrono::steady_clock::now() - *terminated_ >= kFarewell;
  }
  const bool abandoned = is_idle() && std::chrono::steady_clock::now() - idle_since_ >= kLinger &&
                         spooled_.size() == unacknowledged_.size();
  return abandoned || (retiring_ && unacknowledged_.empty() && !streams_.are_ending());
}

void Runner::end_jobs() {
  signalfd_siginfo info{};
  (void)!::read(signals_.get(), &info, sizeof info);
  terminated_ = std::chrono::steady_clock::now();
  send_leaving();
  for (const auto& [job_id, job] : jobs_) {
    executor_.stop(job_id, Cause::node_fail, job.grace);
  }
  for (const auto& [id, ended] : unacknowledged_) {
    spool(ended);
  }
}

/// A new berthd takes the place of the one before. What it has not acknowledged is sent to it again.
void Runner::accept_connection() {
  UniqueFd socket{::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)};
  if (!socket) {
    return;
  }
  drop_connection();
  connection_ = std::move(socket);
  retiring_ = false;
  counters_ = false;  // until it says so: it may be an older berthd
  RunnerMessage hello;
  hello.kind = Kind::hello;
  hello.runner = self_;
  hello.knows_umask = true;
  hello.tells_pauses = true;
  hello.program = program_identity("/proc/self/exe");
  hello.controllers = executor_.controllers();
  for (const auto& [job_id, job] : jobs_) {
    hello.jobs.push_back(job.id);
  }
  for (const auto& [id, ended] : unacknowledged_) {
    hello.jobs.push_back(id);
  }
  send(hello);
  for (const auto& [job_id, job] : jobs_) {
    if (job.started_at) {
      RunnerMessage started;
      started.kind = Kind::started;
      started.id = job.id;
      started.at = *job.started_at;
      started.detail = job.detail;
      send(started);
    }
  }
  for (auto& [id, ended] : unacknowledged_) {
    ended.counters = false;
    send(ended);
  }
  if (terminated_) {
    send_leaving();
  }
}

/// No job is to be sent from now on; berthd answers by the same, behind those that it has sent.
void Runner::send_leaving() {
  RunnerMessage message;
  message.kind = Kind::retire;
  send(message);
}

void Runner::drop_connection() {
  connection_.reset();
  reader_ = {};
  unsent_.clear();
  for (const auto& [id, ended] : unacknowledged_) {
    spool(ended);
  }
}

void Runner::read_connection() {
  std::array<char, 16384> buffer{};
  while (connection_) {
    const ssize_t count =
        retry_eintr([&] { return ::read(connection_.get(), buffer.data(), buffer.size()); });
    if (count < 0 && errno == EAGAIN) {
      return;
    }
    if (count <= 0) {
      drop_connection();
      return;
    }
    reader_.append(buffer.data(), static_cast<std::size_t>(count));
    try {
      while (const std::optional<RunnerMessage> message = reader_.next()) {
        try_to_handle(*message);
      }
    } catch (const std::runtime_error& error) {
      log_error(std::string("berthd sent what is no message: ") + error.what());
      drop_connection();
    }
  }
}

/// What goes wrong with one job is none of the others'.
void Runner::try_to_handle(const RunnerMessage& message) {
  try {
    handle(message);
  } catch (const std::exception& error) {
    log_error(name_of(message.id) + ": " + error.what());
  }
}

void Runner::flush() {
  while (connection_ && !unsent_.empty()) {
    const ssize_t count = ::send(connection_.get(), unsent_.data(), unsent_.size(), MSG_NOSIGNAL);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
      return;
    }
    if (count < 0) {
      drop_connection();
      return;
    }
    unsent_.erase(0, static_cast<std::size_t>(count));
  }
}

void Runner::send(const RunnerMessage& message) {
  if (connection_) {
    unsent_ += to_frame(message);
  }
}

/// So that no other berth on the machine leases them, should berthd be gone.
void Runner::occupy(Job& job, const CpuSet& cpus) {
  if (!cpus_) {
    return;
  }
  job.cpus = cpus;
  if (!cpus_->occupy(cpus)) {
    log_warning(name_of(job.id) + ": a job of another berth-runner is on CPUs " + cpus.to_list() + " too");
  }
}

/// Before its end is told: then its CPUs are berthd's to give away.
void Runner::forget(std::map<JobId, Job>::iterator job) {
  CpuSet left = job->second.cpus;
  jobs_.erase(job);
  for (const auto& [other_id, other] : jobs_) {
    left = left - other.cpus;  // a pool that changed may have let two share
  }
  if (cpus_) {
    cpus_->vacate(left);
  }
}

Runner::Job* Runner::find(AttemptId id) {
  const auto found = jobs_.find(id.job_id);
  return found != jobs_.end() && found->second.id == id ? &found->second : nullptr;
}

AttemptView Runner::look(AttemptId id) {
  AttemptView view;
  if (const Job* job = find(id)) {
    view.state = AttemptView::State::runs;
    view.terminal = job->terminal;
  } else if (const auto ended = unacknowledged_.find(id); ended != unacknowledged_.end()) {
    view.state = AttemptView::State::ended;
    view.outcome = ended->second.outcome;
  }
  return view;
}

void Runner::handle(const RunnerMessage& message) {
  Job* job = find(message.id);
  switch (message.kind) {
    case Kind::start:
      counters_ = message.counters;
      streams_.dispatch();  // who is to attach before its first byte was handed over before this message
      start(message);
      break;
    case Kind::acknowledge:
      streams_.dispatch();  // who was handed over before that hears of the end
      unacknowledged_.erase(message.id);
      if (spooled_.erase(message.id) > 0) {
        spool_.remove(message.id);
      }
      break;
    case Kind::retire:
      retiring_ = true;
      break;
    case Kind::sample:
      send_samples(message);
      break;
    case Kind::stop:
      if (job != nullptr) {
        if (message.cause == Cause::cancelled && job->canceller.empty()) {
          job->canceller = message.by;
        }
        executor_.stop(message.id.job_id, message.cause,
                       message.at_once ? std::chrono::milliseconds(0) : job->grace);
      }
      break;
    case Kind::signal:
      if (job != nullptr) {
        executor_.signal(message.id.job_id, message.signal_number, message.batch_job);
      }
      break;
    case Kind::suspend:
    case Kind::resume:
      pause(message);
      break;
    default:
      break;
  }
}

/// Suspends or resumes, and tells what became of it where that was asked for.
void Runner::pause(const RunnerMessage& message) {
  RunnerMessage answer;
  answer.kind = Kind::paused;
  answer.id = message.id;
  try {
    if (find(message.id) == nullptr || !executor_.freeze(message.id.job_id, message.kind == Kind::suspend)) {
      answer.detail = "it is ending";
    }
  } catch (const std::system_error& error) {
    answer.detail = error.what();
    log_error(name_of(message.id) + ": " + error.what());
  }
  if (message.tells_pauses) {
    send(answer);
  }
}

void Runner::start(const RunnerMessage& message) {
  if (jobs_.contains(message.id.job_id) || unacknowledged_.contains(message.id)) {
    return;  // sent again by a berthd that could not know that it had been sent
  }
  crash_point("runner.start_received");
  Job& job = jobs_[message.id.job_id];
  job.id = message.id;
  if (terminated_) {
    refuse(message.id, refused_by_leaving_runner());
    return;
  }
  try {
    occupy(job, message.allocation.cpus);
    launch(message, job);
  } catch (const LaunchError& error) {
    refuse(message.id, launch_failure(error.stage(), error.error_number(), error.what()));
  } catch (const std::system_error& error) {
    refuse(message.id, launch_failure("set-up", error.code().value(), error.what()));
  } catch (const std::exception& error) {
    refuse(message.id, launch_failure("set-up", 0, error.what()));
  }
}

void Runner::launch(const RunnerMessage& message, Job& job) {
  LaunchRequest request;
  request.job_id = message.id.job_id;
  request.attempt = message.id.attempt;
  request.spec = parse_stored_job(message.spec_text, name_of(message.id));
  request.allocation = message.allocation;
  request.allocation.cpus = real_cpus(message.allocation.cpus);
  request.caller = Caller{message.user_id, message.group_id, message.user};
  request.identity = resolve_identity(request.spec.isolation.user, *request.caller);
  executor_.use_network(message.network);
  executor_.check_supported(request.spec, *request.caller);
  if (message.array_job_id) {
    add_array_variables(*message.array_job_id, message.array_task_id.value_or(0), request.spec);
  }
  if (request.spec.terminal) {
    request.spec.environment.try_emplace("TERM", "xterm");
    const TerminalWindow window = streams_.attachments().window_of(message.id.job_id);
    request.terminal = TerminalSize{window.rows, window.columns};
  }
  const JobSpec& spec = request.spec;
  job.grace = spec.grace_period;
  job.terminal = spec.terminal;
  streams_.attachments().begin(message.id, spec.terminal);

  const FileOwner owner{message.user_id, message.group_id, message.user};
  const PatternValues values{message.id.job_id, spec.name, message.user, message.array_job_id,
                             message.array_task_id};
  if (!spec.standard_input.empty()) {
    job.input.reset(open_input_file(expand_pattern(spec.standard_input, values), owner));
    request.standard_input = job.input.get();
  }
  // An attempt after the first goes on in the same file.
  const OpenMode mode = message.id.attempt > 1 ? OpenMode::append : spec.open_mode;
  const std::string output = expand_pattern(spec.standard_output, values);
  const std::string error = expand_pattern(spec.standard_error, values);
  request.standard_output =
      open_sink(job, StreamFrame::Kind::output, output, {mode, spec.umask, *request.caller});
  request.join_streams = error.empty() || error == output;
  if (!request.join_streams) {
    request.standard_error =
        open_sink(job, StreamFrame::Kind::error, error, {mode, spec.umask, *request.caller});
  }
  executor_.launch(std::move(request));
  crash_point("runner.launched");
}

OutputSink Runner::open_sink(Job& job, StreamFrame::Kind stream, const std::string& path,
                             const SinkFile& file) {
  const bool discarded = path.empty() || path == "/dev/null";
  const FileOwner owner{file.caller.uid, file.caller.gid, file.caller.name};
  const int descriptor = discarded ? -1 : open_output_file(path, file.mode, owner, file.umask);
  if (!discarded) {
    job.outputs.emplace_back(descriptor);
  }
  const auto write = [descriptor, owner](const char* data, std::size_t size) {
    const AsOwner as_owner(owner);
    return write_all(descriptor, data, size);
  };
  return [this, id = job.id.job_id, stream, write, path, failed = discarded](const char* data,
                                                                             std::size_t size) mutable {
    streams_.attachments().tell(id, stream, {data, size});
    if (!failed && !write(data, size)) {
      failed = true;  // the job goes on: its record says what is missing
      const std::string why = path + ": " + std::generic_category().message(errno);
      log_error("cannot write job output to " + why + "; the rest is dropped");
      if (const auto found = jobs_.find(id); found != jobs_.end()) {
        found->second.lost_output = "; its output is incomplete: " + why;
      }
    }
    return SinkState::more;
  };
}

void Runner::refuse(AttemptId id, const Outcome& outcome) {
  forget(jobs_.find(id.job_id));
  RunnerMessage ended;
  ended.kind = Kind::ended;
  ended.id = id;
  ended.at = wall_clock();
  ended.outcome = outcome;
  streams_.attachments().end(id, ended.outcome);
  finish(std::move(ended));
}

void Runner::report(ExecutorEvent& event) {
  if (const auto* started = std::get_if<Started>(&event)) {
    report_started(*started);
  } else if (const auto* ended = std::get_if<Ended>(&event)) {
    report_ended(*ended);
  } else if (auto* terminal = std::get_if<TerminalOpened>(&event)) {
    streams_.take(std::move(*terminal));
  } else if (const auto* command = std::get_if<CommandEnded>(&event)) {
    streams_.take(*command);
  }
}

void Runner::send_samples(const RunnerMessage& asked) {
  RunnerMessage answer;
  answer.kind = Kind::samples;
  answer.id = asked.id;
  for (const auto& [job_id, job] : jobs_) {
    if (const std::optional<Executor::Sample> sample = executor_.sample(job_id)) {
      answer.samples.push_back({job.id, sample->cpu_time, sample->memory, sample->processes});
    }
  }
  send(answer);
}

void Runner::report_started(const Started& started) {
  const auto job = jobs_.find(started.job_id);
  if (job == jobs_.end()) {
    return;
  }
  job->second.started_at = started.at;
  job->second.detail = started.detail();
  RunnerMessage message;
  message.kind = Kind::started;
  message.id = job->second.id;
  message.at = started.at;
  message.detail = job->second.detail;
  send(message);
}

void Runner::report_ended(const Ended& ended) {
  const auto job = jobs_.find(ended.job_id);
  if (job == jobs_.end()) {
    return;
  }
  RunnerMessage message;
  message.kind = Kind::ended;
  message.id = job->second.id;
  message.at = ended.at;
  message.started_at = job->second.started_at;
  message.detail = job->second.detail;
  message.outcome = ended.outcome;
  name_canceller(message.outcome, job->second.canceller);
  message.outcome.message += job->second.lost_output;
  message.usage = ended.usage;
  streams_.attachments().end(message.id, ended.outcome);
  forget(job);
  finish(std::move(message));
}

void Runner::spool(const RunnerMessage& ended) {
  if (spooled_.contains(ended.id)) {
    return;
  }
  RunnerMessage record = ended;
  record.counters = false;
  try {
    spool_.put(record);
    spooled_.insert(ended.id);
  } catch (const std::system_error& error) {
    log_error(name_of(ended.id) + ": its record cannot be spooled and waits in memory: " + error.what());
  }
}

/// Sends the record when there is a berthd, else spools it; it stays here until it is acknowledged.
void Runner::finish(RunnerMessage ended) {
  crash_point("runner.before_record");
  ended.counters = counters_;
  if (connection_) {
    send(ended);
  }
  if (!connection_ || terminated_) {
    spool(ended);
  }
  const AttemptId id = ended.id;
  unacknowledged_.insert_or_assign(id, std::move(ended));
}

}  // namespace berth
