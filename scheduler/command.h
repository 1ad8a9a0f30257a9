// CommandSpec: what one sub-command is, as data: its options, operands and examples.
//
// The one table per command (scheduler/options.cpp) is the source of the parser (command_line.h), of
// --help, of the manual pages and of the bash completion (help.h), so that they cannot disagree. All of
// it is constant data: nothing is built before main, and nothing for the commands that are not run.
#pragma once

#include <span>
#include <string_view>

namespace berth {

/// What the shell offers for an option's argument or an operand.
enum class Completion {
  none,
  file,
  directory,
  words,    ///< Option::words, separated by spaces
  states,   ///< job states, comma separated
  columns,  ///< Option::words, else the columns of the listings; comma separated
  users,
  commands,  ///< berth's own commands
  jobs,      ///< ids of berthd's jobs
};

struct Option {
  std::string_view name = {};         ///< long form without dashes
  char letter = 0;                    ///< short form; 0: none
  std::string_view argument = {};     ///< placeholder ("SIZE"); empty: a flag
  std::string_view description = {};  ///< one or more sentences, without the final full stop
  std::string_view fallback = {};     ///< what holds when the option is absent, as printed
  std::string_view section = {};      ///< heading in help; the same text on neighbours makes one group
  std::string_view field = {};        ///< JSON pointer of the job-file field that it sets; empty: none
  bool repeatable = false;
  bool hidden = false;  ///< parsed, not shown
  Completion completion = Completion::none;
  std::string_view words = {};  ///< for Completion::words and columns, with a space between
  /// What it means before a word that is no number, or as the last word; empty: it needs a value.
  std::string_view bare = {};
};

struct Operands {
  std::string_view argument = {};  ///< "FILE"; empty: none are taken
  bool required = false;
  bool repeatable = false;
  Completion completion = Completion::none;
  /// For Completion::jobs: states of jobs that the command makes sense for, comma separated; empty: all that
  /// are not over.
  std::string_view states = {};
  bool ended_jobs = false;  ///< for Completion::jobs: jobs that have ended too
};

struct Example {
  std::string_view command = {};
  std::string_view explanation = {};
};

struct CommandSpec {
  std::string_view name = {};
  std::string_view summary = {};                       ///< one line, imperative, no full stop
  std::span<const std::string_view> usage = {};        ///< after "berth "
  std::span<const std::string_view> description = {};  ///< paragraphs
  std::span<const Option> options = {};
  Operands operands = {};
  bool takes_command = false;   ///< everything after "--" is a command and its arguments
  bool takes_script = false;    ///< the first operand may be a script; what follows it are its arguments
  bool takes_database = false;  ///< --database; what other commands tell is berthd's
  std::span<const Example> examples = {};
  std::span<const std::string_view> see_also = {};  ///< manual pages, "berth-run(1)"
  int usage_status = 2;                             ///< exit status of wrong usage
  bool hidden = false;
};

/// An option of sbatch(1), Docker or nsjail that people will try and that this version does not have; or one
/// of squeue(1), sacct(1), scancel(1) or docker exec.
struct AbsentOption {
  std::string_view name = {};
  char letter = 0;
  std::string_view remedy = {};
  std::string_view command = {};  ///< berth's, that lacks it; empty: run and submit
};

/// In the order in which help lists them.
std::span<const CommandSpec* const> commands();
const CommandSpec* find_command(std::string_view name);
/// Taken before and after every sub-command.
std::span<const Option> global_options();
std::span<const AbsentOption> absent_options();

/// The option of `command` whose field is the longest prefix of a JSON pointer; null when there is none.
const Option* option_of_field(const CommandSpec& command, std::string_view pointer);

}  // namespace berth
