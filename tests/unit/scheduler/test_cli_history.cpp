#include "scheduler/cli_history.h"

#include <catch2/catch.hpp>

#include "schemas/input_error.h"
#include "tests/unit/scheduler/listing_fixtures.h"

namespace berth {
namespace {

using Catch::Matchers::Contains;

std::string faults_of(const HistoryRequest& request) {
  try {
    make_history_filter(request, at(0));
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("an empty request matches every job") {
  const HistoryFilter filter = make_history_filter({}, at(0));
  CHECK_FALSE(filter.start);
  CHECK_FALSE(filter.end);
  CHECK_FALSE(filter.last);
  CHECK(filter.users.empty());
  CHECK(filter.states.empty());
}

TEST_CASE("lists are separated by commas and add up") {
  use_utc();
  HistoryRequest request;
  request.start = "now-1hour";
  request.end = "2026-11-23T18:00:00";
  request.users = {"ada,bob", "1003"};
  request.states = {"failed,TO", "oom"};
  request.accounts = {"films"};
  request.names = {"a b,c"};
  request.jobs = {"3,4", "7"};
  request.last = "5";
  const HistoryFilter filter = make_history_filter(request, at(0));
  CHECK(filter.start == at(-3600));
  CHECK(filter.end == at(3600));
  CHECK(filter.users == std::vector<std::string>{"ada", "bob", "1003"});
  CHECK(filter.states == std::vector{JobState::failed, JobState::timeout, JobState::out_of_memory});
  CHECK(filter.accounts == std::vector<std::string>{"films"});
  CHECK(filter.names == std::vector<std::string>{"a b", "c"});
  CHECK(filter.job_ids == std::vector<JobId>{3, 4, 7});
  CHECK(filter.last == 5U);
}

TEST_CASE("every fault of a request is named at once with its option") {
  HistoryRequest request;
  request.start = "yesterdayish";
  request.states = {"FINISHED"};
  request.jobs = {"12x,0,-3,5-2,4-"};
  request.last = "many";
  request.users = {","};
  const std::string faults = faults_of(request);
  CHECK_THAT(faults, Contains("command line: --starttime: \"yesterdayish\""));
  CHECK_THAT(faults, Contains("--state: \"FINISHED\" is not a state"));
  CHECK_THAT(faults, Contains("\"12x\"") && Contains("\"0\"") && Contains("\"-3\"") && Contains("\"5-2\"") &&
                         Contains("\"4-\""));
  CHECK_THAT(faults, Contains("--last: \"many\""));
  CHECK_THAT(faults, Contains("--user: is empty"));
}

TEST_CASE("a window that ends before it begins is refused") {
  use_utc();
  HistoryRequest request;
  request.start = "2026-11-23";
  request.end = "2026-11-22";
  CHECK_THAT(faults_of(request), Contains("--endtime") && Contains("exchange them"));
}

TEST_CASE("a job number is a positive number, and a task is one of an array's") {
  const JobReference job = parse_job_reference("12", "command line");
  CHECK((job.job == 12 && !job.task));
  const JobReference task = parse_job_reference("12_0", "command line");
  CHECK((task.job == 12 && task.task == 0U));
  for (const char* text :
       {"", "0", "-1", "12.", "1e3", "99999999999999999999", "12_", "_3", "12_-1", "12_x", "0_1"}) {
    INFO(text);
    CHECK_THROWS_AS(parse_job_reference(text, "command line"), InputError);
  }
}

TEST_CASE("what Slurm names jobs by otherwise is refused with what to use") {
  const auto fault = [](const std::string& text) {
    try {
      (void)parse_job_range(text, "");
      (void)parse_job_reference(text, "");
    } catch (const InputError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK_THAT(fault("36.batch"), Catch::Contains("have no steps") && Catch::Contains("use 36)"));
  CHECK_THAT(fault("36_4.0"), Catch::Contains("use 36_4)"));
  CHECK_THAT(fault("jobid=36"), Catch::Contains("scontrol's form"));
  CHECK_THAT(fault("36_[1-3]"), Catch::Contains("has brackets"));
}

TEST_CASE("jobs are asked for with the tasks of the arrays among them") {
  HistoryRequest request;
  request.jobs = {"12,13_4", "15", "20-22"};
  const HistoryFilter filter = make_history_filter(request, Timestamp());
  CHECK(filter.job_ids == std::vector<JobId>{12, 15});
  CHECK(filter.job_ranges == std::vector<std::pair<JobId, JobId>>{{20, 22}});
  CHECK(filter.tasks == std::vector<std::pair<JobId, unsigned>>{{13, 4}});
  CHECK(filter.with_tasks);
}

}  // namespace berth
