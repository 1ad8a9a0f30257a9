// Listing: AccountingRecords as text, with sacct's column names and look (sacct(1), "--format").
//
// Pure functions; the instant that "now" means is a parameter, and so is the time zone where it is another's.
#pragma once

#include <chrono>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "schemas/accounting_record.h"
#include "schemas/time_zone.h"

namespace berth {

/// When a listing is made, and for whom.
struct ListingTime {
  ListingTime(Timestamp instant,
              std::optional<TimeZone> of_reader = std::nullopt)  // NOLINT: an instant is one
      : now(instant), zone(std::move(of_reader)) {}
  Timestamp now;                 ///< the end so far of what has not ended
  std::optional<TimeZone> zone;  ///< of the times that are printed; none: this process's
};
std::string format_instant(Timestamp instant, const ListingTime& time);

/// One column that can be asked for.
struct ListingColumn {
  std::string_view name;
  int width = 10;                ///< of the table; negative: aligned left
  std::string_view description;  ///< one line, with the unit
  /// The cell of one record; empty for what was not measured, never 0.
  std::string (*cell)(const AccountingRecord& record, const ListingTime& time);
};

/// Every column, in the order of --helpformat and --long.
std::span<const ListingColumn> listing_columns();
/// "JobID JobName …", for shell completion.
std::string listing_column_names();
/// What --helpformat prints: name and description, one column a line.
std::string listing_help();

/// A column as asked for.
struct ChosenColumn {
  const ListingColumn* column = nullptr;
  int width = 10;  ///< negative: aligned left
};

std::vector<ChosenColumn> default_format();
std::vector<ChosenColumn> long_format();
/// "JobID%20,State": names in any case, each optionally with a width (negative: aligned left). Throws
/// InputError with one fault for each column that there is not, naming the nearest one and the list.
std::vector<ChosenColumn> parse_format(std::string_view list);

struct ListingStyle {
  enum class Form {
    table,      ///< header and dashes; a cell that is too long ends in "+"
    parsable,   ///< -p: full width, a delimiter after every cell
    parsable2,  ///< -P: full width, a delimiter between cells
  };
  Form form = Form::table;
  bool header = true;
  std::string delimiter = "|";
  std::size_t most_bytes = std::numeric_limits<std::size_t>::max();  ///< of text: TooMuch is thrown beyond
};
/// Throws InputError for a delimiter of more than 16 bytes.
std::string checked_delimiter(std::string delimiter);
/// Throws InputError when --format asks for more than 200 columns, or for more than 16,384 characters a line
/// by all their widths together: what a line costs has a bound.
void check_line(std::size_t columns, std::size_t width);
template <typename Chosen>
void check_line(const std::vector<Chosen>& columns) {
  std::size_t width = 0;
  for (const Chosen& column : columns) {
    width += static_cast<std::size_t>(column.width < 0 ? -column.width : column.width);
  }
  check_line(columns.size(), width);
}
/// Throws TooMuch when `bytes` are more than the style allows. `remedy`: what to ask for instead.
void check_size(std::size_t bytes, const ListingStyle& style, std::string_view remedy);

/// One line for each record, in their order. Bytes that would end a line or steer a terminal come out as "?".
std::string format_listing(std::span<const AccountingRecord> records, std::span<const ChosenColumn> columns,
                           const ListingStyle& style, const ListingTime& time);

/// {"jobs":[…]} with the complete records, one a line.
std::string listing_json(std::span<const AccountingRecord> records);

/// Elapsed time: the measured wall time, or while it runs now minus start. Nothing before the start, and
/// nothing of an attempt that ended unmeasured: its berth died with it.
std::optional<std::chrono::microseconds> elapsed_time(const AccountingRecord& record, Timestamp now);
/// Elapsed time of every CPU that was granted, or nothing likewise.
std::optional<std::chrono::microseconds> granted_cpu_time(const AccountingRecord& record, Timestamp now);

/// Whether it is the record of an array, whose tasks have or will have records of their own; not of one that
/// was ended before any task began.
bool is_array_of_tasks(const AccountingRecord& record);
/// "its tasks have records of their own: berth history 17".
std::string where_tasks_are(const AccountingRecord& array);

/// A cell of a table: exactly |width| characters (of UTF-8 text), aligned left when the width is negative,
/// and cut with a "+" as sacct does.
std::string fit(const std::string& text, int width);
/// At most the first `count` characters of UTF-8 text.
std::string_view first_characters(std::string_view text, std::size_t count);
/// Names of columns are the same in any case.
bool same_word(std::string_view left, std::string_view right);
/// The width of a --format item "Name%20"; `fallback` when it has none. Throws InputError.
int column_width(std::string_view item, int fallback);

}  // namespace berth
