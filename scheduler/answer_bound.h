// How many bytes one answer of berthd's may take. In a test build BERTH_MOST_ANSWER=BYTES in its place.
#pragma once

#include <cstdint>

#ifdef BERTH_CRASH_POINTS
#include <cstdlib>
#endif

namespace berth {

inline std::uint64_t most_of_answer() {
#ifdef BERTH_CRASH_POINTS
  static const char* const kText = std::getenv("BERTH_MOST_ANSWER");
  if (kText != nullptr) {
    return std::strtoull(kText, nullptr, 10);
  }
#endif
  return std::uint64_t{256} << 20U;
}

}  // namespace berth
