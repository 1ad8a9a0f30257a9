// The Executor under the real kernel with more jobs at once than a machine's CPUs let the programs have.
// Needs root, else skips. Ends by comparing this process's descriptors and cgroups with those before.
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <variant>

#include "executor/cgroup.h"
#include "executor/executor.h"
#include "tests/support/skip_case.h"

using namespace berth;
namespace fs = std::filesystem;

namespace {

/// The requests of as many do not fit into the socket of the launcher, nor do its answers.
constexpr JobId kMany = 700;

const std::string& tree_name() {
  static const std::string kName = "test-executor-" + std::to_string(::getpid());
  return kName;
}

std::size_t open_descriptors() {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator("/proc/self/fd"), {}));
}

/// Of jobs, in the hierarchy that counts processes.
std::size_t job_cgroups() {
  const ControllerMount pids = detect_cgroups().at(Controller::pids);
  std::size_t count = 0;
  std::error_code ignored;
  for (const auto& entry :
       fs::directory_iterator(pids.mount_point + pids.own_path + "/berth/" + tree_name(), ignored)) {
    count += std::size_t{entry.is_directory(ignored)};
  }
  return count;
}

LaunchRequest sleeper(JobId job) {
  LaunchRequest request;
  request.job_id = job;
  request.spec.name = "sleeper";
  request.spec.argv = {"/bin/sleep", "1000"};
  request.spec.current_working_directory = "/";
  request.allocation = {"slot" + std::to_string(job), CpuSet{0}, CpuSet{0}, Bytes{64} * 1024 * 1024};
  request.identity = resolve_identity("");
  return request;
}

pid_t only_child() {
  pid_t child = 0;
  std::ifstream("/proc/thread-self/children") >> child;
  return child;
}

/// Whether `done` came to hold within a minute of waiting for `executor`, which alone says when it has work.
template <typename Done, typename Take>
bool run_until(Executor& executor, Done done, Take take) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!done() && std::chrono::steady_clock::now() < end) {
    pollfd ready{executor.event_descriptor(), POLLIN, 0};
    if (::poll(&ready, 1, 5000) <= 0) {
      return done();
    }
    for (const ExecutorEvent& event : executor.dispatch()) {
      take(event);
    }
  }
  return done();
}

}  // namespace

TEST_CASE("Hundreds of jobs that begin and end at once leave nothing in an executor without work") {
  if (::geteuid() != 0) {
    skip_case("jobs with cgroups need root");
    return;
  }
  Executor executor({.cgroup = tree_name(), .armed_ahead = 0});
  executor.wait_until_ready();
  const std::size_t descriptors_before = open_descriptors();
  std::set<JobId> running;
  std::size_t ended = 0;
  const auto take = [&](const ExecutorEvent& event) {
    if (const auto* start = std::get_if<Started>(&event)) {
      running.insert(start->job_id);
    } else if (const auto* end = std::get_if<Ended>(&event)) {
      ++ended;
      CHECK(end->outcome.state == JobState::cancelled);
    }
  };

  for (JobId job = 1; job <= kMany; ++job) {
    executor.launch(sleeper(job));
  }
  REQUIRE(run_until(
      executor, [&] { return running.size() == kMany; }, take));
  CHECK(ended == 0);

  for (JobId job = 1; job <= kMany; ++job) {
    executor.stop(job, Cause::cancelled, std::chrono::milliseconds::zero());
  }
  REQUIRE(run_until(
      executor, [&] { return ended == kMany; }, take));
  CHECK(run_until(
      executor, [] { return job_cgroups() == 0; }, take));
  CHECK(open_descriptors() < descriptors_before + 32);
}

TEST_CASE("Jobs that ended in time while their executor was stopped have not run for too long") {
  if (::geteuid() != 0) {
    skip_case("jobs with cgroups need root");
    return;
  }
  constexpr JobId kJobs = 60;  // with three descriptors each, far more than one dispatch() handles
  constexpr std::chrono::seconds kLimit{2};
  Executor executor({.cgroup = tree_name(), .armed_ahead = 0});
  executor.wait_until_ready();
  std::size_t started = 0;
  std::size_t completed = 0;
  std::size_t ended = 0;
  const auto take = [&](const ExecutorEvent& event) {
    started += std::holds_alternative<Started>(event) ? 1U : 0U;
    if (const auto* end = std::get_if<Ended>(&event)) {
      ++ended;
      completed += end->outcome.state == JobState::completed ? 1U : 0U;
    }
  };
  for (JobId job = 1; job <= kJobs; ++job) {
    LaunchRequest request = sleeper(job);
    request.spec.argv = {"/bin/sleep", "0.5"};
    request.spec.time_limit = kLimit;
    executor.launch(std::move(request));
  }
  REQUIRE(run_until(
      executor, [&] { return started == kJobs; }, take));
  std::this_thread::sleep_for(kLimit + std::chrono::seconds(1));
  REQUIRE(run_until(
      executor, [&] { return ended == kJobs; }, take));
  CHECK(completed == kJobs);
}

TEST_CASE("Jobs that are launched before it is heard that the launcher is gone have another one") {
  if (::geteuid() != 0) {
    skip_case("jobs with cgroups need root");
    return;
  }
  Executor executor({.cgroup = tree_name(), .armed_ahead = 0});
  executor.wait_until_ready();
  std::size_t completed = 0;
  std::size_t ended = 0;
  const auto take = [&](const ExecutorEvent& event) {
    if (const auto* end = std::get_if<Ended>(&event)) {
      ++ended;
      completed += end->outcome.state == JobState::completed ? 1U : 0U;
    }
  };
  siginfo_t information{};
  const pid_t launcher = only_child();
  REQUIRE(launcher > 0);
  REQUIRE(::kill(launcher, SIGKILL) == 0);
  REQUIRE(::waitid(P_PID, static_cast<id_t>(launcher), &information, WEXITED | WNOWAIT) == 0);
  for (const JobId job : {1, 2}) {
    LaunchRequest request = sleeper(job);
    request.spec.argv = {"/bin/true"};
    executor.launch(std::move(request));
  }
  REQUIRE(run_until(
      executor, [&] { return ended == 2; }, take));
  CHECK(completed == 2);
}
