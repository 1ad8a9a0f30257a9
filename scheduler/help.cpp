#include "scheduler/help.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <span>
#include <string_view>

#include "scheduler/daemon_options.h"
#include "scheduler/help_text.h"
#include "schemas/utf8.h"

namespace berth {
namespace {

using namespace std::string_view_literals;

std::string option_synopsis(const Option& option) {
  std::string text = option.letter != 0 ? std::string("-") + option.letter + ", " : std::string("    ");
  text += "--" + std::string(option.name);
  if (!option.argument.empty()) {
    text += '=' + std::string(option.argument);
  }
  return text;
}

/// Columns that UTF-8 text takes on a terminal, for the characters that the tables use.
std::size_t columns_of(std::string_view text) {
  return text.size() - static_cast<std::size_t>(std::count_if(text.begin(), text.end(), continues_character));
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

void append_meanings_of(std::string& out, std::string_view heading, std::span<const Meaning> meanings,
                        std::size_t text_column, std::size_t width) {
  out += "\n" + std::string(heading) + ":\n";
  for (const Meaning& meaning : meanings) {
    append_entry(out, meaning.term, meaning.text, text_column, width);
  }
}

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
  append_paragraph(out, program_description()[0], 0, width);
  out += "\nCommands:\n";
  for (const CommandSpec* command : commands()) {
    if (!command->hidden) {
      append_entry(out, command->name, command->summary, 16, width);
    }
  }
  append_options(out, global_options(), "Options of every command", width);
  append_examples(out, program_examples(), width);
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
  append_meanings_of(out, "Exit status", exit_status_of(command), 10, width);
  return out;
}

std::string daemon_help(unsigned width) {
  const CommandSpec& daemon = daemon_command();
  std::string out = "Usage: berthd " + std::string(daemon.usage.front()) + "\n";
  for (const std::string_view paragraph : daemon.description) {
    out += '\n';
    append_paragraph(out, paragraph, 0, width);
  }
  append_options(out, daemon.options, "Options", width);
  append_meanings_of(out, "Signals", daemon_signals(), 19, width);
  append_examples(out, daemon.examples, width);
  append_meanings_of(out, "Exit status", daemon_exit_status(), 10, width);
  return out;
}

}  // namespace berth
