// enter_own_scope(): a delegated cgroup from systemd (org.freedesktop.systemd1(5), StartTransientUnit).
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ctime>

#include "executor/cgroup.h"
#include "executor/cgroup_v2.h"
#include "executor/os/syscall.h"

namespace berth {
namespace {

/// busctl, since it is where systemd is: a D-Bus client of our own would be a library for one call.
bool ask_systemd(const std::string& scope) {
  const std::string pid = std::to_string(::getpid());
  std::vector<std::string> words{"busctl"};
  if (::geteuid() != 0) {
    words.push_back("--user");
  }
  for (const char* word : {"--quiet", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
                           "org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))"}) {
    words.emplace_back(word);
  }
  // Name, mode; then the properties: name, type, value (an array's length first); no auxiliary units.
  for (const std::string& word : std::vector<std::string>{
           scope, "fail", "4", "Description", "s", "berth and its jobs", "PIDs", "au", "1", pid, "Delegate",
           "b", "true", "CollectMode", "s", "inactive-or-failed", "0"}) {
    words.push_back(word);
  }
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (std::string& word : words) {
    arguments.push_back(word.data());
  }
  arguments.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  for (const int fd : {0, 1, 2}) {
    ::posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
  }
  pid_t child = -1;
  const int error_number = ::posix_spawnp(&child, "busctl", &actions, nullptr, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  int status = -1;
  return error_number == 0 && retry_eintr([&] { return ::waitpid(child, &status, 0); }) == child &&
         status == 0;
}

}  // namespace

CgroupMachine enter_own_scope(const CgroupMachine& machine, bool always) {
  const bool is_wanted = lacks_delegation(machine) || (always && machine.at(Controller::memory).version == 2);
  if (!is_wanted || ::access("/run/systemd/system", F_OK) != 0) {
    return machine;
  }
  const std::string scope = "berth-" + std::to_string(::getpid()) + ".scope";
  if (!ask_systemd(scope)) {
    return machine;
  }
  // The call returns when the job is queued; the move follows.
  constexpr int kPatienceMs = 3000;
  for (int waited = 0; waited < kPatienceMs; ++waited) {
    CgroupMachine now = detect_cgroups();
    if (now.unified.own_path.ends_with("/" + scope)) {
      return now;
    }
    const timespec pause{0, 1'000'000};
    ::nanosleep(&pause, nullptr);
  }
  return machine;
}

}  // namespace berth
