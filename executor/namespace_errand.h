// What must be done from inside the user and network namespaces of a process, by a child that joins them.
//
// Joining a user namespace cannot be undone (setns(2)), so that this process cannot do it itself. A child of
// fork(2) alone, no program: it has this process's memory and nothing it does there is seen here, but for the
// descriptors that it hands back.
#pragma once

#include <sys/types.h>

#include <functional>
#include <vector>

#include "executor/os/message.h"

namespace berth {

/// Runs `errand` in the namespaces of `pid`, which is a child that is not reaped yet, and waits for its end.
/// None of this process's descriptors is open there but the standard streams. Throws LaunchError with what it
/// threw.
Descriptors run_in_network_of(pid_t pid, const std::function<std::vector<UniqueFd>()>& errand);

}  // namespace berth
