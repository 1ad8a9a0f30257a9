// detect_topology() and synthetic_topology(): hwloc's view of the machine in our terms.
//
// hwloc's full discovery costs 2 ms and more on a small virtual machine, most of it in CPUID instructions
// (each traps to the hypervisor) and in the I/O and cache files that slots need not know. What is asked for
// here costs about 0.7 ms, and some 25 files for each CPU: sysfs only, cores, last-level caches, packages and
// nodes. So it is asked once after each boot (scheduler/topology_cache.h). What may change under a running
// machine is read each time: which CPUs and nodes this process may use, and how much memory there is.
#include <hwloc.h>
#include <sys/sysinfo.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string_view>

#include "scheduler/slot_pool.h"
#include "scheduler/small_file.h"
#include "scheduler/topology_cache.h"

namespace berth {
namespace {

struct TopologyDeleter {
  void operator()(hwloc_topology_t topology) const { hwloc_topology_destroy(topology); }
};
using HwlocTopology = std::unique_ptr<hwloc_topology, TopologyDeleter>;

[[noreturn]] void throw_hwloc(const char* step) {
  throw std::runtime_error(std::string("hwloc: ") + step + ": " + std::strerror(errno));
}

HwlocTopology new_topology(unsigned long further_flags) {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) {
    throw_hwloc("init");
  }
  HwlocTopology topology(raw);
  hwloc_topology_set_all_types_filter(raw, HWLOC_TYPE_FILTER_KEEP_NONE);  // PUs and NUMA nodes always stay
  for (const hwloc_obj_type_t type :
       {HWLOC_OBJ_PACKAGE, HWLOC_OBJ_L3CACHE, HWLOC_OBJ_L2CACHE, HWLOC_OBJ_CORE}) {
    hwloc_topology_set_type_filter(raw, type, HWLOC_TYPE_FILTER_KEEP_ALL);
  }
  // Several nodes of one package hang on groups; without these every node would be local to every CPU.
  hwloc_topology_set_type_filter(raw, HWLOC_OBJ_GROUP, HWLOC_TYPE_FILTER_KEEP_STRUCTURE);
  hwloc_topology_set_flags(raw, HWLOC_TOPOLOGY_FLAG_NO_DISTANCES | HWLOC_TOPOLOGY_FLAG_NO_MEMATTRS |
                                    HWLOC_TOPOLOGY_FLAG_NO_CPUKINDS | further_flags);
  return topology;
}

/// Logical index of the ancestor of that type; none: `fallback`.
unsigned ancestor_index(hwloc_topology_t topology, hwloc_obj_type_t type, hwloc_obj_t object,
                        unsigned fallback) {
  const hwloc_obj_t ancestor = hwloc_get_ancestor_obj_by_type(topology, type, object);
  return ancestor != nullptr ? ancestor->logical_index : fallback;
}

/// The machine's part that hwloc found.
MachineTopology convert(hwloc_topology_t topology) {
  MachineTopology machine;
  hwloc_obj_t object = nullptr;
  while ((object = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, object)) != nullptr) {
    machine.nodes.insert(object->os_index);
  }
  const hwloc_obj_type_t cache = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_L3CACHE) > 0 ? HWLOC_OBJ_L3CACHE
                                 : hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_L2CACHE) > 0
                                     ? HWLOC_OBJ_L2CACHE
                                     : HWLOC_OBJ_PACKAGE;
  while ((object = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PU, object)) != nullptr) {
    MachineCpu cpu;
    cpu.cpu = object->os_index;
    cpu.core = ancestor_index(topology, HWLOC_OBJ_CORE, object, object->logical_index);
    cpu.package = ancestor_index(topology, HWLOC_OBJ_PACKAGE, object, 0);
    cpu.cache = ancestor_index(topology, cache, object, cpu.package);
    for (const unsigned node : machine.nodes.members()) {
      if (hwloc_bitmap_isset(object->nodeset, node) != 0) {
        cpu.local_nodes.insert(node);
      }
    }
    machine.cpus.push_back(std::move(cpu));
  }
  return machine;
}

MachineTopology discover() {
  const HwlocTopology topology = new_topology(HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
  hwloc_topology_set_components(topology.get(), HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, "x86");
  if (hwloc_topology_load(topology.get()) != 0) {
    throw_hwloc("load");
  }
  return convert(topology.get());
}

/// The node a CPU's memory comes from: the lowest of its local ones that has memory (a CPU with high
/// bandwidth memory beside its DRAM has two; the DRAM has the lower number), else the lowest.
unsigned local_node(const std::vector<TopologyNode>& nodes, const MachineCpu& cpu) {
  const TopologyNode* best = nullptr;
  for (const TopologyNode& node : nodes) {
    if (cpu.local_nodes.contains(node.node) && (best == nullptr || (best->memory == 0 && node.memory > 0))) {
      best = &node;
    }
  }
  return best != nullptr ? best->node : 0;
}

/// `usable` null: every CPU. `nodes` in the order of their numbers.
Topology part_of(const MachineTopology& machine, std::vector<TopologyNode> nodes, const CpuSet* usable) {
  Topology result;
  result.nodes = std::move(nodes);
  for (const MachineCpu& cpu : machine.cpus) {
    if (usable == nullptr || usable->contains(cpu.cpu)) {
      result.cpus.push_back({cpu.cpu, cpu.core, cpu.cache, local_node(result.nodes, cpu), cpu.package});
    }
  }
  return result;
}

/// The field of /proc/self/status (proc_pid_status(5)): what the affinity (taskset, a batch system's binding)
/// and the cpuset leave this process. A kernel without cpusets tells nothing of nodes.
std::optional<CpuSet> allowed(std::string_view status, std::string_view field) {
  const std::size_t begin = status.find(field);
  if (begin == std::string_view::npos) {
    return std::nullopt;
  }
  std::string_view rest = status.substr(begin + field.size());
  return CpuSet::parse(take_until(rest, '\n'));
}

/// sysfs's nodeN/meminfo: "Node 0 MemTotal:   5334816 kB". 0: none, or not to be told.
Bytes memory_of(unsigned node) {
  constexpr std::string_view kField = "MemTotal:";
  const std::string text =
      read_small_file("/sys/devices/system/node/node" + std::to_string(node) + "/meminfo").value_or("");
  std::string_view rest = text;
  rest.remove_prefix(std::min(rest.size(), rest.find(kField) + kField.size()));
  rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
  return to_number(take_until(rest, ' ')).value_or(0) << 10U;
}

/// With one node its memory is the machine's: on virtual machines that gained memory after boot (balloon,
/// virtio-mem) the node's meminfo may tell less than sysinfo(2), which everyone else goes by; and a kernel
/// without NUMA tells none.
std::vector<TopologyNode> nodes_of(const CpuSet& numbers) {
  std::vector<TopologyNode> nodes;
  for (const unsigned node : numbers.members()) {
    nodes.push_back({node, numbers.size() > 1 ? memory_of(node) : 0});
  }
  struct sysinfo machine = {};
  if (nodes.size() == 1 && ::sysinfo(&machine) == 0) {
    nodes.front().memory = Bytes{machine.totalram} * machine.mem_unit;
  }
  return nodes;
}

bool has_word(std::string_view list, std::string_view word) {
  while (!list.empty()) {
    if (take_until(list, ',') == word) {
      return true;
    }
  }
  return false;
}

/// Where the memory controller's files of this process's cgroup are, and those of the groups above it.
struct MemoryCgroup {
  std::string mount_point;
  std::string path;  ///< below the mount point: "" or "/a/b"
  const char* limit_file = "";
};

/// proc_pid_cgroup(5): "hierarchy-ID:controllers:path", an empty list of controllers for v2.
std::string own_cgroup_path(bool unified) {
  const std::string text = read_small_file("/proc/self/cgroup").value_or("");
  for (std::string_view lines = text; !lines.empty();) {
    std::string_view path = take_until(lines, '\n');
    take_until(path, ':');
    const std::string_view controllers = take_until(path, ':');
    if (unified ? controllers.empty() : has_word(controllers, "memory")) {
      return std::string(path);
    }
  }
  return {};
}

/// One line of proc_pid_mountinfo(5), if it mounts cgroups:
/// "id parent major:minor root mount-point options [optional…] - type source options".
std::optional<MemoryCgroup> memory_mount(std::string_view line) {
  const std::size_t dash = line.find(" - cgroup");
  if (dash == std::string_view::npos) {
    return std::nullopt;
  }
  std::string_view before = line.substr(0, dash);
  for (int skipped = 0; skipped < 3; ++skipped) {
    take_until(before, ' ');
  }
  const std::string_view root = take_until(before, ' ');
  const std::string_view mount_point = take_until(before, ' ');
  std::string_view options = line.substr(dash + 3);
  const bool unified = take_until(options, ' ') == "cgroup2";
  take_until(options, ' ');
  if (!unified && !has_word(options, "memory")) {
    return std::nullopt;
  }
  std::string path = own_cgroup_path(unified);
  if (root != "/" && path.compare(0, root.size(), root) == 0) {
    path.erase(0, root.size());
  }
  if (path == "/") {
    path.clear();
  }
  return MemoryCgroup{std::string(mount_point), path, unified ? "/memory.max" : "/memory.limit_in_bytes"};
}

std::optional<Bytes> read_limit(const std::string& file_name) {
  const std::string text = read_small_file(file_name).value_or("");  // the root of v2 has no such file
  std::string_view rest = text;
  const std::optional<Bytes> limit = to_number(take_until(rest, '\n'));  // "max" is no number
  constexpr Bytes kUnlimitedV1 = Bytes{1} << 62U;  // v1 writes PAGE_COUNTER_MAX for "no limit"
  return limit && *limit < kUnlimitedV1 ? limit : std::nullopt;
}

/// The lowest limit from this process's cgroup up to the root; nothing when none binds. A v2 tree beside a v1
/// memory hierarchy has no memory files, so looking into both does no harm.
std::optional<Bytes> memory_cgroup_limit() {
  std::optional<Bytes> lowest;
  const std::string mounts = read_small_file("/proc/self/mountinfo").value_or("");
  for (std::string_view lines = mounts; !lines.empty();) {
    const std::optional<MemoryCgroup> cgroup = memory_mount(take_until(lines, '\n'));
    if (!cgroup) {
      continue;
    }
    std::string path = cgroup->path;
    while (true) {
      if (const auto limit = read_limit(cgroup->mount_point + path + cgroup->limit_file)) {
        lowest = std::min(lowest.value_or(*limit), *limit);
      }
      const std::size_t parent = path.rfind('/');
      if (parent == std::string::npos) {
        break;
      }
      path.erase(parent);
    }
  }
  return lowest;
}

}  // namespace

Topology detect_topology() {
  const TopologyCache cache = TopologyCache::of_this_boot();
  std::optional<MachineTopology> machine = cache.read();
  if (!machine) {
    machine = discover();
    if (TopologyCache::of_this_boot() == cache) {  // no CPU came or went meanwhile
      cache.write(*machine);
    }
  }
  const std::string status = read_small_file("/proc/self/status").value_or("");
  const std::optional<CpuSet> cpus = allowed(status, "Cpus_allowed_list:\t");
  const CpuSet nodes = machine->nodes & allowed(status, "Mems_allowed_list:\t").value_or(machine->nodes);
  Topology result = part_of(*machine, nodes_of(nodes), cpus ? &*cpus : nullptr);
  result.memory_limit = memory_cgroup_limit();
  return result;
}

Topology synthetic_topology(const std::string& description, Bytes memory_per_node) {
  const HwlocTopology topology = new_topology(0);
  if (hwloc_topology_set_synthetic(topology.get(), description.c_str()) != 0 ||
      hwloc_topology_load(topology.get()) != 0) {
    throw std::invalid_argument("\"" + description + "\" is not an hwloc synthetic topology");
  }
  const MachineTopology machine = convert(topology.get());
  std::vector<TopologyNode> nodes;
  for (const unsigned node : machine.nodes.members()) {
    nodes.push_back({node, memory_per_node});
  }
  return part_of(machine, std::move(nodes), nullptr);
}

}  // namespace berth
