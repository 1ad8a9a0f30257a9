// Progress of the jobs of one run, on standard error: live (one line per running job, rewritten in place)
// or plain (a line when a job starts and when it ends).
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "scheduler/clock.h"
#include "schemas/accounting_record.h"

namespace berth {

enum class ProgressMode { none, plain, live };

/// Single-threaded; times are parameters. Live lines must be cleared (clear()) before anything else writes
/// to the same terminal; the next redraw() draws them again.
class Progress {
 public:
  /// Writes to `descriptor`, whose terminal is `columns` wide and `rows` high (live mode).
  Progress(int descriptor, ProgressMode mode, unsigned columns, unsigned rows);

  void queued(JobId job, const std::string& name);
  void started(JobId job, const Allocation& allocation, SteadyTime now);
  void ended(const AccountingRecord& record, SteadyTime now);
  void message(const std::string& text);

  /// Draws the live lines anew when their time or content changed.
  void redraw(SteadyTime now);
  void clear();
  bool is_live() const { return mode_ == ProgressMode::live; }

  /// How often redraw() is worth calling.
  static constexpr std::chrono::milliseconds kInterval{250};

 private:
  struct Running {
    JobId job = 0;
    std::string name;
    std::string slot;
    SteadyTime since;
  };
  std::string live_text(SteadyTime now, unsigned& lines) const;
  void write_line(const std::string& text);
  void write(const std::string& text);

  int descriptor_;
  ProgressMode mode_;
  unsigned columns_;
  unsigned rows_;
  std::map<JobId, std::string> waiting_;
  std::vector<Running> running_;
  std::size_t total_ = 0;
  std::size_t ended_ = 0;
  std::string drawn_;
  unsigned drawn_lines_ = 0;
};

/// "job 36 (build) COMPLETED in 00:00:12" and, unless it completed, the verdict's sentence.
std::string ended_line(const AccountingRecord& record);

}  // namespace berth
