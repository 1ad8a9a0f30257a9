#include "executor/os/trusted_path.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <utility>

#include "executor/os/syscall.h"

namespace berth {
namespace {

constexpr int kMostLinks = 40;  // path_resolution(7)

UniqueFd fail(int error_number) {
  errno = error_number;
  return UniqueFd{};
}

/// Takes the first component and the slashes around it off `rest`.
std::string take_component(std::string& rest) {
  const std::size_t begin = std::min(rest.find_first_not_of('/'), rest.size());
  const std::size_t end = std::min(rest.find('/', begin), rest.size());
  std::string component = rest.substr(begin, end - begin);
  rest.erase(0, std::min(rest.find_first_not_of('/', end), rest.size()));
  return component;
}

/// A link of /proc's that has no text to walk by, but leads straight to what a process has (proc(5)): its
/// root or working directory, an open file, a namespace.
bool is_magic_link(int folder, const std::string& name, int link) {
  struct statfs status {};
  if (::fstatfs(link, &status) != 0 || status.f_type != PROC_SUPER_MAGIC) {
    return false;
  }
  open_how how{};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_NO_MAGICLINKS;
  const UniqueFd target{static_cast<int>(::syscall(SYS_openat2, folder, name.c_str(), &how, sizeof how))};
  return !target && errno == ELOOP;
}

/// /dev/stdin and the like: they were this process's before it opened anything.
bool is_own_stream(int folder, const std::string& name) {
  struct stat one {};
  struct stat other {};
  return (name == "0" || name == "1" || name == "2") && ::fstat(folder, &one) == 0 &&
         ::stat("/proc/self/fd", &other) == 0 && one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

}  // namespace

UniqueFd open_trusted(const std::string& path, int flags, mode_t mode, uid_t user) {
  if (::geteuid() != 0) {
    return UniqueFd{try_open_at(AT_FDCWD, path.c_str(), flags, mode)};
  }
  constexpr int kStep = O_PATH | O_CLOEXEC;
  UniqueFd folder{try_open_at(AT_FDCWD, path.starts_with('/') ? "/" : ".", kStep | O_DIRECTORY)};
  std::string rest = path;
  for (int links = 0; folder;) {
    std::string component = take_component(rest);
    const bool last = rest.empty();
    if (component.empty()) {
      component = ".";
    }
    UniqueFd next{try_open_at(folder.get(), component.c_str(), kStep | O_NOFOLLOW)};
    if (!next && !(last && errno == ENOENT)) {
      return UniqueFd{};
    }
    struct stat status {};
    if (next && ::fstat(next.get(), &status) != 0) {
      return UniqueFd{};
    }
    if (!next || !S_ISLNK(status.st_mode)) {
      if (last) {
        return UniqueFd{try_open_at(folder.get(), component.c_str(), flags | O_NOFOLLOW, mode)};
      }
      folder = std::move(next);
      continue;
    }
    if ((last && (flags & O_NOFOLLOW) != 0) || (status.st_uid != 0 && status.st_uid != user) ||
        ++links > kMostLinks) {
      return fail(ELOOP);
    }
    if (is_magic_link(folder.get(), component, next.get())) {
      // Where it leads is not the user's to reach: no folder on the way there is asked, and what this process
      // may do to others (CAP_SYS_PTRACE), or has open, is not what the user may.
      if (user != 0 && !is_own_stream(folder.get(), component)) {
        return fail(ELOOP);
      }
      UniqueFd target{try_open_at(folder.get(), component.c_str(), last ? flags : kStep, mode)};
      if (last) {
        return target;
      }
      folder = std::move(target);
      continue;
    }
    std::array<char, PATH_MAX> target{};
    if (::readlinkat(next.get(), "", target.data(), target.size() - 1) < 0) {
      return UniqueFd{};
    }
    rest = last ? std::string(target.data()) : std::string(target.data()).append("/").append(rest);
    if (target[0] == '/') {
      folder = UniqueFd{try_open_at(AT_FDCWD, "/", kStep | O_DIRECTORY)};
    }
  }
  return UniqueFd{};
}

bool is_kernels_own(int descriptor) {
  // What is not here has files (disk, memory, network, FUSE), streams (pipes, sockets, terminals), or nothing
  // that depends on who asks. None of these fails to tell what it is.
  static constexpr long kConfigfs = 0x62656570;  // fs/configfs/mount.c
  static constexpr std::array kOwn = std::to_array<long>(
      {PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, RDTGROUP_SUPER_MAGIC,
       DEBUGFS_MAGIC, TRACEFS_MAGIC, SECURITYFS_MAGIC, SELINUX_MAGIC, SMACK_MAGIC, AAFS_MAGIC, BPF_FS_MAGIC,
       BINFMTFS_MAGIC, PSTOREFS_MAGIC, EFIVARFS_MAGIC, XENFS_SUPER_MAGIC, kConfigfs});
  struct statfs status {};
  return ::fstatfs(descriptor, &status) == 0 &&
         std::find(kOwn.begin(), kOwn.end(), status.f_type) != kOwn.end();
}

}  // namespace berth
