// Whole small files of /proc and /sys, and walking through their text.
//
// iostreams would cost more than the kernel's part on the start path of `berth run`: their first use touches
// dozens of cold pages.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace berth {

/// Nothing when it cannot be opened or read.
std::optional<std::string> read_small_file(const std::string& path);

/// Its first line, without the newline; empty likewise.
std::string read_first_line(const std::string& path);

/// Cuts the text up to the next separator off the front of `rest`, with the separator, and returns it.
std::string_view take_until(std::string_view& rest, char separator);

/// The decimal number that the whole text is.
std::optional<std::uint64_t> to_number(std::string_view text);

}  // namespace berth
