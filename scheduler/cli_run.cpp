#include "scheduler/cli_run.h"

#include <pwd.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "executor/executor.h"
#include "executor/os/syscall.h"
#include "executor/os/unique_fd.h"
#include "scheduler/batch.h"
#include "scheduler/cli_run_preparation.h"
#include "scheduler/command_job.h"
#include "scheduler/database_path.h"
#include "scheduler/executor_launcher.h"
#include "scheduler/log.h"
#include "scheduler/progress.h"
#include "scheduler/recovery.h"
#include "scheduler/run_jobs_input.h"
#include "scheduler/run_report.h"
#include "scheduler/side_thread.h"
#include "schemas/daemon_config.h"
#include "schemas/terminal_text.h"

namespace berth {
namespace {

/// SIGINT, SIGTERM, SIGHUP, SIGQUIT and SIGTSTP as a descriptor. Blocked from here on: must exist before the
/// executor forks, so that no moment is left in which Ctrl-C ends berth and leaves its jobs to the kernel.
/// What was ignored from the start (nohup, a background job of a shell) stays ignored.
class AwaitedSignals {
 public:
  AwaitedSignals() {
    sigset_t set;
    sigemptyset(&set);
    for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGUSR1, SIGUSR2}) {
      struct sigaction action {};
      if (::sigaction(number, nullptr, &action) == 0 && action.sa_handler != SIG_IGN) {
        sigaddset(&set, number);
      }
    }
    ::sigprocmask(SIG_BLOCK, &set, nullptr);
    descriptor_.reset(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!descriptor_) {
      throw std::system_error(errno, std::generic_category(), "signalfd");
    }
    // A reader of our output that goes away is met as EPIPE, where the output is written; a limit on the size
    // of files (ulimit -f) as EFBIG.
    struct sigaction ignore {};
    ignore.sa_handler = SIG_IGN;
    ::sigaction(SIGPIPE, &ignore, nullptr);
    ::sigaction(SIGXFSZ, &ignore, nullptr);
  }

  int descriptor() const { return descriptor_.get(); }
  /// From here on Ctrl-Z stops this process as any other: there are no jobs to stop.
  static void let_stop() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTSTP);
    ::sigprocmask(SIG_UNBLOCK, &set, nullptr);
    ::signal(SIGUSR1, SIG_IGN);  // there is no job left for them
    ::signal(SIGUSR2, SIG_IGN);
  }
  /// The next one that came; 0: none.
  int take() const {
    signalfd_siginfo info{};
    return ::read(descriptor_.get(), &info, sizeof info) == sizeof info ? static_cast<int>(info.ssi_signo)
                                                                        : 0;
  }

 private:
  UniqueFd descriptor_;
};

std::string user_name(uid_t uid, const Caller& caller) {
  if (uid == caller.uid) {
    return caller.name;
  }
  if (uid == kUnprivilegedId) {  // nobody's: a search of all user databases would only take its time
    return std::to_string(uid);
  }
  const passwd* entry = ::getpwuid(uid);
  return entry == nullptr ? std::to_string(uid) : entry->pw_name;
}

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

std::map<std::string, Identity> resolve_identities(const std::vector<RequestedJob>& jobs,
                                                   std::vector<InputFault> faults) {
  std::map<std::string, Identity> identities;
  for (const RequestedJob& job : jobs) {
    const std::string& user = job.spec.isolation.user;
    if (identities.contains(user)) {
      continue;
    }
    try {
      identities[user] = resolve_identity(user);
    } catch (const LaunchError& error) {
      faults.push_back({job.source, "", "job \"" + job.spec.name + "\": " + error.what()});
    }
  }
  if (!faults.empty()) {
    throw InputError(std::move(faults));
  }
  return identities;
}

/// What only a queue that lasts can honour is refused, not dropped.
std::vector<InputFault> queueing_faults(const std::vector<RequestedJob>& jobs) {
  std::vector<InputFault> faults;
  for (const RequestedJob& job : jobs) {
    const JobSpec& spec = job.spec;
    for (const auto& [asked, field] : {std::pair{spec.hold, "/hold"},
                                       {spec.requeue, "/requeue"},
                                       {spec.begin_time.has_value(), "/begin_time"},
                                       {spec.deadline.has_value(), "/deadline"},
                                       {!spec.dependency.empty(), "/dependency"},
                                       {!spec.array.empty(), "/array"},
                                       {spec.retry.has_value(), "/retry"}}) {
      if (asked) {
        faults.push_back({job.source, field,
                          "job \"" + spec.name + "\": needs berthd's queue; use berth submit, or remove it"});
      }
    }
    if (spec.terminal) {
      faults.push_back({job.source, "/terminal",
                        "job \"" + spec.name +
                            "\": needs berthd, whose jobs can be attached to; use berth submit, or berth run "
                            "--pty with a command"});
    }
  }
  return faults;
}

/// A working directory that nobody named (the caller's, or the job file's) and that the job's user cannot
/// enter is replaced by the job's private /tmp, with a warning, as Slurm does. One that was named is refused
/// later.
void replace_unusable_directories(std::vector<RequestedJob>& jobs,
                                  const std::map<std::string, Identity>& identities,
                                  const CommandLine& line) {
  std::error_code ignored;
  const std::string current = std::filesystem::current_path(ignored).string();
  for (RequestedJob& job : jobs) {
    std::string& directory = job.spec.current_working_directory;
    const std::string of_file =
        std::filesystem::absolute(job.source, ignored).parent_path().lexically_normal().string();
    const bool is_default = !line.has("chdir") && (directory == current || directory == of_file);
    const Identity& identity = identities.at(job.spec.isolation.user);
    if (!is_default || !job.spec.isolation.root.empty()) {
      continue;
    }
    const bool is_mounted = std::any_of(job.spec.isolation.mounts.begin(), job.spec.isolation.mounts.end(),
                                        [&](const Mount& mount) { return mount.target == directory; });
    if (is_private_to_jobs(directory) && !is_mounted) {
      std::string warning = "job \"" + job.spec.name + "\": " + directory;
      warning +=
          " is an empty directory of its own for each job, and what it writes there is lost: work in a ";
      warning += "folder below it, or mount it with --mount (-D says that it is meant so)";
      log_warning(warning);
    } else if (!can_enter(identity, directory)) {
      log_warning(
          "job \"" + job.spec.name + "\": its user " + identity.name + " cannot enter " + directory +
          ": it runs in its private /tmp instead (-D, current_working_directory or --user choose otherwise)");
      directory = "/tmp";
    }
  }
}

std::vector<Submission> submissions_of(std::vector<RequestedJob> jobs,
                                       const std::map<std::string, Identity>& identities,
                                       const Caller& caller) {
  const std::string host = host_name();
  std::vector<Submission> submissions;
  submissions.reserve(jobs.size());
  for (RequestedJob& job : jobs) {
    const uid_t job_user = identities.at(job.spec.isolation.user).outside_uid;
    Submission submission;
    submission.job.user = caller.name;
    submission.job.user_id = caller.uid;
    submission.job.job_user = user_name(job_user, caller);
    submission.job.job_user_id = job_user;
    submission.job.host = host;
    submission.job.spec = std::move(job.spec);
    submission.source = std::move(job.source);
    submissions.push_back(std::move(submission));
  }
  return submissions;
}

/// A short job ends before the next sandbox is made: with two, that one is ready nevertheless.
constexpr unsigned kArmedAhead = 2;

/// Null when it is not there: a job that is refused leaves no new database.
std::unique_ptr<JobStore> open_existing(const std::string& database) {
  std::error_code ignored;
  return std::filesystem::exists(database, ignored) ? JobStore::open(database) : nullptr;
}

SlotPool make_pool(const Topology& topology, const PoolBounds& bounds) {
  try {
    return SlotPool(topology, bounds);
  } catch (const std::invalid_argument& error) {
    throw InputError("command line", bounds.cpus ? "--cpus" : "--memory", error.what());
  }
}

CpuPartition wanted_partition(const CommandLine& line) {
  const std::string wanted = line.value("slots-partition").value_or("none");
  if (wanted != "none" && wanted != "root" && wanted != "isolated") {
    throw UsageError(line.command, "--slots-partition: \"" + wanted + "\" is not none, root or isolated");
  }
  return wanted == "root"       ? CpuPartition::root
         : wanted == "isolated" ? CpuPartition::isolated
                                : CpuPartition::none;
}

/// What the machine does not permit is a warning: plain cpusets keep the jobs apart too.
void use_partition(Executor& executor, CpuPartition kind, const SlotPool& pool) {
  const std::string reason = executor.use_partition(kind, pool.cpus());
  if (!reason.empty() && kind == CpuPartition::none) {
    throw InputError("command line", "--slots-partition", reason);
  }
  if (!reason.empty()) {
    log_warning("no cpuset partitions, jobs get plain cpusets: " + reason);
  }
}

/// What the command line says of the pool.
struct PoolWishes {
  PoolBounds bounds;
  CpuPartition partition = CpuPartition::none;
  std::string overlap;
  Overlap overlap_rule() const { return overlap == "last" ? Overlap::last : Overlap::never; }
};

std::string wanted_overlap(const CommandLine& line, CpuPartition partition) {
  std::string wanted = line.value("overlap").value_or(partition == CpuPartition::none ? "last" : "never");
  if (wanted != "never" && wanted != "last" && wanted != "always") {
    throw UsageError(line.command, "--overlap: \"" + wanted + "\" is not never, last or always");
  }
  return wanted;
}

PoolWishes pool_wishes(const CommandLine& line) {
  const CpuPartition partition = wanted_partition(line);
  return {pool_bounds(line), partition, wanted_overlap(line, partition)};
}

/// What other berths' jobs have, and whether that matters.
void respect_others(SlotPool& pool, const std::string& overlap) {
  log_debug("pool of " + std::to_string(pool.total_cpus()) + " CPUs and " + format_size(pool.total_memory()));
  if (overlap == "always") {
    return;
  }
  std::string problem;
  pool.share(CpuLocks::of_this_machine(problem));
  if (!problem.empty()) {
    log_debug("CPUs are not kept apart from other berths': " + problem);
  }
}

/// What the first job will have, if it can be told. When the queue begins with another job, its sandbox may
/// be made in vain.
std::optional<RunPreparation::ExpectedJob> first_job(SlotPool& pool, const JobSpec& spec,
                                                     const std::map<std::string, Identity>& identities) {
  pool.look_at_others();
  const std::optional<SlotLease> lease = pool.lease(slot_request(spec));
  return lease ? std::optional<RunPreparation::ExpectedJob>(
                     {spec, lease->allocation(), identities.at(spec.isolation.user)})
               : std::nullopt;
}

/// The launcher and the cgroups go while the disk writes the last record and the database is closed. False
/// when it could not be written.
bool close_all(Executor& executor, std::unique_ptr<JobStore> store) {
  const SideThread closing([&executor] { executor.close(); });
  try {
    store->sync();
    store.reset();
  } catch (const StoreError& error) {
    log_error(error.what());
    return false;
  }
  return true;
}

void recover_database(JobStore& store, const CommandLine& line, const Executor& executor, Timestamp now) {
  if (store.is_of_berthd()) {
    throw std::runtime_error(
        database_path(line) +
        ": is berthd's own database: hand the job to berthd with berth submit, or name " +
        "another file with --database");
  }
  RecoveryActions actions;
  actions.collect = [](const Supervisor& supervisor, JobId job, unsigned attempt) {
    return collect_leftover(supervisor.cgroup, job, attempt);
  };
  actions.list = [&executor] { return executor.other_supervisors(); };
  actions.owner = [&executor, own = database_path(line)](const std::string& cgroup) {
    return executor.owner_of(cgroup, own);
  };
  actions.remove_empty = [&executor](const std::string& cgroup) { executor.remove_empty_leftover(cgroup); };
  actions.remove = [](const Supervisor& supervisor) { remove_leftover(supervisor.cgroup); };
  actions.remove_unclaimed = [](const Supervisor& supervisor) {
    remove_leftover(supervisor.cgroup, std::chrono::milliseconds::zero());
  };
  const RecoveryReport report = recover(store, actions, now);
  for (const JobId job : report.node_failed) {
    log_warning("job " + std::to_string(job) + " was left open by a berth that died; recorded NODE_FAIL");
  }
  for (const std::string& problem : report.problems) {
    log_warning(problem);
  }
}

ProgressMode progress_mode(const CommandLine& line, std::size_t jobs) {
  const std::string when = line.value("progress").value_or("auto");
  if (when == "none" || (when == "auto" && (line.has("quiet") || jobs == 1))) {
    return ProgressMode::none;
  }
  if (when == "plain" || when == "live") {
    return when == "plain" ? ProgressMode::plain : ProgressMode::live;
  }
  if (when != "auto") {
    throw UsageError(line.command, "--progress: \"" + when + "\" is not auto, live, plain or none");
  }
  const char* terminal = std::getenv("TERM");
  const bool can_rewrite =
      ::isatty(STDERR_FILENO) == 1 && terminal != nullptr && std::strcmp(terminal, "dumb") != 0;
  return can_rewrite ? ProgressMode::live : ProgressMode::plain;
}

Progress make_progress(ProgressMode mode) {
  winsize size{};
  if (mode == ProgressMode::live && ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    return Progress(STDERR_FILENO, mode, size.ws_col, size.ws_row);
  }
  return Progress(STDERR_FILENO, mode, 80, 24);
}

/// What jobs write takes the place of the progress lines.
void make_room(Progress& progress, OutputTarget& target) {
  if (progress.is_live()) {
    target.set_before_write([&progress] { progress.clear(); });
  }
}

/// Until `launcher` goes.
void keep_drawn(Progress& progress, ExecutorLauncher& launcher, const Clock& clock) {
  if (progress.is_live()) {
    launcher.set_tick(Progress::kInterval, [&progress, &clock] { progress.redraw(clock.steady_now()); });
  }
}

class ProgressObserver final : public JobObserver {
 public:
  ProgressObserver(Progress& progress, const Clock& clock) : progress_(progress), clock_(clock) {}
  /// That the last job has ended: told when its record is on the disk.
  void tell_last() {
    if (last_) {
      tell(*std::exchange(last_, std::nullopt));
    }
  }
  void on_queued(JobId job, const JobSpec& spec) override {
    log_debug("job " + std::to_string(job) + " (" + spec.name + ") PENDING");
    progress_.queued(job, spec.name);
    ++waiting_;
  }
  void on_started(JobId job, const JobSpec&, const Allocation& allocation, Timestamp) override {
    log_info("job " + std::to_string(job) + " RUNNING on " + allocation.slot + ", CPUs " +
             allocation.cpus.to_list() + ", memory " + format_size(allocation.memory));
    progress_.started(job, allocation, clock_.steady_now());
  }
  void on_ended(const AccountingRecord& record) override {
    if (--waiting_ == 0) {
      last_ = record;
    } else {
      tell(record);
    }
  }
  void on_waiting_for_others() override {
    log_warning("waiting for CPUs, which other berths on this machine use (--overlap last shares them)");
  }
  void on_store_trouble(const std::string& message) override {
    if (message.empty()) {
      log_warning("the job database works again");
    } else {
      log_error(message + "; trying again");
    }
  }

 private:
  void tell(const AccountingRecord& record) {
    log_info(ended_line(record));
    progress_.ended(record, clock_.steady_now());
  }

  Progress& progress_;
  const Clock& clock_;
  std::size_t waiting_ = 0;
  std::optional<AccountingRecord> last_;
};

/// The file of --result: opened before anything runs, so that a run never ends without a place for its
/// record, and emptied, so that it never has the record of the run before; written at the end. --test-only
/// leaves it as it is.
class ResultFile {
 public:
  ResultFile(const CommandLine& line, FileOwner owner)
      : path_(line.value("result").value_or("")), owner_(std::move(owner)) {
    if (!line.has("result")) {
      return;
    }
    if (path_.empty()) {
      throw InputError("command line", "--result", "is empty; name a file");
    }
    const auto whole = [](const std::string& path) {
      std::error_code gone;  // the current directory: opening says so
      return std::filesystem::absolute(path, gone).lexically_normal();
    };
    for (const char* stream : {"output", "error"}) {
      if (const auto file = line.value(stream); file && whole(*file) == whole(path_)) {
        throw InputError("command line", "--result",
                         "is the file of --" + std::string(stream) + " too; name another");
      }
    }
    if (line.has("test-only")) {
      return;
    }
    try {
      descriptor_.reset(open_output_file(path_, OpenMode::append, owner_));
      empty();
    } catch (const std::system_error& error) {
      throw InputError("command line", "--result", error.what());
    }
  }
  /// Nothing without --result.
  void write(const std::vector<AccountingRecord>& records) {
    if (!descriptor_) {
      return;
    }
    empty();  // of what a job wrote there
    const std::string text = records_json(records);
    const AsOwner as_owner(owner_);
    // O_APPEND: after the truncation the text begins at 0.
    if (!write_all(descriptor_.get(), text.data(), text.size())) {
      fail();
    }
  }

 private:
  void empty() {
    const AsOwner as_owner(owner_);
    if (::ftruncate(descriptor_.get(), 0) != 0 && errno != EINVAL) {  // EINVAL: a pipe, a device
      fail();
    }
  }
  [[noreturn]] void fail() const {
    throw std::system_error(errno, std::generic_category(), "write " + path_);
  }

  std::string path_;
  FileOwner owner_;
  UniqueFd descriptor_;
};

int inherited_input(const CommandLine& line, const RequestedJobs& requested) {
  if (line.has("pty")) {
    return -1;  // what is typed goes through the terminal
  }
  if (line.has("stdin") && (requested.jobs.size() != 1 || requested.input_is_read ||
                            !requested.jobs.front().spec.standard_input.empty())) {
    throw UsageError(line.command,
                     "--stdin is for one job, which has no other input and is not read from there itself");
  }
  const bool wanted = line.has("stdin") || (requested.from_options && ::isatty(STDIN_FILENO) == 0);
  return wanted && requested.jobs.size() == 1 && !requested.input_is_read ? STDIN_FILENO : -1;
}

StreamOptions stream_options(const CommandLine& line, const RequestedJobs& requested, const Caller& caller) {
  StreamOptions options;
  options.owner = {caller.uid, caller.gid, caller.name};
  options.prefix = requested.jobs.size() > 1 && !line.has("no-prefix");
  for (const RequestedJob& job : requested.jobs) {
    options.name_columns = std::max(options.name_columns, job.spec.name.size());
  }
  options.output_to_error = line.has("json");
  options.inherited_input = inherited_input(line, requested);
  return options;
}

/// What is asked of berth by signals: the first asks for an orderly end, the next for an end at once. Ctrl-Z
/// stops the jobs, and their clocks, and then berth, until it goes on (SIGCONT). SIGUSR1 and SIGUSR2 are the
/// jobs'.
class Cancellation {
 public:
  Cancellation(const AwaitedSignals& signals, Executor& executor) : signals_(signals), executor_(executor) {}
  void read_signals(Batch& batch, Progress& progress) {
    while (const int number = signals_.take()) {
      if (number == SIGTSTP) {
        progress.clear();
        batch.leave_line();
        executor_.freeze_all(true);
        ::raise(SIGSTOP);
        executor_.freeze_all(false);
        continue;
      }
      if (number == SIGUSR1 || number == SIGUSR2) {
        executor_.signal_all(number);
        continue;
      }
      if (first_signal_ == 0 && number != SIGQUIT) {
        batch.request_cancel();
        progress.message("cancelling; once more kills at once");
      } else {
        batch.request_kill();
      }
      first_signal_ = first_signal_ == 0 ? number : first_signal_;
    }
  }
  int first_signal() const { return first_signal_; }

 private:
  const AwaitedSignals& signals_;
  Executor& executor_;
  int first_signal_ = 0;
};

void report(const CommandLine& line, const BatchResult& result, bool from_options,
            OutputTarget& standard_output) {
  for (const std::size_t index : result.unsaved) {
    log_error("job " + std::to_string(result.records[index].job_id) +
              " is not recorded: " + result.store_error);
  }
  if (line.has("json")) {
    standard_output.write(records_json(result.records));
  }
  // A single job had no progress line. That a job was never run is an error, which --quiet does not hide.
  const bool quiet = line.has("quiet");
  std::string text;
  for (const AccountingRecord& record : result.records) {
    const bool never_ran = record.outcome && record.outcome->cause == Cause::launch_failed;
    if ((from_options && !quiet && record.state != JobState::completed) || (quiet && never_ran)) {
      text += "berth: " + printable(ended_line(record)) + '\n';
    }
  }
  if (!quiet && !line.has("json")) {
    text += usage_table(result.records);
  }
  (void)!::write(STDERR_FILENO, text.data(), text.size());
}

/// With --pty, which is refused beside what does not go with it: a terminal has one input and one output, and
/// one job.
void join_terminal(const CommandLine& line, const RequestedJobs& requested,
                   std::optional<TerminalBridge>& bridge) {
  if (!line.has("pty")) {
    return;
  }
  for (const char* option : {"input", "stdin", "output", "error"}) {
    if (line.has(option)) {
      throw UsageError(line.command, "--" + std::string(option) +
                                         " does not go with --pty: the terminal is its input and its output");
    }
  }
  if (!requested.from_options || requested.jobs.size() != 1) {
    throw UsageError(line.command, "--pty runs one command or script: berth run --pty -- bash");
  }
  if (!line.has("test-only")) {
    bridge.emplace();
  }
}

ExecutorOptions executor_options(const Supervisor& supervisor, const std::vector<RequestedJob>& jobs,
                                 const std::map<std::string, Identity>& identities,
                                 const NetworkSettings& network, std::shared_ptr<LauncherProcess> launcher) {
  const JobSpec& first = jobs.front().spec;
  return {.cgroup = supervisor.cgroup,
          .armed_ahead = jobs.size() > 1 ? kArmedAhead : 0U,
          .launches = jobs.size(),
          .network = network,
          .first_spec = &first,
          .first_identity = &identities.at(first.isolation.user),
          .complete_later = true,
          .launcher = std::move(launcher)};
}

/// What berthd's configuration says counts for berth run too, and is read only for jobs that it matters to.
/// Root, which writes that file, may use the host's network and all of its ports anyway; through sudo it is
/// the other user who asks.
NetworkSettings network_settings(const CommandLine& line, const std::vector<RequestedJob>& jobs,
                                 const Caller& caller) {
  NetworkSettings settings;
  if (std::any_of(jobs.begin(), jobs.end(), [](const RequestedJob& job) {
        const NetworkSpec& network = job.spec.isolation.network;
        return network.is_connected() || network.mode == NetworkMode::host;
      })) {
    settings = load_daemon_config(kDefaultDaemonConfig, true).network;
  }
  settings = settings.of_user(caller.uid);
  settings.allow_host = settings.allow_host || caller.uid == 0;
  if (const auto pool = line.value("network-pool")) {
    try {
      parse_network_pool(*pool, settings);
    } catch (const std::invalid_argument& error) {
      throw InputError("command line", "--network-pool", "\"" + *pool + "\" " + error.what());
    }
  }
  return settings;
}

/// What the machine and the pool refuse, at once; the first in words of the command line where the job is of
/// it.
void refuse_all(std::vector<InputFault> faults, std::vector<InputFault> more, const CommandSpec* command) {
  for (InputFault& fault : faults) {
    fault.message =
        command != nullptr ? in_terms_of_options(*command, std::move(fault.message)) : fault.message;
  }
  std::move(more.begin(), more.end(), std::back_inserter(faults));
  if (!faults.empty()) {
    throw InputError(std::move(faults));
  }
}

/// The end of --test-only: no job is refused.
int tell_prospects(const CommandLine& line, const std::vector<Submission>& submissions, SlotPool& pool,
                   Overlap overlap) {
  const std::vector<Batch::Prospect> prospects =
      Batch::prospects(pool, submissions, overlap, SystemClock().steady_now());
  nlohmann::ordered_json jobs = nlohmann::ordered_json::array();
  std::string text;
  for (std::size_t i = 0; i < submissions.size(); ++i) {
    const auto& [takes, starts_now, overlaps] = prospects[i];
    const std::string& name = submissions[i].job.spec.name;
    jobs.push_back({{"name", name},
                    {"cpus", takes.cpus},
                    {"memory", takes.memory},
                    {"starts_now", starts_now},
                    {"overlaps", overlaps}});
    text += "job \"" + printable(name) + "\" would start " + (starts_now ? "now" : "when others have ended") +
            ", on " + std::to_string(takes.cpus) + " CPUs" +
            (overlaps ? ", which jobs of other berths use too" : "") + ", with " +
            format_size_human(takes.memory) + " of memory\n";
  }
  if (line.has("json")) {
    text = printable_json(nlohmann::ordered_json{{"jobs", std::move(jobs)}}) + "\n";
  }
  std::fwrite(text.data(), 1, text.size(), stdout);
  return 0;
}

/// The end was asked for before all output was read.
int status_of_unread(const AwaitedSignals& signals) {
  const int signal = signals.take();
  return signal == 0 ? 125 : 128 + signal;
}

}  // namespace

/// Long, because it is the list of what a run consists of, in the order in which each needs the one before
/// and in the reverse of which all of it is undone.
int run_jobs(const CommandLine& asked, JobTexts& texts) {
  // While this process is small; it sets itself up while the request is read, and ends with a refused one.
  std::shared_ptr<LauncherProcess> launcher_process = fork_launcher();
  refuse_qos(asked);
  const JobText* script = texts.script_of(asked);
  const CommandLine line = script != nullptr ? with_batch_options(asked, *script) : asked;
  const PoolWishes wishes = pool_wishes(line);
  RequestedJobs requested = script != nullptr ? script_job(line, *script) : requested_jobs(line, texts);
  const bool from_options = requested.from_options;
  const bool test_only = line.has("test-only");
  std::optional<TerminalBridge> bridge;
  join_terminal(line, requested, bridge);
  Progress progress = make_progress(progress_mode(line, requested.jobs.size()));

  const AwaitedSignals signals;
  const SystemClock clock;
  const Caller caller = calling_user();
  const NetworkSettings network = network_settings(line, requested.jobs, caller);
  const std::map<std::string, Identity> identities =
      resolve_identities(requested.jobs, queueing_faults(requested.jobs));
  replace_unusable_directories(requested.jobs, identities, line);
  const StreamOptions streams_options = stream_options(line, requested, caller);
  ResultFile result_file(line, streams_options.owner);

  const Supervisor supervisor = this_supervisor();
  const std::string database = database_path(line);
  Executor executor(
      executor_options(supervisor, requested.jobs, identities, network, std::move(launcher_process)));
  log_debug("job database " + database + ", cgroup berth/" + supervisor.cgroup);
  RunPreparation preparation(executor, requested.jobs, caller);
  SlotPool pool = make_pool(detect_topology(), wishes.bounds);
  respect_others(pool, wishes.overlap);
  preparation.expect(test_only ? std::nullopt : first_job(pool, requested.jobs.front().spec, identities));
  std::unique_ptr<JobStore> store = test_only ? nullptr : open_existing(database);
  std::vector<InputFault> faults = preparation.refused();
  std::vector<Submission> submissions = submissions_of(std::move(requested.jobs), identities, caller);
  refuse_all(std::move(faults), Batch::refusals(pool, submissions), from_options ? line.command : nullptr);
  if (test_only) {
    return tell_prospects(line, submissions, pool, wishes.overlap_rule());
  }
  store = store ? std::move(store) : JobStore::open(database);
  recover_database(*store, line, executor, clock.system_now());
  executor.set_database(database);
  use_partition(executor, wishes.partition, pool);

  OutputTarget standard_output(STDOUT_FILENO, "standard output");
  OutputTarget standard_error(STDERR_FILENO, "standard error");
  make_room(progress, standard_output);
  make_room(progress, standard_error);
  JobStreams streams(streams_options, standard_output, standard_error);
  ExecutorLauncher launcher(executor, streams, identities, {signals.descriptor()});
  launcher.set_terminal(bridge ? &*bridge : nullptr);
  keep_drawn(progress, launcher, clock);
  ProgressObserver observer(progress, clock);
  Batch batch(*store, launcher, pool, clock, supervisor, observer, wishes.overlap_rule());
  Cancellation cancellation(signals, executor);
  batch.submit(std::move(submissions));
  preparation.wait();
  const BatchResult result = batch.run([&] { cancellation.read_signals(batch, progress); });

  const bool is_on_disk = close_all(executor, std::move(store));
  AwaitedSignals::let_stop();
  if (bridge) {
    bridge->close();
  }
  observer.tell_last();
  progress.clear();
  standard_output.flush_all(signals.descriptor());
  standard_error.flush_all(signals.descriptor());
  report(line, result, from_options, standard_output);
  result_file.write(result.records);
  standard_output.flush_all(signals.descriptor());
  int status = run_exit_status(result.records, cancellation.first_signal());
  if (status == 0 && (standard_output.has_pending() || standard_error.has_pending())) {
    status = status_of_unread(signals);
  }
  const bool is_recorded = is_on_disk && result.unsaved.empty();
  return is_recorded && (status != 0 || !streams.has_lost_output()) ? status : 125;
}

}  // namespace berth
