#include "scheduler/database_path.h"

#include <fcntl.h>
#include <pwd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <stdexcept>

#include "executor/executor.h"
#include "executor/os/trusted_path.h"
#include "schemas/input_error.h"

namespace berth {
namespace {

/// A job may have put a link in the place of the database, for root to make or write any file by.
void refuse_links_of_others(const std::string& path) {
  if (::geteuid() == 0 && !open_trusted(path, O_PATH | O_CLOEXEC, 0, calling_user().uid) && errno == ELOOP) {
    throw std::runtime_error(
        path +
        ": a symbolic link of another user, or one of /proc into a process, is on the way "
        "to the database, and root follows none; name the file itself with --database, "
        "in a folder that no job may write");
  }
}

}  // namespace

std::string database_path(const CommandLine& line) {
  if (const auto named = line.value("database")) {
    if (named->empty()) {
      throw InputError(kCommandLine, "--database", "is empty; name a file");
    }
    refuse_links_of_others(*named);
    return *named;
  }
  if (::geteuid() == 0) {
    return "/var/lib/berth/berth.db";
  }
  // The XDG Base Directory Specification: a relative path is to be ignored.
  if (const char* state = std::getenv("XDG_STATE_HOME"); state != nullptr && state[0] == '/') {
    return std::string(state) + "/berth/berth.db";
  }
  const char* home = std::getenv("HOME");
  if (home == nullptr || home[0] != '/') {
    const passwd* entry = ::getpwuid(::getuid());
    home = entry == nullptr ? nullptr : entry->pw_dir;
  }
  if (home == nullptr || home[0] != '/') {
    throw std::runtime_error(
        "no place for the job database: this user has no home; name one with --database FILE");
  }
  return std::string(home) + "/.local/state/berth/berth.db";
}

}  // namespace berth
