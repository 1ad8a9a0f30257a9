// DescriptorLoop: handlers for descriptors, behind one descriptor that an outer event loop watches.
//
// Single-threaded. A handler may watch and forget any descriptor, its own included; it never blocks.
#pragma once

#include <sys/epoll.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "executor/os/unique_fd.h"

namespace berth {

/// That a handler takes from one socket before the others have their turn.
constexpr int kMostDatagramsPerTurn = 64;

class DescriptorLoop {
 public:
  using Handler = std::function<void(std::uint32_t events)>;

  DescriptorLoop();
  /// Readable when dispatch() has work.
  int descriptor() const { return epoll_.get(); }
  /// `fd` is borrowed until forget(). EPOLLIN, EPOLLOUT …
  void watch(int fd, std::uint32_t events, Handler handler);
  void change(int fd, std::uint32_t events);
  void forget(int fd);
  /// Calls the handlers of what is ready; does not wait.
  void dispatch();

 private:
  struct Watch {
    std::uint64_t serial = 0;
    std::shared_ptr<Handler> handler;
  };
  UniqueFd epoll_;
  std::map<int, Watch> watches_;
  std::uint64_t last_serial_ = 0;  ///< tells a descriptor from an earlier one of the same number
};

/// A timer that is readable every second while it runs.
class SecondTimer {
 public:
  SecondTimer();
  int descriptor() const { return timer_.get(); }
  void run(bool on);
  void acknowledge();

 private:
  UniqueFd timer_;
  bool running_ = false;
};

}  // namespace berth
