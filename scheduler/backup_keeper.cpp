#include "scheduler/backup_keeper.h"

#include <sys/resource.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <system_error>
#include <utility>
#include <vector>

#include "scheduler/log.h"
#include "store/backup.h"
#include "store/job_store.h"

namespace berth {
namespace {

/// A berthd that has just started has better things to do.
constexpr std::chrono::milliseconds kAfterStart = std::chrono::minutes(1);
constexpr std::chrono::milliseconds kRetryInterval = std::chrono::minutes(10);
constexpr int kNiceness = 10;

}  // namespace

std::string remedy_for_damage(const DaemonConfig& config, Timestamp now) {
  const bool is_named = !config.file.empty() && config.file != kDefaultDaemonConfig;
  const std::string command = "berthd" + (is_named ? " --config " + config.file : "") + " --restore";
  const std::vector<BackupFile> copies = find_backups(config.database(), config.backup_file());
  if (copies.empty()) {
    return "There is no copy of it. To go on without what is in it, stop berthd and move " +
           config.database() + " away, with its -wal, -shm and -journal.";
  }
  const BackupFile& newest = copies.front();
  const auto age = std::chrono::duration_cast<Milliseconds>(now - newest.at);
  return "The newest copy is of " + format_instant_utc(newest.at) +
         (age.count() > 0 ? ", " + format_duration(age) + " ago" : "") + ": " + newest.path +
         "\nTo go on with it, stop berthd and run: " + command + " " + newest.path;
}

BackupKeeper::BackupKeeper(boost::asio::io_context& loop, const DaemonConfig& config, const Clock& clock,
                           Trouble trouble)
    : loop_(loop), config_(config), clock_(clock), trouble_(std::move(trouble)), timer_(loop) {
  arm(std::max(until_due(), std::min(config_.backup.every, kAfterStart)));
}

void BackupKeeper::reconfigure(const DaemonConfig& config) {
  config_.backup = config.backup;
  if (!is_copying_) {
    arm(until_due());
  }
}

/// By the age of the last copy, so that a berthd which is restarted every day makes one too. A clock that was
/// set to another time makes it early or at most one interval late.
std::chrono::milliseconds BackupKeeper::until_due() const {
  for (const BackupFile& copy : find_backups(config_.database(), config_.backup_file())) {
    if (copy.path == config_.backup_file()) {
      const auto age = std::chrono::duration_cast<std::chrono::milliseconds>(clock_.system_now() - copy.at);
      return std::clamp(config_.backup.every - age, std::chrono::milliseconds(0), config_.backup.every);
    }
  }
  return std::chrono::milliseconds(0);
}

void BackupKeeper::arm(std::chrono::milliseconds pause) {
  timer_.cancel();
  if (config_.backup.every.count() == 0) {
    return;
  }
  timer_.expires_after(pause);
  timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) {
      begin();
    }
  });
}

void BackupKeeper::begin() {
  is_copying_ = true;
  const auto copy_it = [this, database = config_.database(),
                        copy = config_.backup_file()](const std::stop_token& stopped) {
    (void)::setpriority(PRIO_PROCESS, 0,
                        kNiceness);  // of this thread alone (setpriority(2), "C library/kernel")
    std::exception_ptr error;
    try {
      (void)write_backup(database, copy, [&stopped] { return stopped.stop_requested(); });
    } catch (...) {
      error = std::current_exception();
    }
    boost::asio::post(loop_, [this, error] { finish(error); });
  };
  try {
    thread_ = std::jthread(copy_it);
  } catch (const std::system_error&) {  // no thread for now
    finish(std::current_exception());
  }
}

void BackupKeeper::finish(const std::exception_ptr& error) {
  is_copying_ = false;
  if (!error) {
    log_debug("the database was copied to " + config_.backup_file());
    arm(config_.backup.every);
    return;
  }
  log_error("the database was not copied: " + text_of(error));
  trouble_(error);
  if (!is_damage(error)) {  // else the last copy is the one to keep
    arm(std::min(config_.backup.every, kRetryInterval));
  }
}

}  // namespace berth
