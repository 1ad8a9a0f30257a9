// Controllers, accounting, delegation.
#include <fcntl.h>
#include <unistd.h>

#include "executor/cgroup.h"
#include "executor/cgroup_files.h"
#include "executor/doctor.h"
#include "executor/os/syscall.h"

namespace berth {
namespace {

/// Reasons read "what is so; what to do".
struct Reason {
  std::string what;
  std::string remedy;
};

Reason split_reason(const std::string& reason, const char* general_remedy) {
  const std::size_t split = reason.find("; ");
  return split == std::string::npos ? Reason{reason, general_remedy}
                                    : Reason{reason.substr(0, split), reason.substr(split + 2)};
}

/// Jobs run all the same, kept together by their pid namespaces; those that ask for what is lacked are
/// refused.
Finding lack(const std::string& subject, const std::string& reason, const char* general_remedy) {
  const auto [what, remedy] = split_reason(reason, general_remedy);
  return limited(subject, what, remedy);
}

/// Jobs are kept apart by plain cpusets all the same.
Finding lack_of_partitions(const std::string& reason) {
  const auto [what, remedy] = split_reason(reason, "see controller cpuset");
  return limited("cpuset partitions", "plain cpusets are used: " + what, remedy);
}

Finding examine_controller(const CgroupMachine& machine, const CgroupTree& tree, Controller controller) {
  const std::string name = std::string("controller ") + to_string(controller);
  const ControllerMount& where = machine.at(controller);
  if (!tree.usable(controller)) {
    return lack(name, tree.reason_unusable(controller),
                "use a distribution's kernel, or boot with cgroup v2");
  }
  const std::string subject = name + " (v" + std::to_string(where.version) + ")";
  if (where.mount_point.empty()) {
    return ok(subject, "mounted by berth itself when a job needs it");
  }
  return ok(subject, where.mount_point + ", own cgroup " + where.own_path);
}

Finding examine_swap(const CgroupTree& tree) {
  if (tree.accounts_swap()) {
    return ok("swap accounting", "limits.swap can be enforced");
  }
  if (!tree.usable(Controller::memory)) {
    return lack("swap accounting", tree.reason_unusable(Controller::memory), "see controller memory");
  }
  return limited("swap accounting", "the memory controller counts no swap",
                 "boot with swapaccount=1 (cgroup v1), or use a kernel with CONFIG_SWAP");
}

Finding examine_pressure(const CgroupMachine& machine) {
  const int fd = try_open_at(AT_FDCWD, "/proc/pressure/cpu", O_RDONLY);
  const UniqueFd owner{fd};
  char byte = 0;
  if (fd < 0 || ::read(fd, &byte, 1) != 1) {
    return limited("pressure stall information",
                   "the kernel keeps none: stall times are left out of the accounting",
                   "boot with psi=1 (needs CONFIG_PSI)");
  }
  if (machine.unified.version != 2) {
    return limited("pressure stall information", "for the machine only: " + machine.unified.reason,
                   "mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified");
  }
  return ok("pressure stall information", "per job, from the v2 tree");
}

void examine_job_cgroup(CgroupTree& tree, const CgroupMachine& machine, Findings& findings) {
  const std::unique_ptr<JobCgroup> job = tree.make_job("doctor", {});
  const int v2 = job->clone_into_descriptor();
  const bool can_freeze = tree.usable(Controller::freezer);
  if (v2 >= 0) {
    findings.push_back(ok("birth in a cgroup", "CLONE_INTO_CGROUP works"));
  } else {
    const std::string reason = machine.unified.version != 2 ? machine.unified.reason
                               : can_freeze                 ? "clone3(2) does not know CLONE_INTO_CGROUP here"
                                                            : "berth has no cgroup of its own here";
    findings.push_back(
        limited("birth in a cgroup", reason,
                "Linux 5.7 or later and a cgroup v2 tree are needed; without, each start is slower"));
  }
  if (v2 >= 0 && ::faccessat(v2, "cgroup.kill", F_OK, 0) == 0) {
    findings.push_back(ok("cgroup.kill", "a job is killed as one"));
  } else if (can_freeze) {
    findings.push_back(limited("cgroup.kill", "missing; the freezer is used to kill without a race",
                               "Linux 5.14 or later and a cgroup v2 tree are needed"));
  } else {
    findings.push_back(lack("cgroup.kill", tree.reason_unusable(Controller::freezer),
                            "Linux 5.14 or later and a cgroup v2 tree are needed"));
  }
}

Finding examine_favordynmods() {
  const std::string mounts = read_file_at(AT_FDCWD, "/proc/self/mountinfo");
  bool set = false;
  for (const CgroupMountLine& mount : parse_cgroup_mounts(mounts)) {
    for (const std::string& option : mount.controllers) {
      set = set || option == "favordynmods";
    }
  }
  // berth never sets it: it slows forks and exits of the whole host a little, and stays until a reboot.
  return ok("favordynmods", set ? "set: moving processes between cgroups is cheap"
                                : "not set: berth lets jobs be born in their cgroups, so nothing is lost");
}

Finding examine_partitions(CgroupTree& tree) {
  const std::string reason = tree.why_no_partitions();
  return reason.empty()
             ? ok("cpuset partitions", "--slots-partition can keep everything else off the CPUs of jobs")
             : lack_of_partitions(reason);
}

Finding examine_delegation(const CgroupMachine& machine, const CgroupTree& tree) {
  if (machine.unified.version != 2) {
    return ok("cgroup delegation", "cgroup v1 only: berth needs root");
  }
  if (machine.at(Controller::memory).version == 1) {
    return ok("cgroup delegation", "limits come from cgroup v1: berth needs root for them");
  }
  if (tree.usable(Controller::memory) && tree.usable(Controller::pids)) {
    return ok("cgroup delegation", "cgroup " + machine.unified.own_path + " passes its controllers on");
  }
  const std::string reason = tree.reason_unusable(Controller::memory);
  return lack("cgroup delegation", reason.empty() ? tree.reason_unusable(Controller::pids) : reason,
              "systemd-run --user --scope -p Delegate=yes berth …");
}

}  // namespace

Findings examine_cgroups() {
  Findings findings;
  try {
    const CgroupMachine machine = detect_cgroups();
    const std::unique_ptr<CgroupTree> tree =
        CgroupTree::create(machine, "doctor-" + std::to_string(::getpid()));
    for (std::size_t i = 0; i < kControllerCount; ++i) {
      findings.push_back(examine_controller(machine, *tree, static_cast<Controller>(i)));
    }
    findings.push_back(examine_delegation(machine, *tree));
    findings.push_back(examine_partitions(*tree));
    findings.push_back(examine_swap(*tree));
    findings.push_back(examine_pressure(machine));
    examine_job_cgroup(*tree, machine, findings);
    findings.push_back(examine_favordynmods());
  } catch (const std::system_error& error) {
    findings.push_back(missing("cgroups", error.what(),
                               "run berth as root, or in a delegated cgroup: systemd-run "
                               "--user --scope -p Delegate=yes berth …"));
  }
  return findings;
}

}  // namespace berth
