// slots.partition: whether each job's CPUs are a cpuset partition of their own (executor/cpuset_partition.h).
#pragma once

namespace berth {

/// What cpuset.cpus.partition of a job's cgroup says; none: "member".
enum class CpuPartition { none, root, isolated };
const char* to_string(CpuPartition partition);

}  // namespace berth
