// What cgroups are limited to, compared.
#include "executor/cgroup.h"

namespace berth {
namespace {

/// False when `have` is a limit and `want` is none.
template <typename Value>
bool take_difference(const std::optional<Value>& have, const std::optional<Value>& want,
                     std::optional<Value>& change) {
  if (have != want) {
    change = want;
  }
  return want.has_value() || !have.has_value();
}

template <typename Value>
void take_if_named(std::optional<Value>& limit, const std::optional<Value>& more) {
  if (more) {
    limit = more;
  }
}

}  // namespace

void add_limits(CgroupLimits& limits, const CgroupLimits& more) {
  take_if_named(limits.cpus, more.cpus);
  take_if_named(limits.memory_nodes, more.memory_nodes);
  take_if_named(limits.cpu_quota, more.cpu_quota);
  take_if_named(limits.cpu_weight, more.cpu_weight);
  take_if_named(limits.memory, more.memory);
  take_if_named(limits.swap, more.swap);
  take_if_named(limits.memory_high, more.memory_high);
  take_if_named(limits.pids, more.pids);
  take_if_named(limits.devices, more.devices);
  take_if_named(limits.net_class, more.net_class);
  limits.oom_group = limits.oom_group || more.oom_group;
  limits.io.insert(limits.io.end(), more.io.begin(), more.io.end());
  for (const auto& [page_size, bytes] : more.hugetlb) {
    limits.hugetlb[page_size] = bytes;
  }
}

std::optional<CgroupLimits> limits_to_add(const CgroupLimits& have, const CgroupLimits& want) {
  CgroupLimits change;
  const bool possible = take_difference(have.cpus, want.cpus, change.cpus) &&
                        take_difference(have.memory_nodes, want.memory_nodes, change.memory_nodes) &&
                        take_difference(have.cpu_quota, want.cpu_quota, change.cpu_quota) &&
                        take_difference(have.cpu_weight, want.cpu_weight, change.cpu_weight) &&
                        take_difference(have.memory, want.memory, change.memory) &&
                        take_difference(have.swap, want.swap, change.swap) &&
                        take_difference(have.pids, want.pids, change.pids);
  // The hierarchies of net_cls and hugetlb are entered only by jobs that name them; throttled devices cannot
  // be told apart from others once they are written.
  const bool same_rest = have.devices == want.devices && have.hugetlb == want.hugetlb &&
                         have.net_class == want.net_class && have.memory_high == want.memory_high &&
                         have.oom_group == want.oom_group;
  if (!possible || !same_rest || (have.io != want.io && !have.io.empty())) {
    return std::nullopt;
  }
  if (change.swap && !change.memory) {
    change.memory = want.memory;  // v1 limits memory and memory+swap: both are needed to write the sum
  } else if (change.memory && !change.swap) {
    change.swap = want.swap;
  }
  if (have.io != want.io) {
    change.io = want.io;
  }
  return change;
}

}  // namespace berth
