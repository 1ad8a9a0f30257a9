#include <catch2/catch.hpp>

#include "scheduler/retry.h"
#include "scheduler/waiting_jobs.h"

namespace berth {
namespace {

constexpr Resources kAll{4, Bytes{4} << 30U, 4};

Timestamp at(int seconds) {
  return Timestamp(std::chrono::seconds(seconds));
}

WaitingJob job(JobId id, std::int64_t priority = 0, unsigned user = 1) {
  WaitingJob waiting;
  waiting.job_id = id;
  waiting.user_id = user;
  waiting.facts.priority = priority;
  waiting.facts.memory = Bytes{1} << 30U;
  waiting.facts.stay = std::chrono::minutes(1);
  return waiting;
}

JobId next(WaitingJobs& waiting, const JobQueue::Allowance& allowance = {}, const Resources& free = kAll) {
  const auto taken = waiting.take_next(free, {}, SteadyTime{}, allowance);
  return taken ? taken->job_id : 0;
}

WaitingJobs make() {
  return WaitingJobs(
      [](unsigned cpus, std::optional<Bytes> wish) { return wish.value_or(Bytes{cpus} << 30U); });
}

TEST_CASE("jobs start by priority, then in the order of their ids, whoever owns them") {
  WaitingJobs waiting = make();
  for (const WaitingJob& one : {job(1, 0, 7), job(2, 5, 8), job(3, 5, 7), job(4, 9, 9)}) {
    waiting.add(one, at(0));
  }
  CHECK(next(waiting) == 4);
  CHECK(next(waiting) == 2);
  CHECK(next(waiting) == 3);
  CHECK(next(waiting) == 1);
  CHECK(next(waiting) == 0);
}

TEST_CASE("a task waits in its array as long as the array's list names it") {
  WaitingJobs waiting = make();
  WaitingJob array = job(1);
  array.facts.array_tasks = "0-6:2,9";
  waiting.add(array, at(0));
  waiting.add(job(2), at(0));
  for (int asked = 0; asked < 2; ++asked) {
    CHECK(waiting.has_task(1, 4));
    CHECK(waiting.has_task(1, 9));
    CHECK_FALSE(waiting.has_task(1, 5));
    CHECK_FALSE(waiting.has_task(2, 4));
    CHECK_FALSE(waiting.has_task(3, 4));
  }
  array.facts.array_tasks = "6,9";
  waiting.add(array, at(0));
  CHECK_FALSE(waiting.has_task(1, 4));
  CHECK(waiting.has_task(1, 6));
  waiting.remove(1);
  CHECK_FALSE(waiting.has_task(1, 6));
}

TEST_CASE("a held, a blocked and an early job are known and do not start") {
  WaitingJobs waiting = make();
  WaitingJob held = job(1);
  held.facts.hold = Hold::user;
  WaitingJob early = job(2);
  early.facts.begin = at(100);
  waiting.add(held, at(0));
  waiting.add(early, at(0));
  waiting.add(job(3), at(0), true);
  CHECK(next(waiting) == 0);
  CHECK(waiting.own_reason(1, at(0)) == WaitReason::job_held_user);
  CHECK(waiting.own_reason(2, at(0)) == WaitReason::begin_time);
  CHECK(waiting.own_reason(3, at(0)) == WaitReason::dependency);
  CHECK(waiting.next_instant() == at(100));
  waiting.advance(at(100));
  CHECK(next(waiting) == 2);
  waiting.unblock(3, at(100));
  CHECK(next(waiting) == 3);
  CHECK(waiting.find(1)->facts == held.facts);
  CHECK(waiting.remove(1));
  CHECK_FALSE(waiting.remove(1));
  CHECK(waiting.size() == 0);
}

TEST_CASE("begin times are judged by a clock that was set back, and come again") {
  WaitingJobs waiting = make();
  WaitingJob early = job(1);
  early.facts.begin = at(100);
  WaitingJob blocked = early;
  blocked.job_id = 2;
  waiting.add(early, at(0));
  waiting.add(blocked, at(0), true);
  waiting.advance(at(100));
  CHECK(waiting.eligible() == 1);
  CHECK_FALSE(waiting.next_instant());
  waiting.unblock(2, at(40));
  CHECK(waiting.eligible() == 0);
  CHECK(waiting.own_reason(2, at(40)) == WaitReason::begin_time);
  CHECK(waiting.next_instant() == at(100));
  waiting.block(1);
  waiting.advance(at(101));
  CHECK(next(waiting) == 2);
  waiting.unblock(1, at(50));
  CHECK(next(waiting) == 0);
  waiting.remove(1);
  CHECK_FALSE(waiting.next_instant());
  waiting.advance(at(100));
  CHECK(next(waiting) == 0);
}

TEST_CASE("what may come first by itself is known: begin times and dependencies, not holds") {
  WaitingJobs waiting = make();
  WaitingJob early = job(1);
  early.facts.begin = at(100);
  waiting.add(early, at(0));
  WaitingJob held = job(2);
  held.facts.hold = Hold::user;
  waiting.add(held, at(0));
  waiting.add(job(3), at(0), true);
  waiting.add(job(4), at(0));
  waiting.add(job(5, -1), at(0), true);
  using Ids = std::vector<JobId>;
  const QueuedJob of_four{0, 4, {}, {}, 1};
  const auto unready_before = [&](const QueuedJob& one, Timestamp until) {
    Ids found;
    waiting.any_unready_before(one, until, [&](JobId other) {
      found.push_back(other);
      return false;
    });
    return found;
  };
  CHECK(waiting.any_unready_before(of_four, at(100), [](JobId other) { return other == 1; }));
  CHECK(unready_before(of_four, at(99)) == Ids{3});
  CHECK(unready_before(of_four, at(100)) == Ids{1, 3});
  CHECK(unready_before({1, 6, {}, {}, 1}, at(100)).empty());
  waiting.advance(at(100));
  waiting.unblock(3, at(100));
  CHECK(unready_before(of_four, at(200)).empty());
  waiting.block(3);
  CHECK(unready_before(of_four, at(200)) == Ids{3});
  waiting.remove(3);
  CHECK(unready_before(of_four, at(200)).empty());
}

TEST_CASE("a job is overdue from its deadline on, until it is taken out") {
  WaitingJobs waiting = make();
  WaitingJob late = job(1);
  late.facts.deadline = at(50);
  waiting.add(late, at(0));
  CHECK(waiting.overdue(at(49)).empty());
  CHECK(waiting.overdue(at(50)) == std::vector<JobId>{1});
  CHECK(waiting.overdue(at(51)) == std::vector<JobId>{1});
  waiting.remove(1);
  CHECK(waiting.overdue(at(51)).empty());
  CHECK(next(waiting) == 0);
}

TEST_CASE("a user whose allowance is used up is passed over without delaying others") {
  WaitingJobs waiting = make();
  waiting.add(job(1, 9, 7), at(0));
  waiting.add(job(2, 0, 8), at(0));
  const JobQueue::Allowance allowance = [](unsigned user) { return user == 7 ? Resources{0, 0, 0} : kAll; };
  CHECK(next(waiting, allowance) == 2);
  CHECK(next(waiting, allowance) == 0);
  CHECK(next(waiting) == 1);
}

TEST_CASE("what is changed takes its new place") {
  WaitingJobs waiting = make();
  waiting.add(job(1), at(0));
  waiting.add(job(2), at(0));
  waiting.add(job(2, 5), at(0));
  CHECK(waiting.size() == 2);
  CHECK(waiting.size_of_user(1) == 2);
  CHECK(next(waiting) == 2);
}

TEST_CASE("the latest start follows the time limits of what runs and of what comes first") {
  const SteadyTime now{};
  const std::vector<RunningJob> running{{kAll, now + std::chrono::minutes(10)}};
  const std::vector<QueuedJob> waiting{
      {0, 1, kAll, std::chrono::minutes(5)}, {0, 2, kAll, kUnlimited}, {0, 3, kAll, {}}};
  CHECK(latest_start(1, waiting, {}, running, now) == now + std::chrono::minutes(10));
  CHECK(latest_start(2, waiting, {}, running, now) == now + std::chrono::minutes(15));
  CHECK_FALSE(latest_start(3, waiting, {}, running, now));
  CHECK_FALSE(latest_start(9, waiting, {}, running, now));
}

Outcome ended(JobState state, Cause cause, int exit_code = 0) {
  Outcome outcome;
  outcome.state = state;
  outcome.cause = cause;
  outcome.exit_code = exit_code;
  return outcome;
}

TEST_CASE("a failed job runs again as its rule says") {
  RetryRule rule;
  const QueueFacts facts = job(1).facts;
  const Outcome failed = ended(JobState::failed, Cause::exited, 3);
  CHECK_FALSE(facts_of_retry(rule, facts, 0, 1, failed, at(0)));
  rule.retry = Retry{2, {}, {}, std::chrono::seconds(10), 2};
  CHECK(facts_of_retry(rule, facts, 0, 1, failed, at(0))->begin == at(10));
  CHECK(facts_of_retry(rule, facts, 0, 2, failed, at(0))->begin == at(20));
  CHECK_FALSE(facts_of_retry(rule, facts, 0, 3, failed, at(0)));
  const Outcome starved = ended(JobState::out_of_memory, Cause::out_of_memory);
  CHECK(facts_of_retry(rule, facts, Bytes{1} << 20U, 1, starved, at(0))->memory == Bytes{2} << 20U);
  CHECK_FALSE(facts_of_retry(rule, facts, 0, 1, ended(JobState::cancelled, Cause::cancelled), at(0)));
  rule.retry->exit_codes = {75};
  CHECK_FALSE(facts_of_retry(rule, facts, 0, 1, failed, at(0)));
  CHECK(facts_of_retry(rule, facts, 0, 1, ended(JobState::failed, Cause::exited, 75), at(0)));
  const Outcome lost = ended(JobState::node_fail, Cause::node_fail);
  CHECK_FALSE(facts_of_retry(rule, facts, 0, 1, lost, at(0)));
  rule.requeue = true;
  CHECK(facts_of_retry(rule, facts, 0, 1000, lost, at(0)));
}

}  // namespace
}  // namespace berth
