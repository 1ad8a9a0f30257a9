#include "executor/os/other_cpu.h"

#include <utility>

namespace berth {

OtherCpu::OtherCpu() {
  is_known_ = ::sched_getaffinity(0, sizeof both_, &both_) == 0 && CPU_COUNT(&both_) == 2;
}

std::optional<cpu_set_t> OtherCpu::mask_of_other() const {
  const int here = is_known_ ? ::sched_getcpu() : -1;
  if (here < 0) {
    return std::nullopt;
  }
  cpu_set_t other = both_;
  CPU_CLR(static_cast<unsigned>(here), &other);
  return other;
}

void OtherCpu::take_process(pid_t process) const {
  if (const std::optional<cpu_set_t> other = mask_of_other()) {
    ::sched_setaffinity(process, sizeof *other, &*other);
  }
}

void OtherCpu::take_thread(pthread_t thread) const {
  if (const std::optional<cpu_set_t> other = mask_of_other()) {
    ::pthread_setaffinity_np(thread, sizeof *other, &*other);
  }
}

void OtherCpu::leave() {
  if (std::exchange(is_known_, false)) {
    ::sched_setaffinity(0, sizeof both_, &both_);
  }
}

}  // namespace berth
