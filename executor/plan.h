// From a LaunchRequest to the messages that init understands (sandbox_protocol.h).
#pragma once

#include <string>
#include <vector>

#include "executor/executor.h"
#include "executor/os/unique_fd.h"
#include "executor/sandbox_protocol.h"

namespace berth {

/// What a sandbox is made for before its job is known. Two jobs with equal profiles can use each other's
/// armed sandbox.
struct SandboxProfile {
  Identity identity;
  bool loopback = true;
  NetworkMode network = NetworkMode::loopback;
  std::string shared_network;  ///< its name, with NetworkMode::shared
  bool overlay = false;
  bool own_root = false;
  bool own_root_writable = false;
  /// All of berth's own ids are mapped, and the own root with them: who owns a file of an image (root, users)
  /// is seen inside as in the image. Never for a writable root: its files would be root's on the host.
  bool maps_image = false;
  bool seccomp = true;
  std::int64_t monotonic_offset = 0;  ///< seconds
  std::int64_t boottime_offset = 0;
  bool operator==(const SandboxProfile&) const = default;
};
SandboxProfile profile_of(const JobSpec& spec, const Identity& identity);
/// Throws LaunchError for a clock that would stand before 0, which the kernel refuses (time_namespaces(7)).
void check_time_offsets(const Isolation& isolation);

/// Whether sandboxes of this profile have a device beside loopback.
bool is_connected(const SandboxProfile& profile);

/// The lines of uid_map and gid_map for a profile.
std::string uid_map_of(const SandboxProfile& profile);
std::string gid_map_of(const SandboxProfile& profile);

/// With whose rights the job's paths are found and opened.
const Caller& caller_of(const LaunchRequest& request);

/// The Setup message as it is sent: `flags` are further SetupFlags.
std::vector<char> make_setup(const SandboxProfile& profile, std::uint32_t flags, std::size_t attach_count);

/// The job's part: one flat message, and the detached mounts that go with it in order.
struct PreparedPlan {
  std::vector<char> bytes;
  std::vector<UniqueFd> mounts;
  sandbox::Plan& header() { return *reinterpret_cast<sandbox::Plan*>(bytes.data()); }
};

/// Adds the job's own /etc/hosts and /etc/resolv.conf.
void add_network_files(PreparedPlan& plan, const std::string& hosts, const std::string& resolver);
/// The same with what the host's files say: /etc/resolv.conf often leads to /run, which is the job's own.
void add_host_network_files(PreparedPlan& plan);
/// The name that the job has inside: isolation.hostname, or made of the job's name.
std::string hostname_of(const JobSpec& spec, const std::string& fallback);

struct PlanContext {
  bool host_view = false;
  std::string fallback_hostname;
  bool cpuset_holds = true;  ///< else the affinity mask does
};
/// Throws LaunchError for a working directory or mount source that is not there.
PreparedPlan prepare_plan(const LaunchRequest& request, const PlanContext& context);

/// A further command in the sandbox of `request`'s job: its arguments, the job's environment with the
/// command's over it, and the job's rlimits, umask and affinity. No privilege is named: init has none left to
/// give.
PreparedPlan prepare_command(const LaunchRequest& request, const CommandRequest& command,
                             std::uint32_t number, const PlanContext& context);

/// Throws LaunchError when the root of such a job lacks what its own is mounted on: of isolation.root /proc,
/// /dev and /tmp, for a script or a network device /run, and for the latter the files in /etc. isolation.root
/// is looked at with the rights of `caller`, of whom nothing is told that it could not find out itself.
void check_mount_points(const JobSpec& spec, const Caller& caller);

/// A detached read-only or writable mount of isolation.root, for the privileged view. Id-mapped when the
/// profile says so and the file system can (Linux 5.12; under an overlay 5.19).
UniqueFd open_own_root(const LaunchRequest& request, const SandboxProfile& profile);

/// Name of a step for LaunchError ("exec", "mount /data").
std::string step_name(sandbox::Step step, const std::string& object);

}  // namespace berth
