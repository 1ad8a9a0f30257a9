#include "scheduler/config_check.h"

#include <filesystem>
#include <string>

namespace berth {
namespace {

namespace fs = std::filesystem;

/// Also by another name: a link to it, or a folder that is one.
bool is_same_file(const std::string& left, const std::string& right) {
  std::error_code ignored;
  if (fs::equivalent(left, right, ignored)) {
    return true;
  }
  const fs::path resolved = fs::weakly_canonical(left, ignored);
  return !ignored && resolved == fs::weakly_canonical(right, ignored) && !ignored;
}

/// The copy takes the place of what has its name.
void check_backup(const DaemonConfig& config, std::vector<InputFault>& faults) {
  const std::string file = config.backup_file();
  const auto refuse = [&](const std::string& message) {
    faults.push_back({config.file, "/history/backup/file", "\"" + file + "\" " + message});
  };
  std::error_code ignored;
  if (fs::is_directory(file, ignored)) {
    refuse("is a folder; name a file in it");
    return;
  }
  for (const char* name : {"berthd.db", "berthd.db-wal", "berthd.db-shm", "berthd.db-journal", "berthd.lock",
                           "runners.log", "draining"}) {
    const std::string own = config.state_directory + "/" + name;
    if (is_same_file(file, own)) {
      refuse("is " + own + ", which berthd itself uses; name another file");
      return;
    }
  }
}

}  // namespace

void check_config_here(const DaemonConfig& config, std::vector<InputFault>& faults) {
  check_backup(config, faults);
}

}  // namespace berth
