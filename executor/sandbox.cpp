#include "executor/sandbox.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>

#include "executor/cgroup_files.h"
#include "executor/os/message.h"
#include "executor/os/syscall.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

namespace berth {
namespace {

/// Room for Setup and an inline Plan to wait until init reads them.
constexpr int kChannelBuffer = 512 * 1024;

/// The descriptor when it is the master of a terminal of some devpts instance, and not something that a job
/// put in its place: char device 5:2 on devpts (pts(4)). Non-blocking.
UniqueFd confirm_terminal(UniqueFd master) {
  struct stat status {};
  struct statfs file_system {};
  const bool is_master = ::fstat(master.get(), &status) == 0 && S_ISCHR(status.st_mode) &&
                         status.st_rdev == makedev(5, 2) && ::fstatfs(master.get(), &file_system) == 0 &&
                         file_system.f_type == DEVPTS_SUPER_MAGIC;
  if (!is_master || ::fcntl(master.get(), F_SETFL, O_RDWR | O_NONBLOCK) != 0) {
    return UniqueFd{};
  }
  return master;
}

}  // namespace

Sandbox::Sandbox(std::uint64_t token, const SandboxProfile& profile, CgroupTree& tree,
                 const std::string& cgroup_name, LauncherProcess& launcher)
    : token_(token), profile_(profile) {
  FdPair pair = make_socket_pair(SOCK_SEQPACKET);
  ::setsockopt(pair.first.get(), SOL_SOCKET, SO_SNDBUF, &kChannelBuffer, sizeof kChannelBuffer);
  channel_ = std::move(pair.first);
  inits_end_ = std::move(pair.second);
  cgroup_ = tree.begin_job(cgroup_name);
  if (cgroup_->can_bear()) {
    ask_for_init(launcher);
  }
}

void Sandbox::ask_for_init(LauncherProcess& launcher) {
  const bool host_view = launcher.view() == LauncherProcess::View::host_tree;
  launcher.spawn({token_, uid_map_of(profile_), gid_map_of(profile_), host_view,
                  profile_.network == NetworkMode::host, inits_end_.get(), cgroup_->clone_into_descriptor()});
  inits_end_.reset();
}

/// Init waits for its setup, and with that for the rest of its cgroup; it ends at the end of file of its
/// channel.
void Sandbox::complete(CgroupTree& tree, const CgroupLimits& limits, UniqueFd own_root,
                       LauncherProcess& launcher) {
  tree.complete_job(*cgroup_, limits);
  if (inits_end_) {
    ask_for_init(launcher);
  }
  std::vector<int> descriptors;
  if (own_root) {
    descriptors.push_back(own_root.get());
  }
  const std::vector<int> tasks = cgroup_->attach_descriptors();
  descriptors.insert(descriptors.end(), tasks.begin(), tasks.end());
  const bool host_view = launcher.view() == LauncherProcess::View::host_tree;
  const std::uint32_t flags = (host_view ? sandbox::kHostView : 0u) |
                              (cgroup_->clone_into_descriptor() < 0 ? sandbox::kCpuFromAttach : 0u);
  const std::vector<char> setup = make_setup(profile_, flags, tasks.size());
  const int error_number = send(setup.data(), setup.size(), descriptors);
  if (error_number != 0) {
    throw_system_error(error_number, "send", "setup");
  }
}

Sandbox::~Sandbox() {
  channel_.reset();
  if (pidfd_ && !reaped_) {
    kill_init();
    reap();
  }
  if (cgroup_) {
    cgroup_->remove();
  }
}

void Sandbox::take(Spawned spawned) {
  if (!spawned.pidfd) {
    is_refused_ = true;
    return;
  }
  pidfd_ = std::move(spawned.pidfd);
  pid_ = spawned.pid;
  if (profile_.network == NetworkMode::host) {
    return;  // its devices carry everybody's bytes
  }
  const std::string path = "/proc/" + std::to_string(spawned.pid) + "/net/dev";
  network_devices_ = UniqueFd{try_open_at(AT_FDCWD, path.c_str(), O_RDONLY)};  // holds the network namespace
}

int Sandbox::send(const void* data, std::size_t size, std::span<const int> descriptors) {
  return send_message(channel_.get(), data, size, descriptors, MessageWait::poll);
}

int Sandbox::send_packet(PreparedPlan& plan, const std::array<int, 3>& streams) {
  std::vector<int> descriptors;
  UniqueFd memory;
  std::size_t size = plan.bytes.size();
  if (size > sandbox::kInlinePlan) {
    memory = UniqueFd{check(::memfd_create("berth-plan", MFD_CLOEXEC), "memfd_create", "plan")};
    descriptors.push_back(memory.get());
  }
  descriptors.insert(descriptors.end(), streams.begin(), streams.end());
  for (const UniqueFd& mount : plan.mounts) {
    descriptors.push_back(mount.get());
  }
  plan.header().descriptor_count = static_cast<std::uint32_t>(descriptors.size());
  if (memory) {
    if (!write_all(memory.get(), plan.bytes.data(), plan.bytes.size())) {
      throw_system_error(errno, "write", "plan");
    }
    size = sizeof(sandbox::Plan);
  }
  return send(plan.bytes.data(), size, descriptors);
}

void Sandbox::send_plan(PreparedPlan& plan, int standard_input, int standard_output, int standard_error) {
  const int error_number = send_packet(plan, {standard_input, standard_output, standard_error});
  if (error_number != 0 && error_number != EPIPE && error_number != ECONNRESET) {
    throw_system_error(error_number, "send", "plan");  // init would wait for it
  }
}

int Sandbox::send_command(PreparedPlan& plan, int standard_input, int standard_output, int standard_error) {
  return send_packet(plan, {standard_input, standard_output, standard_error});
}

void Sandbox::hold_plan(PreparedPlan plan, int standard_input, int standard_output, int standard_error) {
  HeldPlan held{std::move(plan), {}};
  const std::array<int, 3> streams = {standard_input, standard_output, standard_error};
  for (std::size_t index = 0; index < streams.size(); ++index) {
    held.streams.at(index).reset(
        check(::fcntl(streams.at(index), F_DUPFD_CLOEXEC, 0), "fcntl", "standard stream"));
  }
  held_ = std::move(held);
}

void Sandbox::send_held_plan(const JobSpec& spec, const std::string& hostname) {
  if (!held_) {
    return;
  }
  HeldPlan held = std::move(*held_);
  held_.reset();
  if (network_) {
    network_->apply(spec.isolation.network, hostname);
    add_network_files(held.plan, network_->hosts_file(spec.isolation.network, hostname),
                      network_->resolver_file(spec.isolation.network));
  }
  send_plan(held.plan, held.streams[0].get(), held.streams[1].get(), held.streams[2].get());
}

int Sandbox::send_signal(int signal_number, std::uint32_t command) {
  const sandbox::SignalMessage message{sandbox::MessageKind::signal, signal_number, command};
  return send(&message, sizeof message, {});
}

int Sandbox::send_pause(std::chrono::nanoseconds pause) {
  const sandbox::ExtendMessage message{sandbox::MessageKind::extend, 0, pause.count()};
  return send(&message, sizeof message, {});
}

std::optional<sandbox::Report> Sandbox::receive_report(bool* closed) {
  sandbox::Report report{};
  Descriptors received;
  const ssize_t size = receive_message(channel_.get(), &report, sizeof report, received, MessageWait::poll);
  *closed = size == 0 || (size < 0 && errno == ECONNRESET);
  if (size < static_cast<ssize_t>(offsetof(sandbox::Report, object))) {
    return std::nullopt;
  }
  report.object[sizeof report.object - 1] = '\0';
  if (report.kind == sandbox::ReportKind::terminal && !received.empty()) {
    terminal_ = confirm_terminal(received.take(0));
  }
  return report;
}

void Sandbox::kill_init() {
  if (pidfd_ && !reaped_) {
    ::syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0);
  }
}

std::optional<rusage> Sandbox::reap() {
  siginfo_t information{};
  rusage usage{};
  const long result = retry_eintr(
      [&] { return ::syscall(SYS_waitid, P_PIDFD, pidfd_.get(), &information, WEXITED | __WALL, &usage); });
  reaped_ = true;
  return result == 0 ? std::optional(usage) : std::nullopt;
}

void Sandbox::read_network(Usage& usage) {
  if (!network_devices_) {
    return;
  }
  std::array<char, 8192> text{};
  const ssize_t size = ::pread(network_devices_.get(), text.data(), text.size(), 0);
  if (size <= 0) {
    return;
  }
  // What a connected job says to itself never was on the network.
  const Loopback loopback = is_connected(profile_) ? Loopback::left_out : Loopback::counted;
  const std::string_view devices(text.data(), static_cast<std::size_t>(size));
  const std::optional<NetworkTotals> totals = parse_network_devices(devices, loopback);
  if (totals) {
    usage.network_receive_bytes = totals->receive_bytes;
    usage.network_receive_packets = totals->receive_packets;
    usage.network_transmit_bytes = totals->transmit_bytes;
    usage.network_transmit_packets = totals->transmit_packets;
  }
  if (network_) {
    network_->read(usage);
  }
}

}  // namespace berth
