#include "executor/job_limits.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <functional>

#include "executor/executor.h"
#include "executor/os/trusted_path.h"

namespace berth {
namespace {

/// The devices of every job (docs/security.md); ptmx and pts are the job's own devpts instance.
std::vector<DeviceRule> standard_devices() {
  return {{'c', 1, 3, "rw"}, {'c', 1, 5, "rw"}, {'c', 1, 7, "rw"}, {'c', 1, 8, "rw"},
          {'c', 1, 9, "rw"}, {'c', 5, 0, "rw"}, {'c', 5, 2, "rw"}, {'c', 136, std::nullopt, "rw"}};
}

/// Through root's links alone: what a user's link in /dev/shm leads to must not be told.
struct stat device_status(const std::string& path, const std::string& field) {
  constexpr auto kNoUser = static_cast<uid_t>(-1);
  struct stat status {};
  const UniqueFd device = open_trusted(path, O_PATH | O_CLOEXEC, 0, kNoUser);
  if (!device || ::fstat(device.get(), &status) != 0) {
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

/// "hugepages-2048kB" to "2MB", as hugetlb_cgroup names its files.
std::string page_size_name(const std::string& folder) {
  constexpr std::string_view kPrefix = "hugepages-";
  std::uint64_t kibibytes = 0;
  if (folder.starts_with(kPrefix)) {
    std::from_chars(folder.data() + kPrefix.size(), folder.data() + folder.size(), kibibytes);
  }
  constexpr std::uint64_t kMega = 1024;
  constexpr std::uint64_t kGiga = kMega * 1024;
  if (kibibytes >= kGiga) {
    return std::to_string(kibibytes / kGiga) + "GB";
  }
  return kibibytes >= kMega ? std::to_string(kibibytes / kMega) + "MB" : std::to_string(kibibytes) + "KB";
}

void require_page_size(const std::string& page_size) {
  std::string known;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/kernel/mm/hugepages", none)) {
    const std::string name = page_size_name(entry.path().filename().string());
    if (name == page_size) {
      return;
    }
    known += (known.empty() ? "" : ", ") + name;
  }
  throw LaunchError("limits.hugetlb", ENOTSUP,
                    "limits.hugetlb: this machine has no huge pages of " + page_size +
                        (known.empty() ? "" : " (it has " + known + ")"));
}

/// A job cannot have more than the process that launches it (setrlimit(2)): it has no CAP_SYS_RESOURCE.
void require_rlimits(const Limits& limits) {
  struct Asked {
    const char* field = "";
    int resource = 0;
    std::optional<std::uint64_t> value = std::nullopt;
    const char* option = "";
  };
  for (const Asked& asked : {Asked{"limits.open_files", RLIMIT_NOFILE, limits.open_files, "n"},
                             {"limits.file_size", RLIMIT_FSIZE, limits.file_size, "f"},
                             {"limits.stack_size", RLIMIT_STACK, limits.stack_size, "s"},
                             {"limits.locked_memory", RLIMIT_MEMLOCK, limits.locked_memory, "l"},
                             {"limits.core_size", RLIMIT_CORE, limits.core_size, "c"}}) {
    rlimit own{};
    if (!asked.value || ::getrlimit(static_cast<__rlimit_resource>(asked.resource), &own) < 0 ||
        own.rlim_max == RLIM_INFINITY || *asked.value <= own.rlim_max) {
      continue;
    }
    throw LaunchError(asked.field, EPERM,
                      std::string(asked.field) + ": " + std::to_string(*asked.value) +
                          " is more than berth itself may have, " + std::to_string(own.rlim_max) +
                          "; ask for less, or raise that first (ulimit -H" + asked.option +
                          ", or the limit of berthd's unit)");
  }
}

/// Asks about a controller only when a limit needs it: the first question mounts a hierarchy that nobody has.
class Support {
 public:
  using Entry = ControllerReport::Entry;

  Support(std::function<Entry(Controller)> entry, bool accounts_swap)
      : entry_(std::move(entry)), accounts_swap_(accounts_swap) {}

  bool accounts_swap() const { return accounts_swap_; }

  void require(bool asked, const char* field, Controller controller) const {
    if (!asked) {
      return;
    }
    if (const Entry entry = entry_(controller); !entry.usable()) {
      throw LaunchError(field, ENOTSUP, std::string(field) + " cannot be enforced here: " + entry.reason);
    }
  }

  void require_v2_memory(bool asked, const char* field, const char* file) const {
    require(asked, field, Controller::memory);
    if (asked && entry_(Controller::memory).version != 2) {
      throw LaunchError(field, ENOTSUP,
                        std::string(field) + " cannot be enforced here: cgroup v1 has no " + file +
                            "; boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1), or leave it out");
    }
  }

 private:
  std::function<Entry(Controller)> entry_;
  bool accounts_swap_;
};

/// A kernel without swap keeps a limit of 0 by itself.
bool may_swap() {
  return ::access("/proc/swaps", F_OK) == 0;
}

void require_support(const JobSpec& spec, const Support& support) {
  const Limits& limits = spec.limits;
  support.require(spec.memory_per_node.has_value(), "memory_per_node", Controller::memory);
  support.require(limits.swap.has_value(), "limits.swap", Controller::memory);
  if (limits.swap && !support.accounts_swap() && (*limits.swap > 0 || may_swap())) {
    throw LaunchError(
        "limits.swap", ENOTSUP,
        "limits.swap cannot be enforced here: this kernel does not account swap (boot with swapaccount=1)");
  }
  support.require_v2_memory(limits.memory_high.has_value(), "limits.memory_high", "memory.high");
  support.require_v2_memory(limits.oom_group, "limits.oom_group", "memory.oom.group");
  support.require(limits.pids.has_value(), "limits.pids", Controller::pids);
  support.require(limits.cpu_quota || limits.cpu_weight,
                  limits.cpu_quota ? "limits.cpu_quota" : "limits.cpu_weight", Controller::cpu);
  support.require(limits.cpu_time.has_value(), "limits.cpu_time", Controller::cpuacct);
  support.require(!limits.io.empty(), "limits.io", Controller::blkio);
  support.require(!limits.hugetlb.empty(), "limits.hugetlb", Controller::hugetlb);
  support.require(limits.net_class.has_value(), "limits.net_class", Controller::net_cls);
  support.require(!spec.isolation.devices.empty(), "isolation.devices", Controller::devices);
  require_rlimits(limits);
  for (const auto& [page_size, bytes] : limits.hugetlb) {
    require_page_size(page_size);
  }
  for (const IoLimit& limit : limits.io) {
    io_limit(limit);
  }
  for (const std::string& device : spec.isolation.devices) {
    device_rule(device);
  }
}

/// The limit is the job's, and berth's init is in its cgroup too. The kernel takes no more than
/// PID_MAX_LIMIT.
std::uint64_t pids_max(std::uint64_t own) {
  constexpr std::uint64_t kPidMaxLimit = 4'194'304;
  return std::min(own + kInitProcesses, kPidMaxLimit);
}

ControllerReport::Entry entry_of(const CgroupTree& tree, Controller controller) {
  return {tree.version(controller), tree.reason_unusable(controller)};
}

Support support_of(const ControllerReport& report) {
  const auto entry = [&report](Controller controller) {
    const auto index = static_cast<std::size_t>(controller);
    return index < report.controllers.size()
               ? report.controllers[index]
               : ControllerReport::Entry{0, "the berth-runner of this machine does not know it"};
  };
  return {entry, report.accounts_swap};
}

}  // namespace

void leave_init_out(Usage& usage) {
  constexpr auto kInit = static_cast<Usage::Count>(kInitProcesses);
  if (usage.pids_peak && *usage.pids_peak >= kInit) {
    *usage.pids_peak -= kInit;
  }
}

void check_limits(const JobSpec& spec, const CgroupTree& tree) {
  require_support(
      spec, Support([&](Controller controller) { return entry_of(tree, controller); }, tree.accounts_swap()));
}

void check_limits(const JobSpec& spec, const ControllerReport& report) {
  require_support(spec, support_of(report));
}

void check_suspension(const ControllerReport& report) {
  support_of(report).require(true, "suspension", Controller::freezer);
}

ControllerReport report_controllers(const CgroupTree& tree) {
  ControllerReport report;
  for (std::size_t index = 0; index < kControllerCount; ++index) {
    report.controllers.push_back(entry_of(tree, static_cast<Controller>(index)));
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
    limits.pids = pids_max(spec.limits.pids.value_or(kDefaultPids));
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
