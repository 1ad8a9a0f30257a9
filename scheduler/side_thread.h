// SideThread: what is done for a moment beside what its caller does.
#pragma once

#include <atomic>
#include <functional>
#include <thread>

namespace berth {

/// Waits for the work in its destructor. Where no thread can be made, the constructor does it.
class SideThread {
 public:
  enum class Begins {
    when_scheduled,
    at_once,  ///< on the other CPU, where there are two (executor/os/other_cpu.h)
  };

  /// `work` must not throw.
  explicit SideThread(std::function<void()> work, Begins begins = Begins::when_scheduled);
  ~SideThread() { wait(); }
  SideThread(const SideThread&) = delete;
  SideThread& operator=(const SideThread&) = delete;

  void wait();

 private:
  std::function<void()> work_;
  std::atomic<bool> may_end_ = false;  ///< a thread that has ended must not be moved any more
  std::thread thread_;
};

}  // namespace berth
