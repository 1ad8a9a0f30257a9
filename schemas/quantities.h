// Sizes, durations and instants as users write them, and back.
//
// Pure functions; safe from any thread. They throw std::invalid_argument whose what() completes the
// sentence `"2GX" …`, e.g. `is not a size (use 512M, 2GiB …)`; callers prefix file and JSON pointer.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace berth {

using Bytes = std::uint64_t;
constexpr Bytes kMebibyte = Bytes{1} << 20U;
using Milliseconds = std::chrono::milliseconds;
/// Wall-clock instant with microsecond resolution; what records and the database hold (UTC).
using Timestamp = std::chrono::time_point<std::chrono::system_clock, std::chrono::microseconds>;

/// "512M", "2GiB", "1.5G", "100KB": K M G T P and KiB… are powers of 1024 (as in Slurm), KB MB… powers
/// of 1000, B is bytes. A number without a unit is multiplied by `bare_unit` (Slurm's --mem: MiB).
Bytes parse_size(std::string_view text, Bytes bare_unit = 1);

/// The shortest exact form with a binary suffix: 536870912 -> "512M", 1000 -> "1000".
std::string format_size(Bytes bytes);

/// Rounded for people: 1536 -> "1.50K" as sacct prints.
std::string format_size_human(Bytes bytes);

/// Slurm's forms ("minutes", "minutes:seconds", "hours:minutes:seconds", "days-hours",
/// "days-hours:minutes", "days-hours:minutes:seconds"), ISO 8601 durations ("PT1H30M") and unit forms
/// ("90s", "10min", "1h30m", "250ms"). A bare number is multiplied by `bare_unit`: a minute
/// for time limits, as in Slurm, and a second for all others.
Milliseconds parse_duration(std::string_view text, Milliseconds bare_unit);

/// Slurm's [D-]HH:MM:SS; fractions of a second are cut.
std::string format_duration(Milliseconds duration);
/// sacct's TotalCPU form: [D-][HH:]MM:SS[.mmm].
std::string format_cpu_time(std::chrono::microseconds duration);

/// "2026-11-23T17:00:00", "2026-11-23", "now-1hour", "17:30", "5:30pm", "11/23", "11/23/26-17:00", "today",
/// "midnight"; sacct's -S and -E forms, local time unless it ends in Z or an offset. A day without a year is
/// this year's. `now` decides what "now" and a bare time mean.
Timestamp parse_instant(std::string_view text, Timestamp now);
/// Local time as Slurm prints it: 2026-11-23T17:00:00.
std::string format_instant(Timestamp instant);
/// UTC with microseconds, for JSON: 2026-11-23T17:00:00.123456Z.
std::string format_instant_utc(Timestamp instant);

}  // namespace berth
