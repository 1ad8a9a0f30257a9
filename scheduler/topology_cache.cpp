#include "scheduler/topology_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "scheduler/runtime_folder.h"
#include "scheduler/small_file.h"

namespace berth {
namespace {

constexpr std::string_view kFormat = "berth topology 1";
constexpr const char* kFileName = "/topology";

std::string content_of(const std::string& key, const MachineTopology& machine) {
  std::string text = std::string(kFormat) + '\n' + key + '\n' + machine.nodes.to_list() + '\n' +
                     std::to_string(machine.cpus.size()) + '\n';
  for (const MachineCpu& cpu : machine.cpus) {
    for (const unsigned number : {cpu.cpu, cpu.core, cpu.cache, cpu.package}) {
      text += std::to_string(number) + ' ';
    }
    text += cpu.local_nodes.to_list() + '\n';
  }
  return text;
}

/// Throws std::invalid_argument.
MachineCpu parse_cpu(std::string_view line) {
  MachineCpu cpu;
  for (unsigned* number : {&cpu.cpu, &cpu.core, &cpu.cache, &cpu.package}) {
    const auto value = to_number(take_until(line, ' '));
    if (!value || *value > CpuSet::kMaximumCpu) {
      throw std::invalid_argument("not the number of a CPU");
    }
    *number = static_cast<unsigned>(*value);
  }
  cpu.local_nodes = CpuSet::parse(line);
  return cpu;
}

/// By variables, which hwloc obeys, about another machine than this one (HWLOC_SYNTHETIC, HWLOC_XMLFILE, …).
bool is_hwloc_told() {
  for (char** variable = ::environ; variable != nullptr && *variable != nullptr; ++variable) {
    if (std::string_view(*variable).starts_with("HWLOC_")) {
      return true;
    }
  }
  return false;
}

}  // namespace

TopologyCache TopologyCache::of_this_boot() {
  const std::string boot = read_first_line("/proc/sys/kernel/random/boot_id");
  const std::string cpus = read_first_line("/sys/devices/system/cpu/online");
  const std::string nodes = read_first_line("/sys/devices/system/node/online");  // none without NUMA
  const bool can_tell_a_change = !boot.empty() && !cpus.empty() && !is_hwloc_told();
  return {can_tell_a_change ? runtime_folder() : "", boot + " cpus " + cpus + " nodes " + nodes};
}

TopologyCache::TopologyCache(std::string folder, std::string key)
    : folder_(std::move(folder)), key_(std::move(key)) {}

std::optional<MachineTopology> TopologyCache::read() const {
  const std::string path = folder_ + kFileName;
  struct stat status {};
  // In a folder of ours nobody can put another file in its place meanwhile.
  if (folder_.empty() || !is_own_folder(folder_) || ::lstat(path.c_str(), &status) != 0 ||
      !S_ISREG(status.st_mode) || !is_own(status)) {
    return std::nullopt;
  }
  const std::string text = read_small_file(path).value_or("");
  std::string_view rest = text;
  if (take_until(rest, '\n') != kFormat || take_until(rest, '\n') != key_) {
    return std::nullopt;
  }
  try {
    MachineTopology machine;
    machine.nodes = CpuSet::parse(take_until(rest, '\n'));
    const std::optional<std::uint64_t> cpus = to_number(take_until(rest, '\n'));
    while (!rest.empty()) {
      machine.cpus.push_back(parse_cpu(take_until(rest, '\n')));
    }
    const bool is_whole = text.ends_with('\n') && cpus == machine.cpus.size();
    return is_whole && !machine.cpus.empty() ? std::optional(std::move(machine)) : std::nullopt;
  } catch (const std::invalid_argument&) {
    return std::nullopt;
  }
}

void TopologyCache::write(const MachineTopology& machine) const {
  if (!make_runtime_folder(folder_)) {
    return;
  }
  const std::string path = folder_ + kFileName;
  const std::string unfinished = path + "." + std::to_string(::getpid());
  const int descriptor =
      ::open(unfinished.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
  if (descriptor < 0) {
    return;
  }
  const std::string text = content_of(key_, machine);
  const bool written = ::write(descriptor, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  if (::close(descriptor) != 0 || !written || ::rename(unfinished.c_str(), path.c_str()) != 0) {
    ::unlink(unfinished.c_str());
  }
}

}  // namespace berth
