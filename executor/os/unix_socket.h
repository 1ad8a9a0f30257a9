// Sockets of the file system (unix(7)) by their names. Failures throw std::system_error that names the path.
#pragma once

#include <sys/un.h>

#include <string>

#include "executor/os/unique_fd.h"

namespace berth {

/// Throws ENAMETOOLONG for a name that does not fit (107 bytes).
sockaddr_un unix_address(const std::string& path);

/// A close-on-exec, non-blocking socket of `type` bound to a new file that only its owner may connect or send
/// to (mode 0600). Changes this process's umask for a moment: single-threaded processes only.
UniqueFd bind_private(const std::string& path, int type);

}  // namespace berth
