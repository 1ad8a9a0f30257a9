#include "schemas/time_zone.h"

#include <algorithm>
#include <charconv>
#include <ctime>
#include <stdexcept>

namespace berth {
namespace {

constexpr std::int64_t kOneDay = 86'400;
constexpr std::int64_t kLongYear = 366 * kOneDay;
/// No zone was ever further from UTC (tz database: Manila, until 1844).
constexpr std::int64_t kFurthest = std::int64_t{16} * 3600;
/// local() gives four a year at most (Africa/Casablanca); each is looked at for each attempt of a report.
constexpr std::size_t kMostChanges = 200;

std::int64_t seconds_of(Timestamp instant) {
  return std::chrono::floor<std::chrono::seconds>(instant).time_since_epoch().count();
}

long own_offset(std::int64_t seconds) {
  const std::time_t instant = seconds;
  std::tm calendar{};
  ::localtime_r(&instant, &calendar);
  return calendar.tm_gmtoff;
}

std::int64_t number_of(std::string_view text) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) {
    throw std::invalid_argument("is not a time zone (use 3600, or 3600,1774746000:7200 where it changes)");
  }
  return number;
}

long offset_of(std::string_view text) {
  const std::int64_t offset = number_of(text);
  if (offset < -kFurthest || offset > kFurthest) {
    throw std::invalid_argument("is not a time zone: an offset is at most 57600 seconds");
  }
  return offset;
}

}  // namespace

TimeZone TimeZone::local(Timestamp now) {
  constexpr std::int64_t kYearsBack = 30;
  constexpr std::int64_t kYearsOn = 10;
  ::tzset();  // localtime_r need not read TZ (localtime(3))
  TimeZone zone;
  const std::int64_t last = seconds_of(now) + kYearsOn * kLongYear;
  std::int64_t known = seconds_of(now) - kYearsBack * kLongYear;
  long offset = zone.first_ = own_offset(known);
  for (; known < last; known += kOneDay) {
    const long next = own_offset(known + kOneDay);
    if (next == offset) {
      continue;
    }
    std::int64_t before = known;
    std::int64_t after = known + kOneDay;
    while (after - before > 1) {
      const std::int64_t middle = before + (after - before) / 2;
      (own_offset(middle) == offset ? before : after) = middle;
    }
    zone.changes_.push_back({after, next});
    offset = next;
  }
  return zone;
}

TimeZone TimeZone::parse(std::string_view text) {
  TimeZone zone;
  std::size_t comma = text.find(',');
  zone.first_ = offset_of(text.substr(0, comma));
  while (comma != std::string_view::npos) {
    text.remove_prefix(comma + 1);
    comma = text.find(',');
    const std::string_view item = text.substr(0, comma);
    const std::size_t colon = std::min(item.find(':'), item.size());
    const Change change{number_of(item.substr(0, colon)),
                        offset_of(item.substr(std::min(colon + 1, item.size())))};
    if (!zone.changes_.empty() && change.since <= zone.changes_.back().since) {
      throw std::invalid_argument("is not a time zone: its changes are not in their order");
    }
    if (zone.changes_.size() == kMostChanges) {
      throw std::invalid_argument("is not a time zone: it changes more than " + std::to_string(kMostChanges) +
                                  " times");
    }
    zone.changes_.push_back(change);
  }
  return zone;
}

std::string TimeZone::to_text() const {
  std::string text = std::to_string(first_);
  for (const Change& change : changes_) {
    text += "," + std::to_string(change.since) + ":" + std::to_string(change.offset);
  }
  return text;
}

long TimeZone::offset_at(Timestamp instant) const {
  const auto later =
      std::upper_bound(changes_.begin(), changes_.end(), seconds_of(instant),
                       [](std::int64_t seconds, const Change& change) { return seconds < change.since; });
  return later == changes_.begin() ? first_ : std::prev(later)->offset;
}

std::string format_instant(Timestamp instant, const TimeZone& zone) {
  std::string text = format_instant_utc(instant + std::chrono::seconds(zone.offset_at(instant)));
  return text.substr(0, text.find('.'));
}

}  // namespace berth
