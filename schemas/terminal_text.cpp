#include "schemas/terminal_text.h"

#include <algorithm>
#include <utility>

namespace berth {
namespace {

std::string question_mark(std::uint32_t) {
  return "?";
}

std::string escape(std::uint32_t code) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string escaped = "\\u";
  for (int shift = 12; shift >= 0; shift -= 4) {
    escaped += kDigits[(code >> static_cast<unsigned>(shift)) & 0xFU];
  }
  return escaped;
}

enum class Lines { replace, keep };

std::string replaced(std::string_view text, std::string (*replace)(std::uint32_t), Lines lines) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const TerminalControl control = leading_control(text);
    if (control.length == 0 || (lines == Lines::keep && control.code_point == '\n')) {
      result += text.front();
      text.remove_prefix(1);
    } else {
      result += replace(control.code_point);
      text.remove_prefix(control.length);
    }
  }
  return result;
}

}  // namespace

TerminalControl leading_control(std::string_view text) {
  const auto byte = [&](std::size_t index) -> std::uint32_t {
    return index < text.size() ? static_cast<unsigned char>(text[index]) : 0U;
  };
  const std::uint32_t first = byte(0);
  if (!text.empty() && (first < 0x20 || first == 0x7F)) {
    return {1, first};
  }
  if (first == 0xC2 && byte(1) >= 0x80 && byte(1) <= 0x9F) {
    return {2, byte(1)};
  }
  if (first == 0xD8 && byte(1) == 0x9C) {
    return {2, 0x061C};
  }
  if (first == 0xEF && byte(1) == 0xBB && byte(2) == 0xBF) {
    return {3, 0xFEFF};
  }
  if (first == 0xE2 && (byte(1) == 0x80 || byte(1) == 0x81) && (byte(2) & 0xC0U) == 0x80) {
    const std::uint32_t code = 0x2000U | ((byte(1) & 0x3FU) << 6U) | (byte(2) & 0x3FU);
    const bool space_or_mark = code == 0x200B || code == 0x200E || code == 0x200F;
    const bool separator_or_embedding = code >= 0x2028 && code <= 0x202E;
    const bool joiner_or_isolate = code >= 0x2060 && code <= 0x206F;
    if (space_or_mark || separator_or_embedding || joiner_or_isolate) {
      return {3, code};
    }
  }
  return {};
}

bool has_control(std::string_view text) {
  for (; !text.empty(); text.remove_prefix(1)) {
    if (leading_control(text).length > 0) {
      return true;
    }
  }
  return false;
}

std::string printable(std::string_view text) {
  return replaced(text, question_mark, Lines::replace);
}

std::string printable_lines(std::string_view text) {
  return replaced(text, question_mark, Lines::keep);
}

std::string with_controls_escaped(std::string_view text) {
  return replaced(text, escape, Lines::replace);
}

/// Outside of strings ends of lines are the only ones, and inside they are escaped already.
std::string json_with_controls_escaped(std::string json_text) {
  const auto may_begin_one = [](char c) {
    return c == '\x7F' || c == '\xC2' || c == '\xD8' || c == '\xE2' || c == '\xEF';
  };
  return std::any_of(json_text.begin(), json_text.end(), may_begin_one)
             ? replaced(json_text, escape, Lines::keep)
             : std::move(json_text);
}

}  // namespace berth
