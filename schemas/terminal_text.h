// What must not reach a terminal or a log as it is: characters that move its cursor, end its line, turn the
// direction of what follows (Unicode TR 36, "Bidirectional text spoofing"), or have no width at all, so that
// different texts look the same. Not the joiner and non-joiner within words and emoji, which change what is
// seen.
//
// Pure; safe from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace berth {

struct TerminalControl {
  std::size_t length = 0;  ///< bytes of UTF-8; 0: the text begins with none
  std::uint32_t code_point = 0;
};

/// The control character that the text begins with: C0, DEL, C1, line and paragraph separators, marks of
/// direction, embeddings, overrides and isolates, the space, joiner and operators without width.
TerminalControl leading_control(std::string_view text);
bool has_control(std::string_view text);
/// Each as "?".
std::string printable(std::string_view text);
/// Each as "?", but for the ends of lines.
std::string printable_lines(std::string_view text);
/// Each as JSON writes it: "\u001b".
std::string with_controls_escaped(std::string_view text);
/// The same value as JSON text without those that JSON takes as they are in its strings: all but C0.
std::string json_with_controls_escaped(std::string json_text);
/// A value of nlohmann's as such text, on one line or indented; what is no UTF-8 in it becomes U+FFFD.
template <typename Json>
std::string printable_json(const Json& value, int indent = -1) {
  return json_with_controls_escaped(value.dump(indent, ' ', false, Json::error_handler_t::replace));
}

}  // namespace berth
