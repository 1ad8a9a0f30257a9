#include "scheduler/side_thread.h"

#include <system_error>
#include <utility>

#include "executor/os/other_cpu.h"

namespace berth {

SideThread::SideThread(std::function<void()> work) : work_(std::move(work)) {
  const OtherCpu other;
  try {
    thread_ = std::thread([this] { work_(); });
    other.take_thread(thread_.native_handle());
  } catch (const std::system_error&) {  // EAGAIN: too many threads
    work_();
  }
}

SideThread::~SideThread() {
  if (thread_.joinable()) {
    thread_.join();
  }
}

}  // namespace berth
