#include "scheduler/cli_show.h"

#include <catch2/catch.hpp>

#include "schemas/input_error.h"
#include "tests/unit/scheduler/listing_fixtures.h"

namespace berth {
namespace {

using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

ShownJob ended_job() {
  const auto event = [](std::int64_t sequence, unsigned attempt, std::int64_t second, JobState state,
                        const std::string& detail) {
    return JobEvent{sequence, 12, attempt, at(second), state, detail};
  };
  return {{ended_record()},
          {event(1, 0, 0, JobState::pending, R"({"user":"ada"})"),
           event(2, 1, 9, JobState::configuring, R"({"slot":"cpu0-1"})"),
           event(3, 1, 10, JobState::running, ""), event(4, 1, 70, JobState::out_of_memory, "not json")}};
}

}  // namespace

TEST_CASE("show prints everything about a job") {
  use_utc();
  const std::string text = show_text(ended_job(), at(100));
  CHECK_THAT(text, StartsWith(R"(Job 12
  JobName:                  render
  User:                     ada (1001)
  JobUser:                  render (1002)
  Account:                  films
  Host:                     node1
  Submit:                   2026-11-23T17:00:00

Attempt 1
  State:                    OUT_OF_MEMORY
  Message:                  out of memory: the job reached memory_per_node 512M
  Cause:                    out_of_memory
  ExitCode:                 0:9
  Limit:                    memory_per_node = 512M
  LimitingCgroup:           /berth/run-1-2/job-12.1
  Start:                    2026-11-23T17:00:10
  End:                      2026-11-23T17:01:10
  Elapsed:                  00:01:00
  Slot:                     cpu0-1
  CPUs:                     0-1
  MemoryNodes:              0
  MemoryLimit:              512M (536870912 bytes)

 Usage
  wall:                     60.000000 s
  cpu_total:                30.250000 s
  cpu_user:                 30.000000 s
  cpu_system:               0.250000 s
  memory_peak:              256M (268435456 bytes)
  oom_kills:                1
  output_bytes:             0 bytes
  not measured:             throttled_periods, )"));
  CHECK_THAT(text, Contains(R"(
Events (UTC)
  2026-11-23T17:00:00.000000Z  PENDING       {"user":"ada"}
  2026-11-23T17:00:09.000000Z  CONFIGURING   {"slot":"cpu0-1"}
  2026-11-23T17:00:10.000000Z  RUNNING
  2026-11-23T17:01:10.000000Z  OUT_OF_MEMORY not json

Spec
  {
)"));
  CHECK_THAT(text, Contains("\"MODE\": \"fast\"") && Contains("\"/usr/bin/render\""));
}

TEST_CASE("a job that has not started says so, and one that never will") {
  use_utc();
  ShownJob job{{pending_record()}, {}};
  CHECK_THAT(show_text(job, at(100)), Contains("\nNot started yet\n  State:                    PENDING\n"));
  job.records[0].state = JobState::cancelled;
  job.records[0].outcome.emplace();
  job.records[0].outcome->state = JobState::cancelled;
  job.records[0].outcome->message = "cancelled by its user";
  CHECK_THAT(show_text(job, at(100)), Contains("\nNever started\n") && !Contains("Usage"));
}

TEST_CASE("an array is not said to have never started") {
  ShownJob job{{pending_record()}, {}};
  change_spec(job.records[0], [](JobSpec& spec) { spec.array = "0-3"; });
  job.records[0].state = JobState::failed;
  job.records[0].end = at(70);
  CHECK_THAT(show_text(job, at(100)),
             Contains("\nArray; its tasks have records of their own: berth history 13\n"));
}

TEST_CASE("a failed launch shows its step and errno") {
  ShownJob job{{ended_record()}, {}};
  job.records[0].outcome->stage = "mount /data";
  job.records[0].outcome->error_number = 13;
  CHECK_THAT(show_text(job, at(100)), Contains("FailedStep:               mount /data (errno 13)"));
}

TEST_CASE("every attempt is shown, oldest first") {
  ShownJob job{{ended_record(), ended_record()}, {}};
  job.records[1].attempt = 2;
  const std::string text = show_text(job, at(100));
  CHECK(text.find("Attempt 1") < text.find("Attempt 2"));
  CHECK(text.find("Attempt 2") != std::string::npos);
}

TEST_CASE("show's JSON holds the complete records and the events") {
  const std::string text = show_json(std::vector{ended_job()});
  CHECK_THAT(text, StartsWith("{\n  \"jobs\": [\n    {\n      \"job_id\": 12,"));
  CHECK_THAT(text, Contains("\"detail\": {\n        \"slot\": \"cpu0-1\"\n      }"));
  CHECK_THAT(text, Contains("\"detail\": \"not json\""));
  CHECK_THAT(text, Contains("\"at\": \"2026-11-23T17:01:10.000000Z\""));
  CHECK(show_json({}) == "{\n  \"jobs\": [],\n  \"events\": []\n}\n");
}

TEST_CASE("a job that is not there is refused with what to do") {
  const auto store = JobStore::open(":memory:");
  CHECK_THROWS_WITH(load_job(*store, 7), Contains("there is no job 7") && Contains("berth history"));
}

}  // namespace berth
