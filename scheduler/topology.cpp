// detect_topology() and synthetic_topology(): hwloc's view of the machine in our terms.
//
// hwloc's full discovery costs 2 ms and more on a small virtual machine, most of it in CPUID instructions
// (each traps to the hypervisor) and in the I/O and cache files that slots need not know. What is asked for
// here costs about 0.7 ms: sysfs only, cores, last-level caches, packages and nodes.
#include <hwloc.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string_view>

#include "scheduler/slot_pool.h"

namespace berth {
namespace {

struct TopologyDeleter {
  void operator()(hwloc_topology_t topology) const { hwloc_topology_destroy(topology); }
};
using HwlocTopology = std::unique_ptr<hwloc_topology, TopologyDeleter>;

struct BitmapDeleter {
  void operator()(hwloc_bitmap_t bitmap) const { hwloc_bitmap_free(bitmap); }
};
using HwlocBitmap = std::unique_ptr<hwloc_bitmap_s, BitmapDeleter>;

[[noreturn]] void throw_hwloc(const char* step) {
  throw std::runtime_error(std::string("hwloc: ") + step + ": " + std::strerror(errno));
}

HwlocTopology new_topology() {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) {
    throw_hwloc("init");
  }
  HwlocTopology topology(raw);
  hwloc_topology_set_all_types_filter(raw, HWLOC_TYPE_FILTER_KEEP_NONE);  // PUs and NUMA nodes always stay
  for (const hwloc_obj_type_t type : {HWLOC_OBJ_PACKAGE, HWLOC_OBJ_L3CACHE, HWLOC_OBJ_L2CACHE, HWLOC_OBJ_CORE}) {
    hwloc_topology_set_type_filter(raw, type, HWLOC_TYPE_FILTER_KEEP_ALL);
  }
  // Several nodes of one package hang on groups; without these every node would be local to every CPU.
  hwloc_topology_set_type_filter(raw, HWLOC_OBJ_GROUP, HWLOC_TYPE_FILTER_KEEP_STRUCTURE);
  hwloc_topology_set_flags(raw, HWLOC_TOPOLOGY_FLAG_NO_DISTANCES | HWLOC_TOPOLOGY_FLAG_NO_MEMATTRS |
                                    HWLOC_TOPOLOGY_FLAG_NO_CPUKINDS);
  return topology;
}

/// Logical index of the ancestor of that type; none: `fallback`.
unsigned ancestor_index(hwloc_topology_t topology, hwloc_obj_type_t type, hwloc_obj_t object, unsigned fallback) {
  const hwloc_obj_t ancestor = hwloc_get_ancestor_obj_by_type(topology, type, object);
  return ancestor != nullptr ? ancestor->logical_index : fallback;
}

/// The node a CPU's memory comes from: the lowest of its local ones that has memory (a CPU with high
/// bandwidth memory beside its DRAM has two; the DRAM has the lower number), else the lowest.
unsigned local_node(const std::vector<TopologyNode>& nodes, hwloc_obj_t cpu) {
  const TopologyNode* best = nullptr;
  for (const TopologyNode& node : nodes) {
    if (hwloc_bitmap_isset(cpu->nodeset, node.node) == 0) {
      continue;
    }
    if (best == nullptr || (best->memory == 0 && node.memory > 0)) {
      best = &node;
    }
  }
  return best != nullptr ? best->node : 0;
}

std::vector<TopologyNode> nodes_of(hwloc_topology_t topology) {
  std::vector<TopologyNode> nodes;
  hwloc_obj_t object = nullptr;
  while ((object = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, object)) != nullptr) {
    nodes.push_back({object->os_index, object->attr->numanode.local_memory});
  }
  std::sort(nodes.begin(), nodes.end(), [](const auto& a, const auto& b) { return a.node < b.node; });
  return nodes;
}

/// `usable` null: every CPU.
Topology convert(hwloc_topology_t topology, hwloc_const_bitmap_t usable) {
  Topology result;
  result.nodes = nodes_of(topology);
  const hwloc_obj_type_t cache =
      hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_L3CACHE) > 0   ? HWLOC_OBJ_L3CACHE
      : hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_L2CACHE) > 0 ? HWLOC_OBJ_L2CACHE
                                                                  : HWLOC_OBJ_PACKAGE;
  hwloc_obj_t object = nullptr;
  while ((object = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PU, object)) != nullptr) {
    if (usable != nullptr && hwloc_bitmap_isset(usable, object->os_index) == 0) {
      continue;
    }
    TopologyCpu cpu;
    cpu.cpu = object->os_index;
    cpu.core = ancestor_index(topology, HWLOC_OBJ_CORE, object, object->logical_index);
    cpu.package = ancestor_index(topology, HWLOC_OBJ_PACKAGE, object, 0);
    cpu.cache = ancestor_index(topology, cache, object, cpu.package);
    cpu.node = local_node(result.nodes, object);
    result.cpus.push_back(cpu);
  }
  return result;
}

bool has_word(std::string_view list, std::string_view word) {
  while (!list.empty()) {
    const std::size_t comma = std::min(list.find(','), list.size());
    if (list.substr(0, comma) == word) {
      return true;
    }
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return false;
}

/// Where the memory controller's files of this process's cgroup are, and those of the groups above it.
struct MemoryCgroup {
  std::string mount_point;
  std::string path;            ///< below the mount point: "" or "/a/b"
  const char* limit_file = "";
};

/// proc_pid_cgroup(5): "hierarchy-ID:controllers:path", an empty list of controllers for v2.
std::string own_cgroup_path(bool unified) {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) {
      continue;
    }
    const std::string_view controllers = std::string_view(line).substr(first + 1, second - first - 1);
    if (unified ? controllers.empty() : has_word(controllers, "memory")) {
      return line.substr(second + 1);
    }
  }
  return {};
}

/// proc_pid_mountinfo(5): "id parent major:minor root mount-point options [optional…] - type source options".
/// A v1 memory hierarchy wins over the unified one: the controller is in only one of them.
std::optional<MemoryCgroup> own_memory_cgroup() {
  std::ifstream file("/proc/self/mountinfo");
  std::optional<MemoryCgroup> found;
  bool found_v1 = false;
  for (std::string line; !found_v1 && std::getline(file, line);) {
    const std::size_t dash = line.find(" - cgroup");
    if (dash == std::string::npos) {
      continue;
    }
    std::istringstream before(line.substr(0, dash));
    std::istringstream after(line.substr(dash + 3));
    std::string skipped, root, mount_point, type, options;
    before >> skipped >> skipped >> skipped >> root >> mount_point;
    after >> type >> skipped >> options;
    const bool unified = type == "cgroup2";
    if (unified ? found.has_value() : !has_word(options, "memory")) {
      continue;
    }
    std::string path = own_cgroup_path(unified);
    if (root != "/" && path.compare(0, root.size(), root) == 0) {
      path.erase(0, root.size());
    }
    if (path == "/") {
      path.clear();
    }
    found = MemoryCgroup{mount_point, path, unified ? "/memory.max" : "/memory.limit_in_bytes"};
    found_v1 = !unified;
  }
  return found;
}

std::optional<Bytes> read_limit(const std::string& file_name) {
  std::ifstream file(file_name);
  std::string text;
  if (!(file >> text)) {
    return std::nullopt;  // the root of v2 has no such file
  }
  Bytes value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) {
    return std::nullopt;  // "max"
  }
  return value;
}

/// The lowest limit from this process's cgroup up to the root; nothing when none binds.
std::optional<Bytes> memory_cgroup_limit() {
  std::optional<MemoryCgroup> cgroup = own_memory_cgroup();
  if (!cgroup) {
    return std::nullopt;
  }
  constexpr Bytes kUnlimitedV1 = Bytes{1} << 62U;  // v1 writes PAGE_COUNTER_MAX for "no limit"
  std::optional<Bytes> lowest;
  for (std::string path = cgroup->path;; path.erase(path.rfind('/'))) {
    const std::optional<Bytes> limit = read_limit(cgroup->mount_point + path + cgroup->limit_file);
    if (limit && *limit < kUnlimitedV1) {
      lowest = std::min(lowest.value_or(*limit), *limit);
    }
    if (path.empty() || path.rfind('/') == std::string::npos) {
      return lowest;
    }
  }
}

}  // namespace

Topology detect_topology() {
  const HwlocTopology topology = new_topology();
  hwloc_topology_set_components(topology.get(), HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, "x86");
  if (hwloc_topology_load(topology.get()) != 0) {
    throw_hwloc("load");
  }
  // hwloc left out what the cpuset forbids; the affinity (taskset, a batch system's binding) binds too.
  HwlocBitmap usable;
  if (hwloc_topology_is_thissystem(topology.get()) != 0) {
    usable.reset(hwloc_bitmap_alloc());
    if (!usable || hwloc_get_cpubind(topology.get(), usable.get(), HWLOC_CPUBIND_THREAD) != 0) {
      usable.reset();
    }
  }
  Topology result = convert(topology.get(), usable.get());
  result.memory_limit = memory_cgroup_limit();
  return result;
}

Topology synthetic_topology(const std::string& description, Bytes memory_per_node) {
  const HwlocTopology topology = new_topology();
  if (hwloc_topology_set_synthetic(topology.get(), description.c_str()) != 0 ||
      hwloc_topology_load(topology.get()) != 0) {
    throw std::invalid_argument("\"" + description + "\" is not an hwloc synthetic topology");
  }
  Topology result = convert(topology.get(), nullptr);
  for (TopologyNode& node : result.nodes) {
    node.memory = memory_per_node;
  }
  return result;
}

}  // namespace berth
