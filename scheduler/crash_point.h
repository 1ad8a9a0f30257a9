// Named points at which a test build can be made to die as by kill -9: BERTH_CRASH_AT=NAME, or NAME:N for the
// Nth time. tests/integration/daemon_crash_test.py tries every one of them. Nothing in other builds.
#pragma once

#ifdef BERTH_CRASH_POINTS

#include <csignal>
#include <cstdlib>
#include <cstring>

namespace berth {

inline void crash_point(const char* name) {
  static const char* const kWhere = std::getenv("BERTH_CRASH_AT");
  static int passed = 0;
  if (kWhere == nullptr) {
    return;
  }
  const std::size_t length = std::strlen(name);
  if (std::strncmp(kWhere, name, length) != 0 || (kWhere[length] != '\0' && kWhere[length] != ':')) {
    return;
  }
  const int wanted = kWhere[length] == ':' ? std::atoi(kWhere + length + 1) : 1;
  if (++passed >= wanted) {
    (void)std::raise(SIGKILL);
  }
}

}  // namespace berth

#else

namespace berth {
inline void crash_point(const char*) {}
}  // namespace berth

#endif
