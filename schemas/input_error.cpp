#include "schemas/input_error.h"

#include <utility>

#include "schemas/terminal_text.h"

namespace berth {

namespace {

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
  return with_controls_escaped(text + message);  // keys of a hostile file
}

InputFault too_many_faults(std::string file) {
  return {std::move(file), "",
          "there may be more faults; these are the first " + std::to_string(kMostFaults)};
}

InputError::InputError(std::vector<InputFault> faults)
    : std::runtime_error(join_lines(faults)), faults_(std::move(faults)) {}

InputError::InputError(std::string file, std::string pointer, std::string message)
    : InputError(std::vector<InputFault>{{std::move(file), std::move(pointer), std::move(message)}}) {}

}  // namespace berth
