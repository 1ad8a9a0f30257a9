// SlotPool: the CPUs and memory that jobs are leased from, and the choice of which.
//
// Pure decisions: no system calls, no clock; share() alone lets a pool know of the other berths on the
// machine. Single-threaded. The topology comes from hwloc (topology.cpp); tests build synthetic ones.
//
// The choice, in this order of importance:
//   1. one NUMA node when one has enough free CPUs, else the fewest nodes;
//   2. a node with enough unpromised memory, so that the job's pages are near its CPUs;
//   3. one last-level cache, else the fewest;
//   4. no core shared with another job: whole free cores first, then part of a free core, and the free
//      threads of a core that another job uses only when nothing else is left (a neighbour thread shares
//      execution units and first-level caches, and is the classic side channel);
//   5. the tightest fit: the node, then the cache, that is left with least, so that large holes stay.
// Any free CPUs will do when these wishes cannot be met: a request fits exactly when its numbers of CPUs,
// bytes and slots are free, which is what scheduler/job_queue.h reckons with.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/cpu_locks.h"
#include "schemas/accounting_record.h"

namespace berth {

/// One CPU (hardware thread) and where it sits; indexes are hwloc logical ones, equal means shared.
struct TopologyCpu {
  unsigned cpu = 0;  ///< kernel number
  unsigned core = 0;
  unsigned cache = 0;  ///< last-level cache; the package where hwloc knows no cache
  unsigned node = 0;   ///< kernel NUMA node number
  unsigned package = 0;
};

struct TopologyNode {
  unsigned node = 0;
  Bytes memory = 0;
};

struct Topology {
  std::vector<TopologyCpu> cpus;
  std::vector<TopologyNode> nodes;    ///< also those without memory, and those without CPUs
  std::optional<Bytes> memory_limit;  ///< the lowest memory cgroup limit above this process, if any
};

/// From hwloc: the CPUs (cpuset and affinity) and memory nodes this process may use, the nodes' memory, and
/// the memory cgroups' limit. Throws std::runtime_error when hwloc cannot load. On the start path of `berth
/// run`: hwloc itself is asked once after each boot (scheduler/topology_cache.h).
Topology detect_topology();
/// From an hwloc synthetic description ("pack:2 numa:2 l3:1 core:8 pu:2"): a seam for tests, here because
/// hwloc is nobody else's. Throws std::invalid_argument when hwloc does not understand it.
Topology synthetic_topology(const std::string& description, Bytes memory_per_node);

/// slots.smt: whether jobs may share a core, each on threads of its own.
enum class SmtSharing { shared, exclusive };

struct PoolBounds {
  std::optional<unsigned> slots;  ///< jobs at once; absent: as many as there are CPUs
  std::optional<CpuSet> cpus;     ///< absent: all of the topology's
  /// Absent: the machine's (nodes, or memory cgroup limit if that is less) minus the smaller of a tenth and
  /// 1 GiB, which stays with the kernel, berth itself and everyone else; whole MiB. Given: up to the whole.
  std::optional<Bytes> memory;
  /// exclusive: a lease takes whole cores, all their threads; a request is rounded up to them. Where cores
  /// have different numbers of threads, each counts with the smallest and its further threads stay idle.
  SmtSharing smt = SmtSharing::shared;
  /// What `cpus` and `memory` are called where they were given, for never_fits().
  std::string_view cpus_setting = "--cpus";
  std::string_view memory_setting = "--memory";
};

struct SlotRequest {
  unsigned cpus = 1;
  std::optional<Bytes> memory;  ///< absent: the pool's memory in proportion to the CPUs, whole MiB
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
  /// Throws std::invalid_argument when the bounds name CPUs that are not there, more memory than there is,
  /// or nothing at all.
  SlotPool(Topology topology, PoolBounds bounds);
  SlotPool(const SlotPool&) = delete;
  SlotPool& operator=(const SlotPool&) = delete;
  ~SlotPool();

  /// A lease now, or nothing when it does not fit at this moment. CPUs are whole and exclusive. Memory
  /// nodes are those of the CPUs, and further ones only for memory that these have not got left.
  std::optional<SlotLease> lease(const SlotRequest& request);
  /// The lease of an allocation that was made before, by a pool of another process; nothing when this pool
  /// has not got it free (it was made smaller since).
  std::optional<SlotLease> adopt(const Allocation& allocation);
  /// From now on CPUs are leased only when no other berth has them, but for overlap(); null: whatever others
  /// have.
  void share(std::unique_ptr<CpuLocks> locks);
  /// Looks at what other berths have: those CPUs are withheld, neither free nor leased, until the next look.
  /// All are while somebody waits in line who came first. To be called before free_cpus() is reckoned with.
  void look_at_others();
  unsigned withheld() const;
  /// Until the next look, withholds no longer what is missing to `cpus` free ones: a lease may share them
  /// with jobs of other berths. Not always the same ones first, lest all berths meet on one CPU.
  void overlap(unsigned cpus);
  /// Gets in line, or leaves it: a pool waits in line that has a job to start, no lease, and CPUs withheld.
  void set_waiting(bool has_job);

  /// Why the request can never fit, even on the empty pool; nothing when it can. Completes "the job …":
  /// "needs 4 CPUs, but the pool has 2 (…)".
  std::optional<std::string> never_fits(const SlotRequest& request) const;
  /// The CPUs that a lease for this request takes: more than asked for when cores are exclusive.
  unsigned cpus_for(const SlotRequest& request) const;
  /// The bytes that a lease for this request takes.
  Bytes memory_for(const SlotRequest& request) const;

  CpuSet cpus() const;
  unsigned total_cpus() const;
  Bytes total_memory() const;
  unsigned total_slots() const;
  unsigned free_cpus() const;
  Bytes free_memory() const;
  unsigned free_slots() const;
  unsigned leases() const;

 private:
  friend class SlotLease;
  void give_back(const Allocation& allocation) noexcept;
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace berth
