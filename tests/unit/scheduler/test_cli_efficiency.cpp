#include "scheduler/cli_efficiency.h"

#include <catch2/catch.hpp>

#include "tests/unit/scheduler/listing_fixtures.h"

namespace berth {
namespace {

using Catch::Matchers::Contains;

std::string artists(unsigned user_id) {
  return user_id == 1001 ? "artists" : "";
}

}  // namespace

TEST_CASE("efficiency has seff's lines and figures") {
  CHECK(efficiency_text(ended_record(), at(100), artists) == R"(Job ID: 12
Cluster: node1
User/Group: ada/artists
State: OUT_OF_MEMORY (exit code 0, signal 9)
Nodes: 1
Cores per node: 2
CPU Utilized: 00:00:30
CPU Efficiency: 25.21% of 00:02:00 core-walltime
Job Wall-clock time: 00:01:00
Memory Utilized: 256.00 MB
Memory Efficiency: 50.00% of 512.00 MB
)");
}

TEST_CASE("one core is printed as Cores, an exit without a signal as its code alone") {
  AccountingRecord record = ended_record();
  record.allocation->cpus = {3};
  record.state = JobState::completed;
  record.outcome->state = JobState::completed;
  record.outcome->signal = 0;
  const std::string text = efficiency_text(record, at(100), artists);
  CHECK_THAT(text, Contains("\nState: COMPLETED (exit code 0)\nCores: 1\nCPU Utilized") &&
                       Contains("50.42% of 00:01:00"));
}

TEST_CASE("what was not measured is said, not taken for zero") {
  AccountingRecord record = ended_record();
  record.usage.memory_peak.reset();
  record.usage.cpu_total.reset();
  const std::string text = efficiency_text(record, at(100), artists);
  CHECK_THAT(text, Contains("CPU Utilized: not measured\nCPU Efficiency: not measured\n"));
  CHECK_THAT(text, Contains("Memory Utilized: not measured\nMemory Efficiency: not measured\n"));
}

TEST_CASE("the time between start and end is no wall time that was measured") {
  AccountingRecord record = ended_record();
  record.usage.wall.reset();
  CHECK_THAT(efficiency_text(record, at(100), artists),
             Contains("CPU Utilized: 00:00:30\nCPU Efficiency: not measured\n"
                      "Job Wall-clock time: not measured\n"));
  CHECK_THAT(efficiency_json(record, at(100), artists), !Contains("wall") && !Contains("cpu_efficiency"));
}

TEST_CASE("cores of which nobody knows are not 0") {
  AccountingRecord record = ended_record();
  record.allocation.reset();
  CHECK_THAT(efficiency_text(record, at(100), artists), Contains("\nCores: not measured\nCPU Utilized"));
  CHECK_THAT(efficiency_json(record, at(100), artists), !Contains("cores"));
}

TEST_CASE("a job of no duration divides by nothing") {
  AccountingRecord record = ended_record();
  record.usage.wall = std::chrono::microseconds(0);
  record.allocation->memory = 0;
  const std::string text = efficiency_text(record, at(100), artists);
  CHECK_THAT(text, Contains("CPU Efficiency: not measured") && Contains("Memory Efficiency: not measured"));
}

TEST_CASE("sizes and unused memory are printed as seff prints them") {
  AccountingRecord record = ended_record();
  record.usage.memory_peak = 0;
  CHECK_THAT(efficiency_text(record, at(100), artists), Contains("Memory Utilized: 0.00 MB"));
  record.usage.memory_peak = 1536;
  CHECK_THAT(efficiency_text(record, at(100), artists), Contains("Memory Utilized: 1.50 KB"));
  record.usage.memory_peak = Bytes{3} << 40;
  CHECK_THAT(efficiency_text(record, at(100), artists), Contains("Memory Utilized: 3.00 TB"));
}

TEST_CASE("a job that waits or runs is warned about") {
  CHECK_THAT(
      efficiency_text(pending_record(), at(100), artists),
      Contains("Efficiency not available for jobs in the PENDING state.") && !Contains("CPU Utilized"));
  CHECK_THAT(efficiency_text(running_record(), at(100), artists),
             Contains("WARNING: Efficiency statistics may be misleading for RUNNING jobs."));
}

TEST_CASE("a job that ended without running has no efficiency") {
  AccountingRecord record = ended_record();
  record.start.reset();
  record.outcome->exit_code.reset();
  CHECK_THAT(efficiency_text(record, at(100), artists), Contains("never ran") && !Contains("exit code"));
  CHECK_THAT(efficiency_json(record, at(100), artists), !Contains("exit_code") && !Contains("signal"));
}

TEST_CASE("an array has no efficiency but that of its tasks") {
  AccountingRecord record = pending_record();
  change_spec(record, [](JobSpec& spec) { spec.array = "0-3"; });
  record.state = JobState::failed;
  record.end = at(70);
  CHECK_THAT(efficiency_text(record, at(100), artists),
             Contains("not available for an array; its tasks have records of their own: berth history 13\n"));
}

TEST_CASE("the JSON has the figures as numbers and leaves out what was not measured") {
  CHECK(
      efficiency_json(ended_record(), at(100), artists) ==
      R"({"job_id":12,"attempt":1,"cluster":"node1","user":"ada","group":"artists","state":"OUT_OF_MEMORY",)"
      R"("exit_code":0,"signal":9,"nodes":1,"cores":2,"cpu_utilized_usec":30250000,)"
      R"("core_walltime_usec":120000000,"cpu_efficiency_percent":25.208333333333332,"wall_usec":60000000,)"
      R"("memory_utilized":268435456,"memory_granted":536870912,"memory_efficiency_percent":50.0})");
  AccountingRecord record = ended_record();
  record.usage = {};
  CHECK_THAT(efficiency_json(record, at(100), artists), !Contains("utilized") && !Contains("percent"));
}

TEST_CASE("root's primary group is found in the system's database") {
  CHECK(primary_group(0) == "root");
  CHECK(primary_group(4'000'000'000U).empty());
}

}  // namespace berth
