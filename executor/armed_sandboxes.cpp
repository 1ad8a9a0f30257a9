#include "executor/armed_sandboxes.h"

#include <algorithm>

namespace berth {
namespace {

/// False when `have` is a limit and `want` is none.
template <typename Value>
bool take_difference(const std::optional<Value>& have, const std::optional<Value>& want,
                     std::optional<Value>& change) {
  if (have != want) {
    change = want;
  }
  return want.has_value() || !have.has_value();
}

}  // namespace

std::optional<CgroupLimits> limits_to_add(const CgroupLimits& have, const CgroupLimits& want) {
  CgroupLimits change;
  const bool possible = take_difference(have.cpus, want.cpus, change.cpus) &&
                        take_difference(have.memory_nodes, want.memory_nodes, change.memory_nodes) &&
                        take_difference(have.cpu_quota, want.cpu_quota, change.cpu_quota) &&
                        take_difference(have.cpu_weight, want.cpu_weight, change.cpu_weight) &&
                        take_difference(have.memory, want.memory, change.memory) &&
                        take_difference(have.swap, want.swap, change.swap) &&
                        take_difference(have.pids, want.pids, change.pids);
  // The hierarchies of net_cls and hugetlb are entered only by jobs that name them; throttled devices cannot
  // be told apart from others once they are written.
  const bool same_rest = have.devices == want.devices && have.hugetlb == want.hugetlb &&
                         have.net_class == want.net_class && have.memory_high == want.memory_high &&
                         have.oom_group == want.oom_group;
  if (!possible || !same_rest || (have.io != want.io && !have.io.empty())) {
    return std::nullopt;
  }
  if (change.swap && !change.memory) {
    change.memory = want.memory;  // v1 limits memory and memory+swap: both are needed to write the sum
  } else if (change.memory && !change.swap) {
    change.swap = want.swap;
  }
  if (have.io != want.io) {
    change.io = want.io;
  }
  return change;
}

std::optional<CgroupLimits> ArmedSandboxes::Entry::change_for(const SandboxProfile& profile,
                                                              const CgroupLimits& wanted) const {
  return sandbox->profile() == profile ? limits_to_add(limits, wanted) : std::nullopt;
}

void ArmedSandboxes::add(std::unique_ptr<Sandbox> sandbox, CgroupLimits limits, std::string reserved_for) {
  entries_.push_back({std::move(sandbox), std::move(limits), std::move(reserved_for)});
}

std::unique_ptr<Sandbox> ArmedSandboxes::take(const std::string& cgroup_name, const SandboxProfile& profile,
                                              const CgroupLimits& limits) {
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
    if (!entry->reserved_for.empty() && entry->reserved_for != cgroup_name) {
      continue;
    }
    if (const std::optional<CgroupLimits> change = entry->change_for(profile, limits)) {
      std::unique_ptr<Sandbox> sandbox = std::move(entry->sandbox);
      entries_.erase(entry);
      sandbox->cgroup().apply(*change);
      return sandbox;
    }
  }
  return nullptr;
}

void ArmedSandboxes::keep_fitting(const SandboxProfile& profile, const CgroupLimits& limits) {
  entries_.remove_if(
      [&](const Entry& entry) { return !entry.reserved_for.empty() || !entry.change_for(profile, limits); });
}

bool ArmedSandboxes::receive(Spawned& spawned, const std::function<void(Sandbox&)>& connect) {
  const auto entry = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& candidate) {
    return candidate.sandbox->token() == spawned.token;
  });
  if (entry == entries_.end()) {
    return false;
  }
  const bool made = spawned.error_number == 0;
  if (spawned.pidfd) {
    entry->sandbox->take(std::move(spawned));
    entry->sandbox->cgroup().close_attach_descriptors();
  }
  if (!made) {
    entries_.erase(entry);
    return true;
  }
  try {
    connect(*entry->sandbox);
  } catch (const std::exception&) {
    entries_.erase(entry);  // the launch itself will tell what is wrong
  }
  return true;
}

}  // namespace berth
