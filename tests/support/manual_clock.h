// ManualClock: time that passes when a test says so.
#pragma once

#include "scheduler/clock.h"

namespace berth {

class ManualClock final : public Clock {
 public:
  SteadyTime steady_now() const override { return steady_; }
  Timestamp system_now() const override { return system_; }

  template <typename Duration>
  void advance(Duration duration) {
    steady_ += duration;
    system_ += std::chrono::duration_cast<Timestamp::duration>(duration);
  }
  void advance_to(SteadyTime instant) {
    if (instant > steady_) {
      advance(instant - steady_);
    }
  }

 private:
  SteadyTime steady_{std::chrono::hours(1)};
  Timestamp system_{std::chrono::hours(500'000)};  // some day in 2027
};

}  // namespace berth
