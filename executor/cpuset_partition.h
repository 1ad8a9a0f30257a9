// Exclusive CPUs on cgroup v2: cpuset partitions (Documentation/admin-guide/cgroup-v2.rst,
// "cpuset.cpus.partition").
//
// A partition root takes its CPUs out of every other cgroup's; nothing else of the machine runs there. Its
// parent has to be one too, and a cgroup with processes may not give away its last CPU. So <own>/berth and
// the tree below it become partition roots over the pool's CPUs, and each job's cgroup a further one, "root"
// or "isolated" (without load balancing). Only the root cgroup, or a delegated one that is a partition root
// itself, can pass CPUs on this way.
#pragma once

#include <string>

#include "executor/cgroup_hierarchy.h"

namespace berth {

/// Prepares the hierarchy for jobs of that kind on `cpus`; returns why that cannot be, with the remedy, or
/// nothing. Everything is as before then, but that with `none` a partition that a dead berth left is
/// dissolved. `alone`: no other berth is beside this one.
std::string enter_partition(Hierarchy& hierarchy, CpuPartition kind, const CpuSet& cpus, bool alone);
/// Gives the CPUs of an ended tree back, where another berth keeps <own>/berth.
void leave_partition(Hierarchy& hierarchy) noexcept;
/// An ended job whose cgroup waits for its removal holds its CPUs no longer.
void free_partition(const JobDirectory& directory) noexcept;
/// After cpuset.cpus of a job was written: makes it a partition. Throws CgroupError with the kernel's reason.
void make_job_partition(const JobDirectory& directory, const std::string& job);

/// Whether partitions can be had below the hierarchy's own cgroup: why not, with the remedy, or nothing.
std::string why_no_partitions(const Hierarchy& hierarchy);

}  // namespace berth
