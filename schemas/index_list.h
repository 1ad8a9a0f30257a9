// IndexList: the tasks of a job array, as sbatch's --array writes them: "0-15", "1,3,5-7", "0-20:4".
//
// A value. Kept as ranges, so that a million tasks cost what one does. Pure; safe from any thread.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace berth {

class IndexList {
 public:
  static constexpr unsigned kMaximum = 9'999'999;
  /// Of an array that waits: they are read and written again with each task that starts.
  static constexpr std::size_t kMostRanges = 10'000;

  /// Throws std::invalid_argument whose what() completes `"0-x" …`. The empty text is the empty list.
  static IndexList parse(std::string_view text);

  bool empty() const { return ranges_.empty(); }
  std::size_t size() const;
  /// In how many pieces it is written.
  std::size_t ranges() const { return ranges_.size(); }
  /// Of a list that is not empty: its lowest and highest index, and the least distance of two (of one alone
  /// 1).
  unsigned lowest() const { return ranges_.front().first; }
  unsigned highest() const { return ranges_.back().last; }
  unsigned step() const;
  /// Takes out and returns the lowest; nothing when empty.
  std::optional<unsigned> take_first();
  bool erase(unsigned index);
  /// Puts back what was taken out.
  void insert(unsigned index);
  bool contains(unsigned index) const;
  std::string to_text() const;
  bool operator==(const IndexList&) const = default;

 private:
  struct Range {
    unsigned first = 0;
    unsigned last = 0;  ///< reached by step
    unsigned step = 1;
    bool operator==(const Range&) const = default;
  };
  std::vector<Range> ranges_;  // ascending, none overlaps another
};

/// "0-15%4": the tasks and how many of them may run at once (0: no limit).
struct ArraySpec {
  IndexList tasks;
  unsigned limit = 0;
};
/// Throws std::invalid_argument likewise.
ArraySpec parse_array(std::string_view text);
/// Of a job that is being submitted: refuses more than 10,000 ranges and single tasks.
ArraySpec parse_new_array(std::string_view text);

}  // namespace berth
