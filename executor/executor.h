// Executor: launches jobs in their own namespaces and cgroups, supervises their limits and says how
// they ended. executor/README.md gives the order of isolation steps and why.
//
// One Executor per process, one call at a time. Only the thread that constructed it may launch and destroy
// it: it is the parent of the launcher, which dies with it (PR_SET_PDEATHSIG). It owns one helper process
// (the launcher, forked in the constructor or before, so construct it before any thread), berth's cgroup for
// this process, and every job's cgroup and namespaces. Destruction kills what still runs and removes all.
// When this process dies, even by SIGKILL, the kernel ends every job (they hang on a socket whose other end
// it holds).
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "executor/cpu_partition.h"
#include "executor/os/unique_fd.h"
#include "schemas/accounting_record.h"
#include "schemas/controller_report.h"
#include "schemas/leftover_owner.h"
#include "schemas/network_settings.h"

namespace berth {

/// A step before the job's first instruction failed. The job never ran.
class LaunchError : public std::runtime_error {
 public:
  LaunchError(std::string stage, int error_number, const std::string& message);
  const std::string& stage() const { return stage_; }
  int error_number() const { return error_number_; }

 private:
  std::string stage_;
  int error_number_;
};

/// The first of berth's own 65,536 ids, for jobs of a root that names no user. They own nothing on any
/// system: they lie above every range that Debian, systemd and subuid(5) hand out.
inline constexpr uid_t kUnprivilegedId = 2'147'400'000;

/// Who a job runs as. `outside` ids are real on the host; `inside` ids are what the job sees.
struct Identity {
  uid_t outside_uid = 0;
  gid_t outside_gid = 0;
  uid_t inside_uid = 0;
  gid_t inside_gid = 0;
  std::vector<gid_t> groups;  ///< supplementary, the same number inside and outside
  std::string name;           ///< login name inside, for USER and LOGNAME
  std::string home;           ///< inside
  std::string shell;
  bool operator==(const Identity&) const = default;
};

/// Resolves isolation.user for the calling process: SUDO_UID's user, the named one, or an unprivileged
/// id when root asks for nothing. Throws LaunchError ("user") when it does not exist or may not be used.
Identity resolve_identity(const std::string& isolation_user);

/// Whether the identity's own rights (mode bits and groups) let it enter a directory of the host.
bool can_enter(const Identity& identity, const std::string& directory);

/// Whether jobs have an empty directory of their own in its place, as for /tmp.
bool is_private_to_jobs(const std::string& directory);

/// The user who asked (SUDO_UID's when root through sudo, else the real uid).
struct Caller {
  uid_t uid = 0;
  gid_t gid = 0;
  std::string name;
};
Caller calling_user();
/// As above for a job that `caller` asked a service for. One who is not root may name itself in
/// isolation.user, in a group that it is in, or root, which is the caller outside.
Identity resolve_identity(const std::string& isolation_user, const Caller& caller);

/// The executor's helper process. Destruction ends it and waits for that.
class LauncherProcess;
/// Forks one ahead of its executor, by the thread that will construct that: it sets itself up meanwhile.
/// Throws std::system_error, or LaunchError when this process may open too few files.
std::shared_ptr<LauncherProcess> fork_launcher();

struct ExecutorOptions {
  /// Name of this executor's cgroup below berth's own; unique per running process.
  std::string cgroup;
  /// Sandboxes kept armed ahead of need once the first job was launched; 0: none.
  unsigned armed_ahead = 0;
  /// Launches to come, as far as the caller knows: none is armed ahead of more.
  std::size_t launches = std::numeric_limits<std::size_t>::max();
  /// With cgroup v2 and systemd: in a scope of its own, also where this process's cgroup is delegated.
  bool own_scope = false;
  NetworkSettings network = {};
  /// Host name inside jobs that name none is the job's name; this is the fall-back.
  std::string hostname = "berth";
  /// What expect() will be called with first, so that the constructor can begin its namespaces, where this
  /// machine allows that before its limits are known; null: nothing. Read within the constructor alone.
  const JobSpec* first_spec = nullptr;
  const Identity* first_identity = nullptr;
  /// The constructor leaves a part of its work to complete().
  bool complete_later = false;
  /// From fork_launcher(); null: the constructor forks one.
  std::shared_ptr<LauncherProcess> launcher = {};
};

struct TerminalSize {
  std::uint16_t rows = 24;
  std::uint16_t columns = 80;
};

/// What a sink has to say after it took some output.
enum class SinkState {
  more,  ///< go on
  wait,  ///< its reader is slow: read no more of the job's pipe until resume_output(), so that the job waits
  closed,  ///< nobody wants more: close the pipe; the job gets SIGPIPE (EPIPE) as in a shell's pipeline
};

/// Where one output stream of a job goes. The executor reads the job's pipe and hands over what came; a sink
/// takes all of it, whatever it returns.
using OutputSink = std::function<SinkState(const char* data, std::size_t size)>;

struct LaunchRequest {
  JobId job_id = 0;
  unsigned attempt = 1;
  JobSpec spec;
  Allocation allocation;
  Identity identity;
  /// With whose rights the paths of the job file are found; absent: calling_user().
  std::optional<Caller> caller;
  int standard_input = -1;     ///< a descriptor to give to the job (duplicated); -1: /dev/null
  OutputSink standard_output;  ///< may be empty: discarded but counted
  OutputSink standard_error;
  bool join_streams = false;  ///< standard error goes where standard output goes, in order
  /// Given: its standard streams are a terminal of its own devpts, and its controlling one. What it prints
  /// goes to standard_output; standard_input is not used: write to TerminalOpened::master.
  std::optional<TerminalSize> terminal;
};

/// A further command beside a running job: in its namespaces and cgroup, with its user, environment, seccomp
/// filter and rlimits.
struct CommandRequest {
  std::vector<std::string> argv;
  std::map<std::string, std::string> environment;  ///< over the job's
  std::string current_working_directory;           ///< empty: the job's
  std::optional<TerminalSize> terminal;            ///< in place of the streams below
  int standard_input = -1;  ///< duplicated, as the others; pipes: the job may reopen them
  int standard_output = -1;
  int standard_error = -1;
};
struct CommandId {
  JobId job_id = 0;
  std::uint32_t number = 0;  ///< from 1; 0: the job itself
  auto operator<=>(const CommandId&) const = default;
};

struct Started {
  JobId job_id = 0;
  Timestamp at;
  /// Ports of the host that lead to the job, "127.0.0.1:40123->80/tcp", with what was taken for port 0.
  std::vector<std::string> published;
  /// For the RUNNING event: {"published": ["127.0.0.1:40123->80/tcp"]}; empty when there is nothing to tell.
  std::string detail() const;
};
struct Ended {
  JobId job_id = 0;
  Timestamp at;  ///< when its main process ended; of one that was killed with its init, when that was noticed
  Outcome outcome;
  Usage usage;
};
/// A job or command that asked for a terminal has got it. Of a job's master this is a duplicate: write to it
/// and set its size (TIOCSWINSZ); a command's is the only one, and also read from. Non-blocking; reading ends
/// with EIO.
struct TerminalOpened {
  CommandId id;
  UniqueFd master;
};
struct CommandEnded {
  CommandId id;
  int wait_status = 0;   ///< wait(2) format, when error_number is 0
  int error_number = 0;  ///< why it could not begin
  std::string stage;     ///< the step that failed ("exec")
  std::string message;   ///< a sentence to that, or to what ended it; empty: it ended by itself
};
using ExecutorEvent = std::variant<Started, Ended, TerminalOpened, CommandEnded>;

/// Throws LaunchError when the job asks for the host's network, or for ports of it, and may not have them.
void check_network_permission(const JobSpec& spec, const NetworkSettings& settings);

/// The part of Executor::check_supported() that asks about limits, for an Executor of another process. Throws
/// LaunchError naming the first limit that the user asked for and its machine cannot enforce.
void check_limits(const JobSpec& spec, const ControllerReport& report);
/// Likewise, when that machine cannot freeze a job.
void check_suspension(const ControllerReport& report);

class Executor {
 public:
  /// Detects the machine, makes berth's cgroup, forks a launcher if it has none. Throws std::system_error.
  explicit Executor(ExecutorOptions options);
  ~Executor();
  /// Ends and removes all that it has, as destruction does. Nothing else may be called afterwards.
  void close();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  /// Throws LaunchError when the spec asks for what this machine cannot enforce; to be called before
  /// anything is queued, so that a limit is never silently dropped. Its paths are looked at with the rights
  /// of `caller`, as in LaunchRequest.
  void check_supported(const JobSpec& spec, const Caller& caller) const;

  ControllerReport controllers() const;
  /// Other settings from now on. The pool is taken once, with the first private network.
  void use_network(const NetworkSettings& settings);

  /// With ExecutorOptions::complete_later, once, before any other call, by any thread: makes the cgroups.
  /// Throws CgroupError.
  void complete();
  /// Waits until the launcher, which sets itself up meanwhile, can make sandboxes. Throws LaunchError with
  /// the one sentence that tells what to do when the kernel does not permit it.
  void wait_until_ready();
  /// Names of other berths' cgroups (ExecutorOptions::cgroup), running or left by dead ones.
  std::vector<std::string> other_supervisors() const;
  /// Jobs are recorded in `file`, which is there. Should this process be killed, other berths can tell then
  /// whether anybody is left who collects what it leaves (docs/cgroups.md). Before the first launch.
  void set_database(const std::string& file);
  /// Whose another berth's cgroup is, for one whose own database is `own`.
  LeftoverOwner owner_of(const std::string& supervisor_cgroup, const std::string& own) const;
  /// Removes a dead berth's cgroup only when it holds no job's, but for sandboxes that waited for one: it
  /// died before it had submitted anything.
  void remove_empty_leftover(const std::string& supervisor_cgroup) const;
  /// slots.partition: CgroupTree::use_partition. Call it before the first launch, and also for `none`.
  std::string use_partition(CpuPartition kind, const CpuSet& cpus);

  /// A job like this one is likely to be launched next: its sandbox is prepared, where this machine allows
  /// that. Failures are left for launch() to tell. Before the first launch any thread may call it, while
  /// another one calls other_supervisors(), owner_of(), remove_empty_leftover(), set_database() or
  /// use_partition().
  void expect(const JobSpec& spec, const Allocation& allocation, const Identity& identity);
  /// Begins an attempt. Failures of set-up arrive as Ended with Cause::launch_failed.
  void launch(LaunchRequest request);

  /// Latches the cause and stops the job: TERM to every process of it, `grace`, then a kill of the whole
  /// cgroup; grace zero kills at once, and what is in set-up for a while longer never begins. The first
  /// latched cause stays.
  void stop(JobId job_id, Cause cause, std::chrono::milliseconds grace);
  /// Reads again from the streams whose sinks said `wait`.
  void resume_output();
  /// Sends a signal to every process of a job, or (`batch_job`) to its main process alone. Never waits: while
  /// the job is frozen or has not started, each signal is kept once, real-time ones too, for when it goes on.
  void signal(JobId job_id, int signal_number, bool batch_job = false);
  /// The same for every job that has started.
  void signal_all(int signal_number);
  /// Freezes or thaws every process of a started job; its limits of time wait meanwhile. False when it does
  /// not run, or is ending, and goes on with that. Throws CgroupError, a std::system_error, when the kernel
  /// refuses it; nothing has changed then.
  bool freeze(JobId job_id, bool frozen);
  /// Every job that has started, where the freezer may be used.
  void freeze_all(bool frozen);
  /// Begins a further command beside a running job; its end arrives as CommandEnded, at the latest, and
  /// killed, before the job's. Throws LaunchError when the job does not run, is frozen, or has too many.
  CommandId start_command(JobId job_id, const CommandRequest& request);
  /// To the command's process group.
  void signal_command(CommandId id, int signal_number);

  /// What a started job uses at this moment; nothing when it does not run.
  struct Sample {
    std::optional<std::chrono::microseconds> cpu_time;  ///< of everything in its cgroup, so far
    std::optional<Bytes> memory;
    std::uint64_t processes = 0;  ///< without init
  };
  std::optional<Sample> sample(JobId job_id);

  /// Readable when dispatch() has work; for poll(2) or an event loop.
  int event_descriptor() const;
  /// Handles what is ready without blocking; returns what happened, in order.
  std::vector<ExecutorEvent> dispatch();
  std::size_t running() const;

 private:
  class Implementation;
  std::unique_ptr<Implementation> implementation_;
};

/// How long the ends of killed processes are waited for, where nobody else waits meanwhile.
inline constexpr std::chrono::milliseconds kLeftoverPatience{2000};
/// What a dead berth left: kills the processes of cgroup `supervisor_cgroup`/job-ID.ATTEMPT, reads the
/// counters that are still there, removes it. Absent when there is nothing.
std::optional<Usage> collect_leftover(const std::string& supervisor_cgroup, JobId job_id, unsigned attempt,
                                      std::chrono::milliseconds patience = kLeftoverPatience);
/// Removes a dead berth's cgroup and all below it, after its jobs were collected. Throws std::system_error
/// when something of it is still there: it may be called again.
void remove_leftover(const std::string& supervisor_cgroup,
                     std::chrono::milliseconds patience = kLeftoverPatience);

/// One line of `berth doctor`.
struct Finding {
  enum class Level {
    ok,
    limited,  ///< jobs run, but what needs it is refused or done otherwise
    missing   ///< no job can run without it
  };
  Level level = Level::ok;
  std::string subject;  ///< "namespace time", "controller memory (v1)", "swap accounting"
  std::string detail;   ///< what was found
  std::string remedy;   ///< what to do about a lack; empty when ok
};
/// What this machine offers, each found by trying or reading, nothing left behind.
std::vector<Finding> examine_machine();

}  // namespace berth
