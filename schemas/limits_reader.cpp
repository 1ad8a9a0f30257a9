// limits{}: what the kernel and berth enforce beside memory_per_node, cpus_per_task and time_limit.
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "schemas/job_reader.h"

namespace berth {

namespace {

constexpr std::int64_t kMaximumTasks = 4'194'304;          // PID_MAX_LIMIT (proc_sys_kernel(5), pid_max)
constexpr std::int64_t kMaximumOpenFiles = 1'073'741'816;  // the highest fs.nr_open (proc_sys_fs(5))
constexpr double kMinimumQuota = 0.01;  // cfs_quota_us may not go below 1 ms of a 100 ms period
constexpr double kMaximumQuota = 65'536;
constexpr std::int64_t kMaximumOperations = 4'294'967'295;  // blkio.throttle.*_iops_device is 32 bits wide
// The kernel's dev_t has 12 bits for the major and 20 for the minor, which would run over into it.
constexpr unsigned kMaximumMajor = 4'095;
constexpr unsigned kMaximumMinor = 1'048'575;

// ---- io[] ----

template <auto Part>
void read_bandwidth(const Field& field, IoLimit& limit) {
  limit.*Part = field.size({});
}

template <auto Part>
void read_operations(const Field& field, IoLimit& limit) {
  if (const auto number = field.integer(1, kMaximumOperations)) {
    limit.*Part = static_cast<std::uint64_t>(*number);
  }
}

bool is_device_number(std::string_view text, unsigned most) {
  unsigned number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return !text.empty() && error == std::errc() && end == text.data() + text.size() && number <= most;
}

void read_io_device(const Field& field, IoLimit& limit) {
  const std::optional<std::string> device = field.word();
  if (!device) {
    return;
  }
  const std::size_t colon = device->find(':');
  const bool is_pair = colon != std::string::npos &&
                       is_device_number(device->substr(0, colon), kMaximumMajor) &&
                       is_device_number(device->substr(colon + 1), kMaximumMinor);
  constexpr std::string_view kDevices = "/dev/";
  if (!is_pair && (!device->starts_with(kDevices) || device->size() == kDevices.size())) {
    field.refuse("is not a block device (use /dev/vda, or major:minor such as 254:0, at most 4095:1048575)");
    return;
  }
  limit.device = *device;
}

constexpr Member<IoLimit> kIoMembers[] = {
    {"device", read_io_device},
    {"read_bps", read_bandwidth<&IoLimit::read_bytes_per_second>},
    {"write_bps", read_bandwidth<&IoLimit::write_bytes_per_second>},
    {"read_iops", read_operations<&IoLimit::read_operations_per_second>},
    {"write_iops", read_operations<&IoLimit::write_operations_per_second>},
};

bool limits_nothing(const IoLimit& limit) {
  return !limit.read_bytes_per_second && !limit.write_bytes_per_second && !limit.read_operations_per_second &&
         !limit.write_operations_per_second;
}

void read_io_limit(const Field& field, std::set<std::string>& devices, Limits& limits) {
  const std::size_t faults_before = field.context().faults.size();
  IoLimit limit;
  read_members<IoLimit>(field, kIoMembers, "/limits/io/*", limit);
  if (field.context().faults.size() != faults_before) {
    return;
  }
  if (limit.device.empty()) {
    field.refuse_plainly("names no device; add \"device\": \"/dev/…\"");
  } else if (limits_nothing(limit)) {
    field.refuse_plainly("limits nothing; add read_bps, write_bps, read_iops or write_iops");
  } else if (!devices.insert(limit.device).second) {
    field.refuse_plainly("names \"" + limit.device + "\" a second time; join both into one element");
  } else {
    limits.io.push_back(std::move(limit));
  }
}

void read_io(const Field& field, Limits& limits) {
  if (const auto elements = field.elements("an array of objects with \"device\"")) {
    std::set<std::string> devices;
    for (const Field& element : *elements) {
      read_io_limit(element, devices, limits);
    }
  }
}

// ---- hugetlb{} ----

/// Bytes of a page size as the kernel names its control files: "64KB", "2MB", "1GB"
/// (Documentation/admin-guide/cgroup-v1/hugetlb.rst); these are powers of 1024.
std::optional<Bytes> page_bytes(std::string_view name) {
  Bytes number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  const std::string_view unit = name.substr(static_cast<std::size_t>(end - name.data()));
  if (error != std::errc() || number == 0 || number > 1024 || name.front() == '0') {
    return std::nullopt;
  }
  if (unit == "KB") {
    return number << 10U;
  }
  if (unit == "MB") {
    return number << 20U;
  }
  return unit == "GB" ? std::optional(number << 30U) : std::nullopt;
}

void read_hugetlb(const Field& field, Limits& limits) {
  const auto members = field.members("an object such as {\"2MB\": \"64M\"}");
  if (!members) {
    return;
  }
  for (const Field& member : *members) {
    const std::optional<Bytes> page = page_bytes(member.key());
    const std::optional<Bytes> bytes = member.size({1, true});
    if (!page) {
      member.refuse_plainly("names no size of huge pages (use the kernel's name: 2MB, 1GB …)");
    } else if (bytes && *bytes % *page != 0) {
      member.refuse("is not a multiple of the page size " + member.key());
    } else if (bytes) {
      limits.hugetlb[member.key()] = *bytes;
    }
  }
}

// ---- single values ----

template <auto Part>
void read_size(const Field& field, Limits& limits) {
  limits.*Part = field.size({});
}

/// Where 0 has a meaning of its own: none at all.
template <auto Part>
void read_size_or_zero(const Field& field, Limits& limits) {
  limits.*Part = field.size({1, true});
}

void read_cpu_time(const Field& field, Limits& limits) {
  limits.cpu_time = field.duration({});
}

void read_cpu_quota(const Field& field, Limits& limits) {
  if (!field.value().is_number()) {
    field.refuse("is not a number of CPUs (use 0.5, 2 …)");
    return;
  }
  const auto quota = field.value().get<double>();
  if (!std::isfinite(quota) || quota < kMinimumQuota || quota > kMaximumQuota) {
    field.refuse("is out of range; give a number of CPUs from 0.01 to 65536");
    return;
  }
  limits.cpu_quota = quota;
}

void read_cpu_weight(const Field& field, Limits& limits) {
  if (const auto weight = field.integer(1, 10'000)) {
    limits.cpu_weight = static_cast<unsigned>(*weight);
  }
}

void read_oom_group(const Field& field, Limits& limits) {
  limits.oom_group = field.boolean().value_or(false);
}

void read_pids(const Field& field, Limits& limits) {
  if (const auto pids = field.integer(1, kMaximumTasks)) {
    limits.pids = static_cast<std::uint64_t>(*pids);
  }
}

void read_open_files(const Field& field, Limits& limits) {
  if (const auto files = field.integer(1, kMaximumOpenFiles)) {
    limits.open_files = static_cast<std::uint64_t>(*files);
  }
}

std::optional<std::uint32_t> hexadecimal(std::string_view text, std::size_t digits) {
  std::uint32_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, 16);
  const bool whole = error == std::errc() && end == text.data() + text.size() && text.size() <= digits;
  return whole ? std::optional(number) : std::nullopt;
}

/// "0x100001" or, as tc(8) writes it, "10:1": both hexadecimal, 16 bits each.
std::optional<std::uint32_t> parse_net_class(std::string_view text) {
  if (text.starts_with("0x")) {
    return hexadecimal(text.substr(2), 8);
  }
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) {
    return std::nullopt;
  }
  const auto major = hexadecimal(text.substr(0, colon), 4);
  const auto minor = hexadecimal(text.substr(colon + 1), 4);
  return major && minor ? std::optional(*major << 16U | *minor) : std::nullopt;
}

void read_net_class(const Field& field, Limits& limits) {
  if (!field.value().is_string()) {
    if (const auto number = field.integer(1, 0xFFFFFFFF)) {
      limits.net_class = static_cast<std::uint32_t>(*number);
    }
    return;
  }
  const std::optional<std::uint32_t> number = parse_net_class(field.value().get_ref<const std::string&>());
  if (!number || *number == 0) {
    field.refuse("is not a class (use 1048577, \"0x100001\" or \"10:1\")");
    return;
  }
  limits.net_class = number;
}

constexpr Member<Limits> kLimitMembers[] = {
    {"cpu_time", read_cpu_time},
    {"cpu_quota", read_cpu_quota},
    {"cpu_weight", read_cpu_weight},
    {"swap", read_size_or_zero<&Limits::swap>},
    {"memory_high", read_size<&Limits::memory_high>},
    {"oom_group", read_oom_group},
    {"pids", read_pids},
    {"output", read_size<&Limits::output>},
    {"tmpfs", read_size<&Limits::tmpfs>},
    {"open_files", read_open_files},
    {"file_size", read_size_or_zero<&Limits::file_size>},
    {"core_size", read_size_or_zero<&Limits::core_size>},
    {"stack_size", read_size<&Limits::stack_size>},
    {"locked_memory", read_size_or_zero<&Limits::locked_memory>},
    {"io", read_io},
    {"hugetlb", read_hugetlb},
    {"net_class", read_net_class},
};

}  // namespace

void read_limits(const Field& field, Limits& limits) {
  read_members<Limits>(field, kLimitMembers, "/limits", limits);
}

std::vector<ObjectFields> limits_fields() {
  return {names_of<Limits>("/limits", kLimitMembers), names_of<IoLimit>("/limits/io/*", kIoMembers)};
}

}  // namespace berth
