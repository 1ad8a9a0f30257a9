#include "scheduler/run_report.h"

#include <algorithm>
#include <array>

#include "schemas/terminal_text.h"

namespace berth {
namespace {

constexpr std::size_t kColumns = 7;
using Row = std::array<std::string, kColumns>;

Row row_of(const AccountingRecord& record) {
  const Usage& usage = record.usage;
  return {std::to_string(record.job_id),
          printable(record.spec->name),
          std::string(to_string(record.state)),
          record.outcome ? exit_code_field(*record.outcome) : "",
          usage.wall ? format_duration(std::chrono::duration_cast<Milliseconds>(*usage.wall)) : "",
          usage.cpu_total ? format_cpu_time(*usage.cpu_total) : "",
          usage.memory_peak ? format_size_human(*usage.memory_peak) : ""};
}

}  // namespace

std::string usage_table(const std::vector<AccountingRecord>& records) {
  std::vector<Row> rows{{"JobID", "JobName", "State", "ExitCode", "Elapsed", "TotalCPU", "MaxRSS"}};
  std::transform(records.begin(), records.end(), std::back_inserter(rows), row_of);
  std::array<std::size_t, kColumns> widths{};
  for (const Row& row : rows) {
    for (std::size_t i = 0; i < kColumns; ++i) {
      widths[i] = std::max(widths[i], row[i].size());
    }
  }
  std::string text;
  for (const Row& row : rows) {
    for (std::size_t i = 0; i < kColumns; ++i) {
      const std::string gap(widths[i] - row[i].size(), ' ');
      const bool is_text = i == 1 || i == 2;  // names to the left, figures to the right
      text += (i == 0 ? "" : "  ") + (is_text ? row[i] + gap : gap + row[i]);
    }
    text.erase(text.find_last_not_of(' ') + 1);
    text += '\n';
  }
  return text;
}

std::string records_json(const std::vector<AccountingRecord>& records) {
  if (records.size() == 1) {
    return to_json_text(records[0], 2) + '\n';
  }
  std::string text;
  for (const AccountingRecord& record : records) {
    text += (text.empty() ? "[\n" : ",\n") + to_json_text(record, 2);
  }
  return text.empty() ? "[]\n" : text + "\n]\n";
}

int run_exit_status(const std::vector<AccountingRecord>& records, int signal_number) {
  const auto is_cancelled = [](const AccountingRecord& record) {
    return record.state == JobState::cancelled;
  };
  if (signal_number != 0 && std::any_of(records.begin(), records.end(), is_cancelled)) {
    return 128 + signal_number;
  }
  for (const AccountingRecord& record : records) {
    if (record.state != JobState::completed) {
      return record.outcome ? exit_status(*record.outcome) : 125;
    }
  }
  return 0;
}

}  // namespace berth
