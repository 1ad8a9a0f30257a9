// Sums over ended attempts, and the most that one of them used, for `berth report`.
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
  /// What the rows may take, 1 KiB and their key each. Beyond it TooMuch is thrown.
  std::optional<std::uint64_t> most_bytes;
};

struct ReportRow {
  std::string key;
  std::uint64_t jobs = 0;                    ///< that had an attempt which ended
  std::uint64_t attempts = 0;                ///< also those that ended without ever having started
  std::map<JobState, std::uint64_t> states;  ///< of the attempts
  // Each is of the attempts of which it was measured, and absent when it was of none. One that never started
  // ran for no time.
  using Time = std::optional<std::chrono::microseconds>;
  Time elapsed;                          ///< wall time
  Time cpu_granted;                      ///< elapsed times CPUs
  Time cpu_used;                         ///< user and system
  std::optional<double> memory_granted;  ///< byte seconds: elapsed times the memory limit
  std::optional<std::uint64_t> oom_kills;
  Time longest;                      ///< wall time of the attempt that ran longest
  std::optional<Bytes> memory_peak;  ///< the highest of an attempt

  // CPU time of the attempts of which both were measured.
  std::chrono::microseconds granted_to_compare{0};
  std::chrono::microseconds used_to_compare{0};
};

}  // namespace berth
