// What a user without root has: subordinate ids.
#include <fcntl.h>
#include <pwd.h>
#include <unistd.h>

#include <string>

#include "executor/doctor.h"
#include "executor/os/syscall.h"

namespace berth {
namespace {

/// subuid(5): "name:first:count" or "number:first:count".
bool has_subordinate_ids(const char* file, const std::string& name, uid_t uid) {
  const int fd = try_open_at(AT_FDCWD, file, O_RDONLY);
  if (fd < 0) {
    return false;
  }
  ::close(fd);
  const std::string text = "\n" + read_file_at(AT_FDCWD, file);
  return text.find("\n" + name + ":") != std::string::npos ||
         text.find("\n" + std::to_string(uid) + ":") != std::string::npos;
}

Finding examine_subordinate_ids() {
  const std::string subject = "subordinate ids";
  if (::geteuid() == 0) {
    return ok(subject, "not needed by root");
  }
  const passwd* entry = ::getpwuid(::getuid());
  const std::string name = entry != nullptr ? entry->pw_name : std::to_string(::getuid());
  const bool has_some = has_subordinate_ids("/etc/subuid", name, ::getuid()) &&
                        has_subordinate_ids("/etc/subgid", name, ::getuid());
  return ok(subject, name + (has_some ? " has some" : " has none") +
                         ", and berth uses none: without root a job has its user's id and no other");
}

}  // namespace

Findings examine_user() {
  return {examine_subordinate_ids()};
}

}  // namespace berth
