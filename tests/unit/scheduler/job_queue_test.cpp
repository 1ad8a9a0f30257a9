#include "scheduler/job_queue.h"

#include <catch2/catch.hpp>
#include <limits>

namespace berth {
namespace {

using std::chrono::minutes;

constexpr Bytes kGibibyte = Bytes{1} << 30U;
const SteadyTime kNow{std::chrono::hours(1)};

Resources resources(unsigned cpus, Bytes memory = 0) {
  return {cpus, memory, 1};
}
Resources free_of(unsigned cpus, Bytes memory = 64 * kGibibyte, unsigned slots = 64) {
  return {cpus, memory, slots};
}

QueuedJob job(std::size_t sequence, unsigned cpus, Milliseconds stay = kUnlimited) {
  return {0, sequence, resources(cpus), stay};
}

/// Sequences in the order in which the queue gives them out without any limit.
std::vector<std::size_t> drain(JobQueue& queue) {
  std::vector<std::size_t> order;
  while (const std::optional<QueuedJob> next = queue.take_next(free_of(64), {}, kNow)) {
    order.push_back(next->sequence);
  }
  return order;
}

std::optional<std::size_t> next(JobQueue& queue, const Resources& free,
                                const std::vector<RunningJob>& running) {
  const std::optional<QueuedJob> taken = queue.take_next(free, running, kNow);
  return taken ? std::optional(taken->sequence) : std::nullopt;
}

}  // namespace

TEST_CASE("jobs of one priority start in the order of their submission") {
  JobQueue queue;
  for (const std::size_t sequence : {2U, 0U, 1U}) {
    queue.push(job(sequence, 1));
  }
  CHECK(drain(queue) == std::vector<std::size_t>{0, 1, 2});
  CHECK(queue.empty());
}

TEST_CASE("a larger priority goes first") {
  JobQueue queue;
  queue.push({-5, 0, resources(1), kUnlimited});
  queue.push({0, 1, resources(1), kUnlimited});
  queue.push({7, 2, resources(1), kUnlimited});
  queue.push({7, 3, resources(1), kUnlimited});
  CHECK(drain(queue) == std::vector<std::size_t>{2, 3, 1, 0});
}

TEST_CASE("nice lowers the priority, and neither wraps round") {
  JobSpec spec;
  spec.priority = 10;
  spec.nice = 4;
  CHECK(effective_priority(spec) == 6);
  spec.nice = -4;
  CHECK(effective_priority(spec) == 14);
  spec.priority = std::numeric_limits<std::int64_t>::min();
  spec.nice = 1;
  CHECK(effective_priority(spec) == std::numeric_limits<std::int64_t>::min());
  spec.priority = std::numeric_limits<std::int64_t>::max();
  spec.nice = -1;
  CHECK(effective_priority(spec) == std::numeric_limits<std::int64_t>::max());
}

TEST_CASE("a job may stay for its time limit and grace period, or a year") {
  JobSpec spec;
  CHECK(longest_stay(spec) == kUnlimited);
  spec.time_limit = minutes(10);
  spec.grace_period = minutes(1);
  CHECK(longest_stay(spec) == minutes(11));
  spec.time_limit = Milliseconds::max();
  CHECK(longest_stay(spec) == kUnlimited);
  spec.time_limit = minutes(10);
  spec.grace_period = Milliseconds::max();
  CHECK(longest_stay(spec) == kUnlimited);
}

TEST_CASE("nothing starts on an empty queue or without a free CPU or slot") {
  JobQueue queue;
  CHECK_FALSE(next(queue, free_of(4), {}));
  queue.push(job(0, 1));
  CHECK_FALSE(next(queue, free_of(0), {{resources(1), kNow + minutes(1)}}));
  CHECK_FALSE(next(queue, free_of(1, kGibibyte, 0), {{resources(1), kNow + minutes(1)}}));
  CHECK(next(queue, free_of(1), {}) == 0U);
}

TEST_CASE("without time limits no job passes a blocked first one that needs all") {
  JobQueue queue;
  queue.push(job(0, 4));
  queue.push(job(1, 1));
  const std::vector<RunningJob> running{{resources(2), kNow + kUnlimited}};
  CHECK_FALSE(next(queue, free_of(2), running));
  CHECK(queue.size() == 2);
}

TEST_CASE("a job that is over before the first one can start passes it") {
  JobQueue queue;
  queue.push(job(0, 4));
  queue.push(job(1, 1, minutes(11)));
  queue.push(job(2, 1, minutes(10)));
  const std::vector<RunningJob> running{{resources(2), kNow + minutes(10)}};
  CHECK(next(queue, free_of(2), running) == 2U);
  CHECK_FALSE(
      next(queue, free_of(1), {{resources(2), kNow + minutes(10)}, {resources(1), kNow + minutes(10)}}));
}

TEST_CASE("a job that fits beside the first one's reservation passes it, however long it is") {
  JobQueue queue;
  queue.push(job(0, 3));
  queue.push(job(1, 2));
  queue.push(job(2, 1));
  const std::vector<RunningJob> running{{resources(2), kNow + minutes(10)}};
  // At the reservation 4 CPUs are free: 3 for the first, 1 to spare.
  CHECK(next(queue, free_of(2), running) == 2U);
}

TEST_CASE("the reservation reckons with the earliest ends that are enough") {
  JobQueue queue;
  queue.push(job(0, 3));
  queue.push(job(1, 1, minutes(15)));
  const std::vector<RunningJob> running{{resources(1), kNow + minutes(40)},
                                        {resources(1), kNow + minutes(30)},
                                        {resources(1), kNow + minutes(20)},
                                        {resources(1), kNow + minutes(10)}};
  CHECK(next(queue, free_of(1), running) == 1U);  // reserved at 20 minutes: 15 are over by then
  queue.push(job(2, 1, minutes(25)));
  CHECK_FALSE(next(queue, free_of(1), running));
}

TEST_CASE("memory and the number of slots block and are reserved like CPUs") {
  JobQueue queue;
  queue.push({0, 0, {1, 4 * kGibibyte, 1}, kUnlimited});
  queue.push({0, 1, {1, 2 * kGibibyte, 1}, kUnlimited});
  queue.push({0, 2, {1, kGibibyte, 1}, kUnlimited});
  const std::vector<RunningJob> running{{{1, 2 * kGibibyte, 1}, kNow + minutes(1)}};
  CHECK(next(queue, free_of(8, 3 * kGibibyte), running) == 2U);  // 5 GiB then, 4 for the first
}

TEST_CASE("jobs beyond their owner's allowance keep nobody else's waiting") {
  JobQueue queue;
  for (std::size_t i = 1; i <= 2 * JobQueue::kPassedOver; ++i) {
    queue.push({9, i, resources(4), kUnlimited, 1});
  }
  queue.push({0, 0, resources(1), kUnlimited, 2});
  const auto allowance = [](unsigned owner) { return resources(owner == 1 ? 3 : 8, kGibibyte); };
  const std::optional<QueuedJob> taken = queue.take_next(free_of(8), {}, kNow, allowance);
  REQUIRE(taken);
  CHECK(taken->owner == 2);
  CHECK_FALSE(queue.take_next(free_of(8), {}, kNow, allowance));
}

TEST_CASE("only so many jobs behind a blocked first one are tried") {
  JobQueue queue;
  queue.push(job(0, 4));
  for (std::size_t i = 1; i <= JobQueue::kBackfillDepth; ++i) {
    queue.push(job(i, 3));
  }
  queue.push(job(JobQueue::kBackfillDepth + 1, 1, minutes(1)));
  const std::vector<RunningJob> running{{resources(2), kNow + minutes(10)}};
  CHECK_FALSE(next(queue, free_of(2), running));
  REQUIRE(queue.take_first());
  CHECK(queue.take_first()->sequence == 1);
  CHECK(queue.size() == JobQueue::kBackfillDepth);
}

}  // namespace berth
