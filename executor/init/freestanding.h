// The few string and memory functions init needs; it links no libc.
#pragma once

#include <stddef.h>
#include <stdint.h>

extern "C" void* memcpy(void* to, const void* from, size_t size);  // main.cpp

namespace berth::init {

inline size_t length(const char* text) {
  size_t count = 0;
  while (text[count] != '\0') {
    ++count;
  }
  return count;
}

inline bool equal(const char* left, const char* right) {
  while (*left != '\0' && *left == *right) {
    ++left;
    ++right;
  }
  return *left == *right;
}

/// Copies with truncation; always terminates.
inline void copy(char* to, const char* from, size_t capacity) {
  size_t index = 0;
  for (; index + 1 < capacity && from[index] != '\0'; ++index) {
    to[index] = from[index];
  }
  to[index] = '\0';
}

/// to += from, with truncation.
inline void append(char* to, const char* from, size_t capacity) {
  const size_t used = length(to);
  copy(to + used, from, capacity - used);
}

/// Decimal; `buffer` holds at least 24 characters. Returns its beginning within the buffer.
inline const char* decimal(int64_t value, char* buffer) {
  char* position = buffer + 23;
  *position = '\0';
  uint64_t magnitude = value < 0 ? static_cast<uint64_t>(-(value + 1)) + 1 : static_cast<uint64_t>(value);
  do {
    *--position = static_cast<char>('0' + magnitude % 10);
    magnitude /= 10;
  } while (magnitude != 0);
  if (value < 0) {
    *--position = '-';
  }
  return position;
}

}  // namespace berth::init
