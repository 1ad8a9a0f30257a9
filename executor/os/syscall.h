// Thin wrappers over system calls: retry EINTR, turn a failure into std::system_error naming the operation
// and its object. Every descriptor they make is close-on-exec.
#pragma once

#include <sys/resource.h>

#include <cerrno>
#include <string>
#include <string_view>
#include <system_error>

#include "executor/os/unique_fd.h"

namespace berth {

[[noreturn]] void throw_system_error(int error_number, std::string_view operation, std::string_view object);

template <typename Call>
auto retry_eintr(Call call) {
  decltype(call()) result;
  do {
    result = call();
  } while (result == -1 && errno == EINTR);
  return result;
}

/// Returns `result` unless it is negative; then throws with errno.
template <typename Integer>
Integer check(Integer result, std::string_view operation, std::string_view object = {}) {
  if (result < 0) {
    throw_system_error(errno, operation, object);
  }
  return result;
}

/// RLIMIT_NOFILE (getrlimit(2)).
rlimit descriptor_limit();
/// As many descriptors as the hard limit allows. Returns what it was.
rlimit raise_descriptor_limit();

UniqueFd open_at(int directory, const std::string& name, int flags, unsigned mode = 0);
/// -1 (and errno) instead of a throw.
int try_open_at(int directory, const char* name, int flags, unsigned mode = 0) noexcept;
/// The whole file; throws.
std::string read_file_at(int directory, const std::string& name);
/// One write(2) of all of `text`; returns 0 or errno.
int write_at(int directory, const char* name, std::string_view text) noexcept;
bool write_all(int fd, const char* data, std::size_t size) noexcept;

/// Close-on-exec.
UniqueFd duplicate(const UniqueFd& fd);

struct FdPair {
  UniqueFd first;
  UniqueFd second;
};
/// Opens those of descriptors 0, 1 and 2 that the caller left closed, before any descriptor of ours can take
/// their place and be read from, written to or handed to a job in the belief that it is the caller's stream.
/// What is opened is /dev/null; as standard output for reading alone, so that what is written there is not
/// taken for printed (EBADF). First in main().
void occupy_standard_streams() noexcept;

/// pipe2(O_CLOEXEC): first is the read end.
FdPair make_pipe(int flags = 0);
/// SOCK_SEQPACKET unless `type` says otherwise.
FdPair make_socket_pair(int type = 5);

}  // namespace berth
