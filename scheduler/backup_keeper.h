// BackupKeeper: has berthd's database copied now and then, and says what to do with the copies.
//
// The copy is made on a thread of its own with a connection of its own, at low priority; neither the event
// loop nor the commits wait for it. On the event loop's thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <exception>
#include <functional>
#include <string>
#include <thread>

#include "scheduler/clock.h"
#include "schemas/daemon_config.h"

namespace berth {

/// What to do about a damaged database: the newest copy, its time, and the command that puts it in its place.
std::string remedy_for_damage(const DaemonConfig& config, Timestamp now);

class BackupKeeper {
 public:
  /// Told on the event loop what a copy failed of.
  using Trouble = std::function<void(const std::exception_ptr&)>;

  BackupKeeper(boost::asio::io_context& loop, const DaemonConfig& config, const Clock& clock,
               Trouble trouble);
  /// Gives up a copy that is being made.
  ~BackupKeeper() = default;
  BackupKeeper(const BackupKeeper&) = delete;
  BackupKeeper& operator=(const BackupKeeper&) = delete;

  void reconfigure(const DaemonConfig& config);

 private:
  void arm(std::chrono::milliseconds pause);
  void begin();
  void finish(const std::exception_ptr& error);
  std::chrono::milliseconds until_due() const;

  boost::asio::io_context& loop_;
  DaemonConfig config_;
  const Clock& clock_;
  Trouble trouble_;
  boost::asio::steady_timer timer_;
  bool is_copying_ = false;
  std::jthread thread_;  // last: it is stopped and joined first
};

}  // namespace berth
