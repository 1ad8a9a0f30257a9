// In a test build BERTH_IMAGINED_CPUS=N gives berthd a pool of N CPUs, numbered from 0, and its runners put a
// job on those of the machine in their place, round and round: so a hundred jobs run at once on a machine
// with two CPUs. Nothing in other builds.
#pragma once

#include "scheduler/slot_pool.h"
#include "schemas/cpu_set.h"

#ifdef BERTH_CRASH_POINTS

#include <cstdlib>

namespace berth {

/// 0: none are imagined.
inline unsigned imagined_cpus() {
  const char* const text = std::getenv("BERTH_IMAGINED_CPUS");
  return text != nullptr ? static_cast<unsigned>(std::atoi(text)) : 0;
}

inline Topology pool_topology() {
  Topology topology = detect_topology();
  if (const unsigned count = imagined_cpus(); count > 0) {
    const TopologyCpu first = topology.cpus.front();
    topology.cpus.clear();
    for (unsigned cpu = 0; cpu < count; ++cpu) {
      topology.cpus.push_back({cpu, cpu, first.cache, first.node, first.package});
    }
  }
  return topology;
}

inline CpuSet real_cpus(const CpuSet& cpus) {
  if (imagined_cpus() == 0) {
    return cpus;
  }
  static const std::vector<TopologyCpu> kThere = detect_topology().cpus;
  CpuSet real;
  for (const unsigned cpu : cpus.members()) {
    real.insert(kThere.at(cpu % kThere.size()).cpu);
  }
  return real;
}

}  // namespace berth

#else

namespace berth {
inline Topology pool_topology() {
  return detect_topology();
}
inline const CpuSet& real_cpus(const CpuSet& cpus) {
  return cpus;
}
}  // namespace berth

#endif
