// Kernel version, namespaces, mounts.
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "executor/cgroup_files.h"
#include "executor/doctor.h"
#include "executor/os/syscall.h"

namespace berth {
namespace {

std::string reason(int error_number) {
  return std::generic_category().message(error_number);
}

int result_to_errno(long result) {
  return result < 0 ? errno : 0;
}

struct NamespaceKind {
  const char* name;
  int flag;
  const char* option;  ///< of the kernel's configuration
};
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif
constexpr NamespaceKind kNamespaces[] = {
    {"user", CLONE_NEWUSER, "CONFIG_USER_NS"},     {"pid", CLONE_NEWPID, "CONFIG_PID_NS"},
    {"mount", CLONE_NEWNS, "CONFIG_NAMESPACES"},   {"network", CLONE_NEWNET, "CONFIG_NET_NS"},
    {"ipc", CLONE_NEWIPC, "CONFIG_IPC_NS"},        {"uts", CLONE_NEWUTS, "CONFIG_UTS_NS"},
    {"cgroup", CLONE_NEWCGROUP, "CONFIG_CGROUPS"}, {"time", CLONE_NEWTIME, "CONFIG_TIME_NS"},
};

std::optional<std::uint64_t> setting(const char* path) {
  const int fd = try_open_at(AT_FDCWD, path, O_RDONLY);
  const UniqueFd owner{fd};
  char buffer[64];
  const ssize_t count = fd < 0 ? 0 : ::read(fd, buffer, sizeof buffer);
  return parse_number({buffer, static_cast<std::size_t>(count > 0 ? count : 0)});
}

/// A process without privileges makes a user namespace and uses its capabilities there. AppArmor's
/// restriction (Ubuntu 23.10 and later) lets it make one but takes the capabilities away.
int try_unprivileged() {
  constexpr unsigned kNobody = 65534;
  if (::geteuid() == 0 &&
      (::setresgid(kNobody, kNobody, kNobody) != 0 || ::setresuid(kNobody, kNobody, kNobody) != 0)) {
    return errno;
  }
  if (::unshare(CLONE_NEWUSER) != 0) {
    return errno;
  }
  return result_to_errno(::unshare(CLONE_NEWUTS));
}

Finding examine_unprivileged() {
  const std::string subject = "user namespaces without privileges";
  const int error_number = errno_in_child(try_unprivileged);
  if (error_number == 0) {
    return ok(subject, "a process without privileges can make one");
  }
  std::string detail = "refused: " + reason(error_number);
  std::string remedy = "run berth as root";
  if (setting("/proc/sys/kernel/unprivileged_userns_clone") == std::optional<std::uint64_t>(0)) {
    detail += " (kernel.unprivileged_userns_clone=0)";
    remedy += ", or: sysctl kernel.unprivileged_userns_clone=1";
  }
  if (setting("/proc/sys/user/max_user_namespaces") == std::optional<std::uint64_t>(0)) {
    detail += " (user.max_user_namespaces=0)";
    remedy += ", or: sysctl user.max_user_namespaces=15000";
  }
  if (setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == std::optional<std::uint64_t>(1)) {
    detail += " (kernel.apparmor_restrict_unprivileged_userns=1)";
    remedy += ", or: sysctl kernel.apparmor_restrict_unprivileged_userns=0";
  }
  return limited(subject, detail, remedy);
}

/// For a mount namespace of one's own, whoever one is.
int enter_mount_namespace(bool inside_user_namespace) {
  const unsigned uid = ::geteuid(), gid = ::getegid();
  if (::unshare(CLONE_NEWNS | (inside_user_namespace ? CLONE_NEWUSER : 0)) != 0) {
    return errno;
  }
  if (inside_user_namespace) {
    if (const int error_number = map_to_root_inside(uid, gid)) {
      return error_number;
    }
  }
  return result_to_errno(::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
}

int try_overlay(bool inside_user_namespace) {
  if (const int error_number = enter_mount_namespace(inside_user_namespace)) {
    return error_number;
  }
  // In a tmpfs that only this child sees, upon a directory that every system has.
  if (::mount("berth-doctor", "/tmp", "tmpfs", 0, nullptr) != 0) {
    return errno;
  }
  for (const char* directory : {"/tmp/lower", "/tmp/upper", "/tmp/work", "/tmp/merged"}) {
    if (::mkdir(directory, 0755) != 0) {
      return errno;
    }
  }
  return result_to_errno(::mount("overlay", "/tmp/merged", "overlay", 0,
                                 "lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work"));
}

int try_new_mount_api() {
  if (const int error_number = enter_mount_namespace(::geteuid() != 0)) {
    return error_number;
  }
  const UniqueFd context{static_cast<int>(::syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC))};
  if (!context || ::syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
    return errno;
  }
  const UniqueFd tree{static_cast<int>(::syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, 0))};
  if (!tree) {
    return errno;
  }
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_RDONLY;
  return result_to_errno(
      ::syscall(SYS_mount_setattr, tree.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes));
}

/// An idmapped clone of the root file system's tree. The user namespace to map by is a child's.
int try_idmapped() {
  FdPair made = make_pipe(), done = make_pipe();
  const pid_t child = ::fork();
  if (child == 0) {
    done.second.reset();
    char byte = ::unshare(CLONE_NEWUSER) == 0 ? 'y' : 'n';
    write_all(made.second.get(), &byte, 1);
    ::_exit(static_cast<int>(::read(done.first.get(), &byte, 1)));
  }
  char byte = 'n';
  int error_number = EPERM;
  if (child > 0 && ::read(made.first.get(), &byte, 1) == 1 && byte == 'y') {
    const std::string process = "/proc/" + std::to_string(child);
    error_number = write_at(AT_FDCWD, (process + "/uid_map").c_str(), "0 100000 65536");
    if (error_number == 0) {
      error_number = write_at(AT_FDCWD, (process + "/gid_map").c_str(), "0 100000 65536");
    }
    const UniqueFd map{try_open_at(AT_FDCWD, (process + "/ns/user").c_str(), O_RDONLY)};
    const UniqueFd tree{static_cast<int>(
        ::syscall(SYS_open_tree, AT_FDCWD, "/", OPEN_TREE_CLONE | static_cast<unsigned>(O_CLOEXEC)))};
    if (error_number == 0) {
      mount_attr attributes{};
      attributes.attr_set = MOUNT_ATTR_IDMAP;
      attributes.userns_fd = static_cast<unsigned>(map.get());
      error_number = result_to_errno(
          ::syscall(SYS_mount_setattr, tree.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes));
    }
  }
  done.second.reset();  // the child's sign to end
  if (child > 0) {
    ::waitpid(child, nullptr, 0);
  }
  return error_number;
}

}  // namespace

Findings examine_kernel() {
  Findings findings;
  utsname name{};
  ::uname(&name);
  int major = 0, minor = 0;
  const bool parsed = std::sscanf(name.release, "%d.%d", &major, &minor) == 2;
  const std::string release = std::string("Linux ") + name.release + " " + name.machine;
  if (parsed && (major > 5 || (major == 5 && minor >= 14))) {
    findings.push_back(ok("kernel", release));
  } else {
    findings.push_back(limited("kernel", release + "; 5.14 is the first with all that berth uses",
                               "use a distribution's kernel of 2022 or later"));
  }
  const UniqueFd pidfd{static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0))};
  findings.push_back(pidfd
                         ? ok("pidfd", "pidfd_open(2) works")
                         : missing("pidfd", "pidfd_open: " + reason(errno), "Linux 5.3 or later is needed"));
  unsigned action = SECCOMP_RET_KILL_PROCESS;
  const long seccomp = ::syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action);
  findings.push_back(seccomp == 0 ? ok("seccomp", "filters can kill a process")
                                  : missing("seccomp", "seccomp(2): " + reason(errno),
                                            "use a kernel with CONFIG_SECCOMP_FILTER"));
  return findings;
}

Findings examine_namespaces() {
  Findings findings;
  const bool root = ::geteuid() == 0;
  for (const NamespaceKind& kind : kNamespaces) {
    // Without privileges every other kind is to be had inside a user namespace only.
    const int flags = kind.flag | (root ? 0 : CLONE_NEWUSER);
    const int error_number = errno_in_child([&] { return result_to_errno(::unshare(flags)); });
    const std::string subject = std::string("namespace ") + kind.name;
    if (error_number == 0) {
      findings.push_back(ok(subject, root ? "works" : "works inside a user namespace"));
    } else if (error_number == EINVAL) {
      findings.push_back(
          missing(subject, "this kernel has none", std::string("use a kernel with ") + kind.option));
    } else {
      findings.push_back(
          missing(subject, "unshare: " + reason(error_number),
                  root ? "allow it where berth runs (container: --privileged; sysctl user.max_*_namespaces)"
                       : "run berth as root, or allow user namespaces: see below"));
    }
  }
  findings.push_back(examine_unprivileged());
  return findings;
}

Findings examine_mounts() {
  Findings findings;
  const bool root = ::geteuid() == 0;
  const auto add = [&](const char* subject, int error_number, const char* works, const char* remedy,
                       bool needed) {
    if (error_number == 0) {
      findings.push_back(ok(subject, works));
    } else {
      const std::string detail = "refused: " + reason(error_number);
      // Not tried at all: the namespace to try it in could not be had.
      const char* what_to_do = error_number == ENOSPC || (error_number == EPERM && !root)
                                   ? "allow namespaces (see above) and ask again"
                                   : remedy;
      findings.push_back(needed ? missing(subject, detail, what_to_do)
                                : limited(subject, detail, what_to_do));
    }
  };
  add("new mount API", errno_in_child(try_new_mount_api), "fsopen, fsmount and mount_setattr work",
      "Linux 5.12 or later is needed, and a seccomp filter that lets them through", true);
  add("overlayfs", errno_in_child([&] { return try_overlay(!root); }), "isolation.overlay can be used",
      "modprobe overlay, or use a kernel with CONFIG_OVERLAY_FS", false);
  if (root) {
    add("overlayfs in a user namespace", errno_in_child([] { return try_overlay(true); }),
        "jobs without root can have overlays", "Linux 5.11 or later is needed", false);
    add("idmapped mounts", errno_in_child(try_idmapped),
        "the root file system can be mounted with other owners",
        "Linux 5.12 or later is needed, and a file system that supports them", false);
  }
  return findings;
}

}  // namespace berth
