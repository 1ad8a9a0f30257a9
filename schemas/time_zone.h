// TimeZone: how far local time is from UTC, and since when; for one program to tell another, which then
// prints instants in it without setting its own zone.
//
// A value; safe from any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "schemas/quantities.h"

namespace berth {

class TimeZone {
 public:
  /// From the instant `since`, local time is UTC plus `offset` seconds.
  struct Change {
    std::int64_t since = 0;  ///< seconds since 1970
    long offset = 0;
  };

  /// UTC.
  TimeZone() = default;
  /// This process's (TZ, /etc/localtime), with every change from 30 years before `now` to 10 after.
  static TimeZone local(Timestamp now);
  /// "3600,1774746000:7200,1792890000:3600": the first offset, then SECONDS:OFFSET for each change. Throws
  /// std::invalid_argument.
  static TimeZone parse(std::string_view text);
  std::string to_text() const;

  long offset_at(Timestamp instant) const;
  long first_offset() const { return first_; }
  /// In their order.
  const std::vector<Change>& changes() const { return changes_; }

 private:
  long first_ = 0;
  std::vector<Change> changes_;
};

/// Time of that zone as format_instant(instant) prints this process's: 2026-11-23T17:00:00.
std::string format_instant(Timestamp instant, const TimeZone& zone);

}  // namespace berth
