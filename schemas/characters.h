// ASCII's classes of characters, whatever the locale is.
#pragma once

namespace berth {

constexpr char to_lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}
constexpr bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
constexpr bool is_letter(char c) {
  return to_lower(c) >= 'a' && to_lower(c) <= 'z';
}
constexpr bool is_letter_or_digit(char c) {
  return is_letter(c) || is_digit(c);
}

}  // namespace berth
