// What a user without root has: subordinate ids.
#include <fcntl.h>
#include <pwd.h>
#include <unistd.h>

#include <cstdlib>
#include <string_view>

#include "executor/doctor.h"
#include "executor/os/syscall.h"

namespace berth {
namespace {

bool in_path(const char* program) {
  const char* variable = std::getenv("PATH");
  std::string_view path = variable == nullptr ? "/usr/sbin:/usr/bin:/sbin:/bin" : variable;
  while (!path.empty()) {
    const std::string directory(path.substr(0, path.find(':')));
    path.remove_prefix(std::min(path.size(), directory.size() + 1));
    if (!directory.empty() && ::access((directory + "/" + program).c_str(), X_OK) == 0) {
      return true;
    }
  }
  return false;
}

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
  if (!has_subordinate_ids("/etc/subuid", name, ::getuid()) ||
      !has_subordinate_ids("/etc/subgid", name, ::getuid())) {
    return limited(subject, name + " has none: a job has one user id inside",
                   "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 " + name);
  }
  if (!in_path("newuidmap") || !in_path("newgidmap")) {
    return limited(subject, name + " has them, but newuidmap and newgidmap are missing",
                   "apt-get install uidmap");
  }
  return ok(subject, name + " has them");
}

}  // namespace

Findings examine_user() {
  return {examine_subordinate_ids()};
}

}  // namespace berth
