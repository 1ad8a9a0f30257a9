// DetachKeys: finds, among the keys that go to a job's terminal, those with which its user leaves it
// (docker-attach(1), --detach-keys).
//
// Pure; one per terminal.
#pragma once

#include <string>
#include <string_view>

namespace berth {

class DetachKeys {
 public:
  static constexpr std::string_view kDefault = "ctrl-p,ctrl-q";

  /// "ctrl-p,ctrl-q": keys separated by commas, each a single character or ctrl- with a letter or one of
  /// @ [ \ ] ^ _; "none": there are none. Throws std::invalid_argument that says what is wrong.
  static DetachKeys parse(std::string_view text);

  /// What of `typed` goes to the job. A beginning of the sequence is held back until it is known to be none.
  /// Nothing goes any more once found() is true.
  std::string pass(std::string_view typed);
  bool found() const { return !sequence_.empty() && matched_ == sequence_.size(); }

 private:
  explicit DetachKeys(std::string sequence) : sequence_(std::move(sequence)) {}

  std::string sequence_;
  std::size_t matched_ = 0;
};

}  // namespace berth
