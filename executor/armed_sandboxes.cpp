#include "executor/armed_sandboxes.h"

#include <algorithm>

namespace berth {

std::optional<CgroupLimits> ArmedSandboxes::Entry::change_for(const SandboxProfile& profile,
                                                              const CgroupLimits& wanted) const {
  return sandbox->profile() == profile ? limits_to_add(limits, wanted) : std::nullopt;
}

void ArmedSandboxes::add(std::unique_ptr<Sandbox> sandbox, CgroupLimits limits) {
  entries_.push_back({std::move(sandbox), std::move(limits)});
}

std::unique_ptr<Sandbox> ArmedSandboxes::take(const SandboxProfile& profile, const CgroupLimits& limits) {
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
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
  entries_.remove_if([&](const Entry& entry) { return !entry.change_for(profile, limits); });
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
