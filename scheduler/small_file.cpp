#include "scheduler/small_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

namespace berth {

std::optional<std::string> read_small_file(const std::string& path) {
  int descriptor = -1;
  do {
    descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  } while (descriptor < 0 && errno == EINTR);
  if (descriptor < 0) {
    return std::nullopt;
  }
  constexpr std::size_t kStep = 8192;
  std::string text;
  while (true) {
    const std::size_t before = text.size();
    text.resize(before + kStep);
    const ssize_t got = ::read(descriptor, text.data() + before, kStep);
    text.resize(before + static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      ::close(descriptor);
      return got == 0 ? std::optional(std::move(text)) : std::nullopt;
    }
  }
}

std::string read_first_line(const std::string& path) {
  const std::string text = read_small_file(path).value_or("");
  std::string_view rest = text;
  return std::string(take_until(rest, '\n'));
}

std::string_view take_until(std::string_view& rest, char separator) {
  const std::size_t end = std::min(rest.find(separator), rest.size());
  const std::string_view taken = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return taken;
}

std::optional<std::uint64_t> to_number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size()) {
    return std::nullopt;
  }
  return value;
}

}  // namespace berth
