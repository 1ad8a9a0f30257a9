#include "executor/cpuset_partition.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "executor/cgroup_files.h"
#include "executor/os/syscall.h"

namespace berth {
namespace {

constexpr const char* kPartition = "cpuset.cpus.partition";
constexpr const char* kCpus = "cpuset.cpus";

std::string text_of(int directory, const char* file) {
  char buffer[4096];
  std::string text(read_control(directory, file, buffer));
  while (!text.empty() && text.back() == '\n') {
    text.pop_back();
  }
  return text;
}

CpuSet cpus_of(int directory) {
  const std::string text = text_of(directory, kCpus);
  return text.empty() ? CpuSet() : CpuSet::parse(text);
}

bool is_partition(int directory) {
  const std::string state = text_of(directory, kPartition);
  return !state.empty() && !state.starts_with("member");
}

void dissolve(int directory) noexcept {
  write_at(directory, kPartition, "member");
  write_at(directory, kCpus, "\n");
}

/// The kernel takes a partition that it cannot make and marks it: "root invalid (Cpu list in cpuset.cpus not
/// exclusive)". Returns its reason, or nothing when the partition holds.
std::string why_not_made(int directory, const char* kind) {
  if (const int error_number = write_at(directory, kPartition, kind)) {
    return std::generic_category().message(error_number);
  }
  std::string state = text_of(directory, kPartition);
  return state == kind ? std::string() : state;
}

std::string claim(int directory, const CpuSet& cpus) {
  if (const int error_number = write_at(directory, kCpus, cpus.to_list())) {
    return std::string("cpuset.cpus \"") + cpus.to_list() +
           "\": " + std::generic_category().message(error_number);
  }
  return text_of(directory, kPartition) == "root" ? std::string() : why_not_made(directory, "root");
}

}  // namespace

const char* to_string(CpuPartition partition) {
  switch (partition) {
    case CpuPartition::root:
      return "root";
    case CpuPartition::isolated:
      return "isolated";
    case CpuPartition::none:
      break;
  }
  return "member";
}

std::string why_no_partitions(const Hierarchy& hierarchy) {
  if (hierarchy.version != 2) {
    return "the cpuset controller is cgroup v1 here, which has no partitions; boot with cgroup v2";
  }
  if (::faccessat(hierarchy.tree.get(), kPartition, F_OK, 0) != 0) {
    return "this kernel has no cpuset.cpus.partition; Linux 5.0 or later is needed";
  }
  const bool is_root = ::faccessat(hierarchy.own.get(), "cgroup.type", F_OK, 0) != 0;
  if (!is_root && !is_partition(hierarchy.own.get())) {
    return "cgroup " + hierarchy.own_path +
           " is no partition root itself, so it passes none on; start berth in the root cgroup, or make that "
           "cgroup one (cpuset.cpus, then root to cpuset.cpus.partition)";
  }
  return {};
}

std::string enter_partition(Hierarchy& hierarchy, CpuPartition kind, const CpuSet& cpus, bool alone) {
  if (hierarchy.version != 2) {
    return kind == CpuPartition::none ? std::string() : why_no_partitions(hierarchy);
  }
  const int berth = hierarchy.berth.get();
  const int tree = hierarchy.tree.get();
  const bool was_partition = is_partition(berth);
  if (was_partition && alone) {
    dissolve(berth);  // a dead berth's
  } else if (was_partition && kind == CpuPartition::none) {
    return "another berth has made its CPUs (" + cpus_of(berth).to_list() +
           ") a partition; start this one with --slots-partition and CPUs of its own (--cpus), or wait "
           "for the other's end";
  }
  if (kind == CpuPartition::none) {
    return {};
  }
  if (std::string reason = why_no_partitions(hierarchy); !reason.empty()) {
    return reason;
  }
  const CpuSet before = alone ? CpuSet() : cpus_of(berth);
  if (!alone && !was_partition) {
    return "another berth without partitions runs; wait for its end";
  }
  std::string reason = claim(berth, before | cpus);
  if (reason.empty()) {
    reason = claim(tree, cpus);
  }
  if (reason.empty()) {
    hierarchy.job_partition = to_string(kind);
    hierarchy.partition_cpus = cpus;
    return {};
  }
  dissolve(tree);
  if (before.empty()) {
    dissolve(berth);
  } else {
    write_at(berth, kCpus, before.to_list());
  }
  return "the kernel makes no partition of CPUs " + cpus.to_list() + " (" + reason +
         "); leave at least one CPU outside the pool (--cpus), and let no other cgroup claim these";
}

void leave_partition(Hierarchy& hierarchy) noexcept {
  if (hierarchy.job_partition.empty() || !hierarchy.berth) {
    return;
  }
  try {
    const CpuSet rest = cpus_of(hierarchy.berth.get()) - hierarchy.partition_cpus;
    if (rest.empty()) {
      dissolve(hierarchy.berth.get());
    } else {
      write_at(hierarchy.berth.get(), kCpus, rest.to_list());
    }
  } catch (const std::exception&) {
    return;  // no memory, or a file that cannot be read: the last berth's rmdir gives the CPUs back
  }
}

void free_partition(const JobDirectory& directory) noexcept {
  dissolve(directory.fd.get());
}

void make_job_partition(const JobDirectory& directory, const std::string& job) {
  const std::string& kind = directory.hierarchy->job_partition;
  const std::string reason = why_not_made(directory.fd.get(), kind.c_str());
  if (!reason.empty()) {
    throw_cgroup_error(*directory.hierarchy, job, kPartition, kind + "\" (answer: \"" + reason, EINVAL);
  }
}

}  // namespace berth
