#include "scheduler/database_path.h"

#include <pwd.h>
#include <unistd.h>

#include <cstdlib>
#include <stdexcept>

#include "schemas/input_error.h"

namespace berth {

std::string database_path(const CommandLine& line) {
  if (const auto named = line.value("database")) {
    if (named->empty()) {
      throw InputError(kCommandLine, "--database", "is empty; name a file");
    }
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
