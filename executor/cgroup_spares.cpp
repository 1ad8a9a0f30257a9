#include "executor/cgroup_spares.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <utility>

namespace berth {
namespace {

/// As many as end at about the same time.
constexpr std::size_t kMostSpares = 8;

/// Whose cgroups may be kept.
constexpr ControllerSet kept_controllers() {
  ControllerSet kept;
  for (const Controller controller :
       {Controller::cpu, Controller::cpuset, Controller::devices, Controller::blkio, Controller::freezer}) {
    kept.insert(controller);
  }
  return kept;
}

/// Of `limits` those that a cgroup of this hierarchy, which can be kept, has.
CgroupLimits limits_of(const Hierarchy& hierarchy, const CgroupLimits& limits) {
  CgroupLimits own;
  if (hierarchy.controllers.contains(Controller::cpu)) {
    own.cpu_quota = limits.cpu_quota;
    own.cpu_weight = limits.cpu_weight;
  }
  if (hierarchy.controllers.contains(Controller::cpuset)) {
    own.cpus = limits.cpus;
    own.memory_nodes = limits.memory_nodes;
  }
  if (hierarchy.controllers.contains(Controller::devices)) {
    own.devices = limits.devices;
  }
  if (hierarchy.controllers.contains(Controller::blkio)) {
    own.io = limits.io;
  }
  return own;
}

bool has_children(int directory) {
  constexpr nlink_t kItselfAndParent = 2;
  struct stat status {};
  return ::fstat(directory, &status) != 0 || status.st_nlink != kItselfAndParent;
}

}  // namespace

bool can_be_spare(const Hierarchy& hierarchy) {
  return hierarchy.version == 1 && !hierarchy.mount && hierarchy.controllers.is_within(kept_controllers());
}

bool keep_spare(JobDirectory& directory, const UsedCgroup& used) {
  Hierarchy& hierarchy = *directory.hierarchy;
  if (!can_be_spare(hierarchy)) {
    return false;
  }
  CgroupLimits limits = limits_of(hierarchy, used.limits);
  // A quota counts the times that it throttled; limits of disks cannot be taken back.
  if (limits.cpu_quota || !limits.io.empty() ||
      (used.did_io && hierarchy.controllers.contains(Controller::blkio)) ||
      (used.was_frozen && hierarchy.controllers.contains(Controller::freezer)) ||
      has_children(directory.fd.get())) {
    return false;
  }
  const std::string spare = kArmedPrefix + ("spare-" + std::to_string(++hierarchy.last_spare));
  const int tree = hierarchy.tree.get();
  if (::renameat(tree, used.name.c_str(), tree, spare.c_str()) != 0) {
    return false;
  }
  directory.tasks.reset();
  if (hierarchy.spares.size() >= kMostSpares) {  // the oldest may fit no job that still comes
    remove_cgroup(tree, hierarchy.spares.front().name.c_str(), std::chrono::milliseconds(0));
    hierarchy.spares.erase(hierarchy.spares.begin());
  }
  hierarchy.spares.push_back({std::move(directory.fd), std::move(directory.kept), spare, std::move(limits)});
  return true;
}

std::optional<CgroupLimits> take_spare(JobDirectory& directory, const std::string& name,
                                       const CgroupLimits& limits) {
  Hierarchy& hierarchy = *directory.hierarchy;
  if (hierarchy.spares.empty()) {
    return std::nullopt;
  }
  const CgroupLimits wanted = limits_of(hierarchy, limits);
  const int tree = hierarchy.tree.get();
  for (auto spare = hierarchy.spares.begin(); spare != hierarchy.spares.end(); ++spare) {
    std::optional<CgroupLimits> missing = limits_to_add(spare->limits, wanted);
    if (missing && ::renameat(tree, spare->name.c_str(), tree, name.c_str()) == 0) {
      directory.fd = std::move(spare->fd);
      directory.kept = std::move(spare->kept);
      hierarchy.spares.erase(spare);
      return missing;
    }
  }
  return std::nullopt;
}

void remove_spares(Hierarchy& hierarchy) noexcept {
  for (const Hierarchy::Spare& spare : hierarchy.spares) {
    remove_cgroup(hierarchy.tree.get(), spare.name.c_str(), std::chrono::milliseconds(0));
  }
  hierarchy.spares.clear();
}

}  // namespace berth
