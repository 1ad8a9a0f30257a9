// Clock: the time, as a parameter. Steady for deadlines, system for records.
#pragma once

#include <chrono>

#include "schemas/quantities.h"

namespace berth {

using SteadyTime = std::chrono::steady_clock::time_point;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual SteadyTime steady_now() const = 0;
  virtual Timestamp system_now() const = 0;
};

class SystemClock final : public Clock {
 public:
  SteadyTime steady_now() const override { return std::chrono::steady_clock::now(); }
  Timestamp system_now() const override {
    return std::chrono::time_point_cast<Timestamp::duration>(std::chrono::system_clock::now());
  }
};

}  // namespace berth
