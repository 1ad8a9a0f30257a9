// QueueFacts: what berthd schedules a waiting job by.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "schemas/quantities.h"

namespace berth {

/// Who keeps a waiting job from starting until it is released.
enum class Hold { none, user, administrator };

/// What berthd schedules a waiting job by; kept beside the job so that a restart reads no spec.
struct QueueFacts {
  std::int64_t priority = 0;  ///< effective: priority - nice
  unsigned cpus = 1;
  std::optional<Bytes> memory;  ///< absent: the pool's share
  Milliseconds stay{0};         ///< longest stay in a slot
  Hold hold = Hold::none;
  std::optional<Timestamp> begin;     ///< not before
  std::optional<Timestamp> deadline;  ///< must have ended by then
  std::string dependency;             ///< as sbatch's --dependency; empty: none
  std::string array_tasks;            ///< an array's tasks that have not started, as a list; empty: no array
  unsigned array_limit = 0;           ///< its tasks at once; 0: no limit
  std::string shared_network;         ///< the name of "shared:NAME"; empty: another network
  bool operator==(const QueueFacts&) const = default;
};

}  // namespace berth
