#include "scheduler/batch_script.h"

#include "schemas/input_error.h"

namespace berth {
namespace {

constexpr std::string_view kMark = "#SBATCH";

/// False when a quote does not end.
bool split(std::string_view line, std::vector<std::string>& words) {
  std::string word;
  bool in_word = false;
  char quote = 0;
  for (std::size_t index = 0; index < line.size(); ++index) {
    const char c = line[index];
    if (quote == 0 && (c == ' ' || c == '\t' || c == '\r')) {
      if (in_word) {
        words.push_back(word);
      }
      word.clear();
      in_word = false;
    } else if (quote == 0 && c == '#' && !in_word) {
      break;
    } else if (quote == 0 && (c == '"' || c == '\'')) {
      quote = c;
      in_word = true;
    } else if (quote != 0 && c == quote) {
      quote = 0;
    } else {
      const bool is_escape = c == '\\' && quote != '\'' && index + 1 < line.size();
      word += is_escape ? line[++index] : c;
      in_word = true;
    }
  }
  if (in_word) {
    words.push_back(word);
  }
  return quote == 0;
}

}  // namespace

std::vector<BatchLine> batch_lines(std::string_view script, const std::string& file) {
  std::vector<BatchLine> lines;
  for (unsigned number = 1; !script.empty(); ++number) {
    const std::size_t end = script.find('\n');
    const std::string_view line = script.substr(0, end);
    script.remove_prefix(end == std::string_view::npos ? script.size() : end + 1);
    const std::size_t first = line.find_first_not_of(" \t\r");
    if (first == std::string_view::npos) {
      continue;
    }
    if (line[first] != '#') {
      break;
    }
    const bool is_option = line.starts_with(kMark) && line.size() > kMark.size() &&
                           (line[kMark.size()] == ' ' || line[kMark.size()] == '\t');
    if (!is_option) {
      continue;
    }
    lines.push_back({file + ": line " + std::to_string(number), {}});
    if (!split(line.substr(kMark.size()), lines.back().words)) {
      throw InputError(lines.back().place, "", "has a quote that does not end");
    }
  }
  return lines;
}

}  // namespace berth
