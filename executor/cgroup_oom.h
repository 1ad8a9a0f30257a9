// Whose memory ran out: how often it did at the limit of one cgroup (JobCgroup::limiting_cgroup()).
//
// v2 counts that in memory.events.local ("oom"). v1 has no such file: its failed charges tell of reclaim too
// and are not all counted (v1_memory_hits()), a highest use may have been reached without harm, and oom_kill
// counts the victims of any limit. But there the kernel signals an eventfd each time that memory runs out at
// the limit of a cgroup or of one above it (memcg1_oom_notify() in mm/memcontrol-v1.c goes over all below).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "executor/os/unique_fd.h"

namespace berth {

struct Hierarchy;

/// The eventfd of one v1 cgroup. Counts from when it is made. Costs some 10 µs.
class OomEvents {
 public:
  OomEvents() = default;
  /// `directory` is the cgroup's.
  explicit OomEvents(int directory);
  /// False where the kernel has no such events (PREEMPT_RT).
  bool are_counted() const { return static_cast<bool>(events_); }
  /// At its limit or at one above it.
  std::int64_t total();

 private:
  UniqueFd events_;
  std::int64_t total_ = 0;
};

/// Of the tree's directory and of each one above it, up to the mount's root: how often at its own limit.
using OomCounts = std::vector<std::int64_t>;

/// Begins to count at the limits above the jobs (v1).
void watch_ancestors(Hierarchy& hierarchy);
/// Counts anew into `hierarchy.ancestor_ooms`; null when the kernel does not tell.
void count_ancestor_ooms(Hierarchy& hierarchy);

}  // namespace berth
