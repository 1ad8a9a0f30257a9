// Sandbox: one set of namespaces and one cgroup with berth's init in them, waiting for its job or running it.
//
// Owns its cgroup, its channel to init and init's pidfd. Single-threaded. Nothing that is sent to init waits
// for it: its job's user can freeze it or stop it. Destruction kills init (and so everything in the sandbox)
// when it still lives, waits for it and removes the cgroup.
#pragma once

#include <sys/resource.h>

#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "executor/cgroup.h"
#include "executor/launcher_process.h"
#include "executor/network_pool.h"
#include "executor/plan.h"

namespace berth {

class Sandbox {
 public:
  /// Begins its cgroup and asks `launcher` for init, if that can be born there yet; does not wait for it.
  Sandbox(std::uint64_t token, const SandboxProfile& profile, CgroupTree& tree,
          const std::string& cgroup_name, LauncherProcess& launcher);
  /// Once: the rest of its cgroup, and all that init needs to arm itself. `own_root` is a detached mount for
  /// profile.own_root in the privileged view. After an exception it can only be destroyed.
  void complete(CgroupTree& tree, const CgroupLimits& limits, UniqueFd own_root, LauncherProcess& launcher);
  ~Sandbox();
  Sandbox(const Sandbox&) = delete;
  Sandbox& operator=(const Sandbox&) = delete;

  std::uint64_t token() const { return token_; }
  const SandboxProfile& profile() const { return profile_; }
  JobCgroup& cgroup() { return *cgroup_; }
  int channel() const { return channel_.get(); }
  int pidfd() const { return pidfd_.get(); }

  /// Whether the launcher has still to answer.
  bool is_asked_for() const { return !inits_end_ && !pidfd_ && !is_refused_; }
  /// The launcher made it, so that pidfd() is valid from now on, or could not.
  void take(Spawned spawned);
  /// Gives the job to init. When init is gone its report, or the launcher's, says why. Throws
  /// std::system_error.
  void send_plan(PreparedPlan& plan, int standard_input, int standard_output, int standard_error);
  /// Keeps a plan (and descriptors of its own) until there is a network to start it in.
  void hold_plan(PreparedPlan plan, int standard_input, int standard_output, int standard_error);
  /// Sends the plan that is held, if one is.
  void send_held_plan(const JobSpec& spec, const std::string& hostname);
  /// With a connected profile: its device. Null until set_network().
  NetworkEndpoint* network() { return network_.get(); }
  void set_network(std::unique_ptr<NetworkEndpoint> network) { network_ = std::move(network); }
  /// Of init, while it is not reaped; 0 before take().
  pid_t pid() const { return pid_; }
  // What follows returns 0 or errno (EAGAIN: init does not take what it was sent before, as when its job is
  // frozen or somebody has stopped it).
  /// To every process of the job; or to the process group of a further command.
  int send_signal(int signal_number, std::uint32_t command);
  /// The job was frozen for so long, which its time limit leaves out of account.
  int send_pause(std::chrono::nanoseconds pause);
  /// A further command beside the job, in the namespaces and the cgroup of init, which forks it.
  int send_command(PreparedPlan& plan, int standard_input, int standard_output, int standard_error);
  /// Init's next report; nothing when there is none. `closed` is set at end of file.
  std::optional<sandbox::Report> receive_report(bool* closed);
  /// Of the terminal that the last report brought.
  UniqueFd take_terminal() { return std::move(terminal_); }
  /// Ends init, which has said that the job is gone. Killed, because it may have been stopped: then it would
  /// not read the end of its channel.
  void dismiss() {
    channel_.reset();
    kill_init();
  }
  /// SIGKILL to init alone, which ends its PID namespace.
  void kill_init();
  /// After pidfd() became readable: reaps init; its rusage covers all that it and its descendants reaped.
  std::optional<rusage> reap();
  bool reaped() const { return reaped_; }
  /// Bytes and packets of its devices, also after its end.
  void read_network(Usage& usage);
  /// Hands the cgroup over, to be removed or used again.
  std::unique_ptr<JobCgroup> release_cgroup() { return std::move(cgroup_); }

 private:
  void ask_for_init(LauncherProcess& launcher);

  std::uint64_t token_;
  SandboxProfile profile_;
  std::unique_ptr<JobCgroup> cgroup_;
  UniqueFd channel_;
  UniqueFd inits_end_;  ///< of the channel, until the launcher is asked for init
  UniqueFd pidfd_;
  bool is_refused_ = false;   ///< by the launcher
  UniqueFd network_devices_;  ///< until destruction: closing it takes as long as all that is read at an end
  UniqueFd terminal_;
  std::unique_ptr<NetworkEndpoint> network_;
  struct HeldPlan {
    PreparedPlan plan;
    std::array<UniqueFd, 3> streams;
  };
  std::optional<HeldPlan> held_;
  int send(const void* data, std::size_t size, std::span<const int> descriptors);
  int send_packet(PreparedPlan& plan, const std::array<int, 3>& streams);

  pid_t pid_ = 0;
  bool reaped_ = false;
};

}  // namespace berth
