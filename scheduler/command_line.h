// CommandLine: what the user typed, taken apart by the option tables. The only user of
// Boost.Program_options is command_line.cpp.
#pragma once

#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "scheduler/command.h"
#include "schemas/input_error.h"

namespace berth {

/// Wrong usage: the message names what was typed and what to type instead.
class UsageError : public std::runtime_error {
 public:
  /// `command` is null when the fault lies before or in the sub-command's name.
  UsageError(const CommandSpec* command, const std::string& message)
      : std::runtime_error(message), command_(command) {}
  /// Exit status: 125 for run, as 1 to 124 may be the job's; else 2.
  int status() const { return command_ == nullptr ? 2 : command_->usage_status; }
  /// "berth run --help"
  std::string help_command() const;

 private:
  const CommandSpec* command_;
};

/// An option as it was given.
struct GivenOption {
  std::string name = {};             ///< without dashes
  std::string value = {};            ///< empty: a flag
  std::string place = kCommandLine;  ///< for faults; of a script's option "job.sh: line 2"
};

class CommandLine {
 public:
  /// Null only when no command was given, with --help or --version.
  const CommandSpec* command = nullptr;
  std::vector<std::string> operands;
  /// What follows "--" of a command that takes one, or a script: the script's arguments. Else absent.
  std::optional<std::vector<std::string>> job_command;

  bool has(std::string_view option) const { return count(option) > 0; }
  unsigned count(std::string_view option) const;
  /// The last one given wins, as with sbatch.
  std::optional<std::string> value(std::string_view option) const;
  /// Which of these options was given last; empty when none was.
  std::string_view last_of(std::initializer_list<std::string_view> options) const;
  /// In the order given.
  std::vector<std::string> values(std::string_view option) const;
  std::vector<GivenOption> given(std::string_view option) const;
  /// The first option that was given out of this section of the command's table; null when none was.
  const Option* first_of_section(std::string_view section) const;

  /// The options of `weaker` count as given before these.
  void inherit(const CommandLine& weaker) {
    given_.insert(given_.begin(), weaker.given_.begin(), weaker.given_.end());
  }
  /// The options of `later` count as given after these, at `place`.
  void append(const CommandLine& later, const std::string& place) {
    for (const GivenOption& option : later.given_) {
      given_.push_back({option.name, option.value, place});
    }
  }
  void add(std::string option, std::string value) { given_.push_back({std::move(option), std::move(value)}); }

 private:
  std::vector<GivenOption> given_;
};

/// `arguments` is argv without the program's name. `is_script` is asked about the first operand of a command
/// that takes scripts; without it none is one. Throws UsageError.
CommandLine parse_command_line(const std::vector<std::string>& arguments,
                               const std::function<bool(const std::string& operand)>& is_script = {});

/// The word of `known` that `typed` is most likely a slip of; empty when none is near.
std::string nearest_word(std::string_view typed, const std::vector<std::string_view>& known);

}  // namespace berth
