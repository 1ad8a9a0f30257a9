// The control files of cgroup v1. Sources: Documentation/admin-guide/cgroup-v1/*.rst.
#pragma once

#include <span>
#include <string>

#include "executor/cgroup_hierarchy.h"

namespace berth {

/// Fresh: the cgroup still has the values that it was made with, so what equals those is not written.
enum class Age { fresh, used };

/// Writes what `limits` names of `controller`. Throws CgroupError.
void apply_v1(const JobDirectory& directory, Controller controller, const CgroupLimits& limits, Age age,
              const std::string& job);
/// Fills what the controller's files tell.
void read_v1(const ControlFiles& files, Controller controller, std::span<char> buffer,
             CgroupCounters& counters);

/// Charges that failed at memory.limit_in_bytes or memory.memsw.limit_in_bytes. Both count: memory+swap is
/// charged first, so with no swap allowed every hit is one of memsw. Some kernels (6.18) do not count those
/// in memory.memsw.failcnt: a zero is not to be believed when v1_memory_limit_reached().
std::optional<std::uint64_t> v1_memory_hits(const ControlFiles& files);
/// What a charge that hits the limit asks for at most: a huge page, or a folio of page cache that is read
/// ahead. So the highest use of a cgroup that hit its limit lies no further below it.
inline constexpr std::uint64_t kLargestMemoryCharge = std::uint64_t{2} * 1024 * 1024;
/// Whether the highest use, of memory or of memory+swap, was the limit, or near enough to have hit it.
bool v1_memory_limit_reached(int directory);

/// Since Linux 6.10 blkio.throttle.io_* of a disk stay empty until somebody limits that disk: writes "no
/// limit" once for each disk that is not counted yet. Failures leave the counters as they are.
/// Kernels from 5.16 on and before 6.5 count only what is throttled: there each job gets limits out of reach.
void start_io_counting(Hierarchy& hierarchy);

/// Gives a new cgroup between own and job what its children need before a process can be in them: CPUs and
/// memory nodes, the hierarchical memory account of kernels before 5.11. Throws CgroupError.
void seed_v1(Hierarchy& hierarchy, int parent, int child, std::string_view child_name);

}  // namespace berth
