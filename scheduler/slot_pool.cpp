#include "scheduler/slot_pool.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <tuple>
#include <unordered_map>
#include <utility>

namespace berth {
namespace {

constexpr Bytes kLargestReserve = Bytes{1} << 30U;
constexpr std::size_t kLongestSlotName = 48;

Bytes whole_mebibytes(Bytes bytes) {
  return bytes >= kMebibyte ? bytes / kMebibyte * kMebibyte : bytes;
}

/// a * b / c without overflow of the product; b <= c.
Bytes in_proportion(Bytes whole, unsigned part, unsigned parts) {
  return whole / parts * part + whole % parts * part / parts;
}

/// Runs of CPUs that share something, and how many of them are free. The CPUs of a pool are kept in the order
/// node, cache, core, number, so that each group's members are neighbours.
struct Group {
  unsigned first = 0;  ///< of its members: CPUs of a core, cores of a cache, caches of a node
  unsigned count = 0;
  unsigned parent = 0;
  unsigned free = 0;   ///< CPUs
  unsigned whole = 0;  ///< CPUs in cores that are wholly free; not kept for a core itself
};

struct MemoryNode {
  unsigned number = 0;  ///< the kernel's
  Bytes memory = 0;
  Bytes promised = 0;
  Bytes left() const { return memory - promised; }
};

struct MemoryShare {
  std::size_t node = 0;
  Bytes bytes = 0;
};

/// How well a node or cache suits a request; smaller is better, in the order of the header's list.
struct Fit {
  bool remote_memory = false;
  unsigned caches = 1;
  unsigned shared = 0;  ///< CPUs that would sit beside another job's in one core
  unsigned left = 0;    ///< free CPUs that would remain in the node
  unsigned cache_left = 0;
  auto key() const { return std::tie(remote_memory, caches, shared, left, cache_left); }
};

std::string slot_name(const CpuSet& cpus, unsigned first) {
  std::string name = "cpu" + cpus.to_list();
  if (name.size() > kLongestSlotName) {  // it becomes a file name; the first CPU alone makes it unique
    name = "cpu" + std::to_string(first) + "+" + std::to_string(cpus.size() - 1);
  }
  return name;
}

/// Whoever has the rest of a core would share it with the job.
void require_whole_cores(const std::vector<TopologyCpu>& cpus, const CpuSet& bound) {
  for (const TopologyCpu& outside : cpus) {
    for (const TopologyCpu& inside : cpus) {
      if (outside.core == inside.core && !bound.contains(outside.cpu) && bound.contains(inside.cpu)) {
        throw std::invalid_argument("CPU " + std::to_string(outside.cpu) + " shares a core with CPU " +
                                    std::to_string(inside.cpu) +
                                    ", so cores cannot be exclusive: name both or neither");
      }
    }
  }
}

/// Leaves as many CPUs in each core as the smallest has; returns that number. `cpus` are sorted by core.
unsigned trim_cores(std::vector<TopologyCpu>& cpus) {
  std::unordered_map<unsigned, unsigned> threads;
  for (const TopologyCpu& cpu : cpus) {
    ++threads[cpu.core];
  }
  unsigned fewest = std::numeric_limits<unsigned>::max();
  for (const auto& [core, count] : threads) {
    fewest = std::min(fewest, count);
  }
  std::unordered_map<unsigned, unsigned> kept;
  cpus.erase(std::remove_if(cpus.begin(), cpus.end(),
                            [&](const TopologyCpu& cpu) { return ++kept[cpu.core] > fewest; }),
             cpus.end());
  return fewest;
}

std::string count_of_cpus(unsigned count) {
  return std::to_string(count) + (count == 1 ? " CPU" : " CPUs");
}

}  // namespace

class SlotPool::State {
 public:
  State(Topology topology, PoolBounds bounds);

  std::vector<unsigned> take_cpus(unsigned wanted, Bytes memory);
  void take_cpu(unsigned index, std::vector<unsigned>& chosen);
  void give_cpu(unsigned index);
  std::vector<MemoryShare> take_memory(const std::vector<unsigned>& chosen, Bytes memory);

  struct Held {
    std::vector<unsigned> cpus;
    std::vector<MemoryShare> memory;
  };

  PoolBounds bounds_;
  unsigned threads_per_core_ = 1;  // what leases are multiples of; 1 while cores are shared
  std::vector<unsigned> numbers_;  // the kernel's number of each CPU
  std::vector<unsigned> core_of_;  // by CPU
  std::vector<bool> free_;         // by CPU
  std::vector<Group> cores_;
  std::vector<Group> caches_;
  std::vector<Group> nodes_;
  std::vector<std::size_t> memory_of_;  // by node: its MemoryNode
  std::vector<MemoryNode> memory_nodes_;
  unsigned free_cpus_ = 0;
  Bytes total_memory_ = 0;
  Bytes free_memory_ = 0;
  std::unordered_map<std::string, Held> held_;  // by slot name
  std::unique_ptr<CpuLocks> locks_;
  std::vector<bool> withheld_;  // by CPU: another berth has it
  CpuSet overlapped_;           // another berth has it, and a lease may nevertheless

  CpuSet all() const;
  CpuSet unleased() const;
  CpuSet set_of(const std::vector<unsigned>& indexes) const;
  void withhold(const CpuSet& cpus);
  void give_back_withheld(unsigned index);

 private:
  void build_groups(const std::vector<TopologyCpu>& cpus);
  void bound_memory(const Topology& topology, std::size_t cpus);
  void take_from_core(unsigned core, unsigned wanted, std::vector<unsigned>& chosen);
  void take_from_cache(unsigned cache, unsigned wanted, std::vector<unsigned>& chosen);
  void take_from_node(unsigned node, unsigned wanted, std::vector<unsigned>& chosen);
  unsigned best_core(unsigned cache, unsigned wanted) const;
  std::optional<unsigned> best_cache(unsigned node, unsigned wanted) const;
  std::optional<unsigned> best_node(unsigned wanted, Bytes memory) const;
  unsigned caches_needed(unsigned node, unsigned wanted) const;
  static unsigned freest(const std::vector<Group>& groups, unsigned first, unsigned count);
};

SlotPool::State::State(Topology topology, PoolBounds bounds) : bounds_(std::move(bounds)) {
  std::vector<TopologyCpu>& cpus = topology.cpus;
  if (bounds_.cpus && bounds_.smt == SmtSharing::exclusive) {
    require_whole_cores(cpus, *bounds_.cpus);
  }
  if (bounds_.cpus) {
    CpuSet there;
    for (const TopologyCpu& cpu : cpus) {
      there.insert(cpu.cpu);
    }
    if (const CpuSet missing = *bounds_.cpus - there; !missing.empty()) {
      throw std::invalid_argument("CPUs " + missing.to_list() + " are not there (this process may use " +
                                  there.to_list() +
                                  "; how many one job gets is -c, cpus_per_task in a job file)");
    }
    cpus.erase(std::remove_if(cpus.begin(), cpus.end(),
                              [&](const TopologyCpu& cpu) { return !bounds_.cpus->contains(cpu.cpu); }),
               cpus.end());
  }
  if (cpus.empty()) {
    throw std::invalid_argument("a pool needs at least one CPU");
  }
  if (bounds_.slots == 0U) {
    throw std::invalid_argument("a pool needs at least one slot");
  }
  bound_memory(topology, cpus.size());
  std::sort(cpus.begin(), cpus.end(), [](const TopologyCpu& a, const TopologyCpu& b) {
    return std::tie(a.node, a.cache, a.core, a.cpu) < std::tie(b.node, b.cache, b.core, b.cpu);
  });
  if (bounds_.smt == SmtSharing::exclusive) {
    threads_per_core_ = trim_cores(cpus);
  }
  build_groups(cpus);
}

void SlotPool::State::bound_memory(const Topology& topology, std::size_t cpus) {
  Bytes there = 0;
  for (const TopologyNode& node : topology.nodes) {
    memory_nodes_.push_back({node.node, node.memory, 0});
    there += node.memory;
  }
  there = std::min(there, topology.memory_limit.value_or(there));
  if (bounds_.memory && *bounds_.memory > there) {
    throw std::invalid_argument(format_size(*bounds_.memory) + " of memory is more than there is (" +
                                format_size(whole_mebibytes(there)) + ")");
  }
  if (bounds_.memory && *bounds_.memory > 0 && *bounds_.memory < kLeastMemory * cpus) {
    throw std::invalid_argument(format_size(*bounds_.memory) + " of memory is too little for " +
                                std::to_string(cpus) + " CPUs: a job has a share of at least " +
                                format_size(kLeastMemory) + " for each");
  }
  total_memory_ = bounds_.memory.value_or(whole_mebibytes(there - std::min(there / 10, kLargestReserve)));
  if (total_memory_ == 0) {
    throw std::invalid_argument("a pool needs memory");
  }
  free_memory_ = total_memory_;
}

void SlotPool::State::build_groups(const std::vector<TopologyCpu>& cpus) {
  for (std::size_t i = 0; i < cpus.size(); ++i) {
    const TopologyCpu& cpu = cpus[i];
    const TopologyCpu* previous = i > 0 ? &cpus[i - 1] : nullptr;
    const bool new_node = previous == nullptr || previous->node != cpu.node;
    const bool new_cache = new_node || previous->cache != cpu.cache;
    const bool new_core = new_cache || previous->core != cpu.core;
    if (new_node) {
      const auto memory = std::find_if(memory_nodes_.begin(), memory_nodes_.end(),
                                       [&](const MemoryNode& node) { return node.number == cpu.node; });
      if (memory == memory_nodes_.end()) {
        throw std::invalid_argument("the topology has no node " + std::to_string(cpu.node));
      }
      memory_of_.push_back(static_cast<std::size_t>(memory - memory_nodes_.begin()));
      nodes_.push_back({static_cast<unsigned>(caches_.size()), 0, 0, 0, 0});
    }
    if (new_cache) {
      ++nodes_.back().count;
      caches_.push_back(
          {static_cast<unsigned>(cores_.size()), 0, static_cast<unsigned>(nodes_.size() - 1), 0, 0});
    }
    if (new_core) {
      ++caches_.back().count;
      cores_.push_back({static_cast<unsigned>(i), 0, static_cast<unsigned>(caches_.size() - 1), 0, 0});
    }
    numbers_.push_back(cpu.cpu);
    core_of_.push_back(static_cast<unsigned>(cores_.size() - 1));
    free_.push_back(false);
    withheld_.push_back(false);
    ++cores_.back().count;
  }
  for (unsigned index = 0; index < numbers_.size(); ++index) {
    give_cpu(index);
  }
}

void SlotPool::State::take_cpu(unsigned index, std::vector<unsigned>& chosen) {
  Group& core = cores_[core_of_[index]];
  Group& cache = caches_[core.parent];
  Group& node = nodes_[cache.parent];
  if (core.free == core.count) {
    cache.whole -= core.count;
    node.whole -= core.count;
  }
  free_[index] = false;
  --core.free;
  --cache.free;
  --node.free;
  --free_cpus_;
  chosen.push_back(index);
}

void SlotPool::State::give_cpu(unsigned index) {
  Group& core = cores_[core_of_[index]];
  Group& cache = caches_[core.parent];
  Group& node = nodes_[cache.parent];
  free_[index] = true;
  ++core.free;
  ++cache.free;
  ++node.free;
  ++free_cpus_;
  if (core.free == core.count) {
    cache.whole += core.count;
    node.whole += core.count;
  }
}

unsigned SlotPool::State::freest(const std::vector<Group>& groups, unsigned first, unsigned count) {
  unsigned best = first;
  for (unsigned i = first; i < first + count; ++i) {
    if (groups[i].free > groups[best].free) {
      best = i;
    }
  }
  return best;
}

/// The core to take the next CPUs from, the cache having some free: wholly free cores that are used up
/// first, then part of a wholly free one, then the tightest of those that others use already.
unsigned SlotPool::State::best_core(unsigned cache, unsigned wanted) const {
  const Group& group = caches_[cache];
  const auto rank = [&](const Group& core) {
    const bool whole = core.free == core.count;
    const unsigned kind = whole && core.count <= wanted ? 0U : whole ? 1U : core.free >= wanted ? 2U : 3U;
    const unsigned tightness = kind == 0 || kind == 3 ? core.count - core.free : core.free;
    return std::pair(kind, tightness);
  };
  std::optional<unsigned> best;
  for (unsigned i = group.first; i < group.first + group.count; ++i) {
    if (cores_[i].free > 0 && (!best || rank(cores_[i]) < rank(cores_[*best]))) {
      best = i;
    }
  }
  return best.value_or(group.first);
}

void SlotPool::State::take_from_core(unsigned core, unsigned wanted, std::vector<unsigned>& chosen) {
  const Group& group = cores_[core];
  for (unsigned i = group.first; i < group.first + group.count && wanted > 0; ++i) {
    if (free_[i]) {
      take_cpu(i, chosen);
      --wanted;
    }
  }
}

void SlotPool::State::take_from_cache(unsigned cache, unsigned wanted, std::vector<unsigned>& chosen) {
  const Group& group = caches_[cache];
  for (unsigned i = group.first; i < group.first + group.count; ++i) {  // the common case in one pass
    if (cores_[i].free == cores_[i].count && cores_[i].count <= wanted) {
      wanted -= cores_[i].count;
      take_from_core(i, cores_[i].count, chosen);
    }
  }
  while (wanted > 0) {
    const unsigned core = best_core(cache, wanted);
    const unsigned part = std::min(wanted, cores_[core].free);
    take_from_core(core, part, chosen);
    wanted -= part;
  }
}

std::optional<unsigned> SlotPool::State::best_cache(unsigned node, unsigned wanted) const {
  const Group& group = nodes_[node];
  const auto rank = [&](const Group& cache) {
    return std::pair(wanted > cache.whole ? wanted - cache.whole : 0U, cache.free);
  };
  std::optional<unsigned> best;
  for (unsigned i = group.first; i < group.first + group.count; ++i) {
    if (caches_[i].free >= wanted && (!best || rank(caches_[i]) < rank(caches_[*best]))) {
      best = i;
    }
  }
  return best;
}

void SlotPool::State::take_from_node(unsigned node, unsigned wanted, std::vector<unsigned>& chosen) {
  // Taking the freest ones until the rest fits into one gives the fewest.
  while (wanted > 0) {
    const std::optional<unsigned> fitting = best_cache(node, wanted);
    const unsigned cache = fitting ? *fitting : freest(caches_, nodes_[node].first, nodes_[node].count);
    const unsigned part = std::min(wanted, caches_[cache].free);
    take_from_cache(cache, part, chosen);
    wanted -= part;
  }
}

unsigned SlotPool::State::caches_needed(unsigned node, unsigned wanted) const {
  std::vector<unsigned> free;
  for (unsigned i = nodes_[node].first; i < nodes_[node].first + nodes_[node].count; ++i) {
    free.push_back(caches_[i].free);
  }
  std::sort(free.begin(), free.end(), std::greater<>());
  unsigned needed = 0;
  for (unsigned got = 0; got < wanted && needed < free.size(); ++needed) {
    got += free[needed];
  }
  return needed;
}

std::optional<unsigned> SlotPool::State::best_node(unsigned wanted, Bytes memory) const {
  std::optional<unsigned> best;
  Fit best_fit;
  for (unsigned i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i].free < wanted) {
      continue;
    }
    const std::optional<unsigned> cache = best_cache(i, wanted);
    const unsigned whole = cache ? caches_[*cache].whole : nodes_[i].whole;
    Fit fit;
    fit.remote_memory = memory_nodes_[memory_of_[i]].left() < memory;
    fit.caches = cache ? 1 : caches_needed(i, wanted);
    fit.shared = wanted > whole ? wanted - whole : 0;
    fit.left = nodes_[i].free - wanted;
    fit.cache_left = cache ? caches_[*cache].free - wanted : 0;
    if (!best || fit.key() < best_fit.key()) {
      best = i;
      best_fit = fit;
    }
  }
  return best;
}

/// `wanted` CPUs are free somewhere.
std::vector<unsigned> SlotPool::State::take_cpus(unsigned wanted, Bytes memory) {
  std::vector<unsigned> chosen;
  chosen.reserve(wanted);
  while (wanted > 0) {
    const std::optional<unsigned> fitting = best_node(wanted, memory);
    const unsigned node = fitting ? *fitting : freest(nodes_, 0, static_cast<unsigned>(nodes_.size()));
    const unsigned part = std::min(wanted, nodes_[node].free);
    take_from_node(node, part, chosen);
    wanted -= part;
  }
  return chosen;
}

/// Promises `memory` bytes, near the chosen CPUs as far as these nodes go. The split is a plan: the kernel
/// holds a job to its nodes (cpuset.mems) and to its total, and fills the nearest node first.
std::vector<MemoryShare> SlotPool::State::take_memory(const std::vector<unsigned>& chosen, Bytes memory) {
  std::vector<unsigned> cpus_at(memory_nodes_.size(), 0);
  for (const unsigned index : chosen) {
    ++cpus_at[memory_of_[caches_[cores_[core_of_[index]].parent].parent]];
  }
  std::vector<Bytes> taken(memory_nodes_.size(), 0);
  Bytes missing = memory;
  const auto take = [&](std::size_t node, Bytes wanted) {
    const Bytes part = std::min({wanted, memory_nodes_[node].left(), missing});
    memory_nodes_[node].promised += part;
    taken[node] += part;
    missing -= part;
  };
  for (std::size_t node = 0; node < memory_nodes_.size(); ++node) {
    take(node, in_proportion(memory, cpus_at[node], static_cast<unsigned>(chosen.size())));
  }
  for (std::size_t node = 0; node < memory_nodes_.size(); ++node) {
    take(node, cpus_at[node] > 0 ? missing : 0);
  }
  while (missing > 0) {  // the CPUs' own nodes are used up, or have no memory: the emptiest others
    const auto roomiest = std::max_element(memory_nodes_.begin(), memory_nodes_.end(),
                                           [](const auto& a, const auto& b) { return a.left() < b.left(); });
    if (roomiest->left() == 0) {
      std::fputs("berth: slot pool promised more memory than its nodes have\n", stderr);
      std::abort();
    }
    take(static_cast<std::size_t>(roomiest - memory_nodes_.begin()), missing);
  }
  std::vector<MemoryShare> shares;
  for (std::size_t node = 0; node < memory_nodes_.size(); ++node) {
    if (taken[node] > 0 || (cpus_at[node] > 0 && memory_nodes_[node].memory > 0)) {
      shares.push_back({node, taken[node]});
    }
  }
  return shares;
}

CpuSet SlotPool::State::set_of(const std::vector<unsigned>& indexes) const {
  CpuSet cpus;
  for (const unsigned index : indexes) {
    cpus.insert(numbers_[index]);
  }
  return cpus;
}

CpuSet SlotPool::State::all() const {
  CpuSet cpus;
  for (const unsigned number : numbers_) {
    cpus.insert(number);
  }
  return cpus;
}

CpuSet SlotPool::State::unleased() const {
  CpuSet cpus;
  for (unsigned index = 0; index < numbers_.size(); ++index) {
    if (free_[index] || withheld_[index]) {
      cpus.insert(numbers_[index]);
    }
  }
  return cpus;
}

/// These of the CPUs that are not leased, and no others but those of the same cores where cores are
/// exclusive.
void SlotPool::State::withhold(const CpuSet& cpus) {
  std::vector<bool> core_is_taken(cores_.size(), false);
  for (unsigned index = 0; index < numbers_.size(); ++index) {
    if (bounds_.smt == SmtSharing::exclusive && cpus.contains(numbers_[index])) {
      core_is_taken[core_of_[index]] = true;
    }
  }
  overlapped_ = {};
  std::vector<unsigned> taken;
  for (unsigned index = 0; index < numbers_.size(); ++index) {
    const bool is_taken = cpus.contains(numbers_[index]) || core_is_taken[core_of_[index]];
    if (withheld_[index] && !is_taken) {
      withheld_[index] = false;
      give_cpu(index);
    } else if (free_[index] && is_taken) {
      take_cpu(index, taken);
      withheld_[index] = true;
    }
  }
}

/// With its whole core where cores are exclusive.
void SlotPool::State::give_back_withheld(unsigned index) {
  if (!withheld_[index]) {
    return;
  }
  for (unsigned other = 0; other < numbers_.size(); ++other) {
    const bool goes_too =
        other == index || (bounds_.smt == SmtSharing::exclusive && core_of_[other] == core_of_[index]);
    if (goes_too && withheld_[other]) {
      withheld_[other] = false;
      overlapped_.insert(numbers_[other]);
      give_cpu(other);
    }
  }
}

SlotPool::SlotPool(Topology topology, PoolBounds bounds)
    : state_(std::make_unique<State>(std::move(topology), std::move(bounds))) {}

SlotPool::~SlotPool() = default;

unsigned SlotPool::cpus_for(const SlotRequest& request) const {
  const unsigned rest = request.cpus % state_->threads_per_core_;
  return rest == 0 ? request.cpus : request.cpus + (state_->threads_per_core_ - rest);
}

Bytes SlotPool::memory_for(const SlotRequest& request) const {
  if (request.memory) {
    return *request.memory;
  }
  return whole_mebibytes(
      in_proportion(total_memory(), std::min(cpus_for(request), total_cpus()), total_cpus()));
}

void SlotPool::share(std::unique_ptr<CpuLocks> locks) {
  state_->locks_ = std::move(locks);
  state_->withhold({});
}

void SlotPool::look_at_others() {
  if (!state_->locks_) {
    return;
  }
  const CpuSet unleased = state_->unleased();
  if (!unleased.empty()) {
    state_->withhold(state_->locks_->is_behind(state_->all()) ? unleased : state_->locks_->taken(unleased));
  }
}

unsigned SlotPool::withheld() const {
  return static_cast<unsigned>(std::count(state_->withheld_.begin(), state_->withheld_.end(), true));
}

void SlotPool::overlap(unsigned cpus) {
  const auto count = static_cast<unsigned>(state_->numbers_.size());
  const unsigned first = static_cast<unsigned>(::getpid()) % count;
  for (unsigned i = 0; i < count && free_cpus() < cpus; ++i) {
    state_->give_back_withheld((first + i) % count);
  }
}

void SlotPool::set_waiting(bool has_job) {
  if (!state_->locks_) {
    return;
  }
  if (has_job && leases() == 0 && withheld() > 0) {
    state_->locks_->wait_for(state_->all());
  } else {
    state_->locks_->stop_waiting();
  }
}

/// CPUs that another berth took since the last look are not among those of the next try.
std::optional<SlotLease> SlotPool::lease(const SlotRequest& request) {
  const Bytes memory = memory_for(request);
  const unsigned cpus = cpus_for(request);
  if (cpus == 0 || cpus > free_cpus() || memory == 0 || memory > free_memory() || free_slots() == 0) {
    return std::nullopt;
  }
  State::Held held;
  held.cpus = state_->take_cpus(cpus, memory);
  const CpuSet chosen = state_->set_of(held.cpus);
  if (state_->locks_ && chosen.intersects(state_->overlapped_)) {
    state_->locks_->lease_what_is_free(chosen);
  } else if (state_->locks_ && !state_->locks_->lease(chosen)) {
    for (const unsigned index : held.cpus) {
      state_->give_cpu(index);
    }
    look_at_others();
    if (withheld() == 0) {
      state_->withhold(chosen);  // whoever had them has them no longer, as the next look will tell
    }
    return lease(request);
  }
  held.memory = state_->take_memory(held.cpus, memory);
  state_->free_memory_ -= memory;
  Allocation allocation;
  allocation.cpus = state_->set_of(held.cpus);
  for (const MemoryShare& share : held.memory) {
    allocation.memory_nodes.insert(state_->memory_nodes_[share.node].number);
  }
  allocation.memory = memory;
  allocation.slot = slot_name(allocation.cpus, allocation.cpus.members().front());
  state_->held_.emplace(allocation.slot, std::move(held));
  return SlotLease(this, std::move(allocation));
}

std::optional<SlotLease> SlotPool::adopt(const Allocation& allocation) {
  std::vector<unsigned> indexes;
  for (unsigned index = 0; index < state_->numbers_.size(); ++index) {
    if (allocation.cpus.contains(state_->numbers_[index]) &&
        (state_->free_[index] || state_->withheld_[index])) {
      indexes.push_back(index);
    }
  }
  if (indexes.empty() || indexes.size() != allocation.cpus.size() || allocation.memory == 0 ||
      allocation.memory > free_memory() || state_->held_.contains(allocation.slot)) {
    return std::nullopt;
  }
  State::Held held;
  for (const unsigned index : indexes) {
    if (state_->withheld_[index]) {
      state_->withheld_[index] = false;
      state_->give_cpu(index);
    }
    state_->take_cpu(index, held.cpus);
  }
  if (state_->locks_) {
    state_->locks_->adopt(allocation.cpus);
  }
  held.memory = state_->take_memory(held.cpus, allocation.memory);
  state_->free_memory_ -= allocation.memory;
  state_->held_.emplace(allocation.slot, std::move(held));
  return SlotLease(this, allocation);
}

void SlotPool::give_back(const Allocation& allocation) noexcept {
  const auto found = state_->held_.find(allocation.slot);
  if (found == state_->held_.end()) {
    std::fprintf(stderr, "berth: slot %s was returned but is not leased\n", allocation.slot.c_str());
    std::abort();
  }
  for (const unsigned index : found->second.cpus) {
    state_->give_cpu(index);
  }
  if (state_->locks_) {
    state_->locks_->give_back(allocation.cpus);
  }
  for (const MemoryShare& share : found->second.memory) {
    state_->memory_nodes_[share.node].promised -= share.bytes;
  }
  state_->free_memory_ += allocation.memory;
  state_->held_.erase(found);
}

std::optional<std::string> SlotPool::never_fits(const SlotRequest& request) const {
  std::vector<std::string> lacks;
  if (request.cpus == 0) {
    lacks.emplace_back("asks for 0 CPUs (set cpus_per_task to 1 or more)");
  } else if (request.cpus > total_cpus()) {
    lacks.push_back("needs " + count_of_cpus(request.cpus) + ", but the pool has " +
                    std::to_string(total_cpus()) + " (lower cpus_per_task, as an option -c" +
                    (state_->bounds_.cpus ? ", or widen " + std::string(state_->bounds_.cpus_setting) : "") +
                    ")");
  }
  if (request.memory == Bytes{0}) {
    lacks.emplace_back("asks for no memory (set memory_per_node, or leave it out for a share by CPUs)");
  } else if (request.memory && *request.memory > total_memory()) {
    lacks.push_back(
        "needs " + format_size(*request.memory) + " of memory, but the pool has " +
        format_size(total_memory()) + " (lower memory_per_node, as an option --mem" +
        (state_->bounds_.memory ? ", or raise " + std::string(state_->bounds_.memory_setting) : "") + ")");
  }
  if (lacks.empty()) {
    return std::nullopt;
  }
  return lacks.size() == 1 ? lacks.front() : lacks.front() + "; and " + lacks.back();
}

CpuSet SlotPool::cpus() const {
  return state_->all();
}
unsigned SlotPool::total_cpus() const {
  return static_cast<unsigned>(state_->numbers_.size());
}
Bytes SlotPool::total_memory() const {
  return state_->total_memory_;
}
unsigned SlotPool::total_slots() const {
  return std::min(state_->bounds_.slots.value_or(total_cpus()), total_cpus());
}
unsigned SlotPool::free_cpus() const {
  return state_->free_cpus_;
}
Bytes SlotPool::free_memory() const {
  return state_->free_memory_;
}
unsigned SlotPool::free_slots() const {
  return total_slots() - std::min(leases(), total_slots());  // adopted leases may be more
}
unsigned SlotPool::leases() const {
  return static_cast<unsigned>(state_->held_.size());
}

SlotLease::SlotLease(SlotPool* pool, Allocation allocation)
    : pool_(pool), allocation_(std::move(allocation)) {}

SlotLease::SlotLease(SlotLease&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)), allocation_(std::move(other.allocation_)) {}

SlotLease& SlotLease::operator=(SlotLease&& other) noexcept {
  if (this != &other) {
    if (pool_ != nullptr) {
      pool_->give_back(allocation_);
    }
    pool_ = std::exchange(other.pool_, nullptr);
    allocation_ = std::move(other.allocation_);
  }
  return *this;
}

SlotLease::~SlotLease() {
  if (pool_ != nullptr) {
    pool_->give_back(allocation_);
  }
}

}  // namespace berth
