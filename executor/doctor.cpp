// examine_machine(): what this machine offers, found by trying, since versions and configurations lie.
#include "executor/doctor.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "executor/os/syscall.h"

namespace berth {

Finding ok(std::string subject, std::string detail) {
  return {Finding::Level::ok, std::move(subject), std::move(detail), ""};
}

Finding limited(std::string subject, std::string detail, std::string remedy) {
  return {Finding::Level::limited, std::move(subject), std::move(detail), std::move(remedy)};
}

Finding missing(std::string subject, std::string detail, std::string remedy) {
  return {Finding::Level::missing, std::move(subject), std::move(detail), std::move(remedy)};
}

int errno_in_child(const std::function<int()>& probe) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    int error_number = EFAULT;
    try {
      error_number = probe();
    } catch (const std::system_error& error) {
      error_number = error.code().value();
    } catch (const std::exception&) {
      error_number = EFAULT;
    }
    ::_exit(error_number);  // errno is below 134 on Linux, so it fits a status
  }
  if (child < 0) {
    return errno;
  }
  int status = 0;
  if (retry_eintr([&] { return ::waitpid(child, &status, 0); }) < 0) {
    return errno;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : EFAULT;
}

int map_to_root_inside(unsigned outside_uid, unsigned outside_gid) {
  const auto write_file = [](const char* path, const std::string& text) {
    return write_at(AT_FDCWD, path, text);
  };
  if (const int error_number = write_file("/proc/self/setgroups", "deny")) {
    return error_number;
  }
  if (const int error_number = write_file("/proc/self/uid_map", "0 " + std::to_string(outside_uid) + " 1")) {
    return error_number;
  }
  return write_file("/proc/self/gid_map", "0 " + std::to_string(outside_gid) + " 1");
}

std::vector<Finding> examine_machine() {
  Findings all;
  for (const auto examine :
       {examine_kernel, examine_namespaces, examine_mounts, examine_cgroups, examine_network, examine_user}) {
    Findings part = examine();
    all.insert(all.end(), std::make_move_iterator(part.begin()), std::make_move_iterator(part.end()));
  }
  return all;
}

}  // namespace berth
