// The parts of examine_machine(): each returns its findings and leaves nothing behind.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "executor/executor.h"

namespace berth {

using Findings = std::vector<Finding>;

Findings examine_kernel();      ///< version, pidfd, clone3, seccomp
Findings examine_namespaces();  ///< all eight, and without privileges
Findings examine_mounts();      ///< new mount API, idmapped mounts, overlayfs
Findings examine_cgroups();     ///< every controller, swap accounting, PSI, cgroup.kill, delegation
Findings examine_network();     ///< what private and shared networks need
Findings examine_user();        ///< subordinate ids, who may be mapped

/// Runs `probe` in a forked child, so that what it changes ends with it. Its return value: 0 or an errno.
int errno_in_child(const std::function<int()>& probe);

Finding ok(std::string subject, std::string detail);
Finding limited(std::string subject, std::string detail, std::string remedy);
Finding missing(std::string subject, std::string detail, std::string remedy);

/// In a forked child that just made a user namespace: gives it root's ids inside for its own outside. 0 or
/// errno.
int map_to_root_inside(unsigned outside_uid, unsigned outside_gid);

}  // namespace berth
