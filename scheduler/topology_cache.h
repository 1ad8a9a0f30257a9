// TopologyCache: what hwloc found, kept until the next boot, so that not every start asks it again.
//
// One small text file: /run/berth/topology for root, else $XDG_RUNTIME_DIR/berth/topology. It counts only for
// the boot and the sets of online CPUs and nodes that it was written for, and when nobody but this user can
// have written it. All that goes wrong means that there is no cache: nothing here throws but std::bad_alloc.
// (Slurm's slurmd keeps hwloc's XML in its spool folder to the same end.)
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "schemas/cpu_set.h"

namespace berth {

/// As TopologyCpu, before it is known which of its nodes have memory.
struct MachineCpu {
  unsigned cpu = 0;
  unsigned core = 0;
  unsigned cache = 0;
  unsigned package = 0;
  CpuSet local_nodes;
};

/// All CPUs that are online, also those that this process may not use.
struct MachineTopology {
  std::vector<MachineCpu> cpus;
  CpuSet nodes;
};

class TopologyCache {
 public:
  static TopologyCache of_this_boot();
  /// `folder` is made when there is none; empty: no cache. `key` is one line that says what the content is
  /// for.
  TopologyCache(std::string folder, std::string key);

  std::optional<MachineTopology> read() const;
  void write(const MachineTopology& machine) const;
  bool operator==(const TopologyCache&) const = default;

 private:
  std::string folder_;
  std::string key_;
};

}  // namespace berth
