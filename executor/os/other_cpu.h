// OtherCpu: where a new thread or process begins at once, beside the one that made it.
//
// A scheduler may leave it waiting on its maker's CPU although another one is idle, until its maker sleeps.
// With two CPUs there is no question which other one; with more the kernel, which knows what they do,
// decides. sched_setaffinity(2). Failures are ignored: it is a matter of time alone.
#pragma once

#include <pthread.h>
#include <sched.h>
#include <sys/types.h>

#include <optional>

namespace berth {

class OtherCpu {
 public:
  /// Of the calling thread, which may use two CPUs, or nothing comes of it.
  OtherCpu();
  /// A process that was just forked, or a thread that was just made, goes there.
  void take_process(pid_t process) const;
  void take_thread(pthread_t thread) const;
  /// By it, later than that, and again at will: from now on it may use both.
  void leave();

 private:
  std::optional<cpu_set_t> mask_of_other() const;

  cpu_set_t both_{};
  bool is_known_ = false;
};

}  // namespace berth
