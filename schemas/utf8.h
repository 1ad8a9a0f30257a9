// The encoding of every text in a job file and a record (RFC 8259, section 8.1). Pure; safe from any thread.
#pragma once

#include <cstddef>
#include <string_view>

namespace berth {

/// Whether a byte of UTF-8 goes on with a character, which an earlier one begins.
constexpr bool continues_character(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0U) == 0x80U;
}

/// Well-formed UTF-8 (RFC 3629).
bool is_utf8(std::string_view text);
/// The first `most` bytes of UTF-8, or fewer, so that no character is cut.
std::string_view whole_characters(std::string_view text, std::size_t most);

}  // namespace berth
