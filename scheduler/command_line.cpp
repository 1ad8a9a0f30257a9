#include "scheduler/command_line.h"

#include <algorithm>
#include <boost/program_options/errors.hpp>
#include <boost/program_options/options_description.hpp>
#include <boost/program_options/parsers.hpp>
#include <boost/program_options/value_semantic.hpp>
#include <iterator>
#include <numeric>
#include <utility>

namespace berth {
namespace {

namespace po = boost::program_options;

// No guessing: an abbreviation that is unique today may not be tomorrow, and scripts outlive releases.
constexpr int kStyle =
    po::command_line_style::allow_long | po::command_line_style::allow_short |
    po::command_line_style::allow_dash_for_short | po::command_line_style::short_allow_adjacent |
    po::command_line_style::short_allow_next | po::command_line_style::long_allow_adjacent |
    po::command_line_style::long_allow_next | po::command_line_style::allow_sticky;

/// Whether one of `words` may be this option.
bool may_be_typed(const Option& option, const std::vector<std::string>& words) {
  return std::any_of(words.begin(), words.end(), [&](std::string_view word) {
    if (word.starts_with("--")) {
      return word.substr(2, word.find('=') - 2) == option.name;  // npos is far enough too
    }
    return word.starts_with('-') && option.letter != 0 &&
           word.find(option.letter, 1) != std::string_view::npos;
  });
}

/// Of the table what `words` may name: a description takes longer to make than the words to parse.
void describe(std::span<const Option> table, const std::vector<std::string>& words,
              po::options_description& description) {
  for (const Option& option : table) {
    if (!may_be_typed(option, words)) {
      continue;
    }
    std::string names{option.name};
    if (option.letter != 0) {
      names += ',';
      names += option.letter;
    }
    // The description takes ownership of the raw pointer; its interface offers nothing else.
    description.add_options()(names.c_str(), new po::untyped_value(option.argument.empty()), "");
  }
}

const Option* find_option(std::span<const Option> table, std::string_view typed) {
  const auto found = std::find_if(table.begin(), table.end(), [&](const Option& option) {
    return typed.starts_with("--") ? typed.substr(2) == option.name
                                   : option.letter != 0 && typed.size() == 2 && typed[1] == option.letter;
  });
  return found == table.end() ? nullptr : &*found;
}

const Option* find_option(const CommandSpec* command, std::string_view typed) {
  const Option* option = command == nullptr ? nullptr : find_option(command->options, typed);
  return option != nullptr ? option : find_option(global_options(), typed);
}

/// "--database FILE", "-vc 2": is the next word this one's value?
bool takes_next_word(const CommandSpec* command, std::string_view typed) {
  const auto takes_value = [&](std::string_view name) {
    const Option* option = find_option(command, name);
    return option != nullptr && !option->argument.empty();
  };
  if (typed.starts_with("--")) {
    return takes_value(typed);
  }
  for (std::size_t i = 1; i < typed.size(); ++i) {
    if (takes_value(std::string("-") + typed[i])) {
      return i + 1 == typed.size();  // else the rest of the word is its value
    }
  }
  return false;
}

using Words = std::vector<std::string>::const_iterator;

/// An integer, or the empty value of a variable that is not set, which is refused as one.
bool is_number(std::string_view word) {
  const bool is_empty = word.empty();
  word.remove_prefix(word.starts_with('-') || word.starts_with('+') ? 1 : 0);
  return is_empty || (!word.empty() && word.find_first_not_of("0123456789") == std::string_view::npos);
}

/// The value of an option that is given without one, as "--nice" is in "--nice job.sh"; else empty.
std::string_view bare_value(const CommandSpec* command, Words word, Words end) {
  const Option* option = word->starts_with("--") ? find_option(command, *word) : nullptr;
  return option != nullptr && (word + 1 == end || !is_number(word[1])) ? option->bare : std::string_view();
}

/// How many words an option takes, with itself.
std::ptrdiff_t words_of_option(const CommandSpec* command, Words word, Words end) {
  const bool is_alone = word + 1 == end || !bare_value(command, word, end).empty();
  return takes_next_word(command, *word) && !is_alone ? 2 : 1;
}

bool is_option(const std::string& word) {
  return word.size() > 1 && word.front() == '-';
}

/// The first word that is neither an option nor an option's value; `end` when there is none.
Words first_operand(Words word, Words end, const CommandSpec* command) {
  while (word != end && is_option(*word)) {
    word += words_of_option(command, word, end);
  }
  return word;
}

/// "--nice job.sh" as "--nice=100 job.sh".
std::vector<std::string> with_bare_values(const std::vector<std::string>& words, const CommandSpec* command) {
  std::vector<std::string> whole;
  for (Words word = words.begin(); word != words.end();) {
    const Words next = word + (is_option(*word) ? words_of_option(command, word, words.end()) : 1);
    const std::string_view bare = bare_value(command, word, words.end());
    whole.insert(whole.end(), word, next);
    if (!bare.empty()) {
      whole.back().append("=").append(bare);
    }
    word = next;
  }
  return whole;
}

/// Null when `typed` is none that users of others' programs try with this command.
const AbsentOption* find_absent(const CommandSpec& command, std::string_view typed) {
  const auto absent = absent_options();
  const auto found = std::find_if(absent.begin(), absent.end(), [&](const AbsentOption& option) {
    const bool is_of_command = option.command.empty() ? command.takes_script : option.command == command.name;
    const bool is_typed = typed.starts_with("--") ? typed.substr(2) == option.name
                                                  : option.letter != 0 && typed[1] == option.letter;
    return is_of_command && is_typed;
  });
  return found == absent.end() ? nullptr : &*found;
}

/// Boost's name of an unknown option has its value too: "--memm=1".
std::string unknown_option_message(const CommandSpec* command, std::string_view typed) {
  typed = typed.substr(0, typed.find('='));
  const std::string where = command == nullptr ? "berth" : "berth " + std::string(command->name);
  const bool is_long = typed.starts_with("--");
  if (const AbsentOption* absent = command == nullptr ? nullptr : find_absent(*command, typed)) {
    return where + ": " + std::string(typed) + " is not supported yet; " + std::string(absent->remedy);
  }
  std::vector<std::string_view> known;
  const auto collect = [&](std::span<const Option> table) {
    for (const Option& option : table) {
      if (!option.hidden) {
        known.push_back(option.name);
      }
    }
  };
  collect(global_options());
  if (command != nullptr) {
    collect(command->options);
  }
  std::string message = where + ": " + std::string(typed) + " is not an option";
  const std::string near = is_long ? nearest_word(typed.substr(2), known) : std::string();
  if (!near.empty()) {
    message += "; did you mean --" + near + "?";
  } else if (!is_long && command != nullptr && command->takes_command) {
    message += "; a command's own options come after \"--\"";
  }
  return message;
}

/// Slurm's programs and Docker's commands, and what does here what they do; empty: nothing does.
constexpr std::pair<std::string_view, std::string_view> kOthersCommands[] = {
    {"sacct", "history"},   {"salloc", "submit --pty"},
    {"sattach", "attach"},  {"sbatch", "submit"},
    {"scancel", "cancel"},  {"scontrol", "show, update, hold, release, requeue, suspend or resume"},
    {"seff", "efficiency"}, {"sinfo", "slots"},
    {"sprio", "why"},       {"squeue", "queue"},
    {"sreport", "report"},  {"srun", "run"},
    {"sstat", "top"},       {"sacctmgr", ""},
    {"sbcast", ""},         {"sdiag", ""},
    {"strigger", ""},       {"inspect", "show"},
    {"kill", "cancel"},     {"ls", "queue"},
    {"pause", "suspend"},   {"ps", "queue"},
    {"rm", "cancel"},       {"stats", "top"},
    {"stop", "cancel"},     {"unpause", "resume"},
};

[[noreturn]] void fail_unknown_command(const std::string& typed) {
  for (const auto& [program, command] : kOthersCommands) {
    if (typed == program) {
      std::string text = "berth: \"" + typed + "\" is not a command; ";
      text += command.empty() ? "there is nothing like it here" : "use berth " + std::string(command);
      text += " (to run it as a job: berth run -- " + typed + ")";
      throw UsageError(nullptr, text);
    }
  }
  std::vector<std::string_view> known;
  for (const CommandSpec* command : commands()) {
    if (!command->hidden) {
      known.push_back(command->name);
    }
  }
  const std::string near = nearest_word(typed, known);
  throw UsageError(nullptr, "berth: \"" + typed + "\" is not a command" +
                                (near.empty() ? "; to run it as a job: berth run -- " + typed
                                              : "; did you mean \"" + near + "\"?"));
}

std::string missing_argument_message(const CommandSpec* command, std::string_view typed) {
  const Option* option = find_option(command, typed);
  std::string message = std::string(typed) + " needs a value";
  if (option != nullptr) {
    message += ": --" + std::string(option->name) + "=" + std::string(option->argument);
  }
  return message;
}

void run_parser(const std::vector<std::string>& words, CommandLine& line) {
  po::options_description description;
  describe(global_options(), words, description);
  if (line.command != nullptr) {
    describe(line.command->options, words, description);
  }
  try {
    const po::parsed_options parsed = po::command_line_parser(words).options(description).style(kStyle).run();
    for (const po::option& option : parsed.options) {
      if (option.position_key >= 0) {
        line.operands.insert(line.operands.end(), option.value.begin(), option.value.end());
      } else {
        line.add(option.string_key, option.value.empty() ? std::string() : option.value.front());
      }
    }
  } catch (const po::unknown_option& error) {
    throw UsageError(line.command, unknown_option_message(line.command, error.get_option_name()));
  } catch (const po::invalid_command_line_syntax& error) {
    const auto kind = error.kind();
    const std::string typed = error.get_option_name();
    if (kind == po::invalid_syntax::missing_parameter ||
        kind == po::invalid_syntax::empty_adjacent_parameter) {
      throw UsageError(line.command, missing_argument_message(line.command, typed));
    }
    if (kind == po::invalid_syntax::extra_parameter) {
      throw UsageError(line.command, typed + " takes no value");
    }
    throw UsageError(line.command, error.what());
  } catch (const po::error& error) {
    throw UsageError(line.command, error.what());
  }
}

bool is_help_request(const CommandLine& line) {
  return line.has("help") || line.has("version");
}

void check_database(const CommandLine& line) {
  if (line.has("database") && !line.command->takes_database) {
    throw UsageError(line.command, "berth " + std::string(line.command->name) +
                                       " reads no job database: leave --database out (history, report, show "
                                       "and efficiency read one)");
  }
}

void check_operands(const CommandLine& line) {
  const CommandSpec& command = *line.command;
  const Operands& operands = command.operands;
  if (line.operands.empty() && operands.required) {
    throw UsageError(&command, "berth " + std::string(command.name) + " needs " +
                                   (operands.repeatable ? "at least one " : "a ") +
                                   std::string(operands.argument));
  }
  const std::size_t most = operands.argument.empty() ? 0 : operands.repeatable ? line.operands.size() : 1;
  if (line.operands.size() > most) {
    const std::string remedy = command.takes_command && !line.job_command
                                   ? "; a command comes after \"--\": -- " + line.operands[most] + " …"
                                   : "";
    throw UsageError(&command, "berth " + std::string(command.name) + " does not take \"" +
                                   line.operands[most] + "\"" + remedy);
  }
}

/// With an option of `berth queue` that squeue(1) has too.
bool asks_for_a_list(const CommandLine& line) {
  constexpr std::array kOptions{"user", "me", "state", "format", "name", "account", "jobs"};
  return std::any_of(kOptions.begin(), kOptions.end(), [&](const char* option) { return line.has(option); });
}

/// Letters that mean something else to those who know Docker or squeue(1), where berth's meaning is certainly
/// not what was meant. `words`: as typed, without the job's command.
void check_letters(const CommandLine& line, const std::vector<std::string>& words, bool has_script) {
  const auto is_typed = [&](std::string_view word) {
    return std::find(words.begin(), words.end(), word) != words.end();
  };
  const std::string name(line.command->name);
  if (line.command->takes_script && is_typed("-it") && line.value("input") == "t") {
    throw UsageError(line.command, "berth " + name +
                                       ": -it names the input file \"t\"; for a terminal use --pty" +
                                       " (for that file -i t)");
  }
  if (line.has("help") && !is_typed("--help")) {
    if (line.command->takes_script && line.job_command && !line.operands.empty() && !has_script) {
      throw UsageError(line.command, "berth " + name + ": -h prints help; the host name is --hostname");
    }
    if (name == "queue" && asks_for_a_list(line)) {
      throw UsageError(line.command, "berth queue: -h prints help; without the header use -n");
    }
  }
}

/// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before_last;
  std::vector<std::size_t> last(b.size() + 1);
  std::iota(last.begin(), last.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::vector<std::size_t> row(b.size() + 1, i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j - 1] + (a[i - 1] == b[j - 1] ? 0U : 1U), last[j] + 1, row[j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before_last[j - 2] + 1);
      }
    }
    before_last = std::exchange(last, std::move(row));
  }
  return last[b.size()];
}

}  // namespace

std::string UsageError::help_command() const {
  return command_ == nullptr ? "berth --help" : "berth " + std::string(command_->name) + " --help";
}

unsigned CommandLine::count(std::string_view option) const {
  return static_cast<unsigned>(
      std::count_if(given_.begin(), given_.end(), [&](const auto& given) { return given.name == option; }));
}

std::optional<std::string> CommandLine::value(std::string_view option) const {
  const auto found =
      std::find_if(given_.rbegin(), given_.rend(), [&](const auto& given) { return given.name == option; });
  return found == given_.rend() ? std::nullopt : std::optional(found->value);
}

std::string_view CommandLine::last_of(std::initializer_list<std::string_view> options) const {
  const auto found = std::find_if(given_.rbegin(), given_.rend(), [&](const auto& given) {
    return std::find(options.begin(), options.end(), given.name) != options.end();
  });
  return found == given_.rend() ? std::string_view() : std::string_view(found->name);
}

std::vector<std::string> CommandLine::values(std::string_view option) const {
  std::vector<std::string> result;
  for (const GivenOption& given : given_) {
    if (given.name == option) {
      result.push_back(given.value);
    }
  }
  return result;
}

std::vector<GivenOption> CommandLine::given(std::string_view option) const {
  std::vector<GivenOption> result;
  std::copy_if(given_.begin(), given_.end(), std::back_inserter(result),
               [&](const GivenOption& given) { return given.name == option; });
  return result;
}

const Option* CommandLine::first_of_section(std::string_view section) const {
  for (const auto& given : given_) {
    for (const Option& option : command->options) {
      if (option.name == given.name && option.section == section) {
        return &option;
      }
    }
  }
  return nullptr;
}

CommandLine parse_command_line(const std::vector<std::string>& arguments,
                               const std::function<bool(const std::string&)>& is_script) {
  CommandLine line;
  const Words position = first_operand(arguments.begin(), arguments.end(), nullptr);
  std::vector<std::string> words(arguments.begin(), position);
  std::vector<std::string> after_dashes;
  bool has_script = false;
  if (position != arguments.end()) {
    line.command = find_command(*position);
    if (line.command == nullptr) {
      fail_unknown_command(*position);
    }
    const Words rest = position + 1;
    const Words dashes = std::find(rest, arguments.end(), "--");
    const Words operand = first_operand(rest, dashes, line.command);
    has_script = line.command->takes_script && is_script && operand != dashes && is_script(*operand);
    words.insert(words.end(), rest, has_script ? operand + 1 : dashes);
    if (has_script) {
      line.job_command.emplace(operand + 1, arguments.end());
    } else if (dashes != arguments.end() && line.command->takes_command) {
      line.job_command.emplace(dashes + 1, arguments.end());
    } else if (dashes != arguments.end()) {
      after_dashes.assign(dashes + 1, arguments.end());
    }
  }
  run_parser(with_bare_values(words, line.command), line);
  if (line.command == nullptr) {
    if (!is_help_request(line)) {
      throw UsageError(nullptr, "berth needs a command");
    }
    return line;
  }
  line.operands.insert(line.operands.end(), after_dashes.begin(), after_dashes.end());
  check_letters(line, words, has_script);
  if (!is_help_request(line)) {
    check_database(line);
    check_operands(line);
  }
  return line;
}

std::string nearest_word(std::string_view typed, const std::vector<std::string_view>& known) {
  std::string_view best;
  std::size_t best_distance = std::max<std::size_t>(typed.size() / 3, 1) + 1;
  for (const std::string_view word : known) {
    // A cut-off word ("--cpus-per" for "--cpus-per-task") is near however much is missing.
    const std::size_t distance =
        typed.size() >= 3 && word.starts_with(typed) ? 1 : edit_distance(typed, word);
    if (distance < best_distance) {
      best = word;
      best_distance = distance;
    }
  }
  return std::string(best);
}

}  // namespace berth
