#include "schemas/record_json.h"

#include <catch2/catch.hpp>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <type_traits>

#include "schemas/usage_fields.h"

namespace berth {
namespace {

using nlohmann::json;

/// Every field with a value of its own.
Usage full_usage() {
  Usage usage;
  std::uint64_t next = 1;
  for_each_usage_field(usage, [&](std::string_view, auto& member) {
    using Value = typename std::remove_reference_t<decltype(member)>::value_type;
    member = Value(static_cast<std::make_signed_t<std::size_t>>(next++));
  });
  return usage;
}

Outcome oom_outcome() {
  Outcome outcome;
  outcome.state = JobState::out_of_memory;
  outcome.cause = Cause::out_of_memory;
  outcome.exit_code = 0;
  outcome.signal = 9;
  outcome.core_dumped = true;
  outcome.limit = LimitHit{"memory_per_node", "512M", "/berth/run-1/job-1.1"};
  outcome.message = "out of memory";
  return outcome;
}

AccountingRecord full_record() {
  AccountingRecord record;
  record.job_id = 7;
  record.attempt = 2;
  record.state = JobState::out_of_memory;
  record.user = "alice";
  record.user_id = 1000;
  record.job_user = "1001";
  record.job_user_id = 1001;
  record.host = "host";
  record.reason = "Resources";
  record.submit = Timestamp(std::chrono::microseconds(1));
  record.start = Timestamp(std::chrono::seconds(1));
  record.end = Timestamp(std::chrono::seconds(2));
  JobSpec spec;
  spec.name = "x";
  spec.argv = {"true"};
  record.spec = std::make_shared<const JobSpec>(spec);
  record.allocation = Allocation{"cpu0-1", CpuSet{0, 1}, CpuSet{0}, 4096};
  record.outcome = oom_outcome();
  record.usage = full_usage();
  return record;
}

TEST_CASE("usage fields have unlike names, keys that name the unit, and unlike members") {
  std::set<std::string_view> names;
  std::set<std::string_view> keys;
  const Usage usage = full_usage();
  for_each_described_usage_field(usage, [&](const auto& field, const auto& member) {
    names.insert(field.name);
    keys.insert(field.key);
    CHECK(member.has_value());
    CHECK(field.key.ends_with("_usec") == (field.unit == UsageUnit::microseconds));
  });
  CHECK(names.size() == kUsageFieldCount);
  CHECK(keys.size() == kUsageFieldCount);
}

TEST_CASE("usage reads back, and absent counters stay absent") {
  CHECK(parse_usage(to_json_text(full_usage())) == full_usage());
  CHECK(to_json_text(Usage{}) == "{}");
  Usage usage;
  usage.oom_kills = 0;
  usage.wall = std::chrono::microseconds(5);
  CHECK(to_json_text(usage) == R"({"wall_usec":5,"oom_kills":0})");
  CHECK(parse_usage(to_json_text(usage)) == usage);
}

TEST_CASE("counters read back, in any order, without those that this berth does not know") {
  CHECK(parse_counters(to_counters(full_usage())) == full_usage());
  CHECK(to_counters(Usage{}).empty());
  CHECK(parse_counters("") == Usage{});
  Usage usage;
  usage.oom_kills = 0;
  usage.wall = std::chrono::microseconds(5);
  CHECK(to_counters(usage) == "wall=5 oom_kills=0");
  CHECK(parse_counters("from_the_future=7 oom_kills=0 wall=5") == usage);
  for (const char* text : {"wall", "wall=", "wall=5x", "oom_kills=-1", "wall=5  oom_kills=0"}) {
    INFO(text);
    CHECK_THROWS_AS(parse_counters(text), std::invalid_argument);
  }
}

TEST_CASE("a newer record is read, a damaged one is refused") {
  CHECK(parse_usage(R"({"wall_usec":5,"from_the_future":1})").wall == std::chrono::microseconds(5));
  for (const char* text :
       {"", "[]", "{", "5", R"({"wall_usec":"5"})", R"({"oom_kills":null})", R"({"memory_peak":1.5})"}) {
    INFO(text);
    CHECK_THROWS_AS(parse_usage(text), std::invalid_argument);
  }
  CHECK_THROWS_AS(parse_outcome("{}"), std::invalid_argument);
  CHECK_THROWS_WITH(parse_outcome(R"({"state":"DONE","cause":"exited"})"), Catch::Matchers::Contains("DONE"));
  CHECK_THROWS_AS(parse_allocation(R"({"cpus":"x"})"), std::invalid_argument);
}

TEST_CASE("outcomes and allocations read back") {
  CHECK(parse_outcome(to_json_text(oom_outcome())) == oom_outcome());
  Outcome failed;
  failed.cause = Cause::launch_failed;
  failed.stage = "mount /data";
  failed.error_number = 13;
  failed.message = "no";
  CHECK(parse_outcome(to_json_text(failed)) == failed);
  const Allocation allocation{"cpu0-1", CpuSet{0, 1}, CpuSet{0}, 4096};
  CHECK(parse_allocation(to_json_text(allocation)) == allocation);
}

TEST_CASE("an outcome of a job that never ran has neither exit code nor signal") {
  Outcome outcome;
  outcome.cause = Cause::launch_failed;
  const json object = json::parse(to_json_text(outcome));
  CHECK_FALSE(object.contains("exit_code"));
  CHECK_FALSE(object.contains("signal"));
  CHECK(object["exit_status"] == 125);
}

TEST_CASE("a record holds every field, with times in UTC and the spec in the words of a job file") {
  const json record = json::parse(to_json_text(full_record()));
  for (const char* key : {"job_id", "attempt", "state", "user", "user_id", "job_user", "job_user_id", "host",
                          "reason", "submit", "start", "end", "spec", "allocation", "outcome", "usage"}) {
    INFO(key);
    CHECK(record.contains(key));
  }
  CHECK(record["state"] == "OUT_OF_MEMORY");
  CHECK(record["submit"] == "1970-01-01T00:00:00.000001Z");
  CHECK(record["allocation"]["cpus"] == "0-1");
  CHECK(record["allocation"]["cpu_count"] == 2);
  CHECK(record["outcome"]["exit_status"] == 137);
  CHECK(record["outcome"]["limit"]["cgroup"] == "/berth/run-1/job-1.1");
  CHECK(record["spec"]["argv"] == json::array({"true"}));
  CHECK(record["usage"].size() == kUsageFieldCount);
}

TEST_CASE("a job that never started has neither times, nor allocation, nor outcome") {
  AccountingRecord record;
  JobSpec spec;
  spec.name = "x";
  record.spec = std::make_shared<const JobSpec>(spec);
  const json parsed = json::parse(to_json_text(record, 2));
  for (const char* key : {"start", "end", "allocation", "outcome", "reason"}) {
    INFO(key);
    CHECK_FALSE(parsed.contains(key));
  }
  CHECK(parsed["usage"].empty());
}

TEST_CASE("bytes that are not UTF-8 do not spoil a record") {
  AccountingRecord record = full_record();
  record.outcome->message = "cannot run caf\xe9";
  CHECK(json::parse(to_json_text(record))["outcome"]["message"] == "cannot run caf\xef\xbf\xbd");
}

}  // namespace
}  // namespace berth
