// What a job may be given as its standard input.
#pragma once

#include "executor/os/unique_fd.h"

namespace berth {

struct Caller;

/// The descriptor to hand to a job instead of `input`: a regular file comes back through a read-only mount of
/// its own, opened by the caller, at the same position, so that the job cannot open it for writing by way of
/// /proc/self/fd/0. One that the caller may not open is duplicated: what it shows depends on who opened it.
/// Anything else that may be read is duplicated. Throws LaunchError for a folder: openat(2) relative to it,
/// or "..", would lead the job out of its root.
UniqueFd confine_input(int input, const Caller& caller);

}  // namespace berth
