#include "scheduler/reference_page.h"

#include <algorithm>
#include <span>
#include <string_view>

#include "scheduler/help_text.h"

namespace berth {
namespace {

constexpr std::string_view kHead =
    "<!-- Made from berth's option tables by scripts/docs; do not edit. -->\n"
    "# Every command and option\n\n"
    "As `berth COMMAND --help` prints it. [cli.md](cli.md) has the rules behind the options, "
    "[job-file.md](job-file.md) the\nfields of job files that they set.\n\n";

/// Text for a cell of a table, whose characters mean nothing in Markdown.
std::string cell(std::string_view text) {
  std::string out;
  for (const char character : text) {
    if (std::string_view("|*<>`\\").find(character) != std::string_view::npos) {
      out += '\\';
    }
    out += character;
  }
  return out;
}

/// Inside backquotes only the bar means something: to the table.
std::string code(std::string_view text) {
  std::string out = "`";
  for (const char character : text) {
    out += character == '|' ? "\\|" : std::string(1, character);
  }
  return out + "`";
}

void append_options(std::string& out, std::span<const Option> options) {
  std::string_view section = "\n";  // no section is called that
  for (const Option& option : options) {
    if (option.hidden) {
      continue;
    }
    if (option.section != section) {
      section = option.section;
      out += "\n| " + (section.empty() ? "Option" : cell(section)) + " | |\n| --- | --- |\n";
    }
    std::string words = option.letter == 0 ? "" : code(std::string("-") + option.letter) + " ";
    words += code("--" + std::string(option.name) +
                  (option.argument.empty() ? "" : "=" + std::string(option.argument)));
    out += "| " + words + " | " + cell(option_text(option)) + " |\n";
  }
}

void append_statuses(std::string& out, std::span<const Meaning> meanings) {
  out += "\n| Exit status | |\n| --- | --- |\n";
  for (const Meaning& meaning : meanings) {
    out += "| " + std::string(meaning.term) + " | " + cell(meaning.text) + " |\n";
  }
}

void append_command(std::string& out, const CommandSpec& command) {
  out += "\n## berth " + std::string(command.name) + "\n\n" + std::string(command.summary) + ".\n\n```\n";
  for (const std::string_view usage : command.usage) {
    out += "berth " + std::string(usage) + "\n";
  }
  out += "```\n";
  append_options(out, command.options);
  const std::span<const Meaning> statuses = exit_status_of(command);
  if (statuses.data() != common_exit_status().data()) {
    append_statuses(out, statuses);
  }
}

}  // namespace

std::string reference_page() {
  std::string out{kHead};
  std::string_view separator;
  for (const CommandSpec* command : commands()) {
    if (!command->hidden) {
      out.append(separator).append("[").append(command->name);
      out.append("](#berth-").append(command->name).append(")");
      separator = " ·\n";
    }
  }
  out += "\n\n## Options of every command\n\nThey are taken before and after the command.\n";
  append_options(out, global_options());
  out += "\nCommands that name no exit statuses of their own have these:\n";
  append_statuses(out, common_exit_status());
  out += "\n| Environment | |\n| --- | --- |\n";
  for (const Meaning& variable : environment_variables()) {
    out += "| " + cell(variable.term) + " | " + cell(variable.text) + " |\n";
  }
  for (const CommandSpec* command : commands()) {
    if (!command->hidden) {
      append_command(out, *command);
    }
  }
  return out;
}

}  // namespace berth
