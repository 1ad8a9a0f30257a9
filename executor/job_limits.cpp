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

void require(const CgroupTree& tree, bool asked, const char* field, Controller controller) {
  if (asked && !tree.usable(controller)) {
    throw LaunchError(field, ENOTSUP,
                      std::string(field) + " cannot be enforced here: " + tree.reason_unusable(controller));
  }
}

void require_v2_memory(const CgroupTree& tree, bool asked, const char* field, const char* file) {
  require(tree, asked, field, Controller::memory);
  if (asked && tree.version(Controller::memory) != 2) {
    throw LaunchError(field, ENOTSUP,
                      std::string(field) + " cannot be enforced here: cgroup v1 has no " + file +
                          "; boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1), or leave it out");
  }
}

}  // namespace

void check_limits(const JobSpec& spec, const CgroupTree& tree) {
  const Limits& limits = spec.limits;
  require(tree, spec.memory_per_node.has_value(), "memory_per_node", Controller::memory);
  require(tree, limits.swap.has_value(), "limits.swap", Controller::memory);
  if (limits.swap && *limits.swap > 0 && !tree.accounts_swap()) {
    throw LaunchError(
        "limits.swap", ENOTSUP,
        "limits.swap cannot be enforced here: this kernel does not account swap (boot with swapaccount=1)");
  }
  require_v2_memory(tree, limits.memory_high.has_value(), "limits.memory_high", "memory.high");
  require_v2_memory(tree, limits.oom_group, "limits.oom_group", "memory.oom.group");
  require(tree, limits.pids.has_value(), "limits.pids", Controller::pids);
  require(tree, limits.cpu_quota || limits.cpu_weight,
          limits.cpu_quota ? "limits.cpu_quota" : "limits.cpu_weight", Controller::cpu);
  require(tree, limits.cpu_time.has_value(), "limits.cpu_time", Controller::cpuacct);
  require(tree, !limits.io.empty(), "limits.io", Controller::blkio);
  require(tree, !limits.hugetlb.empty(), "limits.hugetlb", Controller::hugetlb);
  require(tree, limits.net_class.has_value(), "limits.net_class", Controller::net_cls);
  require(tree, !spec.isolation.devices.empty(), "isolation.devices", Controller::devices);
  for (const IoLimit& limit : limits.io) {
    io_limit(limit);
  }
  for (const std::string& device : spec.isolation.devices) {
    device_rule(device);
  }
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
