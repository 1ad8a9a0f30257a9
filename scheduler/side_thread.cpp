#include "scheduler/side_thread.h"

#include <system_error>
#include <utility>

#include "executor/os/other_cpu.h"

namespace berth {

SideThread::SideThread(std::function<void()> work, Begins begins) : work_(std::move(work)) {
  try {
    thread_ = std::thread([this] {
      work_();
      may_end_.wait(false);
    });
  } catch (const std::system_error&) {  // EAGAIN: too many threads
    work_();
    return;
  }
  if (begins == Begins::at_once) {
    OtherCpu().take_thread(thread_.native_handle());
  }
  may_end_ = true;
  may_end_.notify_one();
}

void SideThread::wait() {
  if (thread_.joinable()) {
    thread_.join();
  }
}

}  // namespace berth
