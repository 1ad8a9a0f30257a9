#include "scheduler/cli_report.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "scheduler/cli_history.h"
#include "schemas/input_error.h"
#include "schemas/terminal_text.h"

namespace berth {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kFewerRows =
    "fewer rows, by start and end, users or accounts (berth report -S, -E, -u, -A)";

struct KeyName {
  ReportKey key;
  const char* name;    ///< --by
  const char* header;  ///< of the column
};
constexpr std::array kKeys{
    KeyName{ReportKey::user, "user", "User"},
    KeyName{ReportKey::account, "account", "Account"},
    KeyName{ReportKey::name, "name", "JobName"},
    KeyName{ReportKey::day, "day", "Day"},
};

const KeyName& key_name(ReportKey key) {
  return *std::find_if(kKeys.begin(), kKeys.end(), [&](const KeyName& one) { return one.key == key; });
}

std::uint64_t in_state(const ReportRow& row, JobState state) {
  const auto found = row.states.find(state);
  return found == row.states.end() ? 0 : found->second;
}

template <JobState state>
std::string state_cell(const ReportRow& row) {
  return std::to_string(in_state(row, state));
}

std::string duration(const ReportRow::Time& time) {
  return time ? format_duration(std::chrono::duration_cast<Milliseconds>(*time)) : "";
}

std::string gibibyte_hours(const ReportRow& row) {
  if (!row.memory_granted) {
    return "";
  }
  constexpr double kGibibyteHour = double{1U << 30U} * 3600;
  std::array<char, 64> text{};
  (void)std::snprintf(text.data(), text.size(), "%.2f", *row.memory_granted / kGibibyteHour);
  return text.data();
}

std::string efficiency(const ReportRow& row) {
  if (row.granted_to_compare.count() == 0) {
    return "";
  }
  std::array<char, 64> text{};
  (void)std::snprintf(text.data(), text.size(), "%.1f%%",
                      100.0 * static_cast<double>(row.used_to_compare.count()) /
                          static_cast<double>(row.granted_to_compare.count()));
  return text.data();
}

/// JSON's numbers are not bound to 64 bits: larger ones come with an exponent.
Json whole_number(double value) {
  constexpr double kBound = 0x1p64;
  return value < kBound ? Json(static_cast<std::uint64_t>(value)) : Json(value);
}

Json row_value(const ReportRow& row, ReportKey key) {
  Json states = Json::object();
  for (const auto& [state, count] : row.states) {
    states[std::string(to_string(state))] = count;
  }
  Json value{{key_name(key).name, row.key},
             {"jobs", row.jobs},
             {"attempts", row.attempts},
             {"states", std::move(states)}};
  for (const auto& [name, time] : {std::pair("elapsed_usec", row.elapsed),
                                   {"cpu_granted_usec", row.cpu_granted},
                                   {"cpu_total_usec", row.cpu_used}}) {
    if (time) {
      value[name] = time->count();
    }
  }
  if (row.memory_granted) {
    value["memory_granted_byte_seconds"] = whole_number(*row.memory_granted);
  }
  if (row.oom_kills) {
    value["oom_kills"] = *row.oom_kills;
  }
  if (row.longest) {
    value["elapsed_max_usec"] = row.longest->count();
  }
  if (row.memory_peak) {
    value["memory_peak"] = *row.memory_peak;
  }
  return value;
}

struct Column {
  std::string_view name;
  int width;
  std::string_view description;
  std::string (*cell)(const ReportRow& row);
};
constexpr std::array kReportColumns{
    Column{"Key", -16, "what the row is about: the user, account, job name or day",
           [](const ReportRow& row) { return row.key.empty() ? std::string("(none)") : printable(row.key); }},
    Column{"Jobs", 8, "jobs that ended", [](const ReportRow& row) { return std::to_string(row.jobs); }},
    Column{"Attempts", 8, "attempts that ended; those that were run again count each",
           [](const ReportRow& row) { return std::to_string(row.attempts); }},
    Column{"Completed", 9, "attempts that ended COMPLETED", state_cell<JobState::completed>},
    Column{"Failed", 8, "… FAILED", state_cell<JobState::failed>},
    Column{"Timeout", 8, "… TIMEOUT", state_cell<JobState::timeout>},
    Column{"OutOfMemory", 11, "… OUT_OF_MEMORY", state_cell<JobState::out_of_memory>},
    Column{"Cancelled", 9, "… CANCELLED", state_cell<JobState::cancelled>},
    Column{"NodeFail", 8, "… NODE_FAIL", state_cell<JobState::node_fail>},
    Column{"Other", 5, "… PREEMPTED or DEADLINE",
           [](const ReportRow& row) {
             return std::to_string(in_state(row, JobState::preempted) + in_state(row, JobState::deadline));
           }},
    Column{"Elapsed", 12, "wall time that was measured",
           [](const ReportRow& row) { return duration(row.elapsed); }},
    Column{"CPUTime", 12, "that of every CPU that was granted",
           [](const ReportRow& row) { return duration(row.cpu_granted); }},
    Column{"TotalCPU", 12, "CPU time that was used",
           [](const ReportRow& row) { return duration(row.cpu_used); }},
    Column{"CPUEff", 7, "TotalCPU of CPUTime, of attempts of which both were measured", efficiency},
    Column{"MemGiBh", 10, "GiB of memory that were granted, times hours", gibibyte_hours},
    Column{
        "OOMKills", 8, "processes that the kernel killed for memory",
        [](const ReportRow& row) { return row.oom_kills ? std::to_string(*row.oom_kills) : std::string(); }},
    Column{"MaxElapsed", 12, "wall time of the attempt that ran longest",
           [](const ReportRow& row) { return duration(row.longest); }},
    Column{"MaxRSS", 10, "highest memory that was charged to an attempt, page cache included",
           [](const ReportRow& row) {
             return row.memory_peak ? format_size_human(*row.memory_peak) : std::string();
           }},
};

std::string column_names() {
  std::string names;
  for (const Column& column : kReportColumns) {
    names += (names.empty() ? "" : ", ") + std::string(column.name);
  }
  return names;
}

struct Chosen {
  const Column* column = nullptr;
  int width = 0;
};

Chosen chosen_column(std::string_view word, ReportKey key) {
  const std::string_view name = word.substr(0, word.find('%'));
  for (const Column& column : kReportColumns) {
    if (same_word(name, column.name) ||
        (&column == kReportColumns.data() &&
         (same_word(name, key_name(key).header) || same_word(name, key_name(key).name)))) {
      return {&column, column_width(word, column.width)};
    }
  }
  throw InputError(kCommandLine, "--format",
                   "there is no column \"" + std::string(name) + "\" (use " + column_names() + ")");
}

std::vector<Chosen> chosen_columns(const std::optional<std::string>& format, ReportKey key) {
  std::vector<Chosen> chosen;
  if (!format) {
    for (const Column& column : kReportColumns) {
      chosen.push_back({&column, column.width});
    }
    return chosen;
  }
  std::string_view rest = *format;
  while (!rest.empty()) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    if (comma > 0) {
      chosen.push_back(chosen_column(rest.substr(0, comma), key));
    }
    rest.remove_prefix(std::min(comma + 1, rest.size()));
  }
  if (chosen.empty()) {
    throw InputError(kCommandLine, "--format", "names no column (use " + column_names() + ")");
  }
  check_line(chosen);
  return chosen;
}

template <typename Cell>
std::string line_of(const std::vector<Chosen>& columns, const ListingStyle& style, Cell cell) {
  std::string line;
  for (const Chosen& chosen : columns) {
    const bool first = &chosen == &columns.front();
    if (style.form == ListingStyle::Form::table) {
      line += (first ? "" : " ") + fit(cell(chosen), chosen.width);
    } else {
      line += (first ? "" : style.delimiter) + cell(chosen);
    }
  }
  return line + (style.form == ListingStyle::Form::parsable ? style.delimiter : "") + "\n";
}

}  // namespace

ReportFilter make_report_filter(const ReportRequest& request, Timestamp now) {
  HistoryRequest common;
  common.start = request.start;
  common.end = request.end;
  common.users = request.users;
  common.accounts = request.accounts;
  const HistoryFilter checked = make_history_filter(common, now);
  ReportFilter filter;
  filter.start = checked.start;
  filter.end = checked.end;
  filter.users = checked.users;
  filter.accounts = checked.accounts;
  const std::string by = request.by.value_or("user");
  const auto* const found =
      std::find_if(kKeys.begin(), kKeys.end(), [&](const KeyName& one) { return by == one.name; });
  if (found == kKeys.end()) {
    throw InputError(kCommandLine, "--by", "\"" + by + "\" is not user, account, name or day");
  }
  filter.key = found->key;
  return filter;
}

std::string format_report(const std::vector<ReportRow>& rows, ReportKey key,
                          const std::optional<std::string>& format, const ListingStyle& style) {
  const std::vector<Chosen> columns = chosen_columns(format, key);
  std::string text;
  if (style.header) {
    text += line_of(columns, style, [&](const Chosen& chosen) {
      return std::string(chosen.column == kReportColumns.data() ? key_name(key).header : chosen.column->name);
    });
    if (style.form == ListingStyle::Form::table) {
      text += line_of(columns, style, [](const Chosen& chosen) {
        return std::string(static_cast<std::size_t>(chosen.width < 0 ? -chosen.width : chosen.width), '-');
      });
    }
  }
  for (const ReportRow& row : rows) {
    text += line_of(columns, style, [&](const Chosen& chosen) { return chosen.column->cell(row); });
    check_size(text.size(), style, kFewerRows);
  }
  return text;
}

std::string report_json(const std::vector<ReportRow>& rows, ReportKey key, const ListingStyle& style) {
  std::string text = "{\"by\":\"" + std::string(key_name(key).name) + "\",\"rows\":[";
  for (const ReportRow& row : rows) {
    text += (&row == rows.data() ? "" : ",") + printable_json(row_value(row, key));
    check_size(text.size(), style, kFewerRows);
  }
  return text + "]}\n";
}

std::string report_help() {
  std::string text;
  for (const Column& column : kReportColumns) {
    text += fit(std::string(column.name), -14) + std::string(column.description) + "\n";
  }
  return text;
}

}  // namespace berth
