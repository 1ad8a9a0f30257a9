// Spares: v1 cgroups of ended jobs that are given to the next job instead of being removed and made anew,
// which costs ten times as much (mkdir, first opens, rmdir, and what the kernel frees later).
//
// Only cgroups without a trace of the job that was in them: no process, no child, and counters that are still
// as in a new one, since no counter of a cgroup can be set back. So memory, which keeps peaks and charges, is
// fresh for every job, and so is a v2 cgroup, which counts CPU time and cannot be renamed. A spare keeps its
// last job's name until it has another job. Internal to the cgroup code; single-threaded.
#pragma once

#include <optional>
#include <string>

#include "executor/cgroup_hierarchy.h"

namespace berth {

/// What an ended job left in its cgroups.
struct JobTraces {
  CgroupLimits limits;           ///< all that were written
  bool did_io = true;            ///< or it is not known
  bool was_throttled = true;     ///< likewise
  bool in_pids_counters = true;  ///< more than every job leaves there
  bool was_frozen = false;       ///< or killed through the freezer
};

/// Whether cgroups of this hierarchy are kept at all.
bool can_be_spare(const Hierarchy& hierarchy);
/// Keeps the cgroup for another job. False when it must be removed. Every process must be known to be gone.
bool keep_spare(JobDirectory& directory, const JobTraces& traces);
/// Gives `directory`, of its hierarchy, a spare, and returns what must still be written to it for `limits`.
/// Nothing when there is none that fits.
std::optional<CgroupLimits> take_spare(JobDirectory& directory, const CgroupLimits& limits);
/// Frees the name, if it is a spare's.
void remove_spare(Hierarchy& hierarchy, const std::string& name) noexcept;
void remove_spares(Hierarchy& hierarchy) noexcept;

}  // namespace berth
