#include "executor/os/syscall.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

namespace berth {

void throw_system_error(int error_number, std::string_view operation, std::string_view object) {
  std::string what(operation);
  if (!object.empty()) {
    what += ' ';
    what += object;
  }
  throw std::system_error(error_number, std::generic_category(), what);
}

rlimit descriptor_limit() {
  rlimit limit{};
  check(::getrlimit(RLIMIT_NOFILE, &limit), "getrlimit", "RLIMIT_NOFILE");
  return limit;
}

rlimit raise_descriptor_limit() {
  const rlimit before = descriptor_limit();
  const rlimit raised{before.rlim_max, before.rlim_max};
  ::setrlimit(RLIMIT_NOFILE, &raised);
  return before;
}

UniqueFd open_at(int directory, const std::string& name, int flags, unsigned mode) {
  const int fd = try_open_at(directory, name.c_str(), flags, mode);
  return UniqueFd{check(fd, "open", name)};
}

int try_open_at(int directory, const char* name, int flags, unsigned mode) noexcept {
  return retry_eintr([&] { return ::openat(directory, name, flags | O_CLOEXEC, mode); });
}

std::string read_file_at(int directory, const std::string& name) {
  const UniqueFd fd = open_at(directory, name, O_RDONLY);
  std::string text;
  char buffer[4096];
  while (true) {
    const ssize_t count = retry_eintr([&] { return ::read(fd.get(), buffer, sizeof buffer); });
    if (check(count, "read", name) == 0) {
      return text;
    }
    text.append(buffer, static_cast<std::size_t>(count));
  }
}

int write_at(int directory, const char* name, std::string_view text) noexcept {
  const UniqueFd fd{try_open_at(directory, name, O_WRONLY)};
  if (!fd) {
    return errno;
  }
  const ssize_t count = retry_eintr([&] { return ::write(fd.get(), text.data(), text.size()); });
  return count < 0 ? errno : 0;
}

bool write_all(int fd, const char* data, std::size_t size) noexcept {
  while (size > 0) {
    const ssize_t count = retry_eintr([&] { return ::write(fd, data, size); });
    if (count < 0) {
      return false;
    }
    data += count;
    size -= static_cast<std::size_t>(count);
  }
  return true;
}

void occupy_standard_streams() noexcept {
  for (int descriptor = STDIN_FILENO; descriptor <= STDERR_FILENO; ++descriptor) {
    // The lowest free number is taken (open(2)). Not close-on-exec: it is the stream of what we start, too.
    const int mode = descriptor == STDOUT_FILENO ? O_RDONLY : O_RDWR;
    if (::fcntl(descriptor, F_GETFD) < 0 && ::open("/dev/null", mode | O_NOCTTY) != descriptor) {
      ::_exit(125);  // no /dev/null, and nowhere to say so
    }
  }
}

UniqueFd duplicate(const UniqueFd& fd) {
  return UniqueFd{check(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0), "fcntl F_DUPFD_CLOEXEC")};
}

FdPair make_pipe(int flags) {
  int ends[2];
  check(::pipe2(ends, flags | O_CLOEXEC), "pipe2");
  return {UniqueFd{ends[0]}, UniqueFd{ends[1]}};
}

FdPair make_socket_pair(int type) {
  int ends[2];
  check(::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends), "socketpair");
  return {UniqueFd{ends[0]}, UniqueFd{ends[1]}};
}

}  // namespace berth
