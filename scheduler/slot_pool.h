// SlotPool: the CPUs and memory that jobs are leased from, and the choice of which.
//
// Pure decisions: no system calls after construction, no clock. Single-threaded. The topology comes from
// hwloc (scheduler/topology.h); tests build synthetic ones.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "schemas/accounting_record.h"

namespace berth {

/// One CPU (hardware thread) and where it sits; indexes are hwloc logical ones, equal means shared.
struct TopologyCpu {
  unsigned cpu = 0;          ///< kernel number
  unsigned core = 0;
  unsigned cache = 0;        ///< last-level cache
  unsigned node = 0;         ///< kernel NUMA node number
  unsigned package = 0;
};

struct TopologyNode {
  unsigned node = 0;
  Bytes memory = 0;
};

struct Topology {
  std::vector<TopologyCpu> cpus;
  std::vector<TopologyNode> nodes;
};

/// From hwloc: the CPUs and nodes this process may use (its own cpuset), with the machine's memory.
Topology detect_topology();
/// From an hwloc synthetic description ("pack:2 numa:2 l3:1 core:8 pu:2"), for tests.
Topology synthetic_topology(const std::string& description, Bytes memory_per_node);

struct PoolBounds {
  std::optional<unsigned> slots;    ///< jobs at once
  std::optional<CpuSet> cpus;
  std::optional<Bytes> memory;
};

struct SlotRequest {
  unsigned cpus = 1;
  std::optional<Bytes> memory;      ///< absent: the pool's memory in proportion to the CPUs
};

class SlotPool;

/// The right to use an Allocation; returned to the pool by its destructor. Must not outlive the pool.
class SlotLease {
 public:
  SlotLease(SlotLease&& other) noexcept;
  SlotLease& operator=(SlotLease&& other) noexcept;
  SlotLease(const SlotLease&) = delete;
  SlotLease& operator=(const SlotLease&) = delete;
  ~SlotLease();
  const Allocation& allocation() const { return allocation_; }

 private:
  friend class SlotPool;
  SlotLease(SlotPool* pool, Allocation allocation);
  SlotPool* pool_ = nullptr;
  Allocation allocation_;
};

class SlotPool {
 public:
  /// Throws std::invalid_argument when the bounds name CPUs that are not there, or more memory.
  SlotPool(Topology topology, PoolBounds bounds);
  SlotPool(const SlotPool&) = delete;
  SlotPool& operator=(const SlotPool&) = delete;
  ~SlotPool();

  /// A lease now, or nothing when it does not fit at this moment. Whole exclusive CPUs: one NUMA node,
  /// then one cache, then whole cores before hyper-threads; tightest fit first.
  std::optional<SlotLease> lease(const SlotRequest& request);
  /// Why the request can never fit, even on the empty pool; nothing when it can.
  std::optional<std::string> never_fits(const SlotRequest& request) const;

  unsigned total_cpus() const;
  Bytes total_memory() const;
  unsigned free_cpus() const;
  Bytes free_memory() const;
  unsigned leases() const;

 private:
  friend class SlotLease;
  void give_back(const Allocation& allocation) noexcept;
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace berth
