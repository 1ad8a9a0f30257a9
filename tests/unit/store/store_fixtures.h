// What the tests of store/ share: a folder of their own, sample jobs, real processes.
#pragma once

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "store/job_store.h"

namespace berth {

/// A fresh folder, removed with all that is in it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "berth-store-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

/// The state that a job's events (all of them, oldest first) lead to. Throws std::runtime_error when they are
/// not a legal history.
inline JobState replay(const std::vector<JobEvent>& events) {
  if (events.empty() || events.front().state != JobState::pending) {
    throw std::runtime_error("the events do not begin with PENDING");
  }
  JobState state = JobState::pending;
  for (auto event = events.begin() + 1; event != events.end(); ++event) {
    const bool is_array =
        state == JobState::pending && is_final(event->state) && event->detail.starts_with("{\"array\"");
    const bool is_change = !is_final(state) && event->state == state;  // of what it waits for; a cancellation
    const bool is_requeue = event->state == JobState::pending && is_final(state);
    if (!is_array && !is_change && !is_requeue && !may_transition(state, event->state)) {
      throw std::runtime_error("event " + std::to_string(event->sequence) + " turns " +
                               std::string(to_string(state)) + " into " +
                               std::string(to_string(event->state)));
    }
    state = event->state;
  }
  return state;
}

inline unsigned mode_of(const std::string& path) {
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return status.st_mode & 07777U;
}

inline void write_file(const std::string& path, const std::string& text) {
  std::ofstream(path) << text;
}

inline std::string read_file(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Seconds after 2026-01-01T00:00:00Z.
inline Timestamp at(std::int64_t seconds) {
  return Timestamp(std::chrono::seconds(1'767'225'600 + seconds));
}

inline Supervisor sample_supervisor(std::int64_t pid = 4242) {
  return {"0b1f8a52-boot", pid, 987'654, "run-" + std::to_string(pid) + "-987654"};
}

inline NewJob sample_job(const std::string& name = "render", Timestamp submit = at(0)) {
  NewJob job;
  job.spec.name = name;
  job.spec.argv = {"/bin/true", "--frame", "12 \"quoted\""};
  job.spec.current_working_directory = "/tmp";
  job.spec.environment = {{"SECRET", "x=y\nz"}};
  job.spec.account = "films";
  job.spec.cpus_per_task = 2;
  job.spec.memory_per_node = Bytes{512} << 20;
  job.user = "ada";
  job.user_id = 1001;
  job.job_user = "render";
  job.job_user_id = 1002;
  job.host = "node1";
  job.submit = submit;
  return job;
}

inline Allocation sample_allocation() {
  return {"cpu0-1", {0, 1}, {0}, Bytes{512} << 20};
}

inline Outcome ended(JobState state, Cause cause, int exit_code = 0, int signal = 0) {
  Outcome outcome;
  outcome.state = state;
  outcome.cause = cause;
  outcome.exit_code = exit_code;
  outcome.signal = signal;
  outcome.message = "it ended";
  return outcome;
}

inline Outcome never_ran(JobState state, Cause cause) {
  Outcome outcome = ended(state, cause);
  outcome.exit_code.reset();
  return outcome;
}

inline Outcome completed() {
  return ended(JobState::completed, Cause::exited);
}

/// Runs `body` in a process of its own that never comes back to the test's code.
template <typename Body>
pid_t start_process(Body&& body) {
  const pid_t pid = ::fork();
  REQUIRE(pid >= 0);
  if (pid == 0) {
    try {
      std::forward<Body>(body)();
      ::_exit(0);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "process %d: %s\n", ::getpid(), error.what());
      ::_exit(1);
    }
  }
  return pid;
}

inline int wait_status(pid_t pid) {
  int status = 0;
  REQUIRE(::waitpid(pid, &status, 0) == pid);
  return status;
}

/// The message of the StoreError that `body` throws; fails the test when it throws none.
template <typename Body>
std::string store_error(Body&& body) {
  try {
    std::forward<Body>(body)();
  } catch (const StoreError& error) {
    return error.what();
  }
  FAIL("no StoreError was thrown");
  return "";
}

}  // namespace berth
