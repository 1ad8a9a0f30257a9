// The verdict's precedence, one rule a test (executor/verdict.h).
#include "executor/verdict.h"

#include <catch2/catch.hpp>
#include <cerrno>
#include <csignal>

using namespace berth;

namespace {

constexpr Bytes kLimit = 64u << 20;

int exited(int code) {
  return code << 8;
}
int signalled(int number) {
  return number;
}

Observation ended_with(int wait_status) {
  Observation observation;
  observation.wait_status = wait_status;
  observation.own_cgroup = "/berth/run-1/job-1.1";
  return observation;
}

Observation oom_killed(int wait_status, const std::string& limiting = "/berth/run-1/job-1.1") {
  Observation observation = ended_with(wait_status);
  observation.oom_kills = 1;
  observation.limiting_cgroup = limiting;
  observation.limiting_is_own = limiting == observation.own_cgroup;
  return observation;
}

}  // namespace

TEST_CASE("an exit code of 0 completes, any other fails", "[verdict]") {
  const Outcome good = decide_outcome(ended_with(exited(0)), JobSpec{}, kLimit);
  CHECK(good.state == JobState::completed);
  CHECK(good.cause == Cause::exited);
  const Outcome bad = decide_outcome(ended_with(exited(3)), JobSpec{}, kLimit);
  CHECK(bad.state == JobState::failed);
  CHECK(bad.exit_code == 3);
  CHECK(exit_status(bad) == 3);
}

TEST_CASE("a signal fails with its number", "[verdict]") {
  const Outcome outcome = decide_outcome(ended_with(signalled(SIGABRT)), JobSpec{}, kLimit);
  CHECK(outcome.cause == Cause::signalled);
  CHECK(outcome.signal == SIGABRT);
  CHECK(exit_status(outcome) == 128 + SIGABRT);
  CHECK(outcome.message == "killed by SIGABRT");
}

TEST_CASE("a limit below a second is told in its own unit", "[verdict]") {
  Observation observation = ended_with(signalled(SIGTERM));
  observation.latched = Cause::wall_time;
  JobSpec spec;
  spec.time_limit = Milliseconds(250);
  CHECK(decide_outcome(observation, spec, kLimit).message == "ran longer than its time_limit of 250ms");
  spec.time_limit = Milliseconds(90'000);
  CHECK(decide_outcome(observation, spec, kLimit).limit.value().value == "00:01:30");
}

TEST_CASE("a launch that failed for want of namespaces or processes says so, and not of space", "[verdict]") {
  Observation observation;
  observation.launch_failure = LaunchFailure{"time namespace", ENOSPC, ""};
  CHECK(decide_outcome(observation, JobSpec{}, kLimit).message.find("user.max_") != std::string::npos);
  observation.launch_failure = LaunchFailure{"write script", ENOSPC, ""};
  CHECK(decide_outcome(observation, JobSpec{}, kLimit).message.find("user.max_") == std::string::npos);
  observation.launch_failure = LaunchFailure{"fork", EAGAIN, ""};
  CHECK(decide_outcome(observation, JobSpec{}, kLimit).message.find("pids.max") != std::string::npos);
}

TEST_CASE("SIGKILL together with an oom_kill is OUT_OF_MEMORY and names limit and cgroup", "[verdict]") {
  const Outcome outcome = decide_outcome(oom_killed(signalled(SIGKILL)), JobSpec{}, kLimit);
  CHECK(outcome.state == JobState::out_of_memory);
  REQUIRE(outcome.limit);
  CHECK(outcome.limit->value == "64M");
  CHECK(outcome.limit->cgroup == "/berth/run-1/job-1.1");
  CHECK(exit_status(outcome) == 137);
}

TEST_CASE("a script that ends with its command's SIGKILL is OUT_OF_MEMORY as the command would be",
          "[verdict]") {
  const Outcome outcome = decide_outcome(oom_killed(exited(137)), JobSpec{}, kLimit);
  CHECK(outcome.state == JobState::out_of_memory);
  CHECK(outcome.cause == Cause::out_of_memory);
  CHECK(outcome.exit_code == 137);
  CHECK(outcome.signal == 0);
  CHECK(exit_status(outcome) == 137);
  CHECK(decide_outcome(oom_killed(exited(2)), JobSpec{}, kLimit).state == JobState::failed);
  Observation other = oom_killed(exited(137));
  other.oom_kills = 0;
  CHECK(decide_outcome(other, JobSpec{}, kLimit).state == JobState::failed);
}

TEST_CASE("an ancestor's limit is named as the ancestor's", "[verdict]") {
  const Outcome outcome = decide_outcome(oom_killed(signalled(SIGKILL), "/berth"), JobSpec{}, kLimit);
  CHECK(outcome.state == JobState::out_of_memory);
  REQUIRE(outcome.limit);
  CHECK(outcome.limit->cgroup == "/berth");
  CHECK(outcome.limit->name == "ancestor memory limit");
}

TEST_CASE("a child lost to the OOM killer does not fail a main process that exits 0", "[verdict]") {
  const Outcome outcome = decide_outcome(oom_killed(exited(0)), JobSpec{}, kLimit);
  CHECK(outcome.state == JobState::completed);
  CHECK(outcome.message == "completed; 1 of its processes was killed for lack of memory");
}

TEST_CASE("what was killed or refused in the job is noted beside any end of its own", "[verdict]") {
  Observation observation = oom_killed(signalled(SIGTERM));
  observation.oom_kills = 2;
  CHECK(decide_outcome(observation, JobSpec{}, kLimit).message ==
        "killed by SIGTERM; 2 of its processes were killed for lack of memory");
  observation = ended_with(exited(2));
  observation.refused_forks = 31;
  CHECK(decide_outcome(observation, JobSpec{}, kLimit).message ==
        "exited with status 2; 31 of its forks were refused (limits.pids)");
  observation.wait_status = exited(0);
  CHECK(decide_outcome(observation, JobSpec{}, kLimit).message == "completed");
}

TEST_CASE("SIGXFSZ names the limit of file sizes, where there is one", "[verdict]") {
  JobSpec spec;
  CHECK_FALSE(decide_outcome(ended_with(signalled(SIGXFSZ)), spec, kLimit).limit);
  spec.limits.file_size = Bytes{1} << 20;
  const Outcome outcome = decide_outcome(ended_with(signalled(SIGXFSZ)), spec, kLimit);
  CHECK(outcome.limit.value().name == "limits.file_size");
  CHECK(outcome.message == "killed by SIGXFSZ: it wrote a file beyond its limits.file_size of 1M");
}

TEST_CASE("where the kernel does not tell whose limit it was, the verdict names none", "[verdict]") {
  const Outcome outcome = decide_outcome(oom_killed(signalled(SIGKILL), ""), JobSpec{}, kLimit);
  CHECK(outcome.state == JobState::out_of_memory);
  CHECK_FALSE(outcome.limit);
  CHECK(outcome.message ==
        "killed because memory ran out, at its own limit of 64M, at that of a cgroup above it or the "
        "machine's: "
        "this kernel does not tell");
}

TEST_CASE("init lost to the OOM killer is OUT_OF_MEMORY", "[verdict]") {
  Observation observation = oom_killed(0);
  observation.wait_status.reset();
  CHECK(decide_outcome(observation, JobSpec{}, kLimit).state == JobState::out_of_memory);
}

TEST_CASE("a latched cause outranks the signal, the exit code and the OOM killer", "[verdict]") {
  JobSpec spec;
  spec.time_limit = std::chrono::minutes(10);
  for (const int status : {exited(0), exited(1), signalled(SIGTERM), signalled(SIGKILL)}) {
    Observation observation = oom_killed(status);
    observation.latched = Cause::wall_time;
    const Outcome outcome = decide_outcome(observation, spec, kLimit);
    CHECK(outcome.state == JobState::timeout);
    REQUIRE(outcome.limit);
    CHECK(outcome.limit->name == "time_limit");
    CHECK(outcome.limit->value == "00:10:00");
    CHECK(exit_status(outcome) == 124);
  }
}

TEST_CASE("each latched cause has its state and its limit", "[verdict]") {
  JobSpec spec;
  spec.limits.cpu_time = std::chrono::seconds(5);
  spec.limits.output = 1u << 20;
  spec.no_output_timeout = std::chrono::seconds(9);
  const struct {
    Cause cause;
    JobState state;
    std::string limit;
  } cases[] = {{Cause::cpu_time, JobState::timeout, "limits.cpu_time"},
               {Cause::no_output, JobState::timeout, "no_output_timeout"},
               {Cause::output_limit, JobState::failed, "limits.output"},
               {Cause::cancelled, JobState::cancelled, ""},
               {Cause::preempted, JobState::preempted, ""}};
  for (const auto& expected : cases) {
    Observation observation = ended_with(signalled(SIGTERM));
    observation.latched = expected.cause;
    const Outcome outcome = decide_outcome(observation, spec, kLimit);
    CHECK(outcome.state == expected.state);
    CHECK(outcome.cause == expected.cause);
    CHECK((outcome.limit ? outcome.limit->name : "") == expected.limit);
    CHECK_FALSE(outcome.message.empty());
  }
}

TEST_CASE("SIGSYS is a seccomp violation only where the profile was loaded", "[verdict]") {
  JobSpec spec;
  CHECK(decide_outcome(ended_with(signalled(SIGSYS)), spec, kLimit).cause == Cause::seccomp_violation);
  spec.isolation.seccomp = false;
  CHECK(decide_outcome(ended_with(signalled(SIGSYS)), spec, kLimit).cause == Cause::signalled);
}

TEST_CASE("a failed launch outranks everything and keeps stage and errno", "[verdict]") {
  Observation observation = oom_killed(signalled(SIGKILL));
  observation.launch_failure = LaunchFailure{"mount /data", ENOENT, ""};
  observation.latched = Cause::wall_time;
  const Outcome outcome = decide_outcome(observation, JobSpec{}, kLimit);
  CHECK(outcome.cause == Cause::launch_failed);
  CHECK(outcome.stage == "mount /data");
  CHECK(outcome.error_number == ENOENT);
  CHECK(exit_status(outcome) == 125);
}

TEST_CASE("a program that is not there is 127, one that cannot be executed 126", "[verdict]") {
  Observation observation;
  observation.launch_failure = LaunchFailure{"exec", ENOENT, ""};
  CHECK(exit_status(decide_outcome(observation, JobSpec{}, kLimit)) == 127);
  for (const int error_number : {EACCES, ENOEXEC, ENOTDIR}) {
    observation.launch_failure->error_number = error_number;
    CHECK(exit_status(decide_outcome(observation, JobSpec{}, kLimit)) == 126);
  }
}

TEST_CASE("a cancel during set-up is CANCELLED, not a failed launch", "[verdict]") {
  Observation observation;
  observation.launch_failure = LaunchFailure{"set-up", ECHILD, ""};
  observation.latched = Cause::cancelled;
  CHECK(decide_outcome(observation, JobSpec{}, kLimit).state == JobState::cancelled);
}
