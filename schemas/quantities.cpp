#include "schemas/quantities.h"

#include <array>
#include <cstddef>
#include <cstdio>
#include <ctime>
#include <limits>
#include <optional>
#include <stdexcept>

#include "schemas/characters.h"
#include "schemas/coming_instant.h"

namespace berth {

namespace {

__extension__ using Wide = unsigned __int128;  // products of two 64-bit numbers, so that rounding is ours

std::string lowered(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    c = to_lower(c);
  }
  return result;
}

/// A decimal number as written: whole + fraction / scale.
struct Decimal {
  std::uint64_t whole = 0;
  std::uint64_t fraction = 0;
  std::uint64_t scale = 1;
  bool has_point = false;
};

constexpr std::size_t kFractionDigits = 9;

/// Takes "12", "1.5" or ".5" off the front; nothing when there is no number or it is too large.
std::optional<Decimal> take_decimal(std::string_view& rest) {
  Decimal number;
  std::size_t digits = 0;
  while (!rest.empty() && is_digit(rest.front())) {
    const auto digit = static_cast<std::uint64_t>(rest.front() - '0');
    if (number.whole > (std::numeric_limits<std::uint64_t>::max() - digit) / 10) {
      return std::nullopt;
    }
    number.whole = number.whole * 10 + digit;
    rest.remove_prefix(1);
    ++digits;
  }
  if (!rest.empty() && rest.front() == '.') {
    number.has_point = true;
    rest.remove_prefix(1);
    const std::size_t before = rest.size();
    while (!rest.empty() && is_digit(rest.front())) {
      if (before - rest.size() < kFractionDigits) {
        number.fraction = number.fraction * 10 + static_cast<std::uint64_t>(rest.front() - '0');
        number.scale *= 10;
      }
      rest.remove_prefix(1);
      ++digits;
    }
    if (before == rest.size()) {
      return std::nullopt;
    }
  }
  return digits == 0 ? std::nullopt : std::optional(number);
}

/// number * unit, rounded down; nothing beyond `maximum`.
std::optional<std::uint64_t> multiply(const Decimal& number, std::uint64_t unit, std::uint64_t maximum) {
  const Wide product = Wide{number.whole} * unit + Wide{number.fraction} * unit / number.scale;
  if (product > maximum) {
    return std::nullopt;
  }
  return static_cast<std::uint64_t>(product);
}

// ---- sizes ----

[[noreturn]] void not_a_size() {
  throw std::invalid_argument("is not a size (use 512M, 2GiB …)");
}

constexpr std::string_view kSizeLetters = "kmgtpe";

/// Bytes in one of `suffix` ("", "b", "k", "kib", "kb" …, in lower case).
std::optional<std::uint64_t> size_unit(const std::string& suffix, Bytes bare_unit) {
  if (suffix.empty()) {
    return bare_unit;
  }
  if (suffix == "b") {
    return 1;
  }
  const std::size_t power = kSizeLetters.find(suffix.front());
  const std::string_view ending = std::string_view(suffix).substr(1);
  if (power == std::string_view::npos || (!ending.empty() && ending != "ib" && ending != "b")) {
    return std::nullopt;
  }
  const std::uint64_t base = ending == "b" ? 1000 : 1024;
  std::uint64_t unit = 1;
  for (std::size_t step = 0; step <= power; ++step) {
    unit *= base;
  }
  return unit;
}

// ---- durations ----

constexpr std::uint64_t kSecond = 1000;
constexpr std::uint64_t kMinute = 60 * kSecond;
constexpr std::uint64_t kHour = 60 * kMinute;
constexpr std::uint64_t kDay = 24 * kHour;
constexpr std::uint64_t kWeek = 7 * kDay;
// 100 years: far beyond any job, and nanoseconds of it still fit in 64 bits.
constexpr std::uint64_t kMaximumDuration = 36'500 * kDay;

[[noreturn]] void not_a_duration() {
  throw std::invalid_argument("is not a duration (use 90s, 10min, 1-12:00:00 …)");
}
[[noreturn]] void too_long() {
  throw std::invalid_argument("is too long (at most 36500 days)");
}

void add(std::uint64_t& total, const Decimal& number, std::uint64_t unit) {
  const std::optional<std::uint64_t> part = multiply(number, unit, kMaximumDuration);
  if (!part || *part > kMaximumDuration - total) {
    too_long();
  }
  total += *part;
}

struct DurationUnit {
  std::string_view name;
  std::uint64_t milliseconds;
};

constexpr std::array kDurationUnits{
    DurationUnit{"ms", 1},
    DurationUnit{"msec", 1},
    DurationUnit{"s", kSecond},
    DurationUnit{"sec", kSecond},
    DurationUnit{"secs", kSecond},
    DurationUnit{"second", kSecond},
    DurationUnit{"seconds", kSecond},
    DurationUnit{"m", kMinute},
    DurationUnit{"min", kMinute},
    DurationUnit{"mins", kMinute},
    DurationUnit{"minute", kMinute},
    DurationUnit{"minutes", kMinute},
    DurationUnit{"h", kHour},
    DurationUnit{"hr", kHour},
    DurationUnit{"hrs", kHour},
    DurationUnit{"hour", kHour},
    DurationUnit{"hours", kHour},
    DurationUnit{"d", kDay},
    DurationUnit{"day", kDay},
    DurationUnit{"days", kDay},
    DurationUnit{"w", kWeek},
    DurationUnit{"week", kWeek},
    DurationUnit{"weeks", kWeek},
};

std::string take_letters(std::string_view& rest) {
  std::string letters;
  while (!rest.empty() && is_letter(rest.front())) {
    letters += to_lower(rest.front());
    rest.remove_prefix(1);
  }
  return letters;
}

Decimal require_decimal(std::string_view& rest) {
  if (rest.empty() || !(is_digit(rest.front()) || rest.front() == '.')) {
    not_a_duration();
  }
  const std::optional<Decimal> number = take_decimal(rest);
  if (!number) {
    not_a_duration();
  }
  return *number;
}

/// "1h30m", "1h 30min", "250ms".
std::uint64_t parse_unit_form(std::string_view rest) {
  std::uint64_t total = 0;
  while (!rest.empty()) {
    const Decimal number = require_decimal(rest);
    while (!rest.empty() && rest.front() == ' ') {
      rest.remove_prefix(1);
    }
    const std::string name = take_letters(rest);
    const DurationUnit* unit = nullptr;
    for (const DurationUnit& candidate : kDurationUnits) {
      if (candidate.name == name) {
        unit = &candidate;
      }
    }
    if (unit == nullptr) {
      not_a_duration();
    }
    add(total, number, unit->milliseconds);
    while (!rest.empty() && rest.front() == ' ') {
      rest.remove_prefix(1);
    }
  }
  return total;
}

/// ISO 8601 after its "P"; years and months have no fixed length and are refused.
std::uint64_t parse_iso_form(std::string_view rest) {
  std::uint64_t total = 0;
  bool in_time = false;
  bool any = false;
  while (!rest.empty()) {
    if (to_lower(rest.front()) == 't' && !in_time) {
      in_time = true;
      any = false;
      rest.remove_prefix(1);
      continue;
    }
    const Decimal number = require_decimal(rest);
    const char designator = rest.empty() ? '\0' : to_lower(rest.front());
    std::uint64_t unit = 0;
    if (in_time) {
      unit = designator == 'h' ? kHour : designator == 'm' ? kMinute : designator == 's' ? kSecond : 0;
    } else {
      unit = designator == 'w' ? kWeek : designator == 'd' ? kDay : 0;
    }
    if (unit == 0) {
      not_a_duration();
    }
    rest.remove_prefix(1);
    add(total, number, unit);
    any = true;
  }
  if (!any) {
    not_a_duration();
  }
  return total;
}

/// Slurm's colon forms. Without days the fields are [hours:]minutes:seconds; after "days-" they are
/// hours[:minutes[:seconds]] (sbatch(1), --time). Only the last field may have a fraction.
std::uint64_t parse_slurm_form(std::string_view rest) {
  std::uint64_t total = 0;
  const std::size_t dash = rest.find('-');
  const bool has_days = dash != std::string_view::npos;
  if (has_days) {
    std::string_view days = rest.substr(0, dash);
    const Decimal number = require_decimal(days);
    if (!days.empty() || number.has_point) {
      not_a_duration();
    }
    add(total, number, kDay);
    rest.remove_prefix(dash + 1);
  }
  std::array<Decimal, 3> fields{};
  std::size_t count = 0;
  while (true) {
    if (count == fields.size()) {
      not_a_duration();
    }
    fields.at(count++) = require_decimal(rest);
    if (rest.empty()) {
      break;
    }
    if (rest.front() != ':' || fields.at(count - 1).has_point) {
      not_a_duration();
    }
    rest.remove_prefix(1);
  }
  constexpr std::array<std::uint64_t, 3> kUnits{kHour, kMinute, kSecond};
  const std::size_t first = has_days ? 0 : kUnits.size() - count;
  if (fields.at(count - 1).has_point && first + count != kUnits.size()) {
    not_a_duration();
  }
  for (std::size_t index = 0; index < count; ++index) {
    add(total, fields.at(index), kUnits.at(first + index));
  }
  return total;
}

std::uint64_t parse_milliseconds(std::string_view text, Milliseconds bare_unit) {
  if (text.empty()) {
    not_a_duration();
  }
  if (to_lower(text.front()) == 'p') {
    return parse_iso_form(text.substr(1));
  }
  if (text.find_first_of(":-") != std::string_view::npos) {
    return parse_slurm_form(text);
  }
  std::string_view rest = text;
  const Decimal number = require_decimal(rest);
  if (rest.empty()) {
    std::uint64_t total = 0;
    add(total, number, static_cast<std::uint64_t>(bare_unit.count()));
    return total;
  }
  return parse_unit_form(text);
}

template <typename... Arguments>
std::string print(const char* format, Arguments... arguments) {
  std::array<char, 96> buffer{};
  std::snprintf(buffer.data(), buffer.size(), format, arguments...);
  return buffer.data();
}

// ---- instants ----

[[noreturn]] void not_an_instant() {
  throw std::invalid_argument("is not a time (use 2026-11-23T17:00:00, 17:30, today, now-1hour …)");
}

struct WallTime {
  unsigned hour = 0;
  unsigned minute = 0;
  unsigned second = 0;
  unsigned microsecond = 0;
};

/// Exactly `digits` digits off the front.
unsigned take_digits(std::string_view& rest, std::size_t digits) {
  if (rest.size() < digits) {
    not_an_instant();
  }
  unsigned number = 0;
  for (std::size_t index = 0; index < digits; ++index) {
    if (!is_digit(rest[index])) {
      not_an_instant();
    }
    number = number * 10 + static_cast<unsigned>(rest[index] - '0');
  }
  rest.remove_prefix(digits);
  return number;
}

bool take(std::string_view& rest, char character) {
  if (rest.empty() || to_lower(rest.front()) != character) {
    return false;
  }
  rest.remove_prefix(1);
  return true;
}

WallTime take_wall_time(std::string_view& rest) {
  WallTime time;
  time.hour = take_digits(rest, rest.size() > 1 && rest[1] == ':' ? 1 : 2);
  if (!take(rest, ':')) {
    not_an_instant();
  }
  time.minute = take_digits(rest, 2);
  if (take(rest, ':')) {
    time.second = take_digits(rest, 2);
    if (take(rest, '.')) {
      unsigned scale = 100'000;
      if (rest.empty() || !is_digit(rest.front())) {
        not_an_instant();
      }
      for (; !rest.empty() && is_digit(rest.front()); scale /= 10, rest.remove_prefix(1)) {
        time.microsecond += static_cast<unsigned>(rest.front() - '0') * scale;
      }
    }
  }
  if (time.hour > 23 || time.minute > 59 || time.second > 60) {
    not_an_instant();
  }
  return time;
}

/// "Z" or "+01:00", "+0100", "-01" in seconds east of UTC; nothing for local time.
std::optional<long> take_offset(std::string_view& rest) {
  if (take(rest, 'z')) {
    return 0;
  }
  const bool west = !rest.empty() && rest.front() == '-';
  if (!west && !(!rest.empty() && rest.front() == '+')) {
    return std::nullopt;
  }
  rest.remove_prefix(1);
  const unsigned hours = take_digits(rest, 2);
  take(rest, ':');
  const unsigned minutes = rest.empty() ? 0 : take_digits(rest, 2);
  if (hours > 14 || minutes > 59) {
    not_an_instant();
  }
  const long seconds = static_cast<long>(hours) * 3600 + static_cast<long>(minutes) * 60;
  return west ? -seconds : seconds;
}

Timestamp from_seconds(std::time_t seconds, unsigned microseconds) {
  return Timestamp(std::chrono::seconds(seconds) + std::chrono::microseconds(microseconds));
}

std::time_t to_seconds(Timestamp instant) {
  return std::chrono::floor<std::chrono::seconds>(instant).time_since_epoch().count();
}

std::tm local_calendar(Timestamp instant) {
  const std::time_t seconds = to_seconds(instant);
  std::tm calendar{};
  ::tzset();  // localtime_r need not read TZ (localtime(3))
  ::localtime_r(&seconds, &calendar);
  return calendar;
}

Timestamp combine(std::tm day, const WallTime& time, std::optional<long> offset) {
  day.tm_hour = static_cast<int>(time.hour);
  day.tm_min = static_cast<int>(time.minute);
  day.tm_sec = static_cast<int>(time.second);
  day.tm_isdst = -1;
  const std::time_t seconds = offset ? ::timegm(&day) - *offset : ::mktime(&day);
  return from_seconds(seconds, time.microsecond);
}

/// The first midnight of 1970 east of UTC is of 1969 in UTC, and now-25000days is earlier still.
constexpr int kFirstYearWithOffset = 1900;

/// Local time, or at an offset. Throws for a day that the calendar has not.
Timestamp on_day(int year, unsigned month, unsigned day, const WallTime& time,
                 std::optional<long> offset = std::nullopt) {
  const std::chrono::year_month_day date{std::chrono::year(year), std::chrono::month(month),
                                         std::chrono::day(day)};
  if (!date.ok() || year < (offset ? kFirstYearWithOffset : 1970)) {
    not_an_instant();
  }
  std::tm calendar{};
  calendar.tm_year = year - 1900;
  calendar.tm_mon = static_cast<int>(month) - 1;
  calendar.tm_mday = static_cast<int>(day);
  return combine(calendar, time, offset);
}

Timestamp parse_dated(std::string_view rest) {
  const unsigned year = take_digits(rest, 4);
  const bool first_dash = take(rest, '-');
  const unsigned month = take_digits(rest, 2);
  const bool second_dash = take(rest, '-');
  const unsigned day = take_digits(rest, 2);
  WallTime time;
  std::optional<long> offset;
  if (!rest.empty()) {
    if (!take(rest, 't') && !take(rest, ' ')) {
      not_an_instant();
    }
    time = take_wall_time(rest);
    offset = take_offset(rest);
  }
  if (!first_dash || !second_dash || !rest.empty()) {
    not_an_instant();
  }
  return on_day(static_cast<int>(year), month, day, time, offset);
}

/// What follows "now": nothing, or + or - and a count with Slurm's unit words (seconds by default).
Timestamp parse_relative(std::string_view rest, Timestamp now) {
  if (rest.empty()) {
    return now;
  }
  const char sign = rest.front();
  rest.remove_prefix(1);
  if ((sign != '+' && sign != '-') || rest.empty() || !is_digit(rest.front()) ||
      rest.find_first_of(":-") != std::string_view::npos) {
    not_an_instant();
  }
  Milliseconds distance{};
  try {
    distance = parse_duration(rest, std::chrono::seconds(1));
  } catch (const std::invalid_argument&) {
    not_an_instant();
  }
  return sign == '+' ? now + distance : now - distance;
}

struct DayWord {
  std::string_view word;
  int days;
  unsigned hour;
};
constexpr std::array kDayWords{DayWord{"today", 0, 0}, DayWord{"midnight", 0, 0}, DayWord{"noon", 0, 12},
                               DayWord{"tomorrow", 1, 0}, DayWord{"yesterday", -1, 0}};

}  // namespace

Bytes parse_size(std::string_view text, Bytes bare_unit) {
  std::string_view rest = text;
  if (rest.empty() || !(is_digit(rest.front()) || rest.front() == '.')) {
    not_a_size();
  }
  const std::optional<Decimal> number = take_decimal(rest);
  if (!number) {
    not_a_size();
  }
  const std::optional<std::uint64_t> unit = size_unit(lowered(rest), bare_unit);
  if (!unit) {
    not_a_size();
  }
  // The kernel's counters and limits are signed 64-bit numbers.
  constexpr std::uint64_t kMaximum = std::numeric_limits<std::int64_t>::max();
  const std::optional<std::uint64_t> bytes = multiply(*number, *unit, kMaximum);
  if (!bytes) {
    throw std::invalid_argument("is too large (less than 8E)");
  }
  return *bytes;
}

std::string format_size(Bytes bytes) {
  std::size_t power = 0;
  while (bytes != 0 && bytes % 1024 == 0 && power < kSizeLetters.size()) {
    bytes /= 1024;
    ++power;
  }
  std::string text = std::to_string(bytes);
  if (power > 0) {
    text += static_cast<char>(kSizeLetters[power - 1] - 'a' + 'A');
  }
  return text;
}

std::string format_size_human(Bytes bytes) {
  auto amount = static_cast<double>(bytes);
  std::size_t power = 0;
  while (amount >= 1024 && power < kSizeLetters.size()) {
    amount /= 1024;
    ++power;
  }
  if (power == 0) {
    return std::to_string(bytes);
  }
  const char letter = static_cast<char>(kSizeLetters[power - 1] - 'a' + 'A');
  const auto whole = static_cast<std::uint64_t>(amount);
  return static_cast<double>(whole) < amount
             ? print("%.2f%c", amount, letter)
             : print("%llu%c", static_cast<unsigned long long>(whole), letter);
}

Milliseconds parse_duration(std::string_view text, Milliseconds bare_unit) {
  return Milliseconds(static_cast<Milliseconds::rep>(parse_milliseconds(text, bare_unit)));
}

std::string format_duration(Milliseconds duration) {
  const long long total = duration.count() < 0 ? 0 : duration.count() / 1000;
  const long long days = total / 86'400;
  const long long hours = total / 3600 % 24;
  const long long minutes = total / 60 % 60;
  const long long seconds = total % 60;
  return days > 0 ? print("%lld-%02lld:%02lld:%02lld", days, hours, minutes, seconds)
                  : print("%02lld:%02lld:%02lld", hours, minutes, seconds);
}

std::string format_cpu_time(std::chrono::microseconds duration) {
  const long long thousandths = duration.count() < 0 ? 0 : duration.count() / 1000;
  if (thousandths >= static_cast<long long>(kHour) || thousandths % 1000 == 0) {
    return format_duration(Milliseconds(thousandths));
  }
  return print("%02lld:%02lld.%03lld", thousandths / 60'000, thousandths / 1000 % 60, thousandths % 1000);
}

namespace {

/// "17:30", "5:30pm", "5:30 PM"; nothing for what is no time of day.
std::optional<WallTime> time_of_day(const std::string& word) {
  if (word.find(':') > 2) {
    return std::nullopt;
  }
  std::string_view rest = word;
  WallTime time = take_wall_time(rest);
  if (rest == " am" || rest == " pm") {
    rest.remove_prefix(1);
  }
  if (rest == "am" || rest == "pm") {
    if (time.hour < 1 || time.hour > 12) {
      not_an_instant();
    }
    time.hour = time.hour % 12 + (rest == "pm" ? 12 : 0);
    rest = {};
  }
  if (!rest.empty()) {
    not_an_instant();
  }
  return time;
}

/// "12/24", "12/24/26", "12.24.26", each with "-17:30" too, "1224", "122426"; nothing for anything else. A
/// day without a year is this year's, or when `coming` the next one of that name.
std::optional<Timestamp> american_day(std::string_view text, Timestamp now, bool coming) {
  const bool is_plain = text.find_first_not_of("0123456789") == std::string_view::npos;
  const char separator = is_plain || text.size() < 5 ? '\0' : text[2];
  if (is_plain ? text.size() != 4 && text.size() != 6 : separator != '/' && separator != '.') {
    return std::nullopt;
  }
  const std::size_t dash = std::min(text.find('-'), text.size());
  std::string_view rest = text.substr(0, dash);
  std::string_view of_day = text.substr(std::min(dash + 1, text.size()));
  const bool has_time = dash < text.size();
  const WallTime time = has_time ? take_wall_time(of_day) : WallTime{};
  const unsigned month = take_digits(rest, 2);
  if (!is_plain) {
    take(rest, separator);
  }
  const unsigned number = take_digits(rest, 2);
  const bool has_year = !rest.empty();
  if (has_year && !is_plain && !take(rest, separator)) {
    not_an_instant();
  }
  const int this_year = local_calendar(now).tm_year + 1900;
  const int year = has_year ? 2000 + static_cast<int>(take_digits(rest, 2)) : this_year;
  if (!rest.empty() || !of_day.empty()) {
    not_an_instant();
  }
  const Timestamp that = on_day(year, month, number, time);
  const bool is_over = coming && !has_year && that + std::chrono::hours(has_time ? 0 : 24) <= now;
  return is_over ? on_day(year + 1, month, number, time) : that;
}

}  // namespace

Timestamp parse_instant(std::string_view text, Timestamp now) {
  const std::string word = lowered(text);
  if (word.starts_with("now")) {
    return parse_relative(std::string_view(word).substr(3), now);
  }
  std::tm day = local_calendar(now);
  for (const DayWord& known : kDayWords) {
    if (known.word == word) {
      day.tm_mday += known.days;
      return combine(day, WallTime{known.hour, 0, 0, 0}, std::nullopt);
    }
  }
  if (const std::optional<WallTime> time = time_of_day(word)) {
    return combine(day, *time, std::nullopt);
  }
  if (const std::optional<Timestamp> date = american_day(text, now, false)) {
    return *date;
  }
  return parse_dated(text);
}

namespace {

struct HourWord {
  std::string_view word;
  unsigned hour;
};
constexpr std::array kHourWords{HourWord{"midnight", 0}, HourWord{"elevenses", 11}, HourWord{"noon", 12},
                                HourWord{"fika", 15}, HourWord{"teatime", 16}};

/// The next instant at which a clock shows this.
Timestamp next_time_of_day(const WallTime& time, Timestamp now) {
  std::tm day = local_calendar(now);
  const Timestamp today = combine(day, time, std::nullopt);
  if (today > now) {
    return today;
  }
  day = local_calendar(now);
  ++day.tm_mday;
  return combine(day, time, std::nullopt);
}

Timestamp read_coming_instant(std::string_view text, Timestamp now) {
  const std::string word = lowered(text);
  for (const HourWord& known : kHourWords) {
    if (known.word == word) {
      return next_time_of_day({known.hour, 0, 0, 0}, now);
    }
  }
  if (!word.starts_with("now")) {
    if (const std::optional<WallTime> time = time_of_day(word)) {
      return next_time_of_day(*time, now);
    }
    if (const std::optional<Timestamp> day = american_day(text, now, true)) {
      return *day;
    }
  }
  return parse_instant(text, now);
}

}  // namespace

Timestamp parse_coming_instant(std::string_view text, Timestamp now) {
  try {
    return read_coming_instant(text, now);
  } catch (const std::invalid_argument&) {
    throw std::invalid_argument("is not a time (use 2026-11-24T06:00, 17:30, tomorrow, now+2hours …)");
  }
}

std::string format_instant(Timestamp instant) {
  const std::tm calendar = local_calendar(instant);
  return print("%04d-%02d-%02dT%02d:%02d:%02d", calendar.tm_year + 1900, calendar.tm_mon + 1,
               calendar.tm_mday, calendar.tm_hour, calendar.tm_min, calendar.tm_sec);
}

std::string format_instant_utc(Timestamp instant) {
  const std::time_t seconds = to_seconds(instant);
  const auto microseconds = (instant - from_seconds(seconds, 0)).count();
  std::tm calendar{};
  ::gmtime_r(&seconds, &calendar);
  return print("%04d-%02d-%02dT%02d:%02d:%02d.%06dZ", calendar.tm_year + 1900, calendar.tm_mon + 1,
               calendar.tm_mday, calendar.tm_hour, calendar.tm_min, calendar.tm_sec,
               static_cast<int>(microseconds));
}

}  // namespace berth
