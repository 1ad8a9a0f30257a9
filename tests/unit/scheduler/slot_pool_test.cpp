#include "scheduler/slot_pool.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <random>
#include <set>
#include <stdexcept>
#include <string>

namespace berth {
namespace {

constexpr Bytes kGibibyte = Bytes{1} << 30U;

PoolBounds memory_bound(Bytes memory) {
  return {std::nullopt, std::nullopt, memory};
}

SlotRequest cpus(unsigned count) {
  return {count, kMebibyte};
}

CpuSet leased_cpus(SlotPool& pool, const SlotRequest& request) {
  return pool.lease(request).value().allocation().cpus;
}

std::string bounds_error(const Topology& topology, const PoolBounds& bounds) {
  try {
    const SlotPool pool(topology, bounds);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "accepted";
}

// Numbers below: PUs of a synthetic topology count through cores, caches, nodes and packages in order.

}  // namespace

TEST_CASE("a lease takes whole CPUs and memory, and its end returns both") {
  SlotPool pool(synthetic_topology("core:2 pu:1", 4 * kGibibyte), memory_bound(kGibibyte));
  {
    const std::optional<SlotLease> lease = pool.lease({1, 100 * kMebibyte});
    REQUIRE(lease);
    CHECK(lease->allocation().cpus == CpuSet{0});
    CHECK(lease->allocation().memory_nodes == CpuSet{0});
    CHECK(lease->allocation().memory == 100 * kMebibyte);
    CHECK(lease->allocation().slot == "cpu0");
    CHECK(pool.free_cpus() == 1);
    CHECK(pool.free_memory() == kGibibyte - 100 * kMebibyte);
    CHECK(pool.leases() == 1);
  }
  CHECK(pool.free_cpus() == 2);
  CHECK(pool.free_memory() == kGibibyte);
  CHECK(pool.leases() == 0);
}

TEST_CASE("one CPU serves one job at a time") {
  SlotPool pool(synthetic_topology("core:1 pu:1", kGibibyte), {});
  std::optional<SlotLease> first = pool.lease(cpus(1));
  REQUIRE(first);
  CHECK_FALSE(pool.lease(cpus(1)));
  first.reset();
  CHECK(pool.lease(cpus(1)));
}

TEST_CASE("a moved lease is returned once, and assignment returns the lease that is overwritten") {
  SlotPool pool(synthetic_topology("core:4 pu:1", kGibibyte), {});
  SlotLease first = pool.lease(cpus(1)).value();
  SlotLease second = pool.lease(cpus(2)).value();
  CHECK(pool.free_cpus() == 1);
  first = std::move(second);
  CHECK(pool.free_cpus() == 2);
  CHECK(first.allocation().cpus.size() == 2);
  { const SlotLease third = std::move(first); }
  CHECK(pool.free_cpus() == 4);
  CHECK(pool.leases() == 0);
}

TEST_CASE("a job of one CPU gets a core to itself while there is a free one") {
  SlotPool pool(synthetic_topology("core:3 pu:2", kGibibyte), {});
  const SlotLease a = pool.lease(cpus(1)).value();
  const SlotLease b = pool.lease(cpus(1)).value();
  const SlotLease c = pool.lease(cpus(1)).value();
  CHECK((a.allocation().cpus | b.allocation().cpus | c.allocation().cpus) == CpuSet{0, 2, 4});
  SECTION("and shares one only when none is left") {
    CHECK(leased_cpus(pool, cpus(1)) == CpuSet{1});
  }
}

TEST_CASE("a job of two CPUs gets both threads of one core") {
  SlotPool pool(synthetic_topology("core:3 pu:2", kGibibyte), {});
  const SlotLease one = pool.lease(cpus(1)).value();
  CHECK(leased_cpus(pool, cpus(2)) == CpuSet{2, 3});
}

TEST_CASE("an odd request takes whole cores and then part of a free core, not another job's") {
  SlotPool pool(synthetic_topology("core:4 pu:2", kGibibyte), {});
  const SlotLease one = pool.lease(cpus(1)).value();
  REQUIRE(one.allocation().cpus == CpuSet{0});
  CHECK(leased_cpus(pool, cpus(3)) == CpuSet{2, 3, 4});
}

TEST_CASE("a request that must share cores shares as few as it can") {
  SlotPool pool(synthetic_topology("core:3 pu:2", kGibibyte), {});
  const SlotLease a = pool.lease(cpus(1)).value();
  const SlotLease b = pool.lease(cpus(1)).value();
  CHECK(leased_cpus(pool, cpus(3)) == CpuSet{1, 4, 5});
}

TEST_CASE("a request that fits one NUMA node is never split over two") {
  SlotPool pool(synthetic_topology("numa:2 core:4 pu:1", kGibibyte), {});
  const SlotLease first = pool.lease(cpus(3)).value();
  CHECK(first.allocation().cpus == CpuSet{0, 1, 2});
  const SlotLease second = pool.lease(cpus(2)).value();
  CHECK(second.allocation().cpus == CpuSet{4, 5});
  CHECK(second.allocation().memory_nodes == CpuSet{1});
}

TEST_CASE("the tightest node is filled first, so that the large hole stays") {
  SlotPool pool(synthetic_topology("numa:2 core:4 pu:1", kGibibyte), {});
  const SlotLease first = pool.lease(cpus(2)).value();
  const SlotLease second = pool.lease(cpus(1)).value();
  CHECK(second.allocation().cpus == CpuSet{2});
  CHECK(leased_cpus(pool, cpus(4)) == CpuSet{4, 5, 6, 7});
}

TEST_CASE("the tightest last-level cache of a node is filled first") {
  SlotPool pool(synthetic_topology("numa:1 l3:2 core:4 pu:1", kGibibyte), {});
  const SlotLease first = pool.lease(cpus(2)).value();
  CHECK(leased_cpus(pool, cpus(2)) == CpuSet{2, 3});
  CHECK(leased_cpus(pool, cpus(3)) == CpuSet{4, 5, 6});
}

TEST_CASE("the tightest node decides before the tightest cache") {
  PoolBounds bounds;
  bounds.cpus = CpuSet{0, 4, 5, 6, 7, 8, 9, 12, 13};  // node 0: 1 + 4 CPUs by cache, node 1: 2 + 2
  SlotPool pool(synthetic_topology("numa:2 l3:2 core:4 pu:1", kGibibyte), bounds);
  CHECK(leased_cpus(pool, cpus(1)) == CpuSet{8});
}

TEST_CASE("one cache is worth more than the tightest node") {
  PoolBounds bounds;
  bounds.cpus = CpuSet{0, 4, 8, 9, 10, 11};  // node 0: 1 + 1 CPUs by cache, node 1: 4 + 0
  SlotPool pool(synthetic_topology("numa:2 l3:2 core:4 pu:1", kGibibyte), bounds);
  CHECK(leased_cpus(pool, cpus(2)) == CpuSet{8, 9});
}

TEST_CASE("a core to itself is worth more than the tightest node") {
  SlotPool pool(synthetic_topology("numa:2 core:2 pu:2", kGibibyte), {});
  const SlotLease a = pool.lease(cpus(1)).value();
  const SlotLease b = pool.lease(cpus(1)).value();
  REQUIRE((a.allocation().cpus | b.allocation().cpus) == CpuSet{0, 2});
  CHECK(leased_cpus(pool, cpus(1)) == CpuSet{4});
}

TEST_CASE("a request larger than a cache takes the fewest caches of one node") {
  SlotPool pool(synthetic_topology("numa:2 l3:4 core:2 pu:1", kGibibyte), {});
  const SlotLease first = pool.lease(cpus(1)).value();
  const CpuSet taken = leased_cpus(pool, cpus(4));
  std::set<unsigned> caches;
  for (const unsigned cpu : taken.members()) {
    caches.insert(cpu / 2);
  }
  CHECK(caches.size() == 2);
  CHECK(taken.members().back() < 8);  // node 0 has 7 free: the tightest
}

TEST_CASE("a request larger than a node takes the fewest nodes, and their memory") {
  SlotPool pool(synthetic_topology("numa:4 core:4 pu:1", kGibibyte), {});
  const SlotLease first = pool.lease(cpus(2)).value();
  const SlotLease large = pool.lease(cpus(8)).value();
  CHECK(large.allocation().cpus == CpuSet{4, 5, 6, 7, 8, 9, 10, 11});
  CHECK(large.allocation().memory_nodes == CpuSet{1, 2});
  SECTION("the rest goes where it fits tightest") {
    CHECK(leased_cpus(pool, cpus(6)) == CpuSet{2, 3, 12, 13, 14, 15});
  }
}

TEST_CASE("a node without memory lends its CPUs, with memory from where there is some") {
  Topology topology = synthetic_topology("numa:2 core:2 pu:1", kGibibyte);
  topology.nodes[0].memory = 0;
  SlotPool pool(topology, {});
  CHECK(pool.total_memory() == 921 * kMebibyte);
  const SlotLease near = pool.lease(cpus(2)).value();
  CHECK(near.allocation().cpus == CpuSet{2, 3});
  const SlotLease far = pool.lease(cpus(2)).value();
  CHECK(far.allocation().cpus == CpuSet{0, 1});
  CHECK(far.allocation().memory_nodes == CpuSet{1});
}

TEST_CASE("a node without CPUs lends its memory when the others have none left") {
  Topology topology = synthetic_topology("numa:1 core:2 pu:1", kGibibyte);
  topology.nodes.push_back({7, 4 * kGibibyte});
  SlotPool pool(topology, memory_bound(5 * kGibibyte));
  const SlotLease small = pool.lease({1, kGibibyte / 2}).value();
  CHECK(small.allocation().memory_nodes == CpuSet{0});
  const SlotLease large = pool.lease({1, 4 * kGibibyte}).value();
  CHECK(large.allocation().memory_nodes == CpuSet{0, 7});
}

TEST_CASE("memory is taken near the CPUs: a node whose memory is promised is passed over") {
  SlotPool pool(synthetic_topology("numa:2 core:2 pu:1", kGibibyte), memory_bound(2 * kGibibyte));
  const SlotLease greedy = pool.lease({1, kGibibyte}).value();
  REQUIRE(greedy.allocation().memory_nodes == CpuSet{0});
  const SlotLease second = pool.lease({1, kGibibyte / 2}).value();
  CHECK(second.allocation().cpus == CpuSet{2});
  CHECK(second.allocation().memory_nodes == CpuSet{1});
}

TEST_CASE("memory larger than a node's comes from several nodes, not from nowhere") {
  SlotPool pool(synthetic_topology("numa:2 core:2 pu:1", kGibibyte), memory_bound(2 * kGibibyte));
  const SlotLease large = pool.lease({1, 3 * kGibibyte / 2}).value();
  CHECK(large.allocation().memory_nodes == CpuSet{0, 1});
  CHECK(pool.free_memory() == kGibibyte / 2);
  CHECK_FALSE(pool.lease({1, kGibibyte}));
  CHECK(pool.lease({1, kGibibyte / 2}).value().allocation().memory_nodes == CpuSet{1});
}

TEST_CASE("memory that is not asked for is the pool's in proportion to the CPUs, in whole MiB") {
  SlotPool pool(synthetic_topology("core:3 pu:1", 10 * kGibibyte), memory_bound(1000 * kMebibyte));
  CHECK(pool.memory_for({1, std::nullopt}) == 333 * kMebibyte);
  CHECK(pool.memory_for({2, std::nullopt}) == 666 * kMebibyte);
  CHECK(pool.memory_for({3, std::nullopt}) == 1000 * kMebibyte);
  std::vector<SlotLease> leases;
  leases.reserve(3);
  for (int i = 0; i < 3; ++i) {
    leases.push_back(pool.lease({1, std::nullopt}).value());
  }
  CHECK(pool.free_memory() == kMebibyte);
}

TEST_CASE("the pool leaves the system a tenth of the memory, at most 1 GiB") {
  CHECK(SlotPool(synthetic_topology("core:1 pu:1", 100 * kGibibyte), {}).total_memory() == 99 * kGibibyte);
  CHECK(SlotPool(synthetic_topology("core:1 pu:1", 1000 * kMebibyte), {}).total_memory() == 900 * kMebibyte);
}

TEST_CASE("a memory cgroup limit above us bounds the pool") {
  Topology topology = synthetic_topology("core:2 pu:1", 100 * kGibibyte);
  topology.memory_limit = 10 * kGibibyte;
  CHECK(SlotPool(topology, {}).total_memory() == 9 * kGibibyte);
  CHECK(bounds_error(topology, memory_bound(11 * kGibibyte)) == "11G of memory is more than there is (10G)");
}

TEST_CASE("bounds narrow the pool to their CPUs, memory and number of jobs") {
  PoolBounds bounds;
  bounds.cpus = CpuSet{1, 2, 3};
  bounds.memory = kGibibyte;
  bounds.slots = 2;
  SlotPool pool(synthetic_topology("core:4 pu:1", 4 * kGibibyte), bounds);
  CHECK(pool.total_cpus() == 3);
  CHECK(pool.total_memory() == kGibibyte);
  CHECK(pool.total_slots() == 2);
  const SlotLease a = pool.lease(cpus(1)).value();
  const SlotLease b = pool.lease(cpus(1)).value();
  CHECK((a.allocation().cpus | b.allocation().cpus) == CpuSet{1, 2});
  CHECK(pool.free_slots() == 0);
  CHECK_FALSE(pool.lease(cpus(1)));
}

TEST_CASE("bounds that name what is not there are refused with the reason") {
  const Topology topology = synthetic_topology("core:2 pu:1", kGibibyte);
  CHECK(
      bounds_error(topology, {std::nullopt, CpuSet{1, 2, 3}, std::nullopt}) ==
      "CPUs 2-3 are not there (this process may use 0-1; how many one job gets is -c, cpus_per_task in a job "
      "file)");
  CHECK(bounds_error(topology, {std::nullopt, CpuSet{}, std::nullopt}) == "a pool needs at least one CPU");
  CHECK(bounds_error(topology, {0U, std::nullopt, std::nullopt}) == "a pool needs at least one slot");
  CHECK(bounds_error(topology, memory_bound(0)) == "a pool needs memory");
  CHECK(bounds_error(topology, memory_bound(2 * kGibibyte)) == "2G of memory is more than there is (1G)");
}

TEST_CASE("a request that can never fit says why and what to do") {
  PoolBounds bounds;
  bounds.cpus = CpuSet{0, 1};
  bounds.memory = kGibibyte;
  const SlotPool bounded(synthetic_topology("core:4 pu:1", 4 * kGibibyte), bounds);
  CHECK(bounded.never_fits({3, std::nullopt}) ==
        "needs 3 CPUs, but the pool has 2 (lower cpus_per_task, as an option -c, or widen --cpus)");
  CHECK(bounded.never_fits({1, 2 * kGibibyte}) ==
        "needs 2G of memory, but the pool has 1G (lower memory_per_node, as an option --mem, or raise "
        "--memory)");
  bounds.cpus_setting = "pool.cpus";
  CHECK(SlotPool(synthetic_topology("core:4 pu:1", 4 * kGibibyte), bounds).never_fits({3, std::nullopt}) ==
        "needs 3 CPUs, but the pool has 2 (lower cpus_per_task, as an option -c, or widen pool.cpus)");
  const SlotPool whole(synthetic_topology("core:1 pu:1", 1000 * kMebibyte), {});
  CHECK(whole.never_fits({2, kGibibyte}) ==
        "needs 2 CPUs, but the pool has 1 (lower cpus_per_task, as an option -c); and needs 1G of memory, "
        "but the pool has 900M "
        "(lower memory_per_node, as an option --mem)");
  CHECK(whole.never_fits({0, std::nullopt}) == "asks for 0 CPUs (set cpus_per_task to 1 or more)");
  CHECK(whole.never_fits({1, Bytes{0}}) ==
        "asks for no memory (set memory_per_node, or leave it out for a share by CPUs)");
}

TEST_CASE("whether a request can ever fit does not depend on what is leased") {
  SlotPool pool(synthetic_topology("core:2 pu:1", kGibibyte), {});
  const SlotLease all = pool.lease({2, std::nullopt}).value();
  CHECK_FALSE(pool.lease({1, kMebibyte}));
  CHECK_FALSE(pool.never_fits({2, std::nullopt}));
}

TEST_CASE("slot names are unique and short enough for a file name, however scattered the CPUs") {
  SlotPool pool(synthetic_topology("core:512 pu:2", 4 * kGibibyte), {});
  std::vector<SlotLease> odd;
  odd.reserve(512);
  for (int i = 0; i < 512; ++i) {
    odd.push_back(pool.lease(cpus(1)).value());
  }
  const SlotLease rest = pool.lease(cpus(512)).value();
  CHECK(rest.allocation().slot == "cpu1+511");
  CHECK(pool.free_cpus() == 0);
}

TEST_CASE("1,024 CPUs are all leased, to one job or to 1,024") {
  SlotPool pool(synthetic_topology("pack:4 numa:4 l3:4 core:8 pu:2", 16 * kGibibyte), {});
  REQUIRE(pool.total_cpus() == 1024);
  CHECK(leased_cpus(pool, cpus(1024)).size() == 1024);
  std::vector<SlotLease> leases;
  CpuSet seen;
  while (std::optional<SlotLease> lease = pool.lease(cpus(1))) {
    CHECK_FALSE(seen.intersects(lease->allocation().cpus));
    seen = seen | lease->allocation().cpus;
    leases.push_back(std::move(*lease));
  }
  CHECK(seen.size() == 1024);
}

// Whatever comes and goes: the pool's arithmetic holds, and placement keeps its promises.
TEST_CASE("random leases never overlap, never exceed the memory, and all come back") {
  const auto [description, nodes] =
      GENERATE(table<std::string, unsigned>({{"core:1 pu:1", 1},
                                             {"core:2 pu:1", 1},
                                             {"core:4 pu:2", 1},
                                             {"numa:2 l3:2 core:4 pu:2", 2},
                                             {"numa:3 core:3 pu:4", 3},
                                             {"pack:4 numa:4 l3:4 core:8 pu:2", 16}}));
  const Topology topology = synthetic_topology(description, 4 * kGibibyte);
  std::map<unsigned, unsigned> node_of;
  for (const TopologyCpu& cpu : topology.cpus) {
    node_of[cpu.cpu] = cpu.node;
  }
  SlotPool pool(topology, memory_bound(Bytes{nodes} * 4 * kGibibyte));
  const unsigned total = pool.total_cpus();
  std::mt19937 random(total);
  std::vector<SlotLease> leases;
  CpuSet busy;
  Bytes promised = 0;
  for (int step = 0; step < 2000; ++step) {
    if (random() % 3 == 0 && !leases.empty()) {
      const std::size_t victim = random() % leases.size();
      busy = busy - leases[victim].allocation().cpus;
      promised -= leases[victim].allocation().memory;
      leases.erase(leases.begin() + static_cast<std::ptrdiff_t>(victim));
    } else {
      SlotRequest request{1 + static_cast<unsigned>(random()) % std::max(1U, total / 2), std::nullopt};
      if (random() % 2 == 0) {
        request.memory = (1 + random() % 4096) * kMebibyte;
      }
      const bool fits =
          request.cpus <= total - busy.size() && pool.memory_for(request) <= pool.total_memory() - promised;
      std::map<unsigned, unsigned> free_by_node;
      for (const auto& [cpu, node] : node_of) {
        free_by_node[node] += busy.contains(cpu) ? 0U : 1U;
      }
      std::optional<SlotLease> lease = pool.lease(request);
      REQUIRE(lease.has_value() == fits);
      if (lease) {
        const Allocation& got = lease->allocation();
        REQUIRE(got.cpus.size() == request.cpus);
        REQUIRE_FALSE(got.cpus.intersects(busy));
        REQUIRE_FALSE(got.memory_nodes.empty());
        std::set<unsigned> spread;
        for (const unsigned cpu : got.cpus.members()) {
          spread.insert(node_of.at(cpu));
        }
        const bool fits_one_node = std::any_of(free_by_node.begin(), free_by_node.end(),
                                               [&](const auto& node) { return node.second >= request.cpus; });
        REQUIRE((spread.size() == 1) == fits_one_node);
        busy = busy | got.cpus;
        promised += got.memory;
        leases.push_back(std::move(*lease));
      }
    }
    REQUIRE(pool.free_cpus() == total - busy.size());
    REQUIRE(pool.free_memory() == pool.total_memory() - promised);
    REQUIRE(pool.leases() == leases.size());
  }
  leases.clear();
  CHECK(pool.free_cpus() == total);
  CHECK(pool.free_memory() == pool.total_memory());
  CHECK(pool.lease({total, pool.total_memory()}));
}

TEST_CASE("with exclusive cores a job gets all threads of its cores, and no two jobs share one") {
  PoolBounds bounds;
  bounds.smt = SmtSharing::exclusive;
  SlotPool pool(synthetic_topology("core:3 pu:2", kGibibyte), bounds);
  CHECK(pool.cpus_for(cpus(1)) == 2);
  CHECK(pool.cpus_for(cpus(4)) == 4);
  const SlotLease one = pool.lease(cpus(1)).value();
  CHECK(one.allocation().cpus == CpuSet{0, 1});
  const SlotLease three = pool.lease(cpus(3)).value();
  CHECK(three.allocation().cpus == CpuSet{2, 3, 4, 5});
  CHECK(pool.free_cpus() == 0);
}

TEST_CASE("with exclusive cores a pool of half a core is refused, and both threads are named") {
  PoolBounds bounds;
  bounds.smt = SmtSharing::exclusive;
  bounds.cpus = CpuSet{0, 2, 3};
  CHECK_THROWS_WITH(SlotPool(synthetic_topology("core:2 pu:2", kGibibyte), bounds),
                    Catch::Contains("CPU 1 shares a core with CPU 0"));
}

TEST_CASE("with exclusive cores of different sizes each counts with the smallest") {
  Topology topology = synthetic_topology("core:3 pu:2", kGibibyte);
  topology.cpus.pop_back();  // the last core has one thread
  PoolBounds bounds;
  bounds.smt = SmtSharing::exclusive;
  SlotPool pool(topology, bounds);
  CHECK(pool.total_cpus() == 3);
  CHECK(pool.lease(cpus(3)).value().allocation().cpus == CpuSet{0, 2, 4});
}

}  // namespace berth
