#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <stdexcept>

#include "scheduler/slot_pool.h"
#include "scheduler/small_file.h"
#include "scheduler/topology_cache.h"
#include "tests/support/temporary_directory.h"

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

TEST_CASE("what hwloc found is kept for the boot and the CPUs that it was found for") {
  MachineTopology machine;
  machine.nodes = CpuSet::parse("0-1");
  machine.cpus = {{0, 0, 0, 0, CpuSet{0}}, {65535, 1, 2, 3, CpuSet::parse("0-1")}};
  const TemporaryDirectory temporary;
  const std::string folder = temporary.path() + "/berth";
  const std::string file = folder + "/topology";
  const TopologyCache cache(folder, "boot cpus 0,65535 nodes 0-1");
  CHECK_FALSE(cache.read());
  const mode_t umask = ::umask(077);
  cache.write(machine);
  ::umask(umask);
  if (::geteuid() == 0) {  // users reach berthd's socket through it
    CHECK(std::filesystem::status(folder).permissions() == std::filesystem::perms(0755));
  }
  const std::optional<MachineTopology> kept = cache.read();
  REQUIRE(kept);
  REQUIRE(kept->cpus.size() == 2);
  CHECK(kept->nodes == machine.nodes);
  CHECK(kept->cpus[1].cpu == 65535);
  CHECK(kept->cpus[1].core == 1);
  CHECK(kept->cpus[1].cache == 2);
  CHECK(kept->cpus[1].package == 3);
  CHECK(kept->cpus[1].local_nodes == machine.nodes);
  CHECK(std::distance(std::filesystem::directory_iterator(folder), {}) == 1);

  SECTION("not for another boot or other CPUs") {
    CHECK_FALSE(TopologyCache(folder, "boot cpus 0 nodes 0-1").read());
  }
  SECTION("not when others may write the file or its folder") {
    std::filesystem::permissions(file, std::filesystem::perms::group_write,
                                 std::filesystem::perm_options::add);
    CHECK_FALSE(cache.read());
    std::filesystem::permissions(file, std::filesystem::perms::group_write,
                                 std::filesystem::perm_options::remove);
    CHECK(cache.read());
    std::filesystem::permissions(folder, std::filesystem::perms::others_write,
                                 std::filesystem::perm_options::add);
    CHECK_FALSE(cache.read());
    std::filesystem::remove(file);
    cache.write(machine);
    CHECK_FALSE(std::filesystem::exists(file));
  }
  SECTION("not through a symbolic link") {
    std::filesystem::rename(file, temporary.path() + "/elsewhere");
    std::filesystem::create_symlink(temporary.path() + "/elsewhere", file);
    CHECK_FALSE(cache.read());
    cache.write(machine);  // takes the link's place
    CHECK(cache.read());
  }
  SECTION("not when it is damaged") {
    const std::string text = read_small_file(file).value();
    for (std::size_t length = 0; length < text.size(); ++length) {
      std::ofstream(file) << text.substr(0, length);
      CHECK_FALSE(cache.read());
      std::ofstream(file) << text.substr(0, length) << "x\n";
      CHECK_FALSE(cache.read());
    }
  }
  CHECK_FALSE(TopologyCache("", "boot").read());
}

TEST_CASE("what hwloc was told of another machine is not kept") {
  ::setenv("HWLOC_SYNTHETIC", "pack:2 core:4 pu:1", 1);
  const TopologyCache cache = TopologyCache::of_this_boot();
  ::unsetenv("HWLOC_SYNTHETIC");
  CHECK_FALSE(cache.read());
  CHECK_FALSE(cache == TopologyCache::of_this_boot());
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
