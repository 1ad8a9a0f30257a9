#include "executor/job_limits.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <charconv>

#include "executor/executor.h"

namespace berth {
namespace {

/// The devices of every job (docs/security.md); ptmx and pts are the job's own devpts instance.
std::vector<DeviceRule> standard_devices() {
  return {{'c', 1, 3, "rw"}, {'c', 1, 5, "rw"}, {'c', 1, 7, "rw"}, {'c', 1, 8, "rw"},
          {'c', 1, 9, "rw"}, {'c', 5, 0, "rw"}, {'c', 5, 2, "rw"}, {'c', 136, std::nullopt, "rw"}};
}

struct stat device_status(const std::string& path, const std::string& field) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) {
    const int error_number = errno;
    throw LaunchError(field, error_number,
                      field + ": " + path + ": " + std::generic_category().message(error_number) +
                          "; name a device node that exists");
  }
  return status;
}

DeviceRule device_rule(const std::string& path) {
  const struct stat status = device_status(path, "isolation.devices");
  if (!S_ISCHR(status.st_mode) && !S_ISBLK(status.st_mode)) {
    throw LaunchError("isolation.devices", ENODEV, "isolation.devices: " + path + " is not a device node");
  }
  return {S_ISBLK(status.st_mode) ? 'b' : 'c', major(status.st_rdev), minor(status.st_rdev), "rw"};
}

IoDeviceLimit io_limit(const IoLimit& limit) {
  IoDeviceLimit result;
  const std::size_t colon = limit.device.find(':');
  if (limit.device.starts_with('/')) {
    const struct stat status = device_status(limit.device, "limits.io");
    if (!S_ISBLK(status.st_mode)) {
      throw LaunchError("limits.io", ENOTBLK, "limits.io: " + limit.device + " is not a block device");
    }
    result.major = major(status.st_rdev);
    result.minor = minor(status.st_rdev);
  } else if (colon != std::string::npos) {
    const char* end = limit.device.data() + limit.device.size();
    std::from_chars(limit.device.data(), limit.device.data() + colon, result.major);
    std::from_chars(limit.device.data() + colon + 1, end, result.minor);
  }
  result.read_bps = limit.read_bytes_per_second;
  result.write_bps = limit.write_bytes_per_second;
  result.read_iops = limit.read_operations_per_second;
  result.write_iops = limit.write_operations_per_second;
  return result;
}

const ControllerReport::Entry& entry(const ControllerReport& report, Controller controller) {
  static const ControllerReport::Entry kUnknown{0, "the berth-runner of this machine does not know it"};
  const auto index = static_cast<std::size_t>(controller);
  return index < report.controllers.size() ? report.controllers[index] : kUnknown;
}

void require(const ControllerReport& report, bool asked, const char* field, Controller controller) {
  if (asked && !entry(report, controller).usable()) {
    throw LaunchError(field, ENOTSUP,
                      std::string(field) + " cannot be enforced here: " + entry(report, controller).reason);
  }
}

void require_v2_memory(const ControllerReport& report, bool asked, const char* field, const char* file) {
  require(report, asked, field, Controller::memory);
  if (asked && entry(report, Controller::memory).version != 2) {
    throw LaunchError(field, ENOTSUP,
                      std::string(field) + " cannot be enforced here: cgroup v1 has no " + file +
                          "; boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1), or leave it out");
  }
}

}  // namespace

void check_limits(const JobSpec& spec, const ControllerReport& report) {
  const Limits& limits = spec.limits;
  require(report, spec.memory_per_node.has_value(), "memory_per_node", Controller::memory);
  require(report, limits.swap.has_value(), "limits.swap", Controller::memory);
  if (limits.swap && *limits.swap > 0 && !report.accounts_swap) {
    throw LaunchError(
        "limits.swap", ENOTSUP,
        "limits.swap cannot be enforced here: this kernel does not account swap (boot with swapaccount=1)");
  }
  require_v2_memory(report, limits.memory_high.has_value(), "limits.memory_high", "memory.high");
  require_v2_memory(report, limits.oom_group, "limits.oom_group", "memory.oom.group");
  require(report, limits.pids.has_value(), "limits.pids", Controller::pids);
  require(report, limits.cpu_quota || limits.cpu_weight,
          limits.cpu_quota ? "limits.cpu_quota" : "limits.cpu_weight", Controller::cpu);
  require(report, limits.cpu_time.has_value(), "limits.cpu_time", Controller::cpuacct);
  require(report, !limits.io.empty(), "limits.io", Controller::blkio);
  require(report, !limits.hugetlb.empty(), "limits.hugetlb", Controller::hugetlb);
  require(report, limits.net_class.has_value(), "limits.net_class", Controller::net_cls);
  require(report, !spec.isolation.devices.empty(), "isolation.devices", Controller::devices);
  for (const IoLimit& limit : limits.io) {
    io_limit(limit);
  }
  for (const std::string& device : spec.isolation.devices) {
    device_rule(device);
  }
}

ControllerReport report_controllers(const CgroupTree& tree) {
  ControllerReport report;
  for (std::size_t index = 0; index < kControllerCount; ++index) {
    const auto controller = static_cast<Controller>(index);
    report.controllers.push_back({tree.version(controller), tree.reason_unusable(controller)});
  }
  report.accounts_swap = tree.accounts_swap();
  return report;
}

CgroupLimits job_cgroup_limits(const JobSpec& spec, const Allocation& allocation, const CgroupTree& tree) {
  CgroupLimits limits;
  if (tree.usable(Controller::cpuset)) {
    limits.cpus = allocation.cpus;
    limits.memory_nodes = allocation.memory_nodes;
  }
  if (tree.usable(Controller::memory) && allocation.memory > 0) {
    limits.memory = allocation.memory;
    if (tree.accounts_swap()) {
      limits.swap = spec.limits.swap.value_or(0);
    }
  }
  limits.memory_high = spec.limits.memory_high;
  limits.oom_group = spec.limits.oom_group;
  if (tree.usable(Controller::pids)) {
    limits.pids = spec.limits.pids.value_or(kDefaultPids);
  }
  if (tree.usable(Controller::cpu)) {
    limits.cpu_quota = spec.limits.cpu_quota;
    limits.cpu_weight = spec.limits.cpu_weight;
  }
  if (tree.usable(Controller::devices)) {
    limits.devices = standard_devices();
    for (const std::string& device : spec.isolation.devices) {
      limits.devices->push_back(device_rule(device));
    }
  }
  for (const IoLimit& limit : spec.limits.io) {
    limits.io.push_back(io_limit(limit));
  }
  limits.hugetlb = spec.limits.hugetlb;
  limits.net_class = spec.limits.net_class;
  return limits;
}

}  // namespace berth
