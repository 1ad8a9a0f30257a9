#include "tests/bench/contender.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <stdexcept>
#include <thread>

#include "executor/os/syscall.h"

extern char** environ;

namespace berth::bench {
namespace {

[[noreturn]] void fail(const std::string& name, const std::string& what) {
  throw std::runtime_error(name + ": " + what);
}

}  // namespace

void Contender::rest(std::chrono::milliseconds time) {
  std::this_thread::sleep_for(time);
}

Spawned::Spawned(std::string name, std::vector<std::string> command)
    : Contender(std::move(name)), command_(std::move(command)) {}

void Spawned::begin(unsigned slot) {
  std::vector<std::string> words = command_;
  std::vector<char*> arguments;
  for (std::string& word : words) {
    if (const auto place = word.find("{}"); place != std::string::npos) {
      word.replace(place, 2, std::to_string(++serial_));
    }
    arguments.push_back(word.data());
  }
  arguments.push_back(nullptr);
  Child child;
  child.slot = slot;
  if (const int error = posix_spawnp(&child.pid, arguments[0], nullptr, nullptr, arguments.data(), environ);
      error != 0) {
    fail(name(), "posix_spawn: " + std::generic_category().message(error));
  }
  child.pidfd.reset(
      static_cast<int>(check(::syscall(SYS_pidfd_open, child.pid, 0), "pidfd_open", command_[0])));
  children_.push_back(std::move(child));
}

std::vector<unsigned> Spawned::wait() {
  std::vector<unsigned> free;
  if (children_.size() > 1) {  // waitpid(-1) would take the executor's children too
    std::vector<pollfd> descriptors;
    for (const Child& child : children_) {
      descriptors.push_back({child.pidfd.get(), POLLIN, 0});
    }
    retry_eintr([&] { return ::poll(descriptors.data(), descriptors.size(), -1); });
  }
  const int flags = children_.size() > 1 ? WNOHANG : 0;
  for (auto child = children_.begin(); child != children_.end();) {
    int status = 0;
    if (check(retry_eintr([&] { return ::waitpid(child->pid, &status, flags); }), "waitpid", command_[0]) ==
        0) {
      ++child;
      continue;
    }
    if (status != 0) {
      fail(name(), "ended with wait status " + std::to_string(status));
    }
    free.push_back(child->slot);
    child = children_.erase(child);
  }
  return free;
}

Served::Served(std::string name, const std::string& shell_command, unsigned slots)
    : Contender(std::move(name)) {
  for (unsigned slot = 0; slot < slots; ++slot) {
    FdPair requests = make_pipe();
    FdPair answers = make_pipe();
    Server server;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, requests.first.get(), STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, answers.second.get(), STDOUT_FILENO);
    const std::string script = "exec " + shell_command;
    const char* arguments[] = {"sh", "-c", script.c_str(), nullptr};
    const int error =
        posix_spawnp(&server.pid, "sh", &actions, nullptr, const_cast<char**>(arguments), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error != 0) {
      fail(this->name(), "posix_spawn: " + std::generic_category().message(error));
    }
    server.requests = std::move(requests.second);
    server.answers = std::move(answers.first);
    servers_.push_back(std::move(server));
  }
}

Served::~Served() {
  for (Server& server : servers_) {
    server.requests.reset();
    server.answers.reset();
    ::waitpid(server.pid, nullptr, 0);
  }
}

void Served::begin(unsigned slot) {
  if (::write(servers_[slot].requests.get(), "x", 1) != 1) {
    fail(name(), "does not take requests");
  }
  servers_[slot].busy = true;
}

std::vector<unsigned> Served::wait() {
  std::vector<pollfd> descriptors;
  for (const Server& server : servers_) {
    descriptors.push_back({server.busy ? server.answers.get() : -1, POLLIN, 0});
  }
  retry_eintr([&] { return ::poll(descriptors.data(), descriptors.size(), -1); });
  std::vector<unsigned> free;
  for (unsigned slot = 0; slot < servers_.size(); ++slot) {
    if (descriptors[slot].revents == 0) {
      continue;
    }
    char byte = 0;
    if (::read(servers_[slot].answers.get(), &byte, 1) != 1) {
      fail(name(), "ended");
    }
    servers_[slot].busy = false;
    free.push_back(slot);
  }
  return free;
}

Berth::Berth(std::string name, JobSpec spec, unsigned armed_ahead, std::vector<CpuSet> slots)
    : Contender(std::move(name)),
      executor_({.cgroup = "bench-" + std::to_string(::getpid()) + "-" +
                           network_mode_text(spec.isolation.network) + (armed_ahead > 0 ? "-armed" : ""),
                 .armed_ahead = armed_ahead}),
      spec_(std::move(spec)),
      identity_(resolve_identity("")),
      slots_(std::move(slots)) {
  executor_.check_supported(spec_, calling_user());
}

void Berth::begin(unsigned slot) {
  LaunchRequest request;
  request.job_id = next_++;
  request.spec = spec_;
  request.allocation = {"slot" + std::to_string(slot), slots_[slot], CpuSet{0},
                        spec_.memory_per_node.value_or(0)};
  request.identity = identity_;
  running_.emplace_back(request.job_id, slot);
  executor_.launch(std::move(request));
}

std::vector<unsigned> Berth::take_events() {
  std::vector<unsigned> free;
  for (const ExecutorEvent& event : executor_.dispatch()) {
    const auto* ended = std::get_if<Ended>(&event);
    if (ended == nullptr) {
      continue;
    }
    if (ended->outcome.state != JobState::completed || !ended->usage.cpu_total) {
      fail(name(), "job " + std::to_string(ended->job_id) + ": " + ended->outcome.message);
    }
    for (auto job = running_.begin(); job != running_.end(); ++job) {
      if (job->first == ended->job_id) {
        free.push_back(job->second);
        running_.erase(job);
        break;
      }
    }
  }
  return free;
}

std::vector<unsigned> Berth::wait() {
  while (true) {
    if (std::vector<unsigned> free = take_events(); !free.empty()) {
      return free;
    }
    pollfd descriptor{executor_.event_descriptor(), POLLIN, 0};
    retry_eintr([&] { return ::poll(&descriptor, 1, -1); });
  }
}

void Berth::rest(std::chrono::milliseconds time) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (true) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    if (left.count() <= 0) {
      return;
    }
    pollfd descriptor{executor_.event_descriptor(), POLLIN, 0};
    if (::poll(&descriptor, 1, static_cast<int>(left.count())) > 0) {
      take_events();
    }
  }
}

}  // namespace berth::bench
