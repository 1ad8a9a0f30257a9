#include "scheduler/manual_page.h"

#include <algorithm>
#include <span>
#include <string_view>
#include <vector>

#include "scheduler/daemon_options.h"
#include "scheduler/help_text.h"

namespace berth {
namespace {

using namespace std::string_view_literals;

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

std::string manual_header(std::string_view page, std::string_view summary,
                          std::string_view section = "1 \"\" \"berth " BERTH_VERSION "\" \"User Commands\"") {
  return ".\\\" Made from berth's option tables; do not edit.\n.TH " + upper(page) + " " +
         std::string(section) + "\n.nh\n.SH NAME\n" + roff(page) + " \\- " + roff(summary) + '\n';
}

std::string in_a_sentence(std::string_view summary) {
  std::string text{summary};
  text[0] = static_cast<char>(text[0] - 'A' + 'a');
  return text;
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

}  // namespace

std::string program_manual_page() {
  std::string out = manual_header("berth", "run batch jobs, each as though it had the machine to itself");
  out +=
      ".SH SYNOPSIS\n.B berth\n[\\fIOPTION\\fR\\[u2026]] \\fICOMMAND\\fR [\\fIARGUMENT\\fR\\[u2026]]\n.SH "
      "DESCRIPTION\n";
  append_manual_paragraphs(out, program_description());
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
  append_meanings(out, "\"EXIT STATUS\"", common_exit_status());
  out += ".PP\n" + manual_reference("berth-run(1)") + "\nhas its own.\n";
  append_meanings(out, "ENVIRONMENT", environment_variables());
  append_meanings(out, "FILES", files_of_berth());
  append_manual_examples(out, program_examples());
  pages.emplace_back("berthd(8)");
  append_see_also(out, std::vector<std::string_view>(pages.begin(), pages.end()));
  return out;
}

std::string daemon_manual_page() {
  const CommandSpec& daemon = daemon_command();
  std::string out = manual_header(daemon.name, in_a_sentence(daemon.summary),
                                  "8 \"\" \"berth " BERTH_VERSION "\" \"System Administration\"");
  out += ".SH SYNOPSIS\n\\fBberthd\\fR " + roff(daemon.usage.front()) + "\n.SH DESCRIPTION\n";
  append_manual_paragraphs(out, daemon.description);
  out += ".SH OPTIONS\n";
  append_manual_options(out, daemon.options);
  append_meanings(out, "SIGNALS", daemon_signals());
  append_meanings(out, "\"EXIT STATUS\"", daemon_exit_status());
  append_meanings(out, "FILES", daemon_files());
  append_manual_examples(out, daemon.examples);
  append_see_also(out, daemon.see_also);
  return out;
}

std::string command_manual_page(const CommandSpec& command) {
  std::string out = manual_header("berth-" + std::string(command.name), in_a_sentence(command.summary));
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

}  // namespace berth
