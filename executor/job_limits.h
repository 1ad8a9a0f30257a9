// From what a job asks for to what is written into its cgroup.
#pragma once

#include <string>

#include "executor/cgroup.h"
#include "schemas/accounting_record.h"
#include "schemas/controller_report.h"

namespace berth {

/// Tasks at once when limits.pids is absent.
inline constexpr std::uint64_t kDefaultPids = 4096;
/// berth's init, which shares the job's cgroup and is not counted as the job's.
inline constexpr std::uint64_t kInitProcesses = 1;
/// From what a job's cgroup counted to what the job did.
void leave_init_out(Usage& usage);

/// All limits of one attempt; those of controllers that `tree` cannot use are left out (check_limits() has
/// refused the ones that the user asked for). Throws LaunchError for a device that is not there.
CgroupLimits job_cgroup_limits(const JobSpec& spec, const Allocation& allocation, const CgroupTree& tree);

/// As the one of executor.h, for our own tree.
void check_limits(const JobSpec& spec, const CgroupTree& tree);
/// Every controller of `tree`; makes it mount those that it would mount for a job.
ControllerReport report_controllers(const CgroupTree& tree);

}  // namespace berth
