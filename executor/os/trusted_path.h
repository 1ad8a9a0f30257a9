// Opening what a path leads to when the process may more than those who could have changed the path.
#pragma once

#include <sys/types.h>

#include <string>

#include "executor/os/unique_fd.h"

namespace berth {

/// openat(2) of a path, but, in a process of root's, through links of root and of `user` only. A job may
/// write in folders that are named in the next job's file: were its links followed, berth would open in its
/// place what root may and the job may not. ELOOP (and an empty descriptor) for a link of someone else, and
/// as usual for a last component that is one with O_NOFOLLOW, and for the links in /proc that lead into
/// processes (root, cwd, fd/N, ns/…) unless `user` is root; /dev/stdin, stdout and stderr are this process's
/// own.
UniqueFd open_trusted(const std::string& path, int flags, mode_t mode, uid_t user);

/// True of a file that the kernel makes up for who opens, reads or writes it (/proc, /sys, cgroups,
/// debugging): what it shows and does there depends on the one who asks, so that it is not to be asked in
/// another's place.
bool is_kernels_own(int descriptor);

}  // namespace berth
