#include "scheduler/completion.h"

#include <span>

#include "scheduler/command.h"
#include "schemas/job.h"

namespace berth {
namespace {

using namespace std::string_view_literals;

std::string option_words(std::span<const Option> options) {
  std::string words;
  for (const Option& option : options) {
    if (option.hidden) {
      continue;
    }
    words += (words.empty() ? "--" : " --") + std::string(option.name);
    if (option.letter != 0) {
      words += std::string(" -") + option.letter;
    }
  }
  return words;
}

std::string state_words() {
  std::string words;
  for (int i = 0; i <= static_cast<int>(JobState::deadline); ++i) {
    words += (words.empty() ? "" : " ") + std::string(to_string(static_cast<JobState>(i)));
  }
  return words;
}

std::string completion_action(const Option& option) {
  switch (option.completion) {
    case Completion::none:
      return "return";
    case Completion::file:
      return "_berth_files; return";
    case Completion::directory:
      return "_berth_files -d; return";
    case Completion::words:
      return "_berth_words '" + std::string(option.words) + "'; return";
    case Completion::states:
      return "_berth_list \"$_berth_states\"; return";
    case Completion::columns:
      return option.words.empty() ? "_berth_list \"$_berth_columns\"; return"
                                  : "_berth_list '" + std::string(option.words) + "'; return";
    case Completion::users:
      return "_berth_offer -u; return";
    case Completion::commands:
      return "_berth_words \"$_berth_commands\"; return";
    case Completion::jobs:
      return "_berth_jobs '' 1; return";
  }
  return "return";
}

void append_completion_cases(std::string& out, std::span<const Option> options) {
  for (const Option& option : options) {
    if (option.argument.empty()) {
      continue;
    }
    out += "        --" + std::string(option.name);
    if (option.letter != 0) {
      out += std::string("|-") + option.letter;
    }
    out += ") " + completion_action(option) + " ;;\n";
  }
}

std::string command_words(bool with_hidden) {
  std::string words;
  for (const CommandSpec* command : commands()) {
    if (with_hidden || !command->hidden) {
      words += (words.empty() ? "" : " ") + std::string(command->name);
    }
  }
  return words;
}

constexpr auto kCompletionFunctions = R"bash(
# What compgen finds with these options, one a line: names may have spaces and asterisks.
_berth_offer() { mapfile -t COMPREPLY < <(compgen "$@" -- "$cur"); }

_berth_words() { _berth_offer -W "$1"; }

# Files, or with -d folders.
_berth_files() { compopt -o filenames 2>/dev/null; _berth_offer "${1:--f}"; }

# Jobs in the states $1 (empty: all that are not over), and the last that have ended when $2 is 1.
_berth_jobs() {
  local jobs states=()
  [[ -n $1 ]] && states=(--state "$1")
  jobs=$(command berth queue -n -P "${states[@]}" "${_berth_given[@]}" 2>/dev/null | sed 's/|.*//;s/_\[.*//')
  [[ $2 == 1 ]] && jobs+=" $(command berth history -n -P -o JobID --last 50 "${_berth_given[@]}" 2>/dev/null)"
  _berth_words "$jobs"
}

# A comma-separated list: completes its last member.
_berth_list() {
  local head=''
  [[ $cur == *,* ]] && head="${cur%,*},"
  compopt -o nospace 2>/dev/null
  local cur="${cur##*,}"
  _berth_offer -P "$head" -W "$1"
}
)bash"sv;

constexpr auto kCompletionBegin = R"(
_berth() {
  local cur="${COMP_WORDS[COMP_CWORD]}" prev='' command='' job_states='' ended_jobs='' i
  _berth_given=()
  ((COMP_CWORD > 0)) && prev="${COMP_WORDS[COMP_CWORD-1]}"
  COMPREPLY=()
  # bash splits --name=value into three words.
  if [[ $cur == '=' ]]; then
    cur=''
  elif [[ $prev == '=' ]] && ((COMP_CWORD > 1)); then
    prev="${COMP_WORDS[COMP_CWORD-2]}"
  fi
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "${COMP_WORDS[i]}" in
      --)
        if [[ $command == run || $command == submit || $command == exec ]]; then
          if declare -F _command_offset >/dev/null; then
            _command_offset $((i + 1))
          elif ((COMP_CWORD == i + 1)); then
            _berth_offer -c
          else
            _berth_files
          fi
          return
        fi
        ;;
      --database|--socket|--log-level)
        local option="${COMP_WORDS[i]}"
        ((i++))
        [[ ${COMP_WORDS[i]} == '=' ]] && ((i++))
        ((i < COMP_CWORD)) && [[ $option != --log-level ]] && _berth_given+=("$option" "${COMP_WORDS[i]}")
        ;;
      -*) ;;
      *) [[ -z $command ]] && command="${COMP_WORDS[i]}" ;;
    esac
  done
)"sv;

}  // namespace

std::string bash_completion(std::string_view columns) {
  std::string out = "# bash completion for berth; made from berth's option tables.\n\n";
  out += "_berth_commands='" + command_words(false) + "'\n";
  out += "_berth_states='" + state_words() + "'\n";
  out += "_berth_columns='" + std::string(columns) + "'\n";
  out += kCompletionFunctions;
  out += kCompletionBegin;
  out += "  local options='" + option_words(global_options()) + "' operands=''\n";
  out += "  case \"$prev\" in\n";
  for (const Option& option : global_options()) {
    if (!option.argument.empty()) {
      out += "    --" + std::string(option.name) + ") " + completion_action(option) + " ;;\n";
    }
  }
  out += "  esac\n  case \"$command\" in\n    '') operands=commands ;;\n";
  for (const CommandSpec* command : commands()) {
    if (command->hidden) {
      continue;
    }
    out += "    " + std::string(command->name) + ")\n";
    out += "      options+=' " + option_words(command->options) + "'\n";
    const bool files = command->operands.completion == Completion::file;
    out += std::string("      operands=") +
           (files                                                  ? "files"
            : command->operands.completion == Completion::commands ? "commands"
            : command->operands.completion == Completion::jobs     ? "jobs"
                                                                   : "none") +
           '\n';
    if (command->operands.completion == Completion::jobs) {
      out += "      job_states='" + std::string(command->operands.states) +
             "' ended_jobs=" + (command->operands.ended_jobs ? "1" : "0") + '\n';
    }
    out += "      case \"$prev\" in\n";
    append_completion_cases(out, command->options);
    out += "      esac\n      ;;\n";
  }
  out += R"(  esac
  if [[ $cur == -* ]]; then
    _berth_words "$options"
  elif [[ $operands == commands ]]; then
    _berth_words "$_berth_commands"
  elif [[ $command == signal && $prev == signal ]]; then
    _berth_words 'HUP INT QUIT KILL USR1 USR2 TERM CONT STOP'
  elif [[ $operands == jobs ]]; then
    _berth_jobs "$job_states" "$ended_jobs"
  elif [[ $operands == files ]]; then
    _berth_files
  fi
}

complete -F _berth berth
)";
  return out;
}

}  // namespace berth
