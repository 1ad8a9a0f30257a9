// The text of cgroup control files and of the /proc files that accounting reads, parsed. Pure: text in, value
// out.
//
// A line counts only when its newline is there: a number cut short by a truncated read would be a wrong
// number. What is malformed, truncated or missing is absent, never 0. Sources: cgroup-v1/*.rst,
// cgroup-v2.rst ("Format"), proc_pid_mountinfo(5), proc_pid_net(5), cgroups(7), accounting/psi.rst.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace berth {

/// One line of /proc/PID/mountinfo.
struct MountLine {
  std::uint64_t id = 0;
  std::uint64_t parent = 0;
  std::string mount_point;
  std::string type;
};
std::vector<MountLine> parse_mounts(std::string_view mountinfo);

/// One line of /proc/PID/mountinfo whose file system is cgroup or cgroup2.
struct CgroupMountLine {
  int version = 0;   ///< 1: cgroup, 2: cgroup2
  std::string root;  ///< cgroup that is mounted, as seen from our cgroup namespace
  std::string mount_point;
  bool writable = false;                 ///< mount and superblock
  std::vector<std::string> controllers;  ///< v1: super options ("cpu", "cpuacct", "name=systemd", "rw")
};
std::vector<CgroupMountLine> parse_cgroup_mounts(std::string_view mountinfo);

/// One line of /proc/PID/cgroup. v2: hierarchy 0 and no controllers.
struct CgroupMembership {
  unsigned hierarchy = 0;
  std::vector<std::string> controllers;
  std::string path;
};
std::vector<CgroupMembership> parse_cgroup_memberships(std::string_view proc_pid_cgroup);

/// One line of /proc/cgroups.
struct KernelController {
  std::string name;
  unsigned hierarchy = 0;  ///< 0: on v2 or nowhere
  unsigned cgroups = 0;    ///< in its hierarchy, the root and those about to go included
  bool enabled = false;
};
std::vector<KernelController> parse_kernel_controllers(std::string_view proc_cgroups);

/// `path` (of /proc/PID/cgroup) below a mount whose root is `mount_root`; "/" is the mount itself. Absent
/// when the mount does not show it.
std::optional<std::string> path_below_mount(std::string_view path, std::string_view mount_root);

/// "memory.max"-style file: one number. "max" is absent.
std::optional<std::uint64_t> parse_number(std::string_view text);
/// Flat keyed file: "oom_kill 3\n".
std::optional<std::uint64_t> parse_keyed(std::string_view text, std::string_view key);
/// PSI: total= (microseconds) of the line "some" or "full".
std::optional<std::uint64_t> parse_pressure_total(std::string_view text, std::string_view line);
/// Words of a space separated line: cgroup.controllers, cgroup.subtree_control.
std::vector<std::string> parse_words(std::string_view text);
/// cgroup.procs, tasks.
std::vector<pid_t> parse_pids(std::string_view text);

struct IoTotals {
  std::uint64_t read = 0;
  std::uint64_t write = 0;
  bool operator==(const IoTotals&) const = default;
};
/// Whether a device ("254:0") is to be added up; null: every one.
using DeviceFilter = bool (*)(std::string_view device);
/// blkio.throttle.io_service_bytes and io_serviced: over all devices. Absent unless the closing "Total" is
/// there.
std::optional<IoTotals> parse_blkio_totals(std::string_view text, DeviceFilter counts = nullptr);

struct IoStat {
  IoTotals bytes;
  IoTotals operations;
  bool operator==(const IoStat&) const = default;
};
/// io.stat, over all devices: a cgroup without I/O has an empty file.
IoStat parse_io_stat(std::string_view text, DeviceFilter counts = nullptr);

struct NetworkTotals {
  std::uint64_t receive_bytes = 0;
  std::uint64_t receive_packets = 0;
  std::uint64_t transmit_bytes = 0;
  std::uint64_t transmit_packets = 0;
  bool operator==(const NetworkTotals&) const = default;
};
enum class Loopback { counted, left_out };
/// /proc/PID/net/dev, over all devices; absent when it tells of none.
std::optional<NetworkTotals> parse_network_devices(std::string_view text, Loopback loopback);

/// cpu.weight (1-10000) to cpu.shares, as the kernel itself converts a weight to the scheduler's shares:
/// round(weight * 1024 / 100) (kernel/sched/core.c, sched_weight_from_cgroup). Weight 100 is 1024 shares.
/// Linear, so that a v1 and a v2 job of the same weights get the same parts of a CPU; a runtime that is
/// given shares needs the quadratic curve of OCI, we are given weights.
std::uint64_t cpu_shares_from_weight(unsigned weight);

struct CpuBandwidth {
  std::uint64_t quota_us = 0;
  std::uint64_t period_us = 0;
  bool operator==(const CpuBandwidth&) const = default;
};
inline constexpr std::uint64_t kDefaultCpuPeriodUs = 100'000;
/// The period stays the kernel's default of 100 ms unless the quota would fall below the 1 ms that the
/// kernel takes at least (min_cfs_quota_period); then it is the longest, 1 s.
CpuBandwidth cpu_bandwidth(double cpus);

}  // namespace berth
