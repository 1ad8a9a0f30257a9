#include "schemas/input_error.h"

#include <utility>

namespace berth {

namespace {

/// Keys of a hostile file must neither move a terminal's cursor nor break a log line: C0 and C1 control
/// characters are written as JSON writes them.
std::string without_controls(const std::string& text) {
  std::string result;
  for (std::size_t index = 0; index < text.size(); ++index) {
    auto code = static_cast<unsigned char>(text[index]);
    const bool starts_c1 = code == 0xC2U && index + 1 < text.size() &&
                           static_cast<unsigned char>(text[index + 1]) >= 0x80U &&
                           static_cast<unsigned char>(text[index + 1]) <= 0x9FU;
    if (code >= 0x20U && code != 0x7FU && !starts_c1) {
      result += text[index];
      continue;
    }
    if (starts_c1) {
      code = static_cast<unsigned char>(text[++index]);
    }
    constexpr char kDigits[] = "0123456789abcdef";
    result += "\\u00";
    result += kDigits[code >> 4U];
    result += kDigits[code & 0xFU];
  }
  return result;
}

std::string join_lines(const std::vector<InputFault>& faults) {
  std::string text;
  for (const InputFault& fault : faults) {
    if (!text.empty()) {
      text += '\n';
    }
    text += fault.to_string();
  }
  return text;
}

}  // namespace

std::string InputFault::to_string() const {
  std::string text;
  for (const std::string* part : {&file, &pointer}) {
    if (!part->empty()) {
      text += *part;
      text += ": ";
    }
  }
  return without_controls(text + message);
}

InputError::InputError(std::vector<InputFault> faults)
    : std::runtime_error(join_lines(faults)), faults_(std::move(faults)) {}

InputError::InputError(std::string file, std::string pointer, std::string message)
    : InputError(std::vector<InputFault>{{std::move(file), std::move(pointer), std::move(message)}}) {}

}  // namespace berth
