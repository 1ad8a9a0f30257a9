#include "executor/cgroup_files.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

namespace berth {
namespace {

/// Takes the next complete line off `text`; false when none is left.
bool next_line(std::string_view& text, std::string_view& line) {
  const std::size_t end = text.find('\n');
  if (end == std::string_view::npos) {
    return false;
  }
  line = text.substr(0, end);
  text.remove_prefix(end + 1);
  return true;
}

/// Takes the next field, ended by `separator`, off `line`.
std::string_view next_field(std::string_view& line, char separator) {
  const std::size_t end = line.find(separator);
  const std::string_view field = line.substr(0, end);
  line.remove_prefix(end == std::string_view::npos ? line.size() : end + 1);
  return field;
}

template <typename Integer>
std::optional<Integer> whole_number(std::string_view text) {
  Integer value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) {
    return std::nullopt;
  }
  return value;
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const std::string_view part = next_field(text, separator);
    if (!part.empty()) {
      parts.emplace_back(part);
    }
  }
  return parts;
}

bool is_octal(char character) {
  return character >= '0' && character <= '7';
}

/// proc_pid_mountinfo(5): space, tab, newline and backslash are "\040", "\011", "\012" and "\134".
std::string unescape(std::string_view text) {
  std::string plain;
  plain.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size() && is_octal(text[i + 1]) && is_octal(text[i + 2]) &&
        is_octal(text[i + 3])) {
      plain += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

bool has_word(const std::vector<std::string>& words, std::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

void add_saturated(std::uint64_t& sum, std::uint64_t value) {
  sum = value > std::numeric_limits<std::uint64_t>::max() - sum ? std::numeric_limits<std::uint64_t>::max()
                                                                : sum + value;
}

/// Of the next line of mountinfo what is before its dash and what is behind it, proc_pid_mountinfo(5):
/// 36 35 98:0 /root /mount/point rw,noatime [optional fields] - type source super-options
bool next_mount(std::string_view& mountinfo, std::string_view& before, std::string_view& after) {
  constexpr std::string_view kDash = " - ";
  std::string_view line;
  while (next_line(mountinfo, line)) {
    const std::size_t dash = line.find(kDash);
    if (dash != std::string_view::npos) {
      before = line.substr(0, dash);
      after = line.substr(dash + kDash.size());
      return true;
    }
  }
  return false;
}

}  // namespace

std::vector<MountLine> parse_mounts(std::string_view mountinfo) {
  std::vector<MountLine> mounts;
  std::string_view before;
  std::string_view after;
  while (next_mount(mountinfo, before, after)) {
    const std::optional<std::uint64_t> id = whole_number<std::uint64_t>(next_field(before, ' '));
    const std::optional<std::uint64_t> parent = whole_number<std::uint64_t>(next_field(before, ' '));
    next_field(before, ' ');  // device
    next_field(before, ' ');  // root
    if (id && parent) {
      mounts.push_back(
          {*id, *parent, unescape(next_field(before, ' ')), std::string(next_field(after, ' '))});
    }
  }
  return mounts;
}

std::vector<CgroupMountLine> parse_cgroup_mounts(std::string_view mountinfo) {
  std::vector<CgroupMountLine> mounts;
  std::string_view before;
  std::string_view after;
  while (next_mount(mountinfo, before, after)) {
    const std::string_view type = next_field(after, ' ');
    if (type != "cgroup" && type != "cgroup2") {
      continue;
    }
    next_field(after, ' ');  // source
    for (int skipped = 0; skipped < 3; ++skipped) {
      next_field(before, ' ');  // mount id, parent id, device
    }
    CgroupMountLine mount;
    mount.version = type == "cgroup" ? 1 : 2;
    mount.root = unescape(next_field(before, ' '));
    mount.mount_point = unescape(next_field(before, ' '));
    mount.controllers = split(after, ',');
    mount.writable = has_word(split(next_field(before, ' '), ','), "rw") && has_word(mount.controllers, "rw");
    if (!mount.root.empty() && !mount.mount_point.empty()) {
      mounts.push_back(std::move(mount));
    }
  }
  return mounts;
}

std::vector<CgroupMembership> parse_cgroup_memberships(std::string_view proc_pid_cgroup) {
  std::vector<CgroupMembership> memberships;
  std::string_view line;
  while (next_line(proc_pid_cgroup, line)) {
    CgroupMembership membership;
    const std::optional<unsigned> hierarchy = whole_number<unsigned>(next_field(line, ':'));
    membership.controllers = split(next_field(line, ':'), ',');
    membership.path = line;  // may hold colons itself
    if (hierarchy && !membership.path.empty() && membership.path[0] == '/') {
      membership.hierarchy = *hierarchy;
      memberships.push_back(std::move(membership));
    }
  }
  return memberships;
}

std::vector<KernelController> parse_kernel_controllers(std::string_view proc_cgroups) {
  std::vector<KernelController> controllers;
  std::string_view line;
  while (next_line(proc_cgroups, line)) {
    if (line.empty() || line[0] == '#') {
      continue;
    }
    KernelController controller;
    controller.name = next_field(line, '\t');
    const std::optional<unsigned> hierarchy = whole_number<unsigned>(next_field(line, '\t'));
    const std::optional<unsigned> cgroups = whole_number<unsigned>(next_field(line, '\t'));
    if (hierarchy && cgroups && !line.empty()) {
      controller.hierarchy = *hierarchy;
      controller.cgroups = *cgroups;
      controller.enabled = line == "1";
      controllers.push_back(std::move(controller));
    }
  }
  return controllers;
}

std::optional<std::string> path_below_mount(std::string_view path, std::string_view mount_root) {
  // A root or path with ".." lies outside our cgroup namespace: its names are hidden from us.
  if (path.empty() || path[0] != '/' || path.starts_with("/..") || mount_root.starts_with("/..")) {
    return std::nullopt;
  }
  if (mount_root == "/") {
    return std::string(path);
  }
  if (!path.starts_with(mount_root)) {
    return std::nullopt;
  }
  path.remove_prefix(mount_root.size());
  if (path.empty()) {
    return "/";
  }
  return path[0] == '/' ? std::optional<std::string>(path) : std::nullopt;
}

std::optional<std::uint64_t> parse_number(std::string_view text) {
  std::string_view line;
  return next_line(text, line) ? whole_number<std::uint64_t>(line) : std::nullopt;
}

std::optional<std::uint64_t> parse_keyed(std::string_view text, std::string_view key) {
  std::string_view line;
  while (next_line(text, line)) {
    if (line.size() > key.size() && line[key.size()] == ' ' && line.starts_with(key)) {
      return whole_number<std::uint64_t>(line.substr(key.size() + 1));
    }
  }
  return std::nullopt;
}

std::optional<std::uint64_t> parse_pressure_total(std::string_view text, std::string_view name) {
  std::string_view line;
  while (next_line(text, line)) {
    if (next_field(line, ' ') != name) {
      continue;
    }
    while (!line.empty()) {
      const std::string_view field = next_field(line, ' ');
      if (field.starts_with("total=")) {
        return whole_number<std::uint64_t>(field.substr(6));
      }
    }
  }
  return std::nullopt;
}

std::vector<std::string> parse_words(std::string_view text) {
  std::string_view line;
  return next_line(text, line) ? split(line, ' ') : std::vector<std::string>{};
}

std::vector<pid_t> parse_pids(std::string_view text) {
  std::vector<pid_t> pids;
  std::string_view line;
  while (next_line(text, line)) {
    // 0 is a process of another pid namespace: no number that we could use.
    if (const std::optional<pid_t> pid = whole_number<pid_t>(line); pid && *pid > 0) {
      pids.push_back(*pid);
    }
  }
  return pids;
}

std::optional<IoTotals> parse_blkio_totals(std::string_view text, DeviceFilter counts) {
  IoTotals totals;
  bool complete = false;
  std::string_view line;
  while (next_line(text, line)) {
    // "253:0 Read 4096" for each device and direction, then "Total 8192".
    const std::string_view device = next_field(line, ' ');
    if (device == "Total") {
      complete = whole_number<std::uint64_t>(line).has_value();
      continue;
    }
    if (counts != nullptr && !counts(device)) {
      continue;
    }
    const std::string_view direction = next_field(line, ' ');
    const std::optional<std::uint64_t> value = whole_number<std::uint64_t>(line);
    if (value && direction == "Read") {
      add_saturated(totals.read, *value);
    } else if (value && direction == "Write") {
      add_saturated(totals.write, *value);
    }
  }
  return complete ? std::optional(totals) : std::nullopt;
}

IoStat parse_io_stat(std::string_view text, DeviceFilter counts) {
  IoStat stat;
  std::string_view line;
  while (next_line(text, line)) {
    // 253:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0
    // From Linux 5.15 (252c651a4c85) until 5.19 (3607849df478) without a newline after a device that has
    // nothing to tell: "7:1 7:0 253:0 rbytes=…".
    std::string_view device = next_field(line, ' ');
    while (!line.empty() && line.substr(0, line.find(' ')).find('=') == std::string_view::npos) {
      device = next_field(line, ' ');
    }
    if (counts != nullptr && !counts(device)) {
      continue;
    }
    while (!line.empty()) {
      std::string_view value = next_field(line, ' ');
      const std::string_view key = next_field(value, '=');
      const std::uint64_t number = whole_number<std::uint64_t>(value).value_or(0);
      if (key == "rbytes") {
        add_saturated(stat.bytes.read, number);
      } else if (key == "wbytes") {
        add_saturated(stat.bytes.write, number);
      } else if (key == "rios") {
        add_saturated(stat.operations.read, number);
      } else if (key == "wios") {
        add_saturated(stat.operations.write, number);
      }
    }
  }
  return stat;
}

std::optional<NetworkTotals> parse_network_devices(std::string_view text, Loopback loopback) {
  std::optional<NetworkTotals> totals;
  std::string_view line;
  while (next_line(text, line)) {
    // Two lines of headings, then "  eth0:  1234  5 0 0 0 0 0 0  567  8 0 …": 8 counters of each direction.
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) {
      continue;
    }
    std::string_view name = line.substr(0, colon);
    name.remove_prefix(std::min(name.find_first_not_of(' '), name.size()));
    if (loopback == Loopback::left_out && name == "lo") {
      continue;
    }
    std::vector<std::uint64_t> values;
    for (const std::string& word : split(line.substr(colon + 1), ' ')) {
      const std::optional<std::uint64_t> value = whole_number<std::uint64_t>(word);
      if (!value) {
        break;
      }
      values.push_back(*value);
    }
    if (values.size() < 10) {
      continue;
    }
    totals = totals ? totals : NetworkTotals{};
    add_saturated(totals->receive_bytes, values[0]);
    add_saturated(totals->receive_packets, values[1]);
    add_saturated(totals->transmit_bytes, values[8]);
    add_saturated(totals->transmit_packets, values[9]);
  }
  return totals;
}

std::uint64_t cpu_shares_from_weight(unsigned weight) {
  constexpr std::uint64_t kMinimumShares = 2, kMaximumShares = 262'144;  // kernel/sched/sched.h
  return std::clamp((std::uint64_t{weight} * 1024 + 50) / 100, kMinimumShares, kMaximumShares);
}

CpuBandwidth cpu_bandwidth(double cpus) {
  constexpr double kMinimumQuotaUs = 1000;
  constexpr std::uint64_t kLongestPeriodUs = 1'000'000;
  CpuBandwidth bandwidth;
  bandwidth.period_us = cpus * static_cast<double>(kDefaultCpuPeriodUs) < kMinimumQuotaUs
                            ? kLongestPeriodUs
                            : kDefaultCpuPeriodUs;
  const double quota = std::round(cpus * static_cast<double>(bandwidth.period_us));
  // 2^44 µs is the kernel's max_cfs_runtime in microseconds, rounded down.
  bandwidth.quota_us = static_cast<std::uint64_t>(std::clamp(quota, kMinimumQuotaUs, 17'592'186'044'415.0));
  return bandwidth;
}

}  // namespace berth
