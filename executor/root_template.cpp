// Builds the template with the new mount API: detached clones of the host's top-level directories, made
// read-only before they are attached anywhere, on a small tmpfs that holds /dev and the mount points.
#include "executor/root_template.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "executor/cgroup_files.h"
#include "executor/os/syscall.h"
#include "executor/os/unique_fd.h"

#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

namespace berth {
namespace {

/// Where the template is attached while it is built.
constexpr const char* kTemplate = "/sys";
constexpr unsigned kReadOnly = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;

template <typename Result>
Result must(Result result, const char* step) {
  if (result < 0) {
    throw TemplateError{step, errno};
  }
  return result;
}

int open_tree_clone(int directory, const char* path, unsigned flags) {
  return static_cast<int>(
      ::syscall(SYS_open_tree, directory, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags));
}

int set_attributes(int tree, std::uint64_t set, unsigned flags) {
  mount_attr attributes{};
  attributes.attr_set = set;
  attributes.propagation = MS_PRIVATE;
  return static_cast<int>(
      ::syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | flags, &attributes, sizeof attributes));
}

int attach(int tree, int directory, const char* path) {
  return static_cast<int>(::syscall(SYS_move_mount, tree, "", directory, path, MOVE_MOUNT_F_EMPTY_PATH));
}

struct Option {
  const char* key;
  const char* value;
};

/// A detached mount, or -1 with errno.
int new_mount(const char* type, unsigned attributes, std::initializer_list<Option> options = {}) {
  const UniqueFd context{static_cast<int>(::syscall(SYS_fsopen, type, FSOPEN_CLOEXEC))};
  if (!context) {
    return -1;
  }
  for (const Option& option : options) {
    if (::syscall(SYS_fsconfig, context.get(), FSCONFIG_SET_STRING, option.key, option.value, 0) < 0) {
      return -1;
    }
  }
  if (::syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0) {
    return -1;
  }
  return static_cast<int>(::syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, attributes));
}

struct ProcMount {
  int fd = -1;
  int error_number = 0;
};

int mount_proc_here(void* argument) {
  auto* result = static_cast<ProcMount*>(argument);
  result->fd = new_mount("proc", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
  result->error_number = errno;
  ::_exit(0);
}

/// A procfs of a PID namespace that has no process any more: it shows nobody. It must be in the template,
/// because a user namespace may mount procfs only where one is fully visible (mount_namespaces(7),
/// "mount_too_revealing" in fs/namespace.c), and the host's own must not be there to be uncovered.
UniqueFd mount_empty_proc() {
  alignas(16) static std::array<char, 16384> stack;
  ProcMount result;
  const int flags = CLONE_NEWPID | CLONE_VM | CLONE_VFORK | CLONE_FILES | SIGCHLD;
  const pid_t child =
      must(::clone(mount_proc_here, stack.data() + stack.size(), flags, &result), "clone for /proc");
  ::waitpid(child, nullptr, 0);
  if (result.fd < 0) {
    errno = result.error_number;
    must(-1, "mount /proc");
  }
  return UniqueFd{result.fd};
}

bool is_own(const std::string& name) {
  static constexpr std::array<const char*, 8> kOwn = {"proc", "sys",  "dev",  "tmp",
                                                      "run",  "home", "root", "lost+found"};
  return std::any_of(kOwn.begin(), kOwn.end(), [&](const char* own) { return name == own; });
}

/// The host's top-level directories as read-only clones, its top-level symbolic links as they are.
void add_host_directories(int root) {
  const std::unique_ptr<DIR, int (*)(DIR*)> host(::opendir("/"), ::closedir);
  if (!host) {
    throw TemplateError{"open /", errno};
  }
  while (const dirent* entry = ::readdir(host.get())) {
    const std::string name = entry->d_name;
    if (name == "." || name == ".." || is_own(name)) {
      continue;
    }
    if (entry->d_type == DT_LNK) {
      std::array<char, 4096> target{};
      must(::readlinkat(::dirfd(host.get()), name.c_str(), target.data(), target.size() - 1), "readlink");
      must(::symlinkat(target.data(), root, name.c_str()), "symlink");
    } else if (entry->d_type == DT_DIR) {
      const UniqueFd tree{must(open_tree_clone(::dirfd(host.get()), name.c_str(), AT_RECURSIVE),
                               "open_tree of a top-level directory")};
      must(set_attributes(tree.get(), kReadOnly, AT_RECURSIVE), "mount_setattr of a top-level directory");
      must(::mkdirat(root, name.c_str(), 0755), "mkdir");
      must(attach(tree.get(), root, name.c_str()), "move_mount of a top-level directory");
    }
  }
}

/// What is in these tells of the host's processes, devices and cgroups, which a job is not to see.
bool shows_the_host(const std::string& type) {
  static constexpr std::array kTypes = {
      "proc",     "sysfs",      "cgroup",    "cgroup2", "devpts", "devtmpfs",    "mqueue",   "debugfs",
      "tracefs",  "securityfs", "selinuxfs", "smackfs", "bpf",    "binfmt_misc", "configfs", "pstore",
      "efivarfs", "fusectl",    "resctrl",   "xenfs",   "nfsd",   "rpc_pipefs"};
  return std::any_of(kTypes.begin(), kTypes.end(), [&](const char* other) { return type == other; });
}

/// Mounts of this namespace, as they are at one moment.
class MountTable {
 public:
  MountTable() {
    try {
      mounts_ = parse_mounts(read_file_at(AT_FDCWD, "/proc/self/mountinfo"));
    } catch (const std::system_error& error) {
      throw TemplateError{"read /proc/self/mountinfo", error.code().value()};
    }
  }

  /// Those that show the host, and can be reached from `root`.
  std::vector<MountLine> showing_the_host(std::uint64_t root) const {
    std::vector<MountLine> found;
    std::copy_if(mounts_.begin(), mounts_.end(), std::back_inserter(found), [&](const MountLine& mount) {
      return shows_the_host(mount.type) && is_reached(mount, root);
    });
    return found;
  }

 private:
  bool is_reached(const MountLine& mount, std::uint64_t root) const {
    const MountLine* at = &mount;
    while (at != nullptr && at->id != root && !is_covered(*at)) {
      at = find(at->parent);
    }
    return at != nullptr && at->id == root;
  }

  /// By a mount upon it, or upon a folder that it lies below.
  bool is_covered(const MountLine& mount) const {
    return std::any_of(mounts_.begin(), mounts_.end(), [&](const MountLine& other) {
      return (other.parent == mount.id && other.mount_point == mount.mount_point) ||
             (other.parent == mount.parent && mount.mount_point.starts_with(other.mount_point + "/"));
    });
  }

  const MountLine* find(std::uint64_t id) const {
    const auto found =
        std::find_if(mounts_.begin(), mounts_.end(), [&](const MountLine& mount) { return mount.id == id; });
    return found == mounts_.end() ? nullptr : &*found;
  }

  std::vector<MountLine> mounts_;
};

struct statx status_of(int descriptor) {
  struct statx status {};
  must(::statx(descriptor, "", AT_EMPTY_PATH, STATX_TYPE | STATX_MNT_ID, &status), "statx of a mount");
  return status;
}

UniqueFd open_below(int root, const std::string& path) {
  open_how how{};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS;
  return UniqueFd{static_cast<int>(::syscall(SYS_openat2, root, path.c_str(), &how, sizeof how))};
}

/// Covers `mount` with what is empty, unless something else has its name by now. Where this process may not
/// enter a folder on the way, it is that folder: its mode may change while jobs run.
void cover(int root, const MountLine& mount) {
  std::string path = mount.mount_point.substr(std::strlen(kTemplate));
  UniqueFd point = open_below(root, path);
  const bool is_out_of_reach = !point && (errno == EACCES || errno == ENAMETOOLONG);
  while (!point && (errno == EACCES || errno == ENAMETOOLONG)) {
    path.erase(path.rfind('/'));
    if (path.empty()) {
      return;
    }
    point = open_below(root, path);
  }
  if (!point) {
    return;
  }
  const struct statx status = status_of(point.get());
  if (!is_out_of_reach && status.stx_mnt_id != mount.id) {
    return;
  }
  const UniqueFd empty{must(S_ISDIR(status.stx_mode) ? open_tree_clone(root, "dev/mqueue", 0)
                                                     : open_tree_clone(AT_FDCWD, "/dev/null", 0),
                            "open_tree of what is empty")};
  must(set_attributes(empty.get(), kReadOnly | MOUNT_ATTR_NOEXEC, 0), "mount_setattr of what is empty");
  must(static_cast<int>(::syscall(SYS_move_mount, empty.get(), "", point.get(), "",
                                  MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)),
       "cover a mount of the host's");
}

/// A chroot on the host has its /proc, /sys and /dev below one of the host's directories. Not umounted: they
/// are locked where berth is not root, and a job cannot uncover them. Folders on the way may be renamed by
/// users at any moment, so that a mount counts as covered only when the table says so.
void cover_what_shows_the_host(int root) {
  constexpr int kMostTimes = 100;
  const std::uint64_t root_id = status_of(root).stx_mnt_id;
  for (int times = 0; times < kMostTimes; ++times) {
    const std::vector<MountLine> mounts = MountTable().showing_the_host(root_id);
    if (mounts.empty()) {
      return;
    }
    for (const MountLine& mount : mounts) {
      cover(root, mount);
    }
  }
  throw TemplateError{"cover the /proc and /sys of a chroot below the host's directories", ESTALE};
}

void make_directories(int root) {
  struct Directory {
    const char* path;
    mode_t mode;
  };
  static constexpr Directory kDirectories[] = {
      {"proc", 0555},      {"sys", 0555},           {"dev", 0755},         {"tmp", 0777},
      {"run", 0755},       {"home", 0755},          {"root", 0700},        {"dev/pts", 0755},
      {"dev/shm", 0777},   {"dev/mqueue", 0755},    {"sys/devices", 0755}, {"sys/devices/system", 0755},
      {"sys/fs", 0755},    {"sys/fs/cgroup", 0755}, {"sys/kernel", 0755},  {"sys/kernel/mm", 0755},
      {"sys/class", 0755}, {"sys/block", 0755}};
  for (const Directory& directory : kDirectories) {
    must(::mkdirat(root, directory.path, directory.mode), directory.path);
  }
}

/// Device nodes: made where we may (a real root's tmpfs), else bound from the host.
void add_devices(int root) {
  struct Node {
    const char* name;
    unsigned major;
    unsigned minor;
  };
  static constexpr Node kNodes[] = {{"null", 1, 3},   {"zero", 1, 5},    {"full", 1, 7},
                                    {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};
  const UniqueFd dev{must(::openat(root, "dev", O_DIRECTORY | O_CLOEXEC), "open dev")};
  for (const Node& node : kNodes) {
    if (::mknodat(dev.get(), node.name, S_IFCHR | 0666, makedev(node.major, node.minor)) == 0) {
      ::fchmodat(dev.get(), node.name, 0666, 0);
      continue;
    }
    const std::string path = std::string("/dev/") + node.name;
    const UniqueFd file{must(::openat(dev.get(), node.name, O_CREAT | O_WRONLY | O_CLOEXEC, 0666),
                             "create a device's mount point")};
    const UniqueFd tree{must(open_tree_clone(AT_FDCWD, path.c_str(), 0), "open_tree of a device")};
    must(set_attributes(tree.get(), MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, 0), "mount_setattr of a device");
    must(attach(tree.get(), dev.get(), node.name), "move_mount of a device");
  }
  must(::symlinkat("/proc/self/fd", dev.get(), "fd"), "symlink");
  must(::symlinkat("/proc/self/fd/0", dev.get(), "stdin"), "symlink");
  must(::symlinkat("/proc/self/fd/1", dev.get(), "stdout"), "symlink");
  must(::symlinkat("/proc/self/fd/2", dev.get(), "stderr"), "symlink");
  must(::symlinkat("pts/ptmx", dev.get(), "ptmx"), "symlink");
}

/// What programs look at in /sys to learn of CPUs and memory; nothing else of the host's devices.
UniqueFd open_sysfs_part() {
  UniqueFd tree{open_tree_clone(AT_FDCWD, "/sys/devices/system", 0)};
  if (tree) {
    must(set_attributes(tree.get(), kReadOnly | MOUNT_ATTR_NOEXEC, 0), "mount_setattr of /sys");
  }
  return tree;
}

}  // namespace

void enter_root_template(bool pivot) {
  ::umask(0);
  must(::unshare(CLONE_NEWNS), "unshare the mount namespace");
  must(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "make mounts private");
  const UniqueFd proc = mount_empty_proc();
  const UniqueFd root{
      must(new_mount("tmpfs", MOUNT_ATTR_NOSUID, {{"size", "1m"}, {"mode", "0755"}}), "tmpfs for the root")};
  const UniqueFd sysfs = open_sysfs_part();
  // Only an attached mount takes further mounts before Linux 6.15. Not upon "/": a process whose root is
  // covered counts as chrooted and may make no user namespace (user_namespaces(7)). /sys is everywhere, and
  // nobody mounts anything from below it into a job.
  must(attach(root.get(), AT_FDCWD, kTemplate), "move_mount of the root");
  add_host_directories(root.get());
  make_directories(root.get());
  cover_what_shows_the_host(root.get());
  must(attach(proc.get(), root.get(), "proc"), "move_mount of /proc");
  add_devices(root.get());
  if (sysfs) {
    must(attach(sysfs.get(), root.get(), "sys/devices/system"), "move_mount of /sys");
  }
  must(set_attributes(root.get(), MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0), "mount_setattr of the root");
  must(::fchdir(root.get()), "chdir");
  if (pivot) {
    must(::syscall(SYS_pivot_root, ".", "."), "pivot_root");
  }
}

void drop_host_tree() {
  must(::umount2(".", MNT_DETACH), "umount");
  must(::chdir("/"), "chdir");
}

}  // namespace berth
