#include "schemas/time_zone.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <ctime>

namespace berth {
namespace {

/// This process's zone for one test: three hours and a half west of UTC, with summer time.
class WithSummerTime {
 public:
  WithSummerTime() {
    ::setenv("TZ", "NST3:30NDT2:30,M3.2.0,M11.1.0", 1);
    ::tzset();
  }
  ~WithSummerTime() {
    ::unsetenv("TZ");
    ::tzset();
  }
  WithSummerTime(const WithSummerTime&) = delete;
  WithSummerTime& operator=(const WithSummerTime&) = delete;
};

const Timestamp kSomeTime = parse_instant("2026-11-23T20:30:00Z", Timestamp());

TEST_CASE("a zone that was sent prints as the sender's own does, at every hour of its changes") {
  const WithSummerTime own;
  const std::string sent = TimeZone::local(kSomeTime).to_text();
  CHECK(sent.size() < 2000);
  const TimeZone zone = TimeZone::parse(sent);
  CHECK(zone.to_text() == sent);
  CHECK(format_instant(kSomeTime, zone) == "2026-11-23T17:00:00");
  for (const char* day :
       {"2003-10-26T00:00:00Z", "2026-03-07T12:00:00Z", "2026-10-31T12:00:00Z", "2030-07-01T00:00:00Z"}) {
    const Timestamp first = parse_instant(day, kSomeTime);
    for (int step = 0; step < 96; ++step) {
      const Timestamp instant = first + step * std::chrono::minutes(30) + std::chrono::microseconds(999'999);
      CHECK(format_instant(instant, zone) == format_instant(instant));
    }
  }
}

TEST_CASE("a zone may be one offset; what is none is refused") {
  std::string many = "0";
  for (int change = 0; change < 200; ++change) {
    many += "," + std::to_string(change) + ":" + std::to_string(change % 2);
  }
  CHECK(TimeZone::parse(many).to_text() == many);
  CHECK_THROWS_AS(TimeZone::parse(many + ",1000:0"), std::invalid_argument);
  CHECK(format_instant(kSomeTime, TimeZone()) == "2026-11-23T20:30:00");
  CHECK(format_instant(kSomeTime, TimeZone::parse("32400")) == "2026-11-24T05:30:00");
  CHECK(format_instant(kSomeTime, TimeZone::parse("-3600")) == "2026-11-23T19:30:00");
  for (const char* text :
       {"", "x", "Asia/Tokyo", "3600,", "3600,5", "3600,5:", "0,5:1,5:2", "99999", "0,1:99999", "1,2:3,"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(TimeZone::parse(text), std::invalid_argument);
  }
}

}  // namespace
}  // namespace berth
