#include <sched.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <set>
#include <stdexcept>

#include "scheduler/slot_pool.h"

namespace berth {
namespace {

constexpr Bytes kGibibyte = Bytes{1} << 30U;

std::set<unsigned> affinity() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  REQUIRE(::sched_getaffinity(0, sizeof mask, &mask) == 0);
  std::set<unsigned> cpus;
  for (unsigned cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &mask)) {
      cpus.insert(cpu);
    }
  }
  return cpus;
}

std::set<unsigned> numbers(const Topology& topology) {
  std::set<unsigned> cpus;
  for (const TopologyCpu& cpu : topology.cpus) {
    cpus.insert(cpu.cpu);
  }
  return cpus;
}

}  // namespace

TEST_CASE("the detected topology holds exactly the CPUs this process may use, each on a known node") {
  const Topology topology = detect_topology();
  CHECK(numbers(topology) == affinity());
  CHECK(numbers(topology).size() == topology.cpus.size());
  for (const TopologyCpu& cpu : topology.cpus) {
    CHECK(std::any_of(topology.nodes.begin(), topology.nodes.end(),
                      [&](const TopologyNode& node) { return node.node == cpu.node; }));
  }
  Bytes memory = 0;
  for (const TopologyNode& node : topology.nodes) {
    memory += node.memory;
  }
  CHECK(memory > 0);
  CHECK(topology.memory_limit.value_or(1) > 0);
}

TEST_CASE("an affinity mask narrows the detected topology") {
  const std::set<unsigned> all = affinity();
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(*all.rbegin(), &one);
  REQUIRE(::sched_setaffinity(0, sizeof one, &one) == 0);
  const Topology topology = detect_topology();
  cpu_set_t restored;
  CPU_ZERO(&restored);
  for (const unsigned cpu : all) {
    CPU_SET(cpu, &restored);
  }
  REQUIRE(::sched_setaffinity(0, sizeof restored, &restored) == 0);
  CHECK(numbers(topology) == std::set<unsigned>{*all.rbegin()});
}

TEST_CASE("a synthetic topology keeps packages, nodes, caches, cores and threads apart") {
  const Topology topology = synthetic_topology("pack:2 numa:2 l3:2 core:4 pu:2", kGibibyte);
  REQUIRE(topology.cpus.size() == 64);
  REQUIRE(topology.nodes.size() == 4);
  std::set<unsigned> packages, nodes, caches, cores;
  for (const TopologyCpu& cpu : topology.cpus) {
    packages.insert(cpu.package);
    nodes.insert(cpu.node);
    caches.insert(cpu.cache);
    cores.insert(cpu.core);
  }
  CHECK(packages.size() == 2);
  CHECK(nodes.size() == 4);
  CHECK(caches.size() == 8);
  CHECK(cores.size() == 32);
  CHECK(topology.nodes[3].memory == kGibibyte);
}

TEST_CASE("without a level 3 cache the level 2 cache counts, and without caches the package") {
  std::set<unsigned> by_level_2, by_package;
  for (const TopologyCpu& cpu : synthetic_topology("pack:2 l2:4 core:1 pu:1", kGibibyte).cpus) {
    by_level_2.insert(cpu.cache);
  }
  for (const TopologyCpu& cpu : synthetic_topology("pack:2 core:4 pu:1", kGibibyte).cpus) {
    by_package.insert(cpu.cache);
  }
  CHECK(by_level_2.size() == 8);
  CHECK(by_package.size() == 2);
}

TEST_CASE("text that is no synthetic topology is refused") {
  CHECK_THROWS_AS(synthetic_topology("bananas", kGibibyte), std::invalid_argument);
}

}  // namespace berth
