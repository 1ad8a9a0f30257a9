// Killing and freezing every process of a job, without a race against a fork bomb.
#include <signal.h>

#include <cerrno>
#include <chrono>
#include <ctime>

#include "executor/cgroup_files.h"
#include "executor/cgroup_job.h"

namespace berth {
namespace {

void sleep_1ms() {
  const timespec request{0, 1'000'000};
  ::nanosleep(&request, nullptr);
}

/// SIGKILL to each process; false when there was none.
bool signal_all(int directory) {
  const std::vector<pid_t> pids = read_processes(directory);
  for (const pid_t pid : pids) {
    ::kill(pid, SIGKILL);
  }
  return !pids.empty();
}

/// Waits until every task is frozen, so that none forks while the list is read and no listed pid can be
/// freed and used anew: freezer.state says FREEZING until then, and for as long as one is in uninterruptible
/// sleep.
void wait_until_frozen(int directory, const Deadline& deadline) {
  char buffer[64];
  while (read_control(directory, "freezer.state", buffer).starts_with("FREEZING") &&
         deadline.left().count() > 0) {
    sleep_1ms();
  }
}

}  // namespace

void OpenJobCgroup::kill_all(std::chrono::milliseconds patience) {
  // cgroup.kill (Linux 5.14) also kills what is being forked at that moment: cgroup-v2.rst.
  const JobDirectory* v2 = unified();
  char buffer[256];
  if (v2 != nullptr && v2->try_write("cgroup.kill", "1") == 0) {
    const bool populated =
        parse_keyed(read_control(v2->fd.get(), "cgroup.events", buffer), "populated").value_or(0) != 0;
    const JobDirectory* v1 = witness();
    if (populated || v1 == nullptr || read_control(v1->fd.get(), "cgroup.procs", buffer).empty()) {
      return;
    }
  }
  // A process listed in a frozen cgroup dies once it is thawed. A second round catches what was forked while
  // the freezer took hold.
  const Deadline deadline(patience);
  const JobDirectory* freezer = find(Controller::freezer);
  const bool freezes = freezer != nullptr && freezer->hierarchy->version == 1;
  const JobDirectory* pids = find(Controller::pids);
  if (!freezes && pids != nullptr && pids->try_write("pids.max", "0") == 0) {
    traces_.limits.pids = 0;  // no freezer: at least nothing forks from here on
  }
  while (true) {
    bool any = false;
    if (freezes) {
      traces_.was_frozen = true;
      freezer->try_write("freezer.state", "FROZEN");
      wait_until_frozen(freezer->fd.get(), deadline);
      any = signal_all(freezer->fd.get());
      freezer->try_write("freezer.state", "THAWED");
    } else {
      for (const JobDirectory& directory : directories_) {
        any = signal_all(directory.fd.get()) || any;
      }
    }
    if (!any || deadline.left().count() == 0) {
      return;
    }
    sleep_1ms();
  }
}

void OpenJobCgroup::freeze(bool frozen) {
  const JobDirectory* directory = find(Controller::freezer);
  if (directory == nullptr) {
    throw CgroupError(EOPNOTSUPP, "cgroup controller freezer of " + name_, "");
  }
  if (directory->hierarchy->version == 2) {
    directory->write("cgroup.freeze", frozen ? "1" : "0", name_);
  } else {
    traces_.was_frozen = true;
    directory->write("freezer.state", frozen ? "FROZEN" : "THAWED", name_);
  }
}

}  // namespace berth
