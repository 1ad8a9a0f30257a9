#include <limits>

#include "store/queue_store.h"
#include "tests/unit/store/store_fixtures.h"

namespace berth {
namespace {

/// An attempt from the first second on.
void run_to_end(QueueStore& store, Bytes memory, const Usage& usage, const Outcome& outcome = completed()) {
  const JobId job = store.submit({sample_job()}, sample_supervisor()).at(0);
  store.configure(job, 1, {"cpu0-1", CpuSet{0, 1}, CpuSet{0}, memory}, at(0));
  store.run(job, 1, at(1));
  REQUIRE(store.finish(job, 1, outcome, usage, at(1001)));
}

}  // namespace

TEST_CASE("a sum of memory times hours may have more than 64 bits") {
  const auto store = QueueStore::open(":memory:");
  constexpr std::int64_t kYear = 31'536'000;
  constexpr Bytes kTebibyte = Bytes{1} << 40;
  Usage usage;
  usage.wall = std::chrono::seconds(kYear);
  run_to_end(*store, kTebibyte, usage);
  run_to_end(*store, kTebibyte, usage);
  const std::vector<ReportRow> rows = store->report({});
  REQUIRE(rows.size() == 1);
  CHECK(rows[0].memory_granted.value() == Approx(2.0 * static_cast<double>(kTebibyte) * kYear));
  CHECK(rows[0].memory_granted.value() > static_cast<double>(std::numeric_limits<std::uint64_t>::max()));
}

TEST_CASE("an attempt of which no wall time was measured is left out of sums over time") {
  const auto store = QueueStore::open(":memory:");
  Usage usage;
  usage.cpu_total = std::chrono::seconds(30);
  run_to_end(*store, 1 << 20, usage, ended(JobState::node_fail, Cause::node_fail));
  usage.wall = std::chrono::seconds(20);
  run_to_end(*store, 1 << 20, usage);
  const std::vector<ReportRow> rows = store->report({});
  REQUIRE(rows.size() == 1);
  CHECK(rows[0].attempts == 2);
  CHECK(rows[0].elapsed == std::chrono::seconds(20));
  CHECK(rows[0].cpu_granted == std::chrono::seconds(40));
  CHECK(rows[0].cpu_used == std::chrono::seconds(60));
  CHECK(rows[0].granted_to_compare == std::chrono::seconds(40));
  CHECK(rows[0].used_to_compare == std::chrono::seconds(30));
  CHECK(rows[0].memory_granted.value() == Approx(20.0 * (1 << 20)));
}

TEST_CASE(
    "what was measured of no attempt is absent from its row, and of some is not compared with the rest") {
  const auto store = QueueStore::open(":memory:");
  Usage usage;
  usage.wall = std::chrono::seconds(20);
  run_to_end(*store, 1 << 20, usage);
  ReportRow row = store->report({}).at(0);
  CHECK(row.elapsed == std::chrono::seconds(20));
  CHECK_FALSE(row.cpu_used);
  CHECK_FALSE(row.oom_kills);
  CHECK(row.granted_to_compare.count() == 0);
  usage.cpu_total = std::chrono::seconds(10);
  usage.oom_kills = 0;
  run_to_end(*store, 1 << 20, usage);
  row = store->report({}).at(0);
  CHECK(row.cpu_granted == std::chrono::seconds(80));
  CHECK(row.cpu_used == std::chrono::seconds(10));
  CHECK(row.oom_kills == 0U);
  CHECK(row.granted_to_compare == std::chrono::seconds(40));
  CHECK(row.used_to_compare == std::chrono::seconds(10));
}

TEST_CASE("CPUs and memory that nobody knows are not summed as none") {
  const auto store = QueueStore::open(":memory:");
  Usage usage;
  usage.wall = std::chrono::seconds(20);
  usage.cpu_total = std::chrono::seconds(15);
  const JobId job = store->submit({sample_job()}, sample_supervisor()).at(0);
  store->configure(job, 1, {}, at(0));
  store->run(job, 1, at(1));
  REQUIRE(store->finish(job, 1, completed(), usage, at(1001)));
  CHECK_FALSE(store->find(job).at(0).allocation);
  ReportRow row = store->report({}).at(0);
  CHECK(row.elapsed == std::chrono::seconds(20));
  CHECK_FALSE(row.cpu_granted);
  CHECK_FALSE(row.memory_granted);
  CHECK(row.used_to_compare.count() == 0);

  run_to_end(*store, 1 << 20, usage);
  row = store->report({}).at(0);
  CHECK(row.cpu_used == std::chrono::seconds(30));
  CHECK(row.cpu_granted == std::chrono::seconds(40));
  CHECK(row.granted_to_compare == std::chrono::seconds(40));
  CHECK(row.used_to_compare == std::chrono::seconds(15));
}

TEST_CASE("what an attempt used that never started is compared with nothing") {
  const auto store = QueueStore::open(":memory:");
  Usage usage;
  usage.wall = std::chrono::seconds(0);
  usage.cpu_total = std::chrono::seconds(5);
  const JobId job = store->submit({sample_job()}, sample_supervisor()).at(0);
  store->configure(job, 1, sample_allocation(), at(0));
  REQUIRE(store->finish(job, 1, never_ran(JobState::failed, Cause::launch_failed), usage, at(1)));
  const ReportRow row = store->report({}).at(0);
  CHECK(row.cpu_used == std::chrono::seconds(5));
  CHECK(row.cpu_granted == std::chrono::seconds(0));
  CHECK(row.used_to_compare.count() == 0);
}

TEST_CASE("a job that never started ran for no time") {
  const auto store = QueueStore::open(":memory:");
  const JobId job = store->submit({sample_job()}, sample_supervisor()).at(0);
  REQUIRE(store->finish(job, 0, ended(JobState::cancelled, Cause::cancelled), {}, at(10)));
  const ReportRow row = store->report({}).at(0);
  CHECK(row.elapsed == std::chrono::seconds(0));
  CHECK_FALSE(row.cpu_used);
  CHECK_FALSE(row.longest);
}

TEST_CASE("the most of a row is that of one attempt, of those of which it was measured") {
  const auto store = QueueStore::open(":memory:");
  Usage usage;
  run_to_end(*store, 1 << 20, usage, ended(JobState::node_fail, Cause::node_fail));
  ReportRow row = store->report({}).at(0);
  CHECK_FALSE(row.longest);
  CHECK_FALSE(row.memory_peak);
  usage.wall = std::chrono::seconds(20);
  run_to_end(*store, 1 << 20, usage);
  usage.wall = std::chrono::seconds(5);
  usage.memory_peak = Bytes{7} << 30U;
  run_to_end(*store, 1 << 20, usage, ended(JobState::failed, Cause::exited));
  usage.memory_peak = 1 << 20;
  run_to_end(*store, 1 << 20, usage);
  row = store->report({}).at(0);
  CHECK(row.elapsed == std::chrono::seconds(30));
  CHECK(row.longest == std::chrono::seconds(20));
  CHECK(row.memory_peak == Bytes{7} << 30U);
}

TEST_CASE("the rows of a report may take so much and no more") {
  const auto store = QueueStore::open(":memory:");
  run_to_end(*store, 1 << 20, {});
  ReportFilter filter;
  filter.most_bytes = 2'000;
  CHECK(store->report(filter).size() == 1);
  filter.most_bytes = 1'000;
  CHECK_THROWS_AS(store->report(filter), TooMuch);
}

}  // namespace berth
