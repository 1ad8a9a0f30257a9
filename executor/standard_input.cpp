#include "executor/standard_input.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "executor/executor.h"
#include "executor/os/act_as.h"
#include "executor/os/syscall.h"
#include "executor/os/trusted_path.h"

namespace berth {
namespace {

/// By the caller where it may: what the kernel makes up is made up for the one who opens it. Any other file
/// is the same for everybody, and was opened by somebody who may.
UniqueFd open_again(int input, const std::string& path, const Caller& caller) {
  {
    const ActAs as_caller(caller.uid, caller.gid, caller.name);
    if (UniqueFd file{try_open_at(AT_FDCWD, path.c_str(), O_RDONLY)}) {
      return file;
    }
  }
  return UniqueFd{is_kernels_own(input) ? -1 : try_open_at(AT_FDCWD, path.c_str(), O_RDONLY)};
}

/// The same file through a detached read-only mount; none where the kernel gives none: without privilege, for
/// a file that lies on no mounted file system (memfd_create(2)), which no path leads to either, and for one
/// of the kernel's own that the caller may not open.
UniqueFd reopen_read_only(int input, const Caller& caller) {
  const UniqueFd tree{static_cast<int>(
      ::syscall(SYS_open_tree, input, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH))};
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
  if (!tree ||
      ::syscall(SYS_mount_setattr, tree.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes) != 0) {
    return UniqueFd{};
  }
  const std::string path = "/proc/self/fd/" + std::to_string(tree.get());
  UniqueFd file = open_again(input, path, caller);
  const off_t position = ::lseek(input, 0, SEEK_CUR);
  if (!file || position < 0 || ::lseek(file.get(), position, SEEK_SET) != position) {
    return UniqueFd{};
  }
  return file;
}

}  // namespace

UniqueFd confine_input(int input, const Caller& caller) {
  struct stat status {};
  check(::fstat(input, &status), "fstat", "standard input");
  if (S_ISDIR(status.st_mode)) {
    throw LaunchError("standard_input", EISDIR, "standard_input: it is a folder; name a file");
  }
  const int flags = check(::fcntl(input, F_GETFL), "fcntl", "standard input");
  if (S_ISREG(status.st_mode) && (flags & O_ACCMODE) == O_RDONLY) {
    if (UniqueFd file = reopen_read_only(input, caller)) {
      return file;
    }
  }
  return UniqueFd{check(::fcntl(input, F_DUPFD_CLOEXEC, 3), "dup", "standard input")};
}

}  // namespace berth
