// ArmedSandboxes: sandboxes made ahead of need. Each has its namespaces, its root and a cgroup, and its
// init waits for a job; a launch then costs little more than the job's own fork and exec.
//
// A used sandbox is never armed again: each serves one job. Single-threaded.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>

#include "executor/cgroup.h"
#include "executor/sandbox.h"

namespace berth {

class ArmedSandboxes {
 public:
  /// `limits` are those that its cgroup was made with.
  void add(std::unique_ptr<Sandbox> sandbox, CgroupLimits limits);
  /// One of this profile, with these limits in its cgroup, which has its first name still; null when none
  /// fits. Throws CgroupError when a limit cannot be written.
  std::unique_ptr<Sandbox> take(const SandboxProfile& profile, const CgroupLimits& limits);
  /// Drops those that do not fit jobs of this profile and these limits, whichever they are.
  void keep_fitting(const SandboxProfile& profile, const CgroupLimits& limits);
  /// The launcher's answer for the sandbox with its token: takes it over and calls `connect` with it, or
  /// drops the sandbox that could not be made, or not connected. False when it is none of these.
  bool receive(Spawned& spawned, const std::function<void(Sandbox&)>& connect);

  std::size_t size() const { return entries_.size(); }
  void clear() { entries_.clear(); }

 private:
  struct Entry {
    std::unique_ptr<Sandbox> sandbox;
    CgroupLimits limits;

    /// What its cgroup lacks for such a job; nothing when it does not fit one.
    std::optional<CgroupLimits> change_for(const SandboxProfile& profile, const CgroupLimits& wanted) const;
  };
  std::list<Entry> entries_;
};

}  // namespace berth
