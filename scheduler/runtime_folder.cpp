#include "scheduler/runtime_folder.h"

#include <unistd.h>

#include <cstdlib>

namespace berth {

std::string runtime_folder() {
  if (::geteuid() == 0) {
    return "/run/berth";
  }
  const char* folder = std::getenv("XDG_RUNTIME_DIR");
  return folder != nullptr && *folder == '/' ? std::string(folder) + "/berth" : std::string();
}

bool is_own(const struct stat& status) {
  constexpr mode_t kOthersMayWrite = S_IWGRP | S_IWOTH;
  return status.st_uid == ::geteuid() && (status.st_mode & kOthersMayWrite) == 0;
}

bool is_own_folder(const std::string& folder) {
  struct stat status {};
  return ::lstat(folder.c_str(), &status) == 0 && S_ISDIR(status.st_mode) && is_own(status);
}

bool make_runtime_folder(const std::string& folder) {
  if (folder.empty()) {
    return false;
  }
  const mode_t mode = ::geteuid() == 0 ? 0755 : 0700;
  if (::mkdir(folder.c_str(), mode) == 0) {  // EEXIST: berthd's too
    ::chmod(folder.c_str(), mode);           // whatever the umask: users reach berthd's socket through it
  }
  return is_own_folder(folder);
}

}  // namespace berth
