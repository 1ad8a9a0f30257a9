#include "scheduler/help.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <system_error>
#include <vector>

#include "schemas/job.h"

namespace berth {
namespace {

using std::string_view_literals::operator""sv;

constexpr std::array kProgramDescription{
    "berth runs batch jobs on Linux, each as though it had the machine to itself: its own CPUs and memory, "
    "its own "
    "namespaces (user, pid, mount, network, IPC, UTS, cgroup, time) and cgroups, limits that hold, and a "
    "record of what "
    "it used."sv,
    "Job states, options and columns have the names that Slurm gave them."sv,
};

constexpr std::array kProgramExamples{
    Example{"berth run -- make test", "A command as a job of its own."},
    Example{"berth run -c 2 --mem 2G -t 10 -- ./tests.sh", "Two CPUs, 2 GiB and ten minutes."},
    Example{"berth run nightly.json", "The jobs of a file."},
    Example{"berth history", "What ran and what it used."},
    Example{"berth doctor", "What this machine offers to jobs."},
};

struct Meaning {
  std::string_view term;
  std::string_view text;
};

constexpr std::array kRunExitStatus{
    Meaning{
        "0-123",
        "The job's own exit status (125 to 255 too, when the job exits so). With several jobs: 0 when all "
        "COMPLETED, else the status of the first, in submit order, that did not."},
    Meaning{"124", "The job ran out of time: wall time, CPU time, or no output for too long."},
    Meaning{"125", "berth failed or refused; the job did not run, or berth could not see it to its end."},
    Meaning{"126", "The command could not be executed."},
    Meaning{"127", "The command was not found."},
    Meaning{
        "128+N",
        "Signal N ended the job: 137 (SIGKILL) when it ran out of memory. When Ctrl-C or a signal to berth "
        "cancelled the run: 130 (SIGINT), 143 (SIGTERM), 129 (SIGHUP), 131 (SIGQUIT)."},
};

constexpr std::array kOtherExitStatus{
    Meaning{"0", "Success."},
    Meaning{"1",
            "The answer is no: a faulty job file, no such job, something that jobs need is missing; or berth "
            "failed. Standard error says which."},
    Meaning{"2", "Wrong usage."},
};

constexpr std::array kEnvironment{
    Meaning{"XDG_STATE_HOME",
            "Where the database is when --database does not say so; ~/.local/state when unset."},
    Meaning{"SUDO_UID, SUDO_GID", "As root: whom jobs run as by default and who is recorded."},
    Meaning{"COLUMNS", "Width of --help."},
};

constexpr std::array kFiles{
    Meaning{"~/.local/state/berth/berth.db", "The database of a user."},
    Meaning{"/var/lib/berth/berth.db", "The database of root."},
};

std::span<const Meaning> exit_status_of(const CommandSpec& command) {
  return command.name == "run" ? std::span<const Meaning>(kRunExitStatus)
                               : std::span<const Meaning>(kOtherExitStatus);
}

std::string option_synopsis(const Option& option) {
  std::string text = option.letter != 0 ? std::string("-") + option.letter + ", " : std::string("    ");
  text += "--" + std::string(option.name);
  if (!option.argument.empty()) {
    text += '=' + std::string(option.argument);
  }
  return text;
}

std::string option_text(const Option& option) {
  std::string text{option.description};
  if (option.repeatable && !option.argument.empty()) {
    text += "; may be given several times";
  }
  if (!option.fallback.empty()) {
    text += " (default: " + std::string(option.fallback) + ")";
  }
  return text;
}

// -- help -----------------------------------------------------------------------------------------------

/// Columns that UTF-8 text takes on a terminal, for the characters that the tables use.
std::size_t columns_of(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

/// Appends `text` from column `column` on, wrapped, continuation lines indented.
void append_wrapped(std::string& out, std::string_view text, std::size_t column, std::size_t indent,
                    std::size_t width) {
  bool line_has_word = false;
  while (!text.empty()) {
    const std::size_t space = text.find(' ');
    const std::string_view word = text.substr(0, space);
    text.remove_prefix(space == std::string_view::npos ? text.size() : space + 1);
    const std::size_t needed = columns_of(word) + (line_has_word ? 1 : 0);
    if (line_has_word && column + needed > width) {
      out += '\n';
      out.append(indent, ' ');
      column = indent;
      line_has_word = false;
    }
    if (line_has_word) {
      out += ' ';
      ++column;
    }
    out += word;
    column += columns_of(word);
    line_has_word = true;
  }
  out += '\n';
}

void append_paragraph(std::string& out, std::string_view text, std::size_t indent, std::size_t width) {
  out.append(indent, ' ');
  append_wrapped(out, text, indent, indent, width);
}

/// Term on the left, text on the right; a long term has a line to itself.
void append_entry(std::string& out, std::string_view term, std::string_view text, std::size_t text_column,
                  std::size_t width) {
  std::string line = "  " + std::string(term);
  std::size_t column = columns_of(line);
  if (column + 2 > text_column) {
    out += line + '\n';
    line.clear();
    column = 0;
  }
  line.append(text_column - column, ' ');
  out += line;
  append_wrapped(out, text, text_column, text_column, width);
}

void append_options(std::string& out, std::span<const Option> options, std::string_view heading,
                    std::size_t width) {
  constexpr std::size_t kTextColumn = 30;
  std::string_view section = "\n"sv;  // no section is called that
  for (const Option& option : options) {
    if (option.hidden) {
      continue;
    }
    if (option.section != section) {
      section = option.section;
      out += '\n';
      out += section.empty() ? heading : section;
      out += ":\n";
    }
    append_entry(out, option_synopsis(option), option_text(option), kTextColumn, width);
  }
}

void append_examples(std::string& out, std::span<const Example> examples, std::size_t width) {
  if (examples.empty()) {
    return;
  }
  out += "\nExamples:\n";
  for (const Example& example : examples) {
    out += "  $ " + std::string(example.command) + '\n';
    append_paragraph(out, example.explanation, 6, width);
  }
}

// -- manual pages ---------------------------------------------------------------------------------------

/// Text for a roff line: backslashes, and the characters that groff would replace or that UTF-8 has.
std::string roff(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text.substr(i).starts_with("…")) {
      out += "\\[u2026]";
      i += "…"sv.size() - 1;
      continue;
    }
    switch (text[i]) {
      case '\\':
        out += "\\e";
        break;
      case '-':
        out += "\\-";
        break;
      case '\'':
        out += "\\(aq";
        break;
      case '`':
        out += "\\(ga";
        break;
      case '"':
        out += "\\(dq";
        break;
      case '~':
        out += "\\(ti";
        break;
      case '^':
        out += "\\(ha";
        break;
      default:
        out += text[i];
    }
  }
  return out;
}

/// A line of its own must not begin with a control character.
std::string roff_line(std::string_view text) {
  std::string line = roff(text);
  if (line.starts_with('.')) {
    line.insert(0, "\\&");
  }
  return line + '\n';
}

std::string upper(std::string_view text) {
  std::string result{text};
  std::transform(result.begin(), result.end(), result.begin(),
                 [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; });
  return result;
}

std::string manual_header(std::string_view page, std::string_view summary) {
  return ".\\\" Made from berth's option tables; do not edit.\n.TH " + upper(page) +
         " 1 \"\" \"berth " BERTH_VERSION "\" \"User Commands\"\n.nh\n.SH NAME\n" + roff(page) + " \\- " +
         roff(summary) + '\n';
}

void append_manual_option(std::string& out, const Option& option) {
  out += ".TP\n";
  if (option.letter != 0) {
    out += std::string("\\fB\\-") + option.letter + "\\fR, ";
  }
  out += "\\fB\\-\\-" + roff(option.name) + "\\fR";
  if (!option.argument.empty()) {
    out += "=\\fI" + roff(option.argument) + "\\fR";
  }
  out += '\n' + roff_line(option_text(option) + ".");
}

void append_manual_options(std::string& out, std::span<const Option> options) {
  std::string_view section;
  for (const Option& option : options) {
    if (option.hidden) {
      continue;
    }
    if (option.section != section) {
      section = option.section;
      out += ".SS " + roff(section) + '\n';
    }
    append_manual_option(out, option);
  }
}

void append_meanings(std::string& out, std::string_view heading, std::span<const Meaning> meanings) {
  out += ".SH " + std::string(heading) + '\n';
  for (const Meaning& meaning : meanings) {
    out += ".TP\n\\fB" + roff(meaning.term) + "\\fR\n" + roff_line(meaning.text);
  }
}

void append_manual_paragraphs(std::string& out, std::span<const std::string_view> paragraphs) {
  bool first = true;
  for (const std::string_view paragraph : paragraphs) {
    out += (first ? "" : ".PP\n") + roff_line(paragraph);
    first = false;
  }
}

void append_manual_examples(std::string& out, std::span<const Example> examples) {
  if (examples.empty()) {
    return;
  }
  out += ".SH EXAMPLES\n";
  for (const Example& example : examples) {
    out += ".PP\n" + roff_line(example.explanation) + ".PP\n.RS 4\n.EX\n" + roff_line(example.command) +
           ".EE\n.RE\n";
  }
}

/// "berth-run(1)" in bold and roman.
std::string manual_reference(std::string_view page) {
  const std::size_t parenthesis = page.find('(');
  return "\\fB" + roff(page.substr(0, parenthesis)) + "\\fR" + roff(page.substr(parenthesis));
}

void append_see_also(std::string& out, std::span<const std::string_view> pages) {
  out += ".SH \"SEE ALSO\"\n";
  std::string separator;
  for (const std::string_view page : pages) {
    out += separator + manual_reference(page);
    separator = ",\n";
  }
  out += '\n';
}

// -- completion -----------------------------------------------------------------------------------------

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
      return "compopt -o filenames; COMPREPLY=($(compgen -d -- \"$cur\")); return";
    case Completion::words:
      return "_berth_words '" + std::string(option.words) + "'; return";
    case Completion::states:
      return "_berth_list \"$_berth_states\"; return";
    case Completion::columns:
      return "_berth_list \"$_berth_columns\"; return";
    case Completion::users:
      return "COMPREPLY=($(compgen -u -- \"$cur\")); return";
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
_berth_words() { COMPREPLY=($(compgen -W "$1" -- "$cur")); }

_berth_files() { compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")); }

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
  COMPREPLY=($(compgen -P "$head" -W "$1" -- "${cur##*,}"))
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
            COMPREPLY=($(compgen -c -- "$cur"))
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

unsigned help_width() {
  unsigned width = 80;
  const char* columns = std::getenv("COLUMNS");
  winsize size{};
  if (columns != nullptr && std::atoi(columns) > 0) {
    width = static_cast<unsigned>(std::atoi(columns));
  } else if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    width = size.ws_col;
  }
  return std::clamp(width, 60U, 120U);
}

std::string program_help(unsigned width) {
  std::string out = "Usage: berth [OPTION…] COMMAND [ARGUMENT…]\n\n";
  append_paragraph(out, kProgramDescription[0], 0, width);
  out += "\nCommands:\n";
  for (const CommandSpec* command : commands()) {
    if (!command->hidden) {
      append_entry(out, command->name, command->summary, 16, width);
    }
  }
  append_options(out, global_options(), "Options of every command", width);
  append_examples(out, kProgramExamples, width);
  out += "\n\"berth COMMAND --help\" tells more about one command.\n";
  return out;
}

std::string command_help(const CommandSpec& command, unsigned width) {
  std::string out;
  for (const std::string_view usage : command.usage) {
    out += (out.empty() ? "Usage: berth " : "       berth ") + std::string(usage) + '\n';
  }
  for (const std::string_view paragraph : command.description) {
    out += '\n';
    append_paragraph(out, paragraph, 0, width);
  }
  append_options(out, command.options, "Options", width);
  append_options(out, global_options(), "Options of every command", width);
  append_examples(out, command.examples, width);
  out += "\nExit status:\n";
  for (const Meaning& meaning : exit_status_of(command)) {
    append_entry(out, meaning.term, meaning.text, 10, width);
  }
  return out;
}

std::string program_manual_page() {
  std::string out = manual_header("berth", "run batch jobs, each as though it had the machine to itself");
  out +=
      ".SH SYNOPSIS\n.B berth\n[\\fIOPTION\\fR\\[u2026]] \\fICOMMAND\\fR [\\fIARGUMENT\\fR\\[u2026]]\n.SH "
      "DESCRIPTION\n";
  append_manual_paragraphs(out, kProgramDescription);
  out += ".SH COMMANDS\n";
  std::vector<std::string> pages;
  for (const CommandSpec* command : commands()) {
    if (!command->hidden) {
      pages.push_back("berth-" + std::string(command->name) + "(1)");
      out += ".TP\n" + manual_reference(pages.back()) + '\n' + roff_line(std::string(command->summary) + ".");
    }
  }
  out += ".SH OPTIONS\nThese are taken before and after every command.\n";
  append_manual_options(out, global_options());
  append_meanings(out, "\"EXIT STATUS\"", kOtherExitStatus);
  out += ".PP\n" + manual_reference("berth-run(1)") + "\nhas its own.\n";
  append_meanings(out, "ENVIRONMENT", kEnvironment);
  append_meanings(out, "FILES", kFiles);
  append_manual_examples(out, kProgramExamples);
  append_see_also(out, std::vector<std::string_view>(pages.begin(), pages.end()));
  return out;
}

std::string command_manual_page(const CommandSpec& command) {
  std::string summary{command.summary};
  summary[0] = static_cast<char>(summary[0] - 'A' + 'a');
  std::string out = manual_header("berth-" + std::string(command.name), summary);
  out += ".SH SYNOPSIS\n";
  for (const std::string_view usage : command.usage) {
    out += (usage == command.usage.front() ? "" : ".br\n") + ("\\fBberth\\fR " + roff(usage)) + '\n';
  }
  out += ".SH DESCRIPTION\n";
  append_manual_paragraphs(out, command.description);
  out += ".SH OPTIONS\n";
  append_manual_options(out, command.options);
  out += ".SS Options of every command\n";
  append_manual_options(out, global_options());
  append_meanings(out, "\"EXIT STATUS\"", exit_status_of(command));
  append_manual_examples(out, command.examples);
  std::vector<std::string_view> pages{"berth(1)"};
  pages.insert(pages.end(), command.see_also.begin(), command.see_also.end());
  append_see_also(out, pages);
  return out;
}

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

void write_text_file(const std::string& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (!file) {
    throw std::system_error(errno == 0 ? EIO : errno, std::generic_category(), "write " + path);
  }
}

void write_manual_pages(const std::string& directory) {
  write_text_file(directory + "/berth.1", program_manual_page());
  for (const CommandSpec* command : commands()) {
    if (!command->hidden) {
      write_text_file(directory + "/berth-" + std::string(command->name) + ".1",
                      command_manual_page(*command));
    }
  }
}

}  // namespace berth
