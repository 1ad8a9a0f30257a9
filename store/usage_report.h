// Sums over ended attempts, for `berth report`.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "schemas/job.h"
#include "schemas/quantities.h"
#include "schemas/time_zone.h"

namespace berth {

/// What the attempts of one row have in common.
enum class ReportKey {
  user,
  account,
  name,
  day,  ///< on which they ended, "2026-11-24"
};

struct ReportFilter {
  ReportKey key = ReportKey::user;
  std::optional<Timestamp> start;  ///< ended at this instant or later
  std::optional<Timestamp> end;    ///< ended before this instant
  std::vector<std::string> users;  ///< names or numbers; empty: all
  std::vector<std::string> accounts;
  std::optional<unsigned> user_id;  ///< only of this user
  std::optional<TimeZone> zone;     ///< that days are of; none: this process's
};

struct ReportRow {
  std::string key;
  std::uint64_t jobs = 0;                            ///< that had an attempt which ended
  std::uint64_t attempts = 0;                        ///< also those that ended without ever having started
  std::map<JobState, std::uint64_t> states;          ///< of the attempts
  std::chrono::microseconds elapsed{0};              ///< wall time, of the attempts of which it was measured
  std::chrono::microseconds cpu_granted{0};          ///< elapsed times CPUs
  std::chrono::microseconds cpu_used{0};             ///< user and system
  std::chrono::microseconds cpu_used_of_granted{0};  ///< of it, by those attempts: what cpu_granted is for
  double memory_granted = 0;                         ///< byte seconds: elapsed times the memory limit
  std::uint64_t oom_kills = 0;
};

}  // namespace berth
