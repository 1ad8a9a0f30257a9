// Named points at which a test build can be made to die as by kill -9: BERTH_CRASH_AT=NAME, or NAME:N for the
// Nth time; tests/integration/daemon_crash_test.py tries every one of them. BERTH_THROW_AT makes it run out
// of memory there, once. Nothing in other builds.
#pragma once

#ifdef BERTH_CRASH_POINTS

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <new>

namespace berth {

/// Whether `name` is passed for the time that `where` says; null: never.
inline bool is_reached(const char* name, const char* where, int& passed) {
  const std::size_t length = std::strlen(name);
  if (where == nullptr || std::strncmp(where, name, length) != 0 ||
      (where[length] != '\0' && where[length] != ':')) {
    return false;
  }
  return ++passed == (where[length] == ':' ? std::atoi(where + length + 1) : 1);
}

inline void crash_point(const char* name) {
  static const char* const kDies = std::getenv("BERTH_CRASH_AT");
  static const char* const kThrows = std::getenv("BERTH_THROW_AT");
  static int passed = 0;
  if (is_reached(name, kDies, passed)) {
    (void)std::raise(SIGKILL);
  }
  if (is_reached(name, kThrows, passed)) {
    throw std::bad_alloc();
  }
}

}  // namespace berth

#else

namespace berth {
inline void crash_point(const char*) {}
}  // namespace berth

#endif
