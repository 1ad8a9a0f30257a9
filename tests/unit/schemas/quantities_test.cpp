#include "schemas/quantities.h"
#include "schemas/coming_instant.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <ctime>
#include <limits>
#include <stdexcept>

namespace berth {
namespace {

using namespace std::chrono_literals;
using Catch::Matchers::Contains;

constexpr Bytes kMiB = Bytes{1} << 20U;

TEST_CASE(
    "sizes take binary units as Slurm does, decimal ones with B, and bare numbers in the field's unit") {
  CHECK(parse_size("512M") == 512 * kMiB);
  CHECK(parse_size("512m") == 512 * kMiB);
  CHECK(parse_size("2GiB") == 2048 * kMiB);
  CHECK(parse_size("1.5G") == 1536 * kMiB);
  CHECK(parse_size(".5K") == 512);
  CHECK(parse_size("100KB") == 100'000);
  CHECK(parse_size("1TB") == 1'000'000'000'000);
  CHECK(parse_size("1000B") == 1000);
  CHECK(parse_size("1P") == Bytes{1} << 50U);
  CHECK(parse_size("0") == 0);
  CHECK(parse_size("1000") == 1000);
  CHECK(parse_size("512", kMiB) == 512 * kMiB);
  CHECK(parse_size("0.5", kMiB) == kMiB / 2);
  CHECK(parse_size("512K", kMiB) == kMiB / 2);
}

TEST_CASE("fractions of a byte are cut") {
  CHECK(parse_size("1.3K") == 1331);
  CHECK(parse_size("0.9B") == 0);
  CHECK(parse_size("0.1234567891234K") == 126);
}

TEST_CASE("what is not a size is refused with the remedy") {
  for (const char* text :
       {"", "G", "2GX", "-1", "+1", "1 G", " 1", "1e3", "1.G", "1..5G", "0x10", "1iB", "1M\n", "1,5G"}) {
    INFO(text);
    CHECK_THROWS_WITH(parse_size(text), "is not a size (use 512M, 2GiB …)");
  }
}

TEST_CASE("sizes end where the kernel's signed counters end") {
  CHECK(parse_size("9223372036854775807") == std::numeric_limits<std::int64_t>::max());
  CHECK_THROWS_WITH(parse_size("9223372036854775808"), Contains("too large"));
  CHECK_THROWS_WITH(parse_size("8E"), Contains("too large"));
  CHECK_THROWS_WITH(parse_size("16777216", Bytes{1} << 40U), Contains("too large"));
  CHECK_THROWS_AS(parse_size("99999999999999999999"), std::invalid_argument);
}

TEST_CASE("a formatted size is the shortest exact one and reads back") {
  CHECK(format_size(536'870'912) == "512M");
  CHECK(format_size(1000) == "1000");
  CHECK(format_size(0) == "0");
  CHECK(format_size(1536 * kMiB) == "1536M");
  for (const Bytes bytes : {Bytes{0}, Bytes{1}, Bytes{1023}, Bytes{1024}, Bytes{1025}, 3 * kMiB,
                            (Bytes{1} << 62U), (Bytes{1} << 62U) + 1}) {
    CHECK(parse_size(format_size(bytes)) == bytes);
  }
}

TEST_CASE("sizes for people are rounded as sacct rounds them") {
  CHECK(format_size_human(0) == "0");
  CHECK(format_size_human(1023) == "1023");
  CHECK(format_size_human(1024) == "1K");
  CHECK(format_size_human(1536) == "1.50K");
  CHECK(format_size_human(1'288'490'189) == "1.20G");
}

TEST_CASE("durations take every form of sbatch --time") {
  CHECK(parse_duration("90", 1min) == 90min);
  CHECK(parse_duration("90:30", 1min) == 90min + 30s);
  CHECK(parse_duration("1:30:15", 1min) == 1h + 30min + 15s);
  CHECK(parse_duration("2-12", 1min) == 60h);
  CHECK(parse_duration("2-12:30", 1min) == 60h + 30min);
  CHECK(parse_duration("2-12:30:15", 1min) == 60h + 30min + 15s);
  CHECK(parse_duration("00:00:01.250", 1min) == 1250ms);
}

TEST_CASE("durations take ISO 8601 and units") {
  CHECK(parse_duration("PT1H30M", 1min) == 90min);
  CHECK(parse_duration("P1DT2H", 1min) == 26h);
  CHECK(parse_duration("P2W", 1min) == 14 * 24h);
  CHECK(parse_duration("pt0.5s", 1min) == 500ms);
  CHECK(parse_duration("90s", 1min) == 90s);
  CHECK(parse_duration("10min", 1min) == 10min);
  CHECK(parse_duration("10m", 1min) == 10min);
  CHECK(parse_duration("1h30m", 1min) == 90min);
  CHECK(parse_duration("1h 30 minutes", 1min) == 90min);
  CHECK(parse_duration("250ms", 1min) == 250ms);
  CHECK(parse_duration("1.5h", 1min) == 90min);
  CHECK(parse_duration("1d", 1min) == 24h);
}

TEST_CASE("a bare number counts the field's unit, other forms do not") {
  CHECK(parse_duration("5", 1s) == 5s);
  CHECK(parse_duration("0.5", 1s) == 500ms);
  CHECK(parse_duration("5:00", 1s) == 5min);
  CHECK(parse_duration("5min", 1s) == 5min);
}

TEST_CASE("what is not a duration is refused with the remedy") {
  for (const char* text : {"",      "soon",    "-5",        "1:2:3:4", "1:",  ":1",   "1-",  "-1:00", "1.5-0",
                           "1-0.5", "1:2.5:3", "1-1.5",     "P",       "PT",  "P1M",  "P1Y", "PT1D",  "P1H",
                           "P1DT",  "PTT1S",   "5 parsecs", "10min,",  "1h-", "5 s5", " 5"}) {
    INFO(text);
    CHECK_THROWS_WITH(parse_duration(text, 1min), "is not a duration (use 90s, 10min, 1-12:00:00 …)");
  }
  CHECK(parse_duration("36500-0", 1min) == 36'500 * 24h);
  CHECK_THROWS_WITH(parse_duration("36500-0:0:1", 1min), Contains("too long"));
  CHECK_THROWS_WITH(parse_duration("999999999999999999h", 1min), Contains("too long"));
}

TEST_CASE("durations print as Slurm prints them and read back") {
  CHECK(format_duration(0s) == "00:00:00");
  CHECK(format_duration(10min) == "00:10:00");
  CHECK(format_duration(60h + 30min + 15s) == "2-12:30:15");
  CHECK(format_duration(1999ms) == "00:00:01");
  for (const Milliseconds duration :
       {Milliseconds(1s), Milliseconds(59min), Milliseconds(24h), Milliseconds(1000h)}) {
    CHECK(parse_duration(format_duration(duration), 1min) == duration);
  }
}

TEST_CASE("CPU times print as sacct's TotalCPU") {
  CHECK(format_cpu_time(0us) == "00:00:00");
  CHECK(format_cpu_time(12'345us) == "00:00.012");
  CHECK(format_cpu_time(61'500ms) == "01:01.500");
  CHECK(format_cpu_time(61s) == "00:01:01");
  CHECK(format_cpu_time(2h + 500ms) == "02:00:00");
  CHECK(format_cpu_time(25h) == "1-01:00:00");
}

/// Local time for one test, three hours and a half west of UTC with summer time.
class NewfoundlandTime {
 public:
  NewfoundlandTime() {
    ::setenv("TZ", "NST3:30NDT2:30,M3.2.0,M11.1.0", 1);
    ::tzset();
  }
  ~NewfoundlandTime() {
    ::unsetenv("TZ");
    ::tzset();
  }
  NewfoundlandTime(const NewfoundlandTime&) = delete;
  NewfoundlandTime& operator=(const NewfoundlandTime&) = delete;
};

const Timestamp kNow = Timestamp(1'795'451'445s + 123'456us);

TEST_CASE("instants take sacct's forms, in local time unless they say otherwise") {
  const NewfoundlandTime zone;
  const Timestamp now = parse_instant("2026-11-23T17:00:00", kNow);
  CHECK(format_instant_utc(now) == "2026-11-23T20:30:00.000000Z");
  CHECK(format_instant(now) == "2026-11-23T17:00:00");
  CHECK(parse_instant("2026-11-23T20:30:00Z", now) == now);
  CHECK(parse_instant("2026-11-23T21:30:00+01:00", now) == now);
  CHECK(parse_instant("2026-11-23 18:30:00-0200", now) == now);
  CHECK(parse_instant("2026-11-23T17:00", now) == now);
  CHECK(parse_instant("2026-11-23T17:00:00.25", now) == now + 250ms);
  CHECK(parse_instant("2026-11-23", now) == now - 17h);
  CHECK(parse_instant("17:30", now) == now + 30min);
  CHECK(parse_instant("9:05:07", now) == now - 8h + 5min + 7s);
  CHECK(parse_instant("now", now) == now);
  CHECK(parse_instant("now-1hour", now) == now - 1h);
  CHECK(parse_instant("now+90", now) == now + 90s);
  CHECK(parse_instant("today", now) == now - 17h);
  CHECK(parse_instant("Midnight", now) == now - 17h);
  CHECK(parse_instant("noon", now) == now - 5h);
  CHECK(parse_instant("tomorrow", now) == now + 7h);
  CHECK(parse_instant("4:30 PM", now) == now - 30min);
  CHECK(parse_instant("11/22", now) == now - 41h);
  CHECK(parse_instant("1122", now) == now - 41h);
  CHECK(parse_instant("11/23/26-16:00", now) == now - 1h);
  CHECK(parse_instant("12/24", now) == parse_instant("2026-12-24", now));
  CHECK(parse_instant("2026-07-01T12:00:00", now) == parse_instant("2026-07-01T14:30:00Z", now));
}

TEST_CASE("instants that are to come take sbatch's forms, and a time that has passed is tomorrow's") {
  const NewfoundlandTime zone;
  const Timestamp now = parse_instant("2026-11-23T17:00:00", kNow);
  const auto day = [](const char* text) { return parse_instant(text, kNow); };
  CHECK(parse_coming_instant("17:30", now) == now + 30min);
  CHECK(parse_coming_instant("16:59", now) == now + 24h - 1min);
  CHECK(parse_coming_instant("17:00", now) == now + 24h);
  CHECK(parse_coming_instant("5:30pm", now) == now + 30min);
  CHECK(parse_coming_instant("5:30 AM", now) == day("2026-11-24T05:30"));
  CHECK(parse_coming_instant("12:15am", now) == day("2026-11-24T00:15"));
  CHECK(parse_coming_instant("noon", now) == day("2026-11-24T12:00"));
  CHECK(parse_coming_instant("teatime", day("2026-11-23T15:30")) == day("2026-11-23T16:00"));
  CHECK(parse_coming_instant("midnight", now) == day("2026-11-24"));
  CHECK(parse_coming_instant("Tomorrow", now) == day("2026-11-24"));
  CHECK(parse_coming_instant("12/24", now) == day("2026-12-24"));
  CHECK(parse_coming_instant("12/24-17:30", now) == day("2026-12-24T17:30"));
  CHECK(parse_coming_instant("11/23-16:59:59", now) == day("2027-11-23T16:59:59"));
  CHECK(parse_coming_instant("12/24/27-06:00", now) == day("2027-12-24T06:00"));
  CHECK(parse_coming_instant("01.02", now) == day("2027-01-02"));
  CHECK(parse_coming_instant("1123", now) == day("2026-11-23"));
  CHECK(parse_coming_instant("12/24/27", now) == day("2027-12-24"));
  CHECK(parse_coming_instant("122427", now) == day("2027-12-24"));
  CHECK(parse_coming_instant("now+2hours", now) == now + 2h);
  CHECK(parse_coming_instant("2026-11-23T16:00", now) == now - 1h);
  for (const char* text : {"", "soon", "13:00pm", "0:30am", "5:30xm", "13/24", "02/30", "12/24/", "12/24/2",
                           "12/24-", "12/24-17", "12/24-17:30x", "12/2427", "12345", "1-2-3"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(parse_coming_instant(text, now), std::invalid_argument);
  }
}

TEST_CASE("what is not an instant is refused with the remedy") {
  for (const char* text : {"",
                           "soon",
                           "2026-13-01",
                           "2026-02-29",
                           "2026-1-1",
                           "20261123",
                           "24:00",
                           "12:60",
                           "1969-12-31",
                           "now-",
                           "now*2",
                           "now-soon",
                           "now-1:00",
                           "nowish",
                           "2026-11-23T",
                           "2026-11-23T17",
                           "2026-11-23T17:00:00.",
                           "2026-11-23T17:00:00+99:00",
                           "2026-11-23T17:00:00Zulu",
                           "17:30Z",
                           "17:30 "}) {
    INFO(text);
    CHECK_THROWS_WITH(parse_instant(text, kNow), Contains("is not a time (use 2026-11-23T17:00:00"));
  }
}

TEST_CASE("instants for JSON keep microseconds and read back, also before 1970") {
  CHECK(format_instant_utc(Timestamp(0us)) == "1970-01-01T00:00:00.000000Z");
  CHECK(format_instant_utc(Timestamp(-1us)) == "1969-12-31T23:59:59.999999Z");
  for (const Timestamp instant : {kNow, Timestamp(-1us), parse_instant("1970-01-01T00:00+14:00", kNow),
                                  parse_instant("now-36500days", kNow)}) {
    CHECK(parse_instant(format_instant_utc(instant), Timestamp{}) == instant);
  }
  CHECK_THROWS_AS(parse_instant("1969-12-31", kNow), std::invalid_argument);
}

}  // namespace
}  // namespace berth
