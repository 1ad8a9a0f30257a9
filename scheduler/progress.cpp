#include "scheduler/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "schemas/terminal_text.h"
#include "schemas/utf8.h"

namespace berth {
namespace {

constexpr auto kClearToEnd = "\x1b[0J";  // erase from the cursor to the end of the screen (console_codes(4))
constexpr std::size_t kNameColumns = 24;

std::string padded(std::string text, std::size_t columns) {
  if (text.size() < columns) {
    text.append(columns - text.size(), ' ');
  }
  return text;
}

/// Cut at `columns` characters; a terminal that wraps a line would shift everything below.
std::string cut(const std::string& text, std::size_t columns) {
  std::size_t characters = 0;
  std::size_t i = 0;
  for (; i < text.size(); ++i) {
    if (!continues_character(text[i]) && ++characters > columns) {
      break;
    }
  }
  return text.substr(0, i);
}

std::string job_label(JobId job, const std::string& name) {
  return "job " + std::to_string(job) + " (" + name + ")";
}

}  // namespace

Progress::Progress(int descriptor, ProgressMode mode, unsigned columns, unsigned rows)
    : descriptor_(descriptor), mode_(mode), columns_(std::max(columns, 20U)), rows_(std::max(rows, 4U)) {}

void Progress::queued(JobId job, const std::string& name) {
  waiting_[job] = name;
  ++total_;
}

void Progress::started(JobId job, const Allocation& allocation, SteadyTime now) {
  const std::string name = waiting_[job];
  waiting_.erase(job);
  running_.push_back({job, name, allocation.slot, now});
  if (mode_ == ProgressMode::plain) {
    write_line("berth: " + job_label(job, name) + " RUNNING on " + allocation.slot);
  }
}

void Progress::ended(const AccountingRecord& record, SteadyTime now) {
  waiting_.erase(record.job_id);
  std::erase_if(running_, [&](const Running& running) { return running.job == record.job_id; });
  ++ended_;
  if (mode_ == ProgressMode::none) {
    return;
  }
  write_line("berth: " + ended_line(record));
  redraw(now);
}

void Progress::message(const std::string& text) {
  write_line("berth: " + text);
}

std::string Progress::live_text(SteadyTime now, unsigned& lines) const {
  std::string text;
  // The last row stays free for the cursor, one more for the summary.
  const std::size_t shown = std::min<std::size_t>(running_.size(), rows_ - 2);
  for (std::size_t i = 0; i < shown; ++i) {
    const Running& running = running_[i];
    const auto elapsed = std::chrono::duration_cast<Milliseconds>(now - running.since);
    const std::string line = padded(std::to_string(running.job), 8) +
                             padded(cut(printable(running.name), kNameColumns), kNameColumns + 1) +
                             padded("RUNNING", 10) + padded(format_duration(elapsed), 11) + running.slot;
    text += cut(line, columns_ - 1) + '\n';
  }
  text +=
      cut(std::to_string(ended_) + " of " + std::to_string(total_) + " ended, " +
              std::to_string(running_.size()) + " running, " + std::to_string(waiting_.size()) + " waiting",
          columns_ - 1) +
      '\n';
  lines = static_cast<unsigned>(shown) + 1;
  return text;
}

void Progress::redraw(SteadyTime now) {
  if (mode_ != ProgressMode::live) {
    return;
  }
  if (running_.empty() && waiting_.empty()) {
    clear();
    return;
  }
  unsigned lines = 0;
  std::string text = live_text(now, lines);
  if (text == drawn_) {
    return;
  }
  clear();
  write(text);
  drawn_ = std::move(text);
  drawn_lines_ = lines;
}

void Progress::clear() {
  if (drawn_lines_ > 0) {
    write("\r\x1b[" + std::to_string(drawn_lines_) + "A" + kClearToEnd);
    drawn_lines_ = 0;
    drawn_.clear();
  }
}

void Progress::write_line(const std::string& text) {
  clear();
  write(printable(text) + '\n');
}

void Progress::write(const std::string& text) {
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t written = ::write(descriptor_, text.data() + done, text.size() - done);
    if (written > 0) {
      done += static_cast<std::size_t>(written);
    } else if (errno != EINTR) {
      mode_ = ProgressMode::none;  // nobody looks any more
      return;
    }
  }
}

std::string ended_line(const AccountingRecord& record) {
  std::string line = job_label(record.job_id, record.spec->name) + ' ' + std::string(to_string(record.state));
  if (record.usage.wall) {
    line += " in " + format_duration(std::chrono::duration_cast<Milliseconds>(*record.usage.wall));
  }
  if (record.state != JobState::completed && record.outcome) {
    line += ": " + record.outcome->message;
  }
  return line;
}

}  // namespace berth
