#include "executor/cgroup_v2.h"

#include <fcntl.h>
#include <sys/xattr.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "executor/block_devices.h"
#include "executor/cgroup_files.h"
#include "executor/cpuset_partition.h"
#include "executor/os/syscall.h"

namespace berth {
namespace {

using std::chrono::microseconds;

std::optional<microseconds> from_microseconds(std::optional<std::uint64_t> value) {
  return value ? std::optional(microseconds(*value)) : std::nullopt;
}

bool same(const std::vector<bpf_insn>& left, const std::vector<bpf_insn>& right) {
  return left.size() == right.size() &&
         std::memcmp(left.data(), right.data(), left.size() * sizeof(bpf_insn)) == 0;
}

/// Attaches the job's program, then detaches what it replaces: for a moment both must allow, never neither.
void apply_devices(const JobDirectory& directory, const std::vector<DeviceRule>& rules,
                   DevicePrograms& programs, const std::string& job) {
  const std::vector<UniqueFd> before = attached_device_programs(directory.fd.get());
  const int program = programs.get(rules);
  int error_number = program < 0 ? errno : attach_device_program(program, directory.fd.get());
  for (const UniqueFd& old : before) {
    if (error_number == 0) {
      error_number = detach_device_program(old.get(), directory.fd.get());
    }
  }
  if (error_number != 0) {
    throw_cgroup_error(*directory.hierarchy, job, "(eBPF device program)",
                       std::to_string(rules.size()) + " rules", error_number);
  }
}

void apply_unified_memory(const JobDirectory& directory, const CgroupLimits& limits, const std::string& job) {
  // Swap first when it falls to less: then what memory.max pushes out finds the new limit already.
  if (limits.swap) {
    directory.write("memory.swap.max", NumberText(*limits.swap), job);
  }
  if (limits.memory_high) {
    directory.write("memory.high", NumberText(*limits.memory_high), job);
  }
  if (limits.memory) {
    directory.write("memory.max", NumberText(*limits.memory), job);
  }
  if (limits.oom_group) {
    directory.write("memory.oom.group", "1", job);
  }
}

void apply_cpu(const JobDirectory& directory, const CgroupLimits& limits, const std::string& job) {
  if (limits.cpu_weight) {
    directory.write("cpu.weight", NumberText(*limits.cpu_weight), job);
  }
  if (limits.cpu_quota) {
    const CpuBandwidth bandwidth = cpu_bandwidth(*limits.cpu_quota);
    directory.write("cpu.max", std::to_string(bandwidth.quota_us) + " " + std::to_string(bandwidth.period_us),
                    job);
  }
}

void apply_io(const JobDirectory& directory, const CgroupLimits& limits, const std::string& job) {
  for (const IoDeviceLimit& limit : limits.io) {
    std::string text = std::to_string(limit.major) + ":" + std::to_string(limit.minor);
    const std::size_t device_only = text.size();
    const auto append = [&](const char* key, const std::optional<std::uint64_t>& value) {
      if (value) {
        text += key + std::to_string(*value);
      }
    };
    append(" rbps=", limit.read_bps);
    append(" wbps=", limit.write_bps);
    append(" riops=", limit.read_iops);
    append(" wiops=", limit.write_iops);
    if (text.size() > device_only) {
      directory.write("io.max", text, job);
    }
  }
}

void apply_unified_hugetlb(const JobDirectory& directory, const CgroupLimits& limits,
                           const std::string& job) {
  for (const auto& [page_size, bytes] : limits.hugetlb) {
    const std::string prefix = "hugetlb." + page_size;
    directory.write((prefix + ".max").c_str(), NumberText(bytes), job);
    const std::string reserved = prefix + ".rsvd.max";  // why: see cgroup_v1.cpp
    if (directory.has(reserved.c_str())) {
      directory.write(reserved.c_str(), NumberText(bytes), job);
    }
  }
}

void read_unified_memory(const ControlFiles& files, std::span<char> buffer, CgroupCounters& counters) {
  Usage& usage = counters.usage;
  usage.memory_peak = read_number(files, "memory.peak");  // Linux 5.19
  counters.memory_current = read_number(files, "memory.current");
  usage.swap_peak = read_number(files, "memory.swap.peak");  // Linux 6.5
  if (!usage.swap_peak) {
    usage.swap_peak = read_number(files, "memory.swap.current");
  }
  usage.oom_kills = parse_keyed(read_control(files, "memory.events", buffer), "oom_kill");
  const std::string_view local = read_control(files, "memory.events.local", buffer);  // Linux 5.2
  counters.memory_limit_hits = parse_keyed(local, "max");
  usage.memory_limit_hits = counters.memory_limit_hits;
  const std::string_view stat = read_control(files, "memory.stat", buffer);
  usage.memory_anon_peak = parse_keyed(stat, "anon");
  usage.memory_file_peak = parse_keyed(stat, "file");
  usage.page_faults = parse_keyed(stat, "pgfault");
  usage.major_page_faults = parse_keyed(stat, "pgmajfault");
}

void read_cpu(const ControlFiles& files, const ControllerSet& controllers, std::span<char> buffer,
              Usage& usage) {
  const std::string_view stat = read_control(files, "cpu.stat", buffer);
  if (controllers.contains(Controller::cpuacct)) {
    usage.cpu_total = from_microseconds(parse_keyed(stat, "usage_usec"));
    usage.cpu_user = from_microseconds(parse_keyed(stat, "user_usec"));
    usage.cpu_system = from_microseconds(parse_keyed(stat, "system_usec"));
  }
  if (controllers.contains(Controller::cpu)) {
    usage.throttled_periods = parse_keyed(stat, "nr_throttled");
    usage.throttled_time = from_microseconds(parse_keyed(stat, "throttled_usec"));
  }
}

std::optional<microseconds> read_pressure(const ControlFiles& files, const char* file,
                                          std::span<char> buffer) {
  return from_microseconds(parse_pressure_total(read_control(files, file, buffer), "some"));
}

/// kernfs has them since Linux 5.7, in v2 alone (xattr(7)).
constexpr const char* kJobAttribute = "user.berth.job";

}  // namespace

int DevicePrograms::get(const std::vector<DeviceRule>& rules) {
  std::vector<bpf_insn> wanted = device_program(rules);
  for (const auto& [instructions, program] : loaded_) {
    if (same(instructions, wanted)) {
      return program.get();
    }
  }
  UniqueFd program = load_device_program(wanted);
  if (!program) {
    return -1;
  }
  constexpr std::size_t kKept = 16;
  if (loaded_.size() == kKept) {
    loaded_.erase(loaded_.begin());
  }
  loaded_.emplace_back(std::move(wanted), std::move(program));
  return loaded_.back().second.get();
}

void apply_v2(const JobDirectory& directory, const CgroupLimits& limits, DevicePrograms& programs,
              const std::string& job) {
  const ControllerSet& has = directory.hierarchy->controllers;
  if (has.contains(Controller::cpu)) {
    apply_cpu(directory, limits, job);
  }
  if (has.contains(Controller::cpuset) && limits.memory_nodes) {
    directory.write("cpuset.mems", limits.memory_nodes->to_list(), job);
  }
  if (has.contains(Controller::cpuset) && limits.cpus) {
    directory.write("cpuset.cpus", limits.cpus->to_list(), job);
    if (!directory.hierarchy->job_partition.empty()) {
      make_job_partition(directory, job);
    }
  }
  if (has.contains(Controller::memory)) {
    apply_unified_memory(directory, limits, job);
  }
  if (has.contains(Controller::pids) && limits.pids) {
    directory.write("pids.max", NumberText(*limits.pids), job);
  }
  if (has.contains(Controller::blkio)) {
    apply_io(directory, limits, job);
  }
  if (has.contains(Controller::hugetlb)) {
    apply_unified_hugetlb(directory, limits, job);
  }
  if (has.contains(Controller::devices) && limits.devices) {
    apply_devices(directory, *limits.devices, programs, job);
  }
}

void read_v2(const ControlFiles& files, const ControllerSet& has, std::span<char> buffer,
             CgroupCounters& counters) {
  Usage& usage = counters.usage;
  if (has.contains(Controller::cpuacct) || has.contains(Controller::cpu)) {
    read_cpu(files, has, buffer, usage);
  }
  if (has.contains(Controller::memory)) {
    read_unified_memory(files, buffer, counters);
  }
  if (has.contains(Controller::pids)) {
    usage.pids_peak = read_number(files, "pids.peak");  // Linux 6.1
    if (!usage.pids_peak) {
      usage.pids_peak = read_number(files, "pids.current");
    }
    usage.pids_limit_hits = parse_keyed(read_control(files, "pids.events", buffer), "max");
  }
  if (has.contains(Controller::blkio)) {
    const IoStat stat = parse_io_stat(read_control(files, "io.stat", buffer), counts_as_disk);
    usage.io_read_bytes = stat.bytes.read;
    usage.io_write_bytes = stat.bytes.write;
    usage.io_read_operations = stat.operations.read;
    usage.io_write_operations = stat.operations.write;
  }
  usage.cpu_stall = read_pressure(files, "cpu.pressure", buffer);
  usage.memory_stall = read_pressure(files, "memory.pressure", buffer);
  usage.io_stall = read_pressure(files, "io.pressure", buffer);
}

void set_name_v2(const JobDirectory& directory, const std::string& job) noexcept {
  (void)!::fsetxattr(directory.fd.get(), kJobAttribute, job.data(), job.size(), 0);
}

std::string find_named_v2(int tree, const std::string& job) {
  for (const std::string& name : child_cgroups(tree)) {
    const UniqueFd directory{try_open_at(tree, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW)};
    std::array<char, 256> value{};
    const ssize_t size = ::fgetxattr(directory.get(), kJobAttribute, value.data(), value.size());
    if (size >= 0 && job == std::string_view(value.data(), static_cast<std::size_t>(size))) {
      return name;
    }
  }
  return {};
}

}  // namespace berth
