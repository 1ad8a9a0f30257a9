#include "scheduler/recovery.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <ctime>
#include <exception>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "scheduler/small_file.h"

namespace berth {
namespace {

std::string read_boot_id(const std::string& proc) {
  return read_first_line(proc + "/sys/kernel/random/boot_id");
}

/// What ends the cgroup names of berths whose pids have their meaning in this process's pid namespace:
/// nothing in the machine's, or where that cannot be read, else "-INODE".
const std::string& namespace_suffix() {
  constexpr std::uint64_t kMachines = 0xEFFFFFFC;  // PROC_PID_INIT_INO, include/linux/proc_ns.h
  static const std::string kSuffix = [] {
    struct stat status {};
    const bool is_known = ::stat("/proc/self/ns/pid", &status) == 0;
    return is_known && status.st_ino != kMachines ? "-" + std::to_string(status.st_ino) : "";
  }();
  return kSuffix;
}

struct ProcessStat {
  std::string state;
  std::uint64_t start_time = 0;
};

/// proc_pid_stat(5): "pid (comm) state ppid …", starttime is field 22. comm may hold spaces and parentheses,
/// so fields are counted from the last ')'.
std::optional<ProcessStat> read_stat(const std::string& proc, const std::string& pid) {
  const std::string text = read_small_file(proc + "/" + pid + "/stat").value_or("");
  const std::size_t comm_end = text.rfind(") ");
  if (comm_end == std::string::npos) {
    return std::nullopt;
  }
  std::string_view fields = std::string_view(text).substr(comm_end + 2);
  ProcessStat stat;
  stat.state = take_until(fields, ' ');
  constexpr int kFieldAfterState = 4;
  constexpr int kStartTimeField = 22;
  for (int field = kFieldAfterState; field < kStartTimeField; ++field) {
    take_until(fields, ' ');
  }
  const std::optional<std::uint64_t> start_time = to_number(take_until(fields, ' '));
  if (!start_time) {
    return std::nullopt;
  }
  stat.start_time = *start_time;
  return stat;
}

Outcome node_failure(const Supervisor& supervisor, bool same_boot, bool had_started) {
  Outcome outcome;
  outcome.state = JobState::node_fail;
  outcome.cause = Cause::node_fail;
  const std::string who = "the berth that ran it (pid " + std::to_string(supervisor.pid) + ")";
  outcome.message = (same_boot ? who + " died" : "the machine was restarted under " + who) +
                    (!had_started ? " before it could start"
                     : same_boot  ? ", or could not record its end"
                                  : "");
  return outcome;
}

/// The recovery of one dead supervisor's jobs and leftovers.
class DeadSupervisor {
 public:
  DeadSupervisor(const Supervisor& supervisor, const RecoveryActions& actions, RecoveryReport& report)
      : supervisor_(supervisor),
        actions_(actions),
        report_(report),
        same_boot_(actions.is_of_this_boot(supervisor)) {}

  /// Ends its jobs with one commit: there may be many thousands that only waited.
  void close(JobStore& store, const std::vector<OpenAttempt>& open_attempts, Timestamp now) {
    std::vector<std::pair<OpenAttempt, Usage>> ends;
    for (const OpenAttempt& open : open_attempts) {
      if (open.supervisor == supervisor_) {
        ends.emplace_back(open, last_usage(open));
      }
    }
    std::vector<JobId> failed;
    store.together([&] {
      for (const auto& [open, usage] : ends) {
        const Outcome outcome = node_failure(supervisor_, same_boot_, open.attempt > 0);
        const Timestamp end = latest_end(same_boot_, open.start, now);
        if (store.finish(open.job_id, open.attempt, outcome, usage, end)) {
          failed.push_back(open.job_id);
        }
      }
    });
    report_.node_failed.insert(report_.node_failed.end(), failed.begin(), failed.end());
  }

  void remove() {
    if (same_boot_ && actions_.remove) {
      guarded("cgroup " + supervisor_.cgroup, [&] { actions_.remove(supervisor_); });
    }
  }
  /// What no database asks for.
  void remove_unclaimed() {
    if (same_boot_ && actions_.remove_unclaimed) {
      guarded("cgroup " + supervisor_.cgroup, [&] { actions_.remove_unclaimed(supervisor_); });
    }
  }

 private:
  Usage last_usage(const OpenAttempt& open) {
    Usage usage;
    if (open.attempt > 0 && same_boot_ && actions_.collect) {
      guarded("job " + std::to_string(open.job_id),
              [&] { usage = actions_.collect(supervisor_, open.job_id, open.attempt).value_or(Usage{}); });
    }
    return usage;
  }

  template <typename Action>
  void guarded(const std::string& subject, Action action) {
    try {
      action();
    } catch (const std::exception& error) {
      report_.problems.push_back("leftovers of " + subject + ": " + error.what());
    }
  }

  const Supervisor& supervisor_;
  const RecoveryActions& actions_;
  RecoveryReport& report_;
  bool same_boot_;
};

}  // namespace

Supervisor make_supervisor(const std::string& boot_id, std::int64_t pid, std::uint64_t start_time) {
  return {boot_id, pid, start_time,
          "run-" + std::to_string(pid) + "-" + std::to_string(start_time) + namespace_suffix()};
}

std::optional<Supervisor> supervisor_of_cgroup(const std::string& cgroup, const std::string& proc) {
  long long pid = 0;
  unsigned long long start_time = 0;
  int length = 0;
  if (std::sscanf(cgroup.c_str(), "run-%lld-%llu%n", &pid, &start_time, &length) != 2 ||
      cgroup.substr(static_cast<std::size_t>(length)) != namespace_suffix()) {
    return std::nullopt;
  }
  return make_supervisor(read_boot_id(proc), pid, start_time);
}

Supervisor this_supervisor() {
  const std::string boot_id = read_boot_id("/proc");
  const std::optional<ProcessStat> stat = read_stat("/proc", "self");
  if (boot_id.empty() || !stat) {
    throw std::system_error(errno != 0 ? errno : ENOENT, std::generic_category(),
                            "read /proc/self/stat and /proc/sys/kernel/random/boot_id (is /proc mounted?)");
  }
  return make_supervisor(boot_id, ::getpid(), stat->start_time);
}

bool of_this_boot(const Supervisor& supervisor, const std::string& proc) {
  return supervisor.boot_id == read_boot_id(proc);
}

bool supervisor_alive(const Supervisor& supervisor, const std::string& proc) {
  const std::string boot_id = read_boot_id(proc);
  if (boot_id.empty()) {
    return true;  // without /proc nobody can be declared dead
  }
  if (boot_id != supervisor.boot_id) {
    return false;
  }
  const std::optional<ProcessStat> stat = read_stat(proc, std::to_string(supervisor.pid));
  const bool ended = !stat || stat->state == "Z" || stat->state == "X";
  return !ended && stat->start_time == supervisor.start_time;
}

Timestamp boot_instant(Timestamp now) {
  timespec since{};
  ::clock_gettime(CLOCK_BOOTTIME, &since);
  return now - std::chrono::seconds(since.tv_sec) -
         std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::nanoseconds(since.tv_nsec));
}

Timestamp latest_end(bool same_boot, const std::optional<Timestamp>& start, Timestamp now) {
  const Timestamp end = same_boot ? now : boot_instant(now);
  return start ? std::max(end, *start) : end;
}

RecoveryReport recover(JobStore& store, const RecoveryActions& actions, Timestamp now) {
  RecoveryReport report;
  const std::vector<OpenAttempt> open_attempts = store.open_attempts();
  std::vector<Supervisor> seen;
  for (const OpenAttempt& first : open_attempts) {
    if (std::find(seen.begin(), seen.end(), first.supervisor) != seen.end()) {
      continue;
    }
    seen.push_back(first.supervisor);
    if (actions.is_alive(first.supervisor)) {
      continue;
    }
    DeadSupervisor dead(first.supervisor, actions, report);
    dead.close(store, open_attempts, now);
    dead.remove();
  }
  for (const std::string& cgroup : actions.list ? actions.list() : std::vector<std::string>()) {
    const std::optional<Supervisor> named = supervisor_of_cgroup(cgroup);
    if (named && actions.is_alive(*named)) {
      continue;  // as nearly all are; the database would have to read all that ever used it
    }
    const LeftoverOwner database = actions.owner ? actions.owner(cgroup) : LeftoverOwner::unknown;
    const std::optional<Supervisor> recorded =
        database == LeftoverOwner::other ? std::nullopt : store.find_supervisor(cgroup);
    const std::optional<Supervisor> owner = recorded ? recorded : named;  // else of another pid namespace
    if (!owner || std::find(seen.begin(), seen.end(), *owner) != seen.end() || actions.is_alive(*owner)) {
      continue;
    }
    if (recorded) {
      DeadSupervisor(*owner, actions, report).remove();
    } else if (database == LeftoverOwner::gone || database == LeftoverOwner::own) {
      // Its own, when it is not recorded, is one of this name that was removed meanwhile.
      DeadSupervisor(*owner, actions, report).remove_unclaimed();
    } else if (actions.remove_empty) {
      actions.remove_empty(cgroup);  // else the next command of its database needs it
    }
  }
  std::sort(report.node_failed.begin(), report.node_failed.end());
  return report;
}

}  // namespace berth
