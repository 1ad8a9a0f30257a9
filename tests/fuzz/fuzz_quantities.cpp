// Sizes, durations, instants, CPU lists and signals: any text is a value or std::invalid_argument, and a
// value reads back from what it prints.
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "schemas/cpu_set.h"
#include "schemas/quantities.h"
#include "schemas/signals.h"

namespace {

void require(bool condition) {
  if (!condition) {
    std::abort();
  }
}

template <typename Check>
void unless_refused(Check check) {
  try {
    check();
  } catch (const std::invalid_argument& error) {
    require(std::string(error.what()).find("is ") != std::string::npos);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(data, data + size);
  unless_refused([&] {
    const berth::Bytes bytes = berth::parse_size(text);
    require(berth::parse_size(berth::format_size(bytes)) == bytes);
    require(!berth::format_size_human(bytes).empty());
  });
  unless_refused([&] {
    const berth::Milliseconds duration = berth::parse_duration(text, std::chrono::minutes(1));
    const auto whole_seconds = std::chrono::floor<std::chrono::seconds>(duration);
    require(berth::parse_duration(berth::format_duration(duration), std::chrono::minutes(1)) ==
            whole_seconds);
    require(!berth::format_cpu_time(duration).empty());
  });
  unless_refused([&] {
    const berth::Timestamp now{std::chrono::seconds(1'800'000'000)};
    const berth::Timestamp instant = berth::parse_instant(text, now);
    if (instant >= berth::Timestamp{}) {
      require(berth::parse_instant(berth::format_instant_utc(instant), now) == instant);
    }
  });
  unless_refused([&] {
    const berth::CpuSet set = berth::CpuSet::parse(text);
    require(berth::CpuSet::parse(set.to_list()) == set);
  });
  if (const auto number = berth::parse_signal(text)) {
    require(berth::parse_signal(berth::signal_name(*number)) == number);
  }
  return 0;
}
