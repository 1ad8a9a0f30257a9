// What this machine has: detect_cgroups().
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "executor/cgroup_detect.h"
#include "executor/cgroup_files.h"
#include "executor/cgroup_hierarchy.h"
#include "executor/os/syscall.h"

namespace berth {
namespace {

constexpr const char* kNames[kControllerCount] = {"cpu",     "cpuacct", "cpuset", "memory",  "pids",
                                                  "devices", "freezer", "blkio",  "net_cls", "hugetlb"};

/// The controller's name in cgroup.controllers; null when v2 has it in every cgroup, without enabling.
const char* unified_name(Controller controller) {
  switch (controller) {
    case Controller::blkio:
      return "io";
    case Controller::cpuacct:  // cpu.stat's usage_usec
    case Controller::devices:  // an eBPF program
    case Controller::freezer:  // cgroup.freeze
      return nullptr;
    default:
      return to_string(controller);
  }
}

/// berth moves itself to <own>/berth/daemon on v2 when it must; its own cgroup is still <own>.
std::string without_daemon(std::string path) {
  const std::string suffix = std::string("/") + kBerthDirectory + "/" + kDaemonDirectory;
  if (path.ends_with(suffix)) {
    path.resize(path.size() - suffix.size());
  }
  return path.empty() ? "/" : path;
}

template <typename Strings>
bool has(const Strings& strings, std::string_view wanted) {
  return std::find(strings.begin(), strings.end(), wanted) != strings.end();
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) {
    text += (text.empty() ? "" : ",") + word;
  }
  return text;
}

/// The mount that shows `path` best: a writable one before a read-only one.
ControllerMount locate(const std::vector<CgroupMountLine>& mounts, std::string_view v1_controller,
                       const CgroupMembership& membership) {
  ControllerMount found;
  for (const CgroupMountLine& mount : mounts) {
    const bool wanted = v1_controller.empty() ? mount.version == 2
                                              : mount.version == 1 && has(mount.controllers, v1_controller);
    if (!wanted) {
      continue;
    }
    const std::optional<std::string> below = path_below_mount(membership.path, mount.root);
    if (!below) {
      found.reason = mount.mount_point + " does not show this process's cgroup " + membership.path +
                     "; mount it anew inside this cgroup namespace";
    } else if (!mount.writable) {
      found.reason = mount.mount_point + " is mounted read-only; remount it rw";
    } else {
      ControllerMount usable;
      usable.version = mount.version;
      usable.mount_point = mount.mount_point;
      usable.own_path = without_daemon(*below);
      usable.hierarchy = joined(membership.controllers);
      return usable;
    }
  }
  return found;
}

/// Nothing mounts it. berth mounts net_cls and hugetlb itself, when root; the others are what the machine's
/// administrator chose not to have.
ControllerMount unmounted(Controller controller, const KernelController* kernel,
                          const CgroupMembership* membership, bool is_root, const ControllerMount& unified,
                          bool hybrid) {
  ControllerMount where;
  if (kernel == nullptr || !kernel->enabled) {
    where.reason = kernel == nullptr ? "this kernel was built without it; use a distribution's kernel"
                                     : "the kernel command line disables it; boot without cgroup_disable=";
    return where;
  }
  if (unified.version == 2 && !hybrid && controller != Controller::net_cls) {
    where.reason = "cgroup " + unified.own_path + " was not given it by its parent; " + kDelegateRemedy;
    return where;
  }
  if (controller != Controller::net_cls && controller != Controller::hugetlb) {
    where.reason = std::string("it is not mounted; mount -t cgroup -o ") + to_string(controller) +
                   " cgroup /sys/fs/cgroup/" + to_string(controller) + ", or boot with cgroup v2";
    return where;
  }
  if (!is_root) {
    where.reason = "it is not mounted, and only root can mount it; run berth as root";
    return where;
  }
  where.version = 1;
  where.own_path = membership == nullptr ? "/" : without_daemon(membership->path);
  where.hierarchy = membership == nullptr ? "" : joined(membership->controllers);
  return where;
}

}  // namespace

const char* to_string(Controller controller) {
  return kNames[static_cast<std::size_t>(controller)];
}

CgroupMachine detect_cgroups_from(const CgroupTexts& texts) {
  const auto mounts = parse_cgroup_mounts(texts.mountinfo);
  const auto memberships = parse_cgroup_memberships(texts.memberships);
  const auto kernel = parse_kernel_controllers(texts.kernel_controllers);

  CgroupMachine machine;
  bool hybrid = false;
  for (const CgroupMembership& membership : memberships) {
    if (membership.hierarchy == 0) {
      machine.unified = locate(mounts, {}, membership);
    } else if (!membership.controllers.empty()) {
      hybrid = hybrid || !membership.controllers[0].starts_with("name=");
    }
  }
  std::vector<std::string> unified_controllers, unified_enabled;
  if (machine.unified.version == 2) {
    const std::string directory = machine.unified.mount_point + machine.unified.own_path;
    unified_controllers = parse_words(texts.read_file(directory + "/cgroup.controllers"));
    unified_enabled = parse_words(texts.read_file(directory + "/cgroup.subtree_control"));
  } else if (machine.unified.reason.empty()) {
    machine.unified.reason = "no cgroup v2 tree is mounted; mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified";
  }

  for (std::size_t i = 0; i < kControllerCount; ++i) {
    const auto controller = static_cast<Controller>(i);
    ControllerMount& where = machine.controllers[i];
    const auto membership = std::find_if(memberships.begin(), memberships.end(), [&](const auto& line) {
      return line.hierarchy != 0 && has(line.controllers, kNames[i]);
    });
    if (membership != memberships.end()) {
      where = locate(mounts, kNames[i], *membership);
    }
    const char* name = unified_name(controller);
    // hugetlb lies in the v2 tree unless someone mounts it. The v2 tree of a hybrid machine is not berth's to
    // change: there hugetlb is used when it is enabled for children already, else it gets berth's own mount.
    const bool left_alone = hybrid && controller == Controller::hugetlb && !has(unified_enabled, "hugetlb");
    if (where.version == 0 && membership == memberships.end() && machine.unified.version == 2 &&
        !left_alone && (name == nullptr || has(unified_controllers, name))) {
      where = machine.unified;
    }
    if (where.version == 0 && where.reason.empty()) {
      const auto known = std::find_if(kernel.begin(), kernel.end(),
                                      [&](const auto& line) { return line.name == kNames[i]; });
      where = unmounted(controller, known == kernel.end() ? nullptr : &*known,
                        membership == memberships.end() ? nullptr : &*membership, texts.is_root,
                        machine.unified, hybrid);
    }
  }
  return machine;
}

CgroupMachine detect_cgroups() {
  CgroupTexts texts;
  texts.mountinfo = read_file_at(AT_FDCWD, "/proc/self/mountinfo");
  texts.memberships = read_file_at(AT_FDCWD, "/proc/self/cgroup");
  texts.read_file = [](const std::string& path) {
    char buffer[kControlFileBytes];
    return std::string(read_control(AT_FDCWD, path.c_str(), buffer));
  };
  texts.kernel_controllers = texts.read_file("/proc/cgroups");
  texts.is_root = ::geteuid() == 0;
  return detect_cgroups_from(texts);
}

}  // namespace berth
