// From what a job asks for to what is written into its cgroup.
#pragma once

#include <string>

#include "executor/cgroup.h"
#include "schemas/accounting_record.h"

namespace berth {

/// Tasks at once when limits.pids is absent.
inline constexpr std::uint64_t kDefaultPids = 4096;

/// All limits of one attempt; those of controllers that `tree` cannot use are left out (check_limits() has
/// refused the ones that the user asked for). Throws LaunchError for a device that is not there.
CgroupLimits job_cgroup_limits(const JobSpec& spec, const Allocation& allocation, const CgroupTree& tree);

/// Throws LaunchError naming the first limit that the user asked for and this machine cannot enforce.
void check_limits(const JobSpec& spec, const CgroupTree& tree);

}  // namespace berth
