#include "scheduler/listing.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <limits>

#include "schemas/input_error.h"
#include "schemas/terminal_text.h"
#include "schemas/utf8.h"
#include "store/job_store.h"

namespace berth {
namespace {

constexpr std::array<std::string_view, 9> kDefaultColumns{
    "JobID", "JobName", "User", "AllocCPUS", "State", "ExitCode", "Elapsed", "TotalCPU", "MaxRSS"};
constexpr int kWidestColumn = 1'000;
constexpr std::size_t kMostColumns = 200;
constexpr std::size_t kWidestLine = 16'384;
constexpr std::size_t kLongestDelimiter = 16;
constexpr std::string_view kFewerRecords =
    "fewer records, by start and end or last (berth history -S, -E, --last), or for fewer or narrower "
    "columns";

/// Characters, not bytes, of UTF-8 text; near enough to columns of a terminal.
std::size_t character_count(std::string_view text) {
  return text.size() - static_cast<std::size_t>(std::count_if(text.begin(), text.end(), continues_character));
}

char lower(char letter) {
  return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter - 'A' + 'a') : letter;
}

/// Insertions, removals and replacements that lead from one word to the other, without regard to case.
std::size_t edit_distance(std::string_view from, std::string_view to) {
  std::vector<std::size_t> row(to.size() + 1);
  for (std::size_t column = 0; column <= to.size(); ++column) {
    row[column] = column;
  }
  for (std::size_t line = 1; line <= from.size(); ++line) {
    std::size_t diagonal = row[0];
    row[0] = line;
    for (std::size_t column = 1; column <= to.size(); ++column) {
      const std::size_t replaced = diagonal + (lower(from[line - 1]) == lower(to[column - 1]) ? 0 : 1);
      diagonal = row[column];
      row[column] = std::min({row[column] + 1, row[column - 1] + 1, replaced});
    }
  }
  return row.back();
}

const ListingColumn* find_column(std::string_view name) {
  const auto columns = listing_columns();
  const auto found = std::find_if(columns.begin(), columns.end(),
                                  [&](const ListingColumn& c) { return same_word(c.name, name); });
  return found == columns.end() ? nullptr : &*found;
}

InputFault unknown_column(const std::string& name, std::string_view item) {
  const auto columns = listing_columns();
  if (name.empty()) {
    return {"command line", "--format",
            "\"" + std::string(item) +
                "\" names no column: squeue's letters have names here, with the width behind, as in "
                "JobID%18,JobName,State (there are " +
                listing_column_names() + ")"};
  }
  const auto nearest =
      std::min_element(columns.begin(), columns.end(), [&](const auto& left, const auto& right) {
        return edit_distance(name, left.name) < edit_distance(name, right.name);
      });
  return {"command line", "--format",
          "\"" + name + "\" is not a column; the nearest one is " + std::string(nearest->name) +
              " (there are " + listing_column_names() + ")"};
}

/// One item of a format: "JobID" or "JobID%-20".
void choose_column(std::string_view item, std::vector<ChosenColumn>& chosen,
                   std::vector<InputFault>& faults) {
  const std::string name(item.substr(0, item.find('%')));
  const ListingColumn* column = find_column(name);
  if (column == nullptr) {
    faults.push_back(unknown_column(name, item));
    return;
  }
  try {
    chosen.push_back({column, column_width(item, column->width)});
  } catch (const InputError& error) {
    faults.insert(faults.end(), error.faults().begin(), error.faults().end());
  }
}

std::string table_line(const std::vector<std::string>& cells) {
  std::string line;
  for (const std::string& cell : cells) {
    line += (line.empty() ? "" : " ") + cell;
  }
  return line;
}

/// No more of a long text than its column shows is looked at.
std::string table_cell(const std::string& text, int width) {
  return fit(printable(std::string(first_characters(text, static_cast<std::size_t>(std::abs(width)) + 1))),
             width);
}

std::string table(std::span<const AccountingRecord> records, std::span<const ChosenColumn> columns,
                  const ListingStyle& style, const ListingTime& time) {
  std::string text;
  std::size_t made = 0;  // with the blanks that are cut: they cost the same
  std::vector<std::string> cells(columns.size());
  const auto add_line = [&](auto&& cell_of) {
    std::transform(columns.begin(), columns.end(), cells.begin(), cell_of);
    std::string line = table_line(cells);
    made += line.size() + 1;
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  };
  if (style.header) {
    add_line([](const ChosenColumn& c) { return fit(std::string(c.column->name), c.width); });
    add_line(
        [](const ChosenColumn& c) { return std::string(static_cast<std::size_t>(std::abs(c.width)), '-'); });
  }
  for (const AccountingRecord& record : records) {
    add_line([&](const ChosenColumn& c) { return table_cell(c.column->cell(record, time), c.width); });
    check_size(made, style, kFewerRecords);
  }
  return text;
}

std::string delimited(std::span<const AccountingRecord> records, std::span<const ChosenColumn> columns,
                      const ListingStyle& style, const ListingTime& time) {
  std::string text;
  const auto add_line = [&](auto&& cell_of) {
    for (std::size_t index = 0; index < columns.size(); ++index) {
      text += (index == 0 ? "" : style.delimiter) + cell_of(columns[index]);
      check_size(text.size(), style, kFewerRecords);
    }
    text += style.form == ListingStyle::Form::parsable ? style.delimiter + "\n" : "\n";
  };
  if (style.header) {
    add_line([](const ChosenColumn& c) { return std::string(c.column->name); });
  }
  for (const AccountingRecord& record : records) {
    add_line([&](const ChosenColumn& c) { return printable(c.column->cell(record, time)); });
  }
  return text;
}

}  // namespace

std::string format_instant(Timestamp instant, const ListingTime& time) {
  return time.zone ? format_instant(instant, *time.zone) : format_instant(instant);
}

std::string_view first_characters(std::string_view text, std::size_t count) {
  std::size_t bytes = 0;
  for (; bytes < text.size(); ++bytes) {
    if (!continues_character(text[bytes]) && count-- == 0) {
      break;
    }
  }
  return text.substr(0, bytes);
}

bool is_array_of_tasks(const AccountingRecord& record) {
  return !record.spec->array.empty() && !record.array_job_id && !record.outcome;
}

std::string where_tasks_are(const AccountingRecord& array) {
  return "its tasks have records of their own: berth history " + std::to_string(array.job_id);
}

std::string fit(const std::string& text, int width) {
  const auto room = static_cast<std::size_t>(std::abs(width));
  const std::size_t length = character_count(text);
  if (length > room) {
    return room == 0 ? "" : std::string(first_characters(text, room - 1)) + "+";
  }
  const std::string padding(room - length, ' ');
  return width < 0 ? text + padding : padding + text;
}

bool same_word(std::string_view left, std::string_view right) {
  return std::equal(left.begin(), left.end(), right.begin(), right.end(),
                    [](char a, char b) { return lower(a) == lower(b); });
}

int column_width(std::string_view item, int fallback) {
  const std::size_t percent = item.find('%');
  if (percent == std::string_view::npos) {
    return fallback;
  }
  int width = 0;
  const std::string_view digits = item.substr(percent + 1);
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), width);
  if (error != std::errc() || end != digits.data() + digits.size() || width == 0 ||
      std::abs(width) > kWidestColumn) {
    const std::string name(item.substr(0, percent));
    throw InputError("command line", "--format",
                     "\"" + std::string(item) + "\": the width after % is a number from 1 to 1000 (use " +
                         name + "%20; " + name + "%-20 aligns left)");
  }
  return width;
}

std::string checked_delimiter(std::string delimiter) {
  if (delimiter.size() > kLongestDelimiter) {
    throw InputError(
        "command line", "--delimiter",
        "is longer than " + std::to_string(kLongestDelimiter) + " bytes (use one character, as |)");
  }
  return delimiter;
}

void check_line(std::size_t columns, std::size_t width) {
  if (columns > kMostColumns) {
    throw InputError("command line", "--format",
                     "names " + std::to_string(columns) + " columns; a list has at most " +
                         std::to_string(kMostColumns) + " (name each once)");
  }
  if (width > kWidestLine) {
    throw InputError("command line", "--format",
                     "makes lines of " + std::to_string(width) + " characters; they have at most " +
                         std::to_string(kWidestLine) + " (give smaller widths, or use --parsable2)");
  }
}

void check_size(std::size_t bytes, const ListingStyle& style, std::string_view remedy) {
  if (bytes > style.most_bytes) {
    throw TooMuch("this list takes more than " + std::to_string(style.most_bytes >> 20U) + " MiB: ask for " +
                  std::string(remedy));
  }
}

std::string listing_column_names() {
  std::string names;
  for (const ListingColumn& column : listing_columns()) {
    names += (names.empty() ? "" : " ") + std::string(column.name);
  }
  return names;
}

std::string listing_help() {
  std::string text;
  for (const ListingColumn& column : listing_columns()) {
    text += fit(std::string(column.name), -17) + std::string(column.description) + "\n";
  }
  return text;
}

std::vector<ChosenColumn> default_format() {
  std::vector<ChosenColumn> chosen;
  for (const std::string_view name : kDefaultColumns) {
    const ListingColumn* column = find_column(name);
    chosen.push_back({column, column->width});
  }
  return chosen;
}

std::vector<ChosenColumn> long_format() {
  std::vector<ChosenColumn> chosen;
  for (const ListingColumn& column : listing_columns()) {
    chosen.push_back({&column, column.width});
  }
  return chosen;
}

std::vector<ChosenColumn> parse_format(std::string_view list) {
  std::vector<ChosenColumn> chosen;
  std::vector<InputFault> faults;
  while (!list.empty()) {
    const std::size_t comma = std::min(list.find(','), list.size());
    const std::string_view item = list.substr(0, comma);
    list.remove_prefix(std::min(comma + 1, list.size()));
    if (!item.empty()) {
      choose_column(item, chosen, faults);
    }
  }
  if (chosen.empty() && faults.empty()) {
    faults.push_back(
        {"command line", "--format", "names no column (there are " + listing_column_names() + ")"});
  }
  if (!faults.empty()) {
    throw InputError(std::move(faults));
  }
  check_line(chosen);
  return chosen;
}

std::string format_listing(std::span<const AccountingRecord> records, std::span<const ChosenColumn> columns,
                           const ListingStyle& style, const ListingTime& time) {
  return style.form == ListingStyle::Form::table ? table(records, columns, style, time)
                                                 : delimited(records, columns, style, time);
}

std::string listing_json(std::span<const AccountingRecord> records) {
  std::string text = "{\"jobs\":[";
  for (std::size_t index = 0; index < records.size(); ++index) {
    text += (index == 0 ? "\n" : ",\n") + to_json_text(records[index]);
  }
  return text + "\n]}\n";
}

}  // namespace berth
