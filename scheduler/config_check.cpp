#include "scheduler/config_check.h"

#include <unistd.h>

#include <exception>
#include <filesystem>
#include <string>

#include "scheduler/slot_pool.h"

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
                           "runners.log", "draining", "numbers", "numbers.new"}) {
    const std::string own = config.state_directory + "/" + name;
    if (is_same_file(file, own)) {
      refuse("is " + own + ", which berthd itself uses; name another file");
      return;
    }
  }
}

/// What Daemon makes of it at its start; each key by itself, so that the faults of all are told.
void check_pool(const DaemonConfig& config, std::vector<InputFault>& faults) {
  const std::size_t before = faults.size();
  const auto try_bounds = [&](const char* pointer, const PoolBounds& bounds) {
    try {
      const SlotPool pool(detect_topology(), bounds);
    } catch (const std::exception& error) {
      faults.push_back({config.file, pointer, error.what()});
    }
  };
  if (config.pool.cpus) {
    try_bounds("/pool/cpus", {{}, config.pool.cpus, {}});
  }
  if (config.pool.memory) {
    try_bounds("/pool/memory", {{}, {}, config.pool.memory});
  }
  if (faults.size() == before) {
    try_bounds("/pool", {config.pool.slots, config.pool.cpus, config.pool.memory});
  }
}

void check_runner_program(const DaemonConfig& config, std::vector<InputFault>& faults) {
  const std::string program = runner_program_of(config);
  std::error_code ignored;
  if (program.empty()) {
    faults.push_back(
        {config.file, "/runner_program", "berth-runner is not where it was installed; set runner_program"});
  } else if (!fs::is_regular_file(program, ignored) || ::access(program.c_str(), X_OK) != 0) {
    faults.push_back({config.file, "/runner_program",
                      "\"" + program + "\" is not there, or no program; name berth-runner"});
  }
}

}  // namespace

std::string runner_program_of(const DaemonConfig& config) {
  if (!config.runner_program.empty()) {
    return config.runner_program;
  }
  std::error_code ignored;
  const fs::path own = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  // Beside this program in a build, below libexec when installed.
  for (const fs::path& path : {own / "berth-runner", own / ".." / BERTH_LIBEXEC / "berth-runner"}) {
    if (::access(path.c_str(), X_OK) == 0) {
      return fs::weakly_canonical(path).string();
    }
  }
  return "";
}

void check_config_here(const DaemonConfig& config, std::vector<InputFault>& faults) {
  check_runner_program(config, faults);
  check_pool(config, faults);
  check_backup(config, faults);
}

}  // namespace berth
