#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "scheduler/progress.h"
#include "scheduler/run_report.h"

namespace berth {
namespace {

AccountingRecord record(JobId id, const std::string& name, JobState state, int exit_code = 0,
                        int signal = 0) {
  AccountingRecord made;
  made.job_id = id;
  JobSpec spec;
  spec.name = name;
  made.spec = std::make_shared<const JobSpec>(std::move(spec));
  made.state = state;
  Outcome outcome;
  outcome.state = state;
  outcome.cause = signal != 0 ? Cause::signalled : Cause::exited;
  outcome.exit_code = exit_code;
  outcome.signal = signal;
  outcome.message = "exited with status " + std::to_string(exit_code);
  made.outcome = outcome;
  made.usage.wall = std::chrono::seconds(12);
  return made;
}

AccountingRecord cancelled(JobId id) {
  AccountingRecord made = record(id, "c", JobState::cancelled, 0, 15);
  made.outcome->cause = Cause::cancelled;
  return made;
}

TEST_CASE("the run exits with 0 when all jobs completed") {
  CHECK(run_exit_status({record(1, "a", JobState::completed), record(2, "b", JobState::completed)}, 0) == 0);
  CHECK(run_exit_status({}, 0) == 0);
}

TEST_CASE("the run exits as the first job in submit order that did not complete") {
  CHECK(run_exit_status({record(1, "a", JobState::completed), record(2, "b", JobState::failed, 4),
                         record(3, "c", JobState::failed, 9)},
                        0) == 4);
  CHECK(run_exit_status({record(1, "a", JobState::failed, 0, 9)}, 0) == 137);
}

TEST_CASE("a signal to berth is told by its number, but only where it cancelled a job") {
  CHECK(run_exit_status({record(1, "a", JobState::failed, 4), cancelled(2)}, 2) == 130);
  CHECK(run_exit_status({cancelled(1)}, 15) == 143);
  CHECK(run_exit_status({record(1, "a", JobState::completed)}, 2) == 0);
}

TEST_CASE("the usage table is aligned and leaves out what was not measured") {
  AccountingRecord measured = record(12, "build", JobState::completed);
  measured.usage.cpu_total = std::chrono::milliseconds(1500);
  measured.usage.memory_peak = Bytes{2} << 20U;
  CHECK(usage_table({measured, record(3, "a", JobState::failed, 1)}) ==
        "JobID  JobName  State      ExitCode   Elapsed   TotalCPU  MaxRSS\n"
        "   12  build    COMPLETED       0:0  00:00:12  00:01.500      2M\n"
        "    3  a        FAILED          1:0  00:00:12\n");
}

TEST_CASE("one record is an object, several are an array") {
  CHECK(nlohmann::json::parse(records_json({record(1, "a", JobState::completed)})).at("job_id") == 1);
  const auto several = nlohmann::json::parse(
      records_json({record(1, "a", JobState::completed), record(2, "b", JobState::completed)}));
  REQUIRE(several.is_array());
  CHECK(several.at(1).at("job_id") == 2);
  CHECK(nlohmann::json::parse(records_json({})).is_array());
}

struct CapturedProgress {
  explicit CapturedProgress(ProgressMode mode) {
    REQUIRE(::pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
    progress = std::make_unique<Progress>(ends[1], mode, 60, 10);
  }
  CapturedProgress(const CapturedProgress&) = delete;
  CapturedProgress& operator=(const CapturedProgress&) = delete;
  ~CapturedProgress() {
    ::close(ends[0]);
    ::close(ends[1]);
  }
  std::string text() const {
    std::string result(65536, '\0');
    const ssize_t size = ::read(ends[0], result.data(), result.size());
    result.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
    return result;
  }
  int ends[2]{};
  std::unique_ptr<Progress> progress;
};

TEST_CASE("plain progress is a line at the start and one at the end of each job") {
  CapturedProgress captured(ProgressMode::plain);
  Allocation allocation;
  allocation.slot = "cpu0";
  captured.progress->queued(1, "a");
  CHECK(captured.text().empty());
  captured.progress->started(1, allocation, SteadyTime());
  CHECK(captured.text() == "berth: job 1 (a) RUNNING on cpu0\n");
  captured.progress->ended(record(1, "a", JobState::failed, 3), SteadyTime());
  CHECK(captured.text() == "berth: job 1 (a) FAILED in 00:00:12: exited with status 3\n");
}

TEST_CASE("live progress is rewritten in place and cut at the terminal's width") {
  CapturedProgress captured(ProgressMode::live);
  Allocation allocation;
  allocation.slot = "cpu0-127,256-383-a-very-long-name-of-a-slot";
  captured.progress->queued(1, "a");
  captured.progress->queued(2, "b");
  captured.progress->started(1, allocation, SteadyTime());
  captured.progress->redraw(SteadyTime() + std::chrono::seconds(65));
  const std::string drawn = captured.text();
  CHECK_THAT(drawn, Catch::Contains("RUNNING   00:01:05"));
  CHECK_THAT(drawn, Catch::Contains("0 of 2 ended, 1 running, 1 waiting"));
  CHECK(drawn.find('\n') < 60);
  captured.progress->redraw(SteadyTime() + std::chrono::milliseconds(65'100));
  CHECK(captured.text().empty());
  captured.progress->clear();
  CHECK(captured.text() == "\r\x1b[2A\x1b[0J");
}

TEST_CASE("live progress never takes more rows than the terminal has") {
  CapturedProgress captured(ProgressMode::live);
  for (JobId job = 1; job <= 30; ++job) {
    captured.progress->queued(job, "j");
    captured.progress->started(job, {}, SteadyTime());
  }
  captured.progress->redraw(SteadyTime());
  const std::string drawn = captured.text();
  CHECK(std::count(drawn.begin(), drawn.end(), '\n') < 10);
}

}  // namespace
}  // namespace berth
