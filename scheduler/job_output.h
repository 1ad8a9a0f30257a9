// JobOutput: where the output of jobs goes: berth's own standard output and error, with or without the
// job's name before each line, or a file.
//
// Nothing here may stop the supervision of jobs: a reader that is slow is written to only as far as it takes
// without blocking; the rest waits in memory, and is_congested() tells when enough is waiting. A reader that
// went away (EPIPE) ends the forwarding. Single-threaded.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

namespace berth {

/// A descriptor that berth writes job output to. Does not own it.
class OutputTarget {
 public:
  /// `description` names it in the one warning about a failed write ("standard output", a path).
  OutputTarget(int descriptor, std::string description);
  OutputTarget(const OutputTarget&) = delete;
  OutputTarget& operator=(const OutputTarget&) = delete;

  /// Never throws for a failing descriptor. Called with what is to be written as it came.
  void write(std::string_view data);
  /// Writes what a slow reader takes now.
  void flush_some();
  /// Writes everything, waiting for the reader until `interrupt` is readable; at the end of a run.
  void flush_all(int interrupt);

  bool has_pending() const { return !pending_.empty(); }
  bool is_congested() const { return pending_.size() >= kCongestion; }
  bool is_closed() const { return closed_; }
  /// True when something could not be written for another reason than a reader that went away.
  bool has_failed() const { return failed_; }
  int descriptor() const { return descriptor_; }
  /// Called around each write, so that live progress on the same terminal can make room.
  void set_before_write(std::function<void()> callback) { before_write_ = std::move(callback); }

 private:
  /// How much may be written at once without blocking; 0: nothing now.
  std::size_t writable_now(std::size_t wanted) const;
  /// Returns how much was written; closes the target on failure.
  std::size_t write_some(std::string_view data);
  void close_after(int error_number);

  static constexpr std::size_t kCongestion = std::size_t{1} << 20;

  int descriptor_;
  std::string description_;
  bool regular_file_ = false;
  bool closed_ = false;
  bool failed_ = false;
  std::string pending_;
  std::function<void()> before_write_;
};

/// Puts "name | " before each line; an unfinished line waits until it is complete, becomes long, or the
/// job ends.
class LinePrefixer {
 public:
  LinePrefixer(OutputTarget& target, std::string prefix);
  void write(std::string_view data);
  /// Writes an unfinished last line, completed with a newline.
  void finish();

  static constexpr std::size_t kLongestLine = std::size_t{64} * 1024;

 private:
  OutputTarget& target_;
  std::string prefix_;
  std::string line_;
};

}  // namespace berth
