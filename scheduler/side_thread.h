// SideThread: work that begins at once on the other CPU, where there are two, beside what its caller does.
#pragma once

#include <functional>
#include <thread>

namespace berth {

/// Waits for the work in its destructor. Where no thread can be made, the constructor does it.
class SideThread {
 public:
  /// `work` must not throw.
  explicit SideThread(std::function<void()> work);
  ~SideThread();
  SideThread(const SideThread&) = delete;
  SideThread& operator=(const SideThread&) = delete;

 private:
  std::function<void()> work_;
  std::thread thread_;
};

}  // namespace berth
