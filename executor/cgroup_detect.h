// What detect_cgroups() concludes, from texts: so that machines other than this one can be tested.
#pragma once

#include <functional>
#include <string>

#include "executor/cgroup.h"

namespace berth {

struct CgroupTexts {
  std::string mountinfo;           ///< /proc/self/mountinfo
  std::string memberships;         ///< /proc/self/cgroup
  std::string kernel_controllers;  ///< /proc/cgroups; empty where there is none
  bool is_root = false;
  /// The text of a file of the v2 tree, empty when unreadable.
  std::function<std::string(const std::string& path)> read_file;
};
CgroupMachine detect_cgroups_from(const CgroupTexts& texts);

/// What to do when the parent cgroup keeps controllers to itself.
inline constexpr const char* kDelegateRemedy =
    "with systemd, start berth by: systemd-run --scope -p Delegate=yes berth … (with --user when not root; "
    "for users' "
    "cpuset and io also: systemctl edit user@.service, [Service] Delegate=cpu cpuset io memory pids)";

}  // namespace berth
