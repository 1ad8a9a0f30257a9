// Getting controllers on cgroup v2: the rules about processes in inner nodes, and delegation.
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <thread>

#include "executor/cgroup_detect.h"
#include "executor/cgroup_files.h"
#include "executor/cgroup_v2.h"
#include "executor/os/syscall.h"

namespace berth {
namespace {

/// Names that cgroup.subtree_control takes; cpuacct, devices and freezer need no enabling.
constexpr std::pair<Controller, const char*> kEnabled[] = {
    {Controller::cpu, "cpu"},   {Controller::cpuset, "cpuset"}, {Controller::memory, "memory"},
    {Controller::pids, "pids"}, {Controller::blkio, "io"},      {Controller::hugetlb, "hugetlb"},
};

std::vector<std::string> words_of(int directory, const char* file) {
  char buffer[1024];
  return parse_words(read_control(directory, file, buffer));
}

bool has(const std::vector<std::string>& words, std::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

/// The parent of `pid`, 0 when unknown. proc_pid_stat(5): the name may hold anything, so from its last ')'.
pid_t parent_of(pid_t pid) {
  const std::string path = "/proc/" + std::to_string(pid) + "/stat";
  const UniqueFd fd{try_open_at(AT_FDCWD, path.c_str(), O_RDONLY)};
  char buffer[1024] = {};
  const ssize_t count = fd ? ::read(fd.get(), buffer, sizeof buffer - 1) : 0;
  const std::string_view text(buffer, static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
  const std::size_t end = text.rfind(") ");
  if (end == std::string_view::npos || end + 4 > text.size()) {
    return 0;
  }
  return static_cast<pid_t>(std::strtol(buffer + end + 4, nullptr, 10));
}

bool descends_from_us(pid_t pid) {
  const pid_t us = ::getpid();
  for (int depth = 0; pid > 1 && depth < 64; ++depth) {
    if (pid == us) {
      return true;
    }
    pid = parent_of(pid);
  }
  return false;
}

/// systemd marks what it delegates by an extended attribute; a manager of users' own also gives the directory
/// to the user. Without systemd nobody else claims the tree.
bool is_delegated(int own) {
  struct stat status {};
  if (::geteuid() != 0) {
    return ::fstat(own, &status) == 0 && status.st_uid == ::geteuid();
  }
  if (::access("/run/systemd/system", F_OK) != 0) {
    return true;
  }
  char value[8];
  return ::fgetxattr(own, "trusted.delegate", value, sizeof value) > 0 ||
         ::fgetxattr(own, "user.delegate", value, sizeof value) > 0;
}

/// Why the processes of own are not berth's to move, or nothing.
std::string why_not_ours(int own, const std::string& own_path) {
  if (!is_delegated(own)) {
    return "this process's cgroup " + own_path + " is not delegated to it; " + kDelegateRemedy;
  }
  for (const pid_t pid : read_processes(own)) {
    // One that ended since the list was read tells no parent any more: the launcher's helpers are that short.
    const auto is_gone = [&] { return ::kill(pid, 0) != 0 && errno == ESRCH; };
    if (!descends_from_us(pid) && !is_gone()) {
      return "this process's cgroup " + own_path + " holds other processes (pid " + std::to_string(pid) +
             "), so v2 lets it pass no controller on; " + kDelegateRemedy;
    }
  }
  return {};
}

/// Empties own by moving its processes, all ours, to own/berth/daemon. Returns why not, or nothing.
std::string vacate(Hierarchy& hierarchy) {
  const int own = hierarchy.own.get();
  if (std::string reason = why_not_ours(own, hierarchy.own_path); !reason.empty()) {
    return reason;
  }
  if (::mkdirat(hierarchy.berth.get(), kDaemonDirectory, 0755) != 0 && errno != EEXIST) {
    return std::string("cannot make ") + hierarchy.berth_path() + "/" + kDaemonDirectory + ": " +
           std::generic_category().message(errno);
  }
  const std::string procs = std::string(kDaemonDirectory) + "/cgroup.procs";
  // A child that was forked meanwhile shows up in the next round, and one that ends stays for a moment.
  constexpr int kRounds = 1000;
  for (int round = 0; round < kRounds; ++round) {
    if (round > 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    const std::vector<pid_t> pids = read_processes(own);
    if (pids.empty()) {
      hierarchy.moved_to_daemon = true;
      return {};
    }
    for (const pid_t pid : pids) {
      const int error_number =
          write_at(hierarchy.berth.get(), procs.c_str(), NumberText(static_cast<std::uint64_t>(pid)));
      if (error_number != 0 && error_number != ESRCH) {
        return "cannot move pid " + std::to_string(pid) + " to " + hierarchy.berth_path() + "/" +
               kDaemonDirectory + ": " + std::generic_category().message(error_number) + "; " +
               kDelegateRemedy;
      }
    }
  }
  return "processes keep appearing in " + hierarchy.own_path;
}

/// Moves every process of berth's from own/berth/daemon back to own: its launcher, too, outlives the tree.
/// False while own is still an inner node.
bool leave_daemon(const Hierarchy& hierarchy) {
  const UniqueFd daemon{
      try_open_at(hierarchy.berth.get(), kDaemonDirectory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)};
  if (!daemon || write_at(hierarchy.own.get(), "cgroup.procs",
                          NumberText(static_cast<std::uint64_t>(::getpid()))) != 0) {
    return false;
  }
  for (const pid_t pid : read_processes(daemon.get())) {
    if (descends_from_us(pid)) {
      write_at(hierarchy.own.get(), "cgroup.procs", NumberText(static_cast<std::uint64_t>(pid)));
    }
  }
  return true;
}

std::string why_not_enabled(const Hierarchy& hierarchy, int error_number) {
  switch (error_number) {
    case EBUSY:
      return "cgroup " + hierarchy.own_path + " has processes of its own; " + kDelegateRemedy;
    case EACCES:
    case EPERM:
      return "no permission to change cgroup " + hierarchy.own_path + "; " + kDelegateRemedy;
    default:
      return "cgroup.subtree_control of " + hierarchy.own_path + ": " +
             std::generic_category().message(error_number);
  }
}

/// Why a controller is not to be had although the kernel has it: the parent does not pass it on.
std::string why_not_passed_on(const Hierarchy& hierarchy, const char* name) {
  return "cgroup.controllers of " + hierarchy.own_path + " does not list " + name + "; " + kDelegateRemedy;
}

}  // namespace

void enable_controllers_v2(Hierarchy& hierarchy, OwnCgroup rule, Reasons& reasons) {
  const int own = hierarchy.own.get();
  const std::vector<std::string> available = words_of(own, "cgroup.controllers");
  const std::vector<std::string> enabled = words_of(own, "cgroup.subtree_control");
  const bool is_root = ::faccessat(own, "cgroup.type", F_OK, 0) != 0;  // the root alone has no such file
  std::optional<std::string> vacated;                                  // asked once; its reason, or empty
  for (const auto& [controller, name] : kEnabled) {
    if (!hierarchy.controllers.contains(controller)) {
      continue;
    }
    std::string& reason = reasons[static_cast<std::size_t>(controller)];
    std::string plus(1, '+');
    plus += name;
    if (!has(available, name)) {
      reason = why_not_passed_on(hierarchy, name);
    } else if (!has(enabled, name)) {
      if (rule == OwnCgroup::leave_alone) {
        reason =
            "the v2 tree of this hybrid machine does not pass " + std::string(name) +
            " on to children, and berth does not change it; boot with systemd.unified_cgroup_hierarchy=1";
      } else {
        if (!is_root && !vacated) {
          vacated = read_processes(own).empty() ? std::string() : vacate(hierarchy);
        }
        reason = vacated.value_or("");
        if (reason.empty()) {
          if (const int error_number = write_at(own, "cgroup.subtree_control", plus)) {
            reason = why_not_enabled(hierarchy, error_number);
          } else {
            hierarchy.added_to_own.append(hierarchy.added_to_own.empty() ? "" : " ").append(name);
          }
        }
      }
    }
    for (const int below : {hierarchy.berth.get(), hierarchy.tree.get()}) {
      if (reason.empty()) {
        if (const int error_number = write_at(below, "cgroup.subtree_control", plus)) {
          reason = why_not_enabled(hierarchy, error_number);
        }
      }
    }
    if (!reason.empty()) {
      hierarchy.controllers.erase(controller);
    }
  }
}

bool lacks_delegation(const CgroupMachine& machine) {
  const bool has_v1 =
      std::any_of(machine.controllers.begin(), machine.controllers.end(),
                  [](const auto& where) { return where.version == 1 && !where.mount_point.empty(); });
  if (machine.unified.version != 2 || has_v1) {
    return false;
  }
  const std::string path = machine.unified.mount_point + machine.unified.own_path;
  const UniqueFd own{try_open_at(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY)};
  if (!own || ::faccessat(own.get(), "cgroup.type", F_OK, 0) != 0) {
    return false;  // the root passes on whatever it likes
  }
  const std::vector<std::string> available = words_of(own.get(), "cgroup.controllers");
  const std::vector<std::string> enabled = words_of(own.get(), "cgroup.subtree_control");
  // The two without which no job can be limited.
  const auto is_passed_on = [&](const char* name) { return has(enabled, name); };
  if (is_passed_on("memory") && is_passed_on("pids") && ::faccessat(own.get(), ".", W_OK, AT_EACCESS) == 0) {
    return false;
  }
  return !has(available, "memory") || !has(available, "pids") ||
         !why_not_ours(own.get(), machine.unified.own_path).empty();
}

void restore_own_v2(Hierarchy& hierarchy) noexcept {
  // Only where berth had to move itself is its own cgroup its alone. Elsewhere, at the root, someone else
  // may have come to rely on a controller that it saw enabled: it stays.
  if (!hierarchy.moved_to_daemon) {
    return;
  }
  std::string_view names = hierarchy.added_to_own;
  while (!names.empty()) {
    const std::string_view name = names.substr(0, names.find(' '));
    names.remove_prefix(std::min(names.size(), name.size() + 1));
    char text[32] = "-";
    const std::size_t length = std::min(name.size(), sizeof text - 1);
    name.copy(text + 1, length);
    write_at(hierarchy.berth.get(), "cgroup.subtree_control", {text, length + 1});
    write_at(hierarchy.own.get(), "cgroup.subtree_control", {text, length + 1});
  }
  hierarchy.added_to_own.clear();
  if (leave_daemon(hierarchy)) {
    hierarchy.moved_to_daemon = false;
    // The launcher may be ending: then it is not moved, and keeps the cgroup until it has gone.
    remove_cgroup(hierarchy.berth.get(), kDaemonDirectory, std::chrono::seconds(2));
  }
}

bool has_clone_into_cgroup() noexcept {
  // Older kernels do not know of `cgroup` and say E2BIG as it is not zero, a container's seccomp filter says
  // ENOSYS or EPERM. Where it is known, flags that cannot go together are the first thing to be refused,
  // before anything is copied.
  clone_args arguments{};
  arguments.flags = CLONE_INTO_CGROUP | CLONE_NEWNS | CLONE_FS;
  arguments.cgroup = INT32_MAX;
  const long result = ::syscall(SYS_clone3, &arguments, sizeof arguments);
  if (result == 0) {
    ::_exit(0);  // cannot be: the descriptor is not open either
  }
  return result < 0 && errno == EINVAL;
}

}  // namespace berth
