// Rows as a table, or separated by a delimiter, with the columns that --format names: what queue and slots
// print.
//
// Pure. Throws InputError for a column that there is not.
#pragma once

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "scheduler/listing.h"
#include "schemas/input_error.h"
#include "schemas/terminal_text.h"

namespace berth {

template <typename Row>
struct TableColumn {
  std::string_view name;  ///< for --format
  std::string_view head;
  int width = 10;  ///< negative: aligned left; 0: as wide as it is
  std::string (*cell)(const Row& row);
};

template <typename Row>
class Table {
 public:
  /// `format`: "JobID%20,State". The first `shown` columns without it.
  Table(std::span<const TableColumn<Row>> columns, std::size_t shown,
        const std::optional<std::string>& format, ListingStyle style)
      : columns_(columns), style_(std::move(style)) {
    for (std::size_t index = 0; index < shown && !format; ++index) {
      chosen_.push_back({&columns[index], columns[index].width});
    }
    std::string_view rest = format ? std::string_view(*format) : std::string_view();
    while (!rest.empty()) {
      const std::size_t comma = std::min(rest.find(','), rest.size());
      choose(rest.substr(0, comma));
      rest.remove_prefix(std::min(comma + 1, rest.size()));
    }
    if (chosen_.empty()) {
      throw InputError("command line", "--format", "names no column (use " + names() + ")");
    }
    check_line(chosen_);
  }

  std::string head() const {
    return style_.header ? line([](const TableColumn<Row>& column) { return std::string(column.head); }) : "";
  }
  std::string row(const Row& row) const {
    return line([&](const TableColumn<Row>& column) { return printable(column.cell(row)); });
  }

 private:
  struct Chosen {
    const TableColumn<Row>* column;
    int width;
  };

  void choose(std::string_view item) {
    const std::string_view name = item.substr(0, item.find('%'));
    const auto found = std::find_if(columns_.begin(), columns_.end(),
                                    [&](const auto& one) { return same_word(one.name, name); });
    if (name.empty() && !item.empty()) {
      throw InputError(
          "command line", "--format",
          "\"" + std::string(item) +
              "\" names no column: squeue's letters have names here, with the width behind, as in "
              "JobID%18,JobName,State (use " +
              names() + ")");
    }
    if (found == columns_.end()) {
      throw InputError("command line", "--format",
                       "there is no column \"" + std::string(name) + "\" (use " + names() + ")");
    }
    chosen_.push_back({&*found, column_width(item, found->width)});
  }

  std::string names() const {
    std::string names;
    for (const TableColumn<Row>& column : columns_) {
      names += (names.empty() ? "" : ", ") + std::string(column.name);
    }
    return names;
  }

  template <typename Cell>
  std::string line(Cell cell) const {
    std::string text;
    const bool is_table = style_.form == ListingStyle::Form::table;
    for (const Chosen& chosen : chosen_) {
      const std::string word = cell(*chosen.column);
      text += &chosen == &chosen_.front() ? "" : is_table ? " " : style_.delimiter;
      text += is_table && chosen.width != 0 ? fit(word, chosen.width) : word;
    }
    if (is_table) {
      text.erase(text.find_last_not_of(' ') + 1);
    }
    return text + "\n";
  }

  std::span<const TableColumn<Row>> columns_;
  ListingStyle style_;
  std::vector<Chosen> chosen_;
};

}  // namespace berth
