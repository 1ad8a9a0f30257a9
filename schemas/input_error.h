// InputError: everything that is wrong with what a user gave us, before anything was created.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

namespace berth {

/// One fault: where it is, what is wrong, what to do. Printed as `file: pointer: message`.
struct InputFault {
  std::string file;     ///< file name as the user gave it, or "command line"
  std::string pointer;  ///< RFC 6901 JSON pointer ("/limits/pids"), an option ("--mem"), or empty
  std::string message;  ///< what was wrong and the remedy

  /// One line; control characters are escaped.
  std::string to_string() const;
  bool operator==(const InputFault&) const = default;
};

/// `file` of what was given as words of a command.
constexpr const char* kCommandLine = "command line";

/// At so many a reader stops, and says so: whoever wants more of them wants its time.
inline constexpr std::size_t kMostFaults = 100;
/// What it says.
InputFault too_many_faults(std::string file);

/// All faults found, never only the first; at least one. what() is one line per fault.
class InputError : public std::runtime_error {
 public:
  explicit InputError(std::vector<InputFault> faults);
  InputError(std::string file, std::string pointer, std::string message);
  const std::vector<InputFault>& faults() const { return faults_; }

 private:
  std::vector<InputFault> faults_;
};

}  // namespace berth
