#include "scheduler/cpu_locks.h"

#include <catch2/catch.hpp>
#include <string>

#include "scheduler/slot_pool.h"
#include "tests/support/temporary_directory.h"

namespace berth {
namespace {

constexpr Bytes kGibibyte = Bytes{1} << 30U;

/// Locks of open file descriptions: two objects of one process are as two processes to each other.
struct Machine {
  TemporaryDirectory folder;
  std::string path = folder.path() + "/cpus";

  std::unique_ptr<CpuLocks> berth() const { return std::make_unique<CpuLocks>(path); }
  /// A pool of four cores, whose cores have `threads` threads.
  std::unique_ptr<SlotPool> pool(unsigned threads = 1, SmtSharing smt = SmtSharing::shared) const {
    PoolBounds bounds;
    bounds.smt = smt;
    auto made = std::make_unique<SlotPool>(
        synthetic_topology("core:4 pu:" + std::to_string(threads), kGibibyte), bounds);
    made->share(berth());
    return made;
  }
};

SlotRequest cpus(unsigned count) {
  return {count, kMebibyte};
}

/// What a scheduler does before a decision and after it.
std::optional<SlotLease> decide(SlotPool& pool, unsigned count) {
  pool.look_at_others();
  std::optional<SlotLease> lease = pool.lease(cpus(count));
  pool.set_waiting(!lease);
  return lease;
}

}  // namespace

TEST_CASE("what one has leased is taken for the others, until it is given back") {
  const Machine machine;
  const auto one = machine.berth();
  const auto other = machine.berth();
  CHECK(other->taken(CpuSet::range(0, 70)) == CpuSet{});
  REQUIRE(one->lease(CpuSet::parse("1,3-5,64,65535")));
  CHECK(one->taken(CpuSet::range(0, 70)) == CpuSet{});
  CHECK(other->taken(CpuSet::range(0, 70)) == CpuSet::parse("1,3-5,64"));
  CHECK(other->taken(CpuSet::parse("0,4,65535")) == CpuSet::parse("4,65535"));
  CHECK_FALSE(other->lease(CpuSet::parse("0,2,5")));
  CHECK(one->taken(CpuSet::range(0, 70)) == CpuSet{});  // of what failed nothing is left
  CHECK(other->lease(CpuSet::parse("0,2")));
  one->give_back(CpuSet::parse("3-5"));
  CHECK(other->taken(CpuSet::range(0, 70)) == CpuSet::parse("1,64"));
  CHECK(other->lease(CpuSet::parse("3-5")));
}

TEST_CASE("CPUs of several others are all found") {
  const Machine machine;
  const auto seeing = machine.berth();
  std::vector<std::unique_ptr<CpuLocks>> others;
  CpuSet all;
  for (const unsigned cpu : {9U, 2U, 30U, 3U, 17U, 4U}) {
    others.push_back(machine.berth());
    REQUIRE(others.back()->lease({cpu}));
    all.insert(cpu);
  }
  CHECK(seeing->taken(CpuSet::range(0, 40)) == all);
}

TEST_CASE("the end of a process gives back what it had") {
  const Machine machine;
  auto one = machine.berth();
  const auto other = machine.berth();
  REQUIRE(one->lease({0, 1}));
  REQUIRE(one->occupy({2}));
  one->wait_for({0, 1, 2});
  one.reset();
  CHECK(other->taken({0, 1, 2}) == CpuSet{});
  CHECK_FALSE(other->is_behind({0, 1, 2}));
}

TEST_CASE("a runner's job keeps its CPU when the daemon that leased it is gone") {
  const Machine machine;
  auto daemon = machine.berth();
  const auto runner = machine.berth();
  const auto other = machine.berth();
  REQUIRE(daemon->lease({1}));
  REQUIRE(runner->occupy({1}));
  daemon.reset();
  CHECK(other->taken({0, 1}) == CpuSet{1});
  CHECK_FALSE(other->lease({1}));
  CHECK_FALSE(other->lease({0, 1}));
  runner->vacate({1});
  CHECK(other->lease({0, 1}));
}

TEST_CASE("who waits comes before who came later, and only for the CPUs that it waits for") {
  const Machine machine;
  const auto first = machine.berth();
  const auto second = machine.berth();
  const auto third = machine.berth();
  CHECK_FALSE(second->is_behind({0, 1}));
  first->wait_for({0, 1});
  first->wait_for({5});  // it is in line already
  second->wait_for({1, 2});
  CHECK_FALSE(first->is_behind({0, 1}));
  CHECK(second->is_behind({1, 2}));
  CHECK_FALSE(second->is_behind({2}));
  CHECK(third->is_behind({2, 3}));
  CHECK_FALSE(third->is_behind({3, 4}));
  CHECK_FALSE(third->is_behind({5}));
  first->stop_waiting();
  CHECK_FALSE(second->is_behind({1, 2}));
  CHECK(third->is_behind({1}));
  second->stop_waiting();
  CHECK_FALSE(third->is_behind({1}));
}

TEST_CASE("a pool that shares the machine leases what no other has") {
  const Machine machine;
  const auto one = machine.pool();
  const auto other = machine.pool();
  std::optional<SlotLease> first = decide(*one, 1);
  REQUIRE(first);
  CHECK(first->allocation().cpus == CpuSet{0});
  const std::optional<SlotLease> second = decide(*other, 2);
  REQUIRE(second);
  CHECK(second->allocation().cpus == CpuSet{1, 2});
  CHECK(other->withheld() == 1);
  CHECK(other->free_cpus() == 1);
  first.reset();
  other->look_at_others();
  CHECK(other->withheld() == 0);
  CHECK(other->free_cpus() == 2);
}

TEST_CASE("a CPU that is lost between look and lease is not leased twice") {
  const Machine machine;
  const auto pool = machine.pool();
  const auto other = machine.berth();
  pool->look_at_others();
  REQUIRE(pool->free_cpus() == 4);
  REQUIRE(other->lease({0, 1, 2}));
  const std::optional<SlotLease> lease = pool->lease(cpus(1));
  REQUIRE(lease);
  CHECK(lease->allocation().cpus == CpuSet{3});
  CHECK_FALSE(pool->lease(cpus(1)));
}

TEST_CASE("a pool with jobs leaves its CPUs to one without, also to one that wants them all") {
  const Machine machine;
  const auto busy = machine.pool();
  const auto idle = machine.pool();
  std::vector<SlotLease> jobs;
  jobs.reserve(4);
  for (int i = 0; i < 4; ++i) {
    jobs.push_back(decide(*busy, 1).value());
  }
  CHECK_FALSE(decide(*idle, 4));
  for (int i = 0; i < 4; ++i) {
    jobs.pop_back();
    CHECK_FALSE(decide(*busy, 1));
  }
  std::optional<SlotLease> wide = decide(*idle, 4);
  REQUIRE(wide);
  CHECK_FALSE(decide(*busy, 1));  // it has nothing any more, and waits in line itself
  wide.reset();
  CHECK_FALSE(decide(*idle, 4));
  CHECK(decide(*busy, 1));
}

TEST_CASE("pools of different CPUs never wait for each other") {
  const Machine machine;
  PoolBounds low;
  low.cpus = CpuSet{0, 1};
  PoolBounds high;
  high.cpus = CpuSet{2, 3};
  SlotPool one(synthetic_topology("core:4 pu:1", kGibibyte), low);
  SlotPool waiting(synthetic_topology("core:4 pu:1", kGibibyte), low);
  SlotPool other(synthetic_topology("core:4 pu:1", kGibibyte), high);
  for (SlotPool* pool : {&one, &waiting, &other}) {
    pool->share(machine.berth());
  }
  const std::optional<SlotLease> lease = decide(one, 2);
  REQUIRE(lease);
  CHECK_FALSE(decide(waiting, 1));
  CHECK(decide(other, 2));
}

TEST_CASE("an adopted lease is taken for others, even where they were looked at before") {
  const Machine machine;
  auto old_daemon = machine.pool();
  const auto runner = machine.berth();
  const auto other = machine.berth();
  const Allocation allocation = decide(*old_daemon, 2).value().allocation();
  REQUIRE(runner->occupy(allocation.cpus));
  old_daemon.reset();
  const auto daemon = machine.pool();
  daemon->look_at_others();
  CHECK(daemon->withheld() == 2);
  std::optional<SlotLease> lease = daemon->adopt(allocation);
  REQUIRE(lease);
  CHECK(daemon->withheld() == 0);
  CHECK(daemon->free_cpus() == 2);
  CHECK(other->taken({0, 1}) == CpuSet{0, 1});
  runner->vacate(allocation.cpus);
  CHECK(other->taken({0, 1}) == CpuSet{0, 1});
  lease.reset();
  CHECK(other->taken({0, 1}) == CpuSet{});
  CHECK(daemon->free_cpus() == 4);
}

TEST_CASE("exclusive cores: another's thread takes its whole core away") {
  const Machine machine;
  const auto pool = machine.pool(2, SmtSharing::exclusive);
  const auto other = machine.berth();
  REQUIRE(other->lease({2}));
  pool->look_at_others();
  CHECK(pool->withheld() == 2);
  CHECK(pool->free_cpus() == 6);
  const std::optional<SlotLease> lease = pool->lease(cpus(6));
  REQUIRE(lease);
  CHECK(lease->allocation().cpus == CpuSet{0, 1, 4, 5, 6, 7});
}

}  // namespace berth
