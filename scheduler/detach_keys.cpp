#include "scheduler/detach_keys.h"

#include <algorithm>
#include <stdexcept>

namespace berth {
namespace {

constexpr std::string_view kControl = "ctrl-";

/// A key with Ctrl sends the character's low five bits (console_codes(4)): Ctrl-A is 1, Ctrl-@ 0, Ctrl-_ 31.
char key_of(std::string_view word) {
  const bool control = word.starts_with(kControl) && word.size() == kControl.size() + 1;
  if (!control && word.size() == 1) {
    return word.front();
  }
  const char letter = control ? word.back() : '\0';
  const bool known = (letter >= 'a' && letter <= 'z') || (letter >= '@' && letter <= '_' && letter != '\0');
  if (!known) {
    throw std::invalid_argument("has \"" + std::string(word) +
                                "\", which is no key (use ctrl-p,ctrl-q, or a,b,c, or none)");
  }
  return static_cast<char>(static_cast<unsigned char>(letter) & 0x1FU);
}

}  // namespace

DetachKeys DetachKeys::parse(std::string_view text) {
  std::string sequence;
  if (text == "none") {
    return DetachKeys(sequence);
  }
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t comma = std::min(text.find(',', at), text.size());
    sequence += key_of(text.substr(at, comma - at));
    at = comma + 1;
  }
  return DetachKeys(sequence);
}

std::string DetachKeys::pass(std::string_view typed) {
  std::string passed;
  for (const char key : typed) {
    if (found()) {
      break;
    }
    if (!sequence_.empty() && key == sequence_[matched_]) {
      ++matched_;
      continue;
    }
    passed.append(sequence_, 0, matched_);
    matched_ = !sequence_.empty() && key == sequence_.front() ? 1 : 0;
    if (matched_ == 0) {
      passed += key;
    }
  }
  return passed;
}

}  // namespace berth
