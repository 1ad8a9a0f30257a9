#include "executor/cgroup_v1.h"

#include <sys/utsname.h>

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <limits>

#include "executor/block_devices.h"
#include "executor/cgroup_files.h"
#include "executor/os/syscall.h"

namespace berth {
namespace {

using std::chrono::duration_cast;
using std::chrono::microseconds;
using std::chrono::nanoseconds;

std::optional<microseconds> from_nanoseconds(std::optional<std::uint64_t> value) {
  return value ? std::optional(duration_cast<microseconds>(nanoseconds(*value))) : std::nullopt;
}

std::string device_text(const IoDeviceLimit& limit, std::uint64_t value) {
  return std::to_string(limit.major) + ":" + std::to_string(limit.minor) + " " + std::to_string(value);
}

void apply_cpu(const JobDirectory& directory, const CgroupLimits& limits, Age age, const std::string& job) {
  if (limits.cpu_weight) {
    directory.write("cpu.shares", NumberText(cpu_shares_from_weight(*limits.cpu_weight)), job);
  }
  if (limits.cpu_quota) {
    const CpuBandwidth bandwidth = cpu_bandwidth(*limits.cpu_quota);
    const std::optional<std::uint64_t> period =
        age == Age::fresh ? kDefaultCpuPeriodUs : read_number(directory.fd.get(), "cpu.cfs_period_us");
    if (period != bandwidth.period_us) {
      // Without a quota first: the kernel refuses a period that would make the present quota exceed the
      // parent's ratio.
      directory.write("cpu.cfs_quota_us", "-1", job);
      directory.write("cpu.cfs_period_us", NumberText(bandwidth.period_us), job);
    }
    directory.write("cpu.cfs_quota_us", NumberText(bandwidth.quota_us), job);
  }
}

void apply_cpuset(const JobDirectory& directory, const CgroupLimits& limits, Age age,
                  const std::string& job) {
  const auto write_list = [&](const char* file, const std::optional<CpuSet>& wanted,
                              const std::string& inherited) {
    if (wanted && (age == Age::used || !(wanted->to_list() == inherited))) {
      directory.write(file, wanted->to_list(), job);
    }
  };
  // Nodes first: CPUs without memory nodes cannot hold a process.
  write_list("cpuset.mems", limits.memory_nodes, directory.hierarchy->cpuset_mems);
  write_list("cpuset.cpus", limits.cpus, directory.hierarchy->cpuset_cpus);
}

Bytes memory_and_swap(Bytes memory, Bytes swap) {
  return swap > std::numeric_limits<Bytes>::max() - memory ? std::numeric_limits<Bytes>::max()
                                                           : memory + swap;
}

/// The kernel keeps memory.limit_in_bytes <= memory.memsw.limit_in_bytes at every moment (EINVAL), so the
/// limit goes first when it falls and memsw first when it rises above memsw's present value.
void apply_memory(const JobDirectory& directory, const CgroupLimits& limits, const std::string& job) {
  if (!limits.memory && !limits.swap) {
    return;
  }
  Bytes memory = 0;
  if (limits.memory) {
    memory = *limits.memory;
  } else {
    memory = read_number(directory.fd.get(), "memory.limit_in_bytes").value_or(0);
  }
  const auto write_memsw = [&] {
    if (limits.swap) {
      directory.write("memory.memsw.limit_in_bytes", NumberText(memory_and_swap(memory, *limits.swap)), job);
    } else {
      directory.write("memory.memsw.limit_in_bytes", "-1", job);
    }
  };
  if (!limits.memory) {
    write_memsw();
    return;
  }
  const NumberText text(memory);
  const int error_number = directory.try_write("memory.limit_in_bytes", text);
  if (error_number == EINVAL && directory.has("memory.memsw.limit_in_bytes")) {
    write_memsw();
    directory.write("memory.limit_in_bytes", text, job);
    return;
  }
  if (error_number != 0) {
    throw_cgroup_error(*directory.hierarchy, job, "memory.limit_in_bytes", text, error_number);
  }
  if (limits.swap) {
    write_memsw();
  }
}

void apply_devices(const JobDirectory& directory, const CgroupLimits& limits, const std::string& job) {
  if (!limits.devices) {
    return;
  }
  directory.write("devices.deny", "a", job);
  const UniqueFd allow{try_open_at(directory.fd.get(), "devices.allow", O_WRONLY)};
  for (const DeviceRule& rule : *limits.devices) {
    char text[64];
    int size = 0;
    if (rule.minor) {
      size = std::snprintf(text, sizeof text, "%c %u:%u %s", rule.type, rule.major, *rule.minor,
                           rule.access.c_str());
    } else {
      size = std::snprintf(text, sizeof text, "%c %u:* %s", rule.type, rule.major, rule.access.c_str());
    }
    const auto length = static_cast<std::size_t>(size);
    if (retry_eintr([&] { return ::write(allow.get(), text, length); }) < 0) {
      throw_cgroup_error(*directory.hierarchy, job, "devices.allow", {text, length}, errno);
    }
  }
}

/// From Linux 5.16 (a7b36ee6ba29) until 6.5 (ad7c3b41e86b) blkio.throttle.io_* count what goes through the
/// throttle alone: only I/O of a cgroup with a limit in that direction.
bool counts_throttled_io_alone() {
  utsname name{};
  ::uname(&name);
  unsigned major = 0, minor = 0;
  if (std::sscanf(name.release, "%u.%u", &major, &minor) != 2) {
    return false;
  }
  const auto version = std::pair(major, minor);
  return version >= std::pair(5U, 16U) && version < std::pair(6U, 5U);
}

/// Limits that no disk reaches, so that the kernel counts. Failures leave the counters as they are.
void count_io(const JobDirectory& directory) {
  for (const std::string& disk : directory.hierarchy->count_io_of) {
    const std::string text = disk + " 1099511627776";  // 1 TiB/s
    directory.try_write("blkio.throttle.read_bps_device", text);
    directory.try_write("blkio.throttle.write_bps_device", text);
  }
}

void apply_blkio(const JobDirectory& directory, const CgroupLimits& limits, Age age, const std::string& job) {
  if (age == Age::fresh) {
    count_io(directory);
  }
  for (const IoDeviceLimit& limit : limits.io) {
    const auto write_one = [&](const char* file, const std::optional<std::uint64_t>& value) {
      if (value) {
        directory.write(file, device_text(limit, *value), job);
      }
    };
    write_one("blkio.throttle.read_bps_device", limit.read_bps);
    write_one("blkio.throttle.write_bps_device", limit.write_bps);
    write_one("blkio.throttle.read_iops_device", limit.read_iops);
    write_one("blkio.throttle.write_iops_device", limit.write_iops);
  }
}

void apply_hugetlb(const JobDirectory& directory, const CgroupLimits& limits, const std::string& job) {
  for (const auto& [page_size, bytes] : limits.hugetlb) {
    const std::string prefix = "hugetlb." + page_size;
    directory.write((prefix + ".limit_in_bytes").c_str(), NumberText(bytes), job);
    // The limit on reservations makes mmap(2) fail, where the limit on use alone means SIGBUS at first touch.
    const std::string reserved = prefix + ".rsvd.limit_in_bytes";  // Linux 5.7
    if (directory.has(reserved.c_str())) {
      directory.write(reserved.c_str(), NumberText(bytes), job);
    }
  }
}

void read_memory(const ControlFiles& files, std::span<char> buffer, CgroupCounters& counters) {
  Usage& usage = counters.usage;
  usage.memory_peak = read_number(files, "memory.max_usage_in_bytes");
  counters.memory_current = read_number(files, "memory.usage_in_bytes");
  counters.memory_limit_hits = v1_memory_hits(files);
  usage.memory_limit_hits = counters.memory_limit_hits;
  usage.oom_kills = parse_keyed(read_control(files, "memory.oom_control", buffer), "oom_kill");
  const std::string_view stat = read_control(files, "memory.stat", buffer);
  usage.memory_anon_peak = parse_keyed(stat, "total_rss");
  usage.memory_file_peak = parse_keyed(stat, "total_cache");
  usage.swap_peak = parse_keyed(stat, "total_swap");
  usage.page_faults = parse_keyed(stat, "total_pgfault");
  usage.major_page_faults = parse_keyed(stat, "total_pgmajfault");
}

std::string first_line(std::string_view text) {
  return std::string(text.substr(0, text.find('\n')));
}

std::optional<IoTotals> read_blkio(const ControlFiles& files, const char* recursive, const char* local,
                                   std::span<char> buffer) {
  std::string_view text = read_control(files, recursive, buffer);  // Linux 5.4
  if (text.empty()) {
    text = read_control(files, local, buffer);
  }
  return parse_blkio_totals(text, counts_as_disk);
}

}  // namespace

void apply_v1(const JobDirectory& directory, Controller controller, const CgroupLimits& limits, Age age,
              const std::string& job) {
  switch (controller) {
    case Controller::cpu:
      apply_cpu(directory, limits, age, job);
      break;
    case Controller::cpuset:
      apply_cpuset(directory, limits, age, job);
      break;
    case Controller::memory:
      apply_memory(directory, limits, job);
      break;
    case Controller::pids:
      if (limits.pids) {
        directory.write("pids.max", NumberText(*limits.pids), job);
      }
      break;
    case Controller::devices:
      apply_devices(directory, limits, job);
      break;
    case Controller::blkio:
      apply_blkio(directory, limits, age, job);
      break;
    case Controller::net_cls:
      if (limits.net_class) {
        directory.write("net_cls.classid", NumberText(*limits.net_class), job);
      }
      break;
    case Controller::hugetlb:
      apply_hugetlb(directory, limits, job);
      break;
    case Controller::cpuacct:
    case Controller::freezer:
      break;
  }
}

void read_v1(const ControlFiles& files, Controller controller, std::span<char> buffer,
             CgroupCounters& counters) {
  Usage& usage = counters.usage;
  switch (controller) {
    case Controller::cpuacct:
      usage.cpu_total = from_nanoseconds(read_number(files, "cpuacct.usage"));
      usage.cpu_user = from_nanoseconds(read_number(files, "cpuacct.usage_user"));
      usage.cpu_system = from_nanoseconds(read_number(files, "cpuacct.usage_sys"));
      break;
    case Controller::cpu: {
      const std::string_view stat = read_control(files, "cpu.stat", buffer);
      usage.throttled_periods = parse_keyed(stat, "nr_throttled");
      usage.throttled_time = from_nanoseconds(parse_keyed(stat, "throttled_time"));
      break;
    }
    case Controller::memory:
      read_memory(files, buffer, counters);
      break;
    case Controller::pids:
      usage.pids_peak = read_number(files, "pids.peak");  // Linux 6.11
      if (!usage.pids_peak) {
        usage.pids_peak = read_number(files, "pids.current");
      }
      usage.pids_limit_hits = parse_keyed(read_control(files, "pids.events", buffer), "max");
      break;
    case Controller::blkio: {
      if (const auto bytes = read_blkio(files, "blkio.throttle.io_service_bytes_recursive",
                                        "blkio.throttle.io_service_bytes", buffer)) {
        usage.io_read_bytes = bytes->read;
        usage.io_write_bytes = bytes->write;
      }
      if (const auto operations = read_blkio(files, "blkio.throttle.io_serviced_recursive",
                                             "blkio.throttle.io_serviced", buffer)) {
        usage.io_read_operations = operations->read;
        usage.io_write_operations = operations->write;
      }
      break;
    }
    case Controller::cpuset:
    case Controller::devices:
    case Controller::freezer:
    case Controller::net_cls:
    case Controller::hugetlb:
      break;
  }
}

std::optional<std::uint64_t> v1_memory_hits(const ControlFiles& files) {
  const std::optional<std::uint64_t> hits = read_number(files, "memory.failcnt");
  return hits ? std::optional(*hits + read_number(files, "memory.memsw.failcnt").value_or(0)) : std::nullopt;
}

bool v1_memory_limit_reached(int directory) {
  const auto reached = [&](const char* limit_file, const char* peak_file) {
    const auto limit = read_number(directory, limit_file);
    const auto peak = read_number(directory, peak_file);
    return limit && peak && *peak >= *limit - std::min(*limit, kLargestMemoryCharge);
  };
  return reached("memory.limit_in_bytes", "memory.max_usage_in_bytes") ||
         reached("memory.memsw.limit_in_bytes", "memory.memsw.max_usage_in_bytes");
}

void start_io_counting(Hierarchy& hierarchy) {
  if (counts_throttled_io_alone()) {
    hierarchy.count_io_of = disks();
    return;
  }
  char buffer[kControlFileBytes];
  const std::string_view counted =
      read_control(hierarchy.own.get(), "blkio.throttle.io_service_bytes_recursive", buffer);
  for (const std::string& device : disks()) {
    if (counted.find(device + " Read") == std::string_view::npos) {
      write_at(hierarchy.berth.get(), "blkio.throttle.read_bps_device", device + " 0");  // 0: no limit
    }
  }
}

void seed_v1(Hierarchy& hierarchy, int parent, int child, std::string_view child_name) {
  char buffer[kControlFileBytes];
  const auto copy = [&](const char* file, const char* effective) {
    if (read_control(child, file, buffer).size() > 1) {
      return;  // another berth, or clone_children, did it
    }
    std::string_view value = read_control(parent, file, buffer);
    if (value.size() <= 1) {
      value = read_control(parent, effective, buffer);
    }
    if (const int error_number = write_at(child, file, value)) {
      throw_cgroup_error(hierarchy, child_name, file, value, error_number);
    }
  };
  if (hierarchy.controllers.contains(Controller::cpuset)) {
    copy("cpuset.mems", "cpuset.effective_mems");
    copy("cpuset.cpus", "cpuset.effective_cpus");
    // From here down the kernel itself copies cpus and mems into each new child.
    if (write_at(child, "cgroup.clone_children", "1") == 0) {
      hierarchy.cpuset_cpus = first_line(read_control(child, "cpuset.cpus", buffer));
      hierarchy.cpuset_mems = first_line(read_control(child, "cpuset.mems", buffer));
    }
  }
  if (hierarchy.controllers.contains(Controller::memory) &&
      read_number(child, "memory.use_hierarchy") == std::optional<std::uint64_t>(0)) {
    if (const int error_number = write_at(child, "memory.use_hierarchy", "1")) {
      throw_cgroup_error(hierarchy, child_name, "memory.use_hierarchy", "1", error_number);
    }
  }
}

}  // namespace berth
