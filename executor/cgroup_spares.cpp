#include "executor/cgroup_spares.h"

#include <algorithm>
#include <utility>

#include "executor/cgroup_files.h"

namespace berth {
namespace {

/// As many as end at about the same time.
constexpr std::size_t kMostSpares = 8;

/// Whose cgroups may be kept.
constexpr ControllerSet kept_controllers() {
  ControllerSet kept;
  for (const Controller controller : {Controller::cpu, Controller::cpuset, Controller::pids,
                                      Controller::devices, Controller::blkio, Controller::freezer}) {
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
  if (hierarchy.controllers.contains(Controller::pids)) {
    own.pids = limits.pids;
  }
  if (hierarchy.controllers.contains(Controller::devices)) {
    own.devices = limits.devices;
  }
  if (hierarchy.controllers.contains(Controller::blkio)) {
    own.io = limits.io;
  }
  return own;
}

}  // namespace

bool can_be_spare(const Hierarchy& hierarchy) {
  return hierarchy.version == 1 && !hierarchy.mount && hierarchy.controllers.is_within(kept_controllers());
}

namespace {

/// Also after the record was made: init ends under the job's quota.
bool was_throttled(const JobDirectory& directory, const JobTraces& traces) {
  if (traces.was_throttled || !traces.limits.cpu_quota) {
    return traces.was_throttled;
  }
  char buffer[kControlFileBytes];
  const auto periods = parse_keyed(read_control(directory.files(), "cpu.stat", buffer), "nr_throttled");
  return periods != std::optional<std::uint64_t>(0);
}

}  // namespace

bool keep_spare(JobDirectory& directory, const JobTraces& traces) {
  Hierarchy& hierarchy = *directory.hierarchy;
  const ControllerSet& has = hierarchy.controllers;
  if (!can_be_spare(hierarchy) || (traces.did_io && has.contains(Controller::blkio)) ||
      (has.contains(Controller::cpu) && was_throttled(directory, traces)) ||
      (traces.in_pids_counters && has.contains(Controller::pids)) ||
      (traces.was_frozen && has.contains(Controller::freezer)) || count_children(directory.fd.get()) != 0) {
    return false;
  }
  directory.tasks.reset();
  if (hierarchy.spares.size() >= kMostSpares) {  // the oldest may fit no job that still comes
    const std::string oldest = hierarchy.spares.front().name;
    remove_spare(hierarchy, oldest);
  }
  hierarchy.spares.push_back({std::move(directory.fd), std::move(directory.kept), std::move(directory.name),
                              limits_of(hierarchy, traces.limits)});
  return true;
}

std::optional<CgroupLimits> take_spare(JobDirectory& directory, const CgroupLimits& limits) {
  Hierarchy& hierarchy = *directory.hierarchy;
  const CgroupLimits wanted = limits_of(hierarchy, limits);
  for (auto spare = hierarchy.spares.begin(); spare != hierarchy.spares.end(); ++spare) {
    std::optional<CgroupLimits> missing = limits_to_add(spare->limits, wanted);
    if (!missing) {
      continue;
    }
    missing->cpu_quota =
        wanted.cpu_quota;  // anew: the last job may have used up some of the present period's
    directory.name = std::move(spare->name);
    directory.fd = std::move(spare->fd);
    directory.kept = std::move(spare->kept);
    hierarchy.spares.erase(spare);
    return missing;
  }
  return std::nullopt;
}

void remove_spare(Hierarchy& hierarchy, const std::string& name) noexcept {
  const auto found = std::find_if(hierarchy.spares.begin(), hierarchy.spares.end(),
                                  [&](const Hierarchy::Spare& spare) { return spare.name == name; });
  if (found != hierarchy.spares.end()) {
    remove_cgroup(hierarchy.tree.get(), name.c_str(), std::chrono::milliseconds(0));
    hierarchy.spares.erase(found);
  }
}

void remove_spares(Hierarchy& hierarchy) noexcept {
  for (const Hierarchy::Spare& spare : hierarchy.spares) {
    remove_cgroup(hierarchy.tree.get(), spare.name.c_str(), std::chrono::milliseconds(0));
  }
  hierarchy.spares.clear();
}

}  // namespace berth
