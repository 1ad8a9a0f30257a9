// `berth history`: what was asked for, as typed, to a HistoryFilter.
//
// Unlike sacct, which begins at midnight, a request without a start shows jobs of any age: a listing that
// forgets yesterday's jobs is the commonest surprise of sacct's users. Oldest first, newest last.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "schemas/input_error.h"
#include "store/job_store.h"

namespace berth {

/// The options' values as typed; each list may be given several times and holds words separated by commas.
struct HistoryRequest {
  std::optional<std::string> start;   ///< -S, as parse_instant() takes it
  std::optional<std::string> end;     ///< -E
  std::vector<std::string> users;     ///< -u: names or numbers
  std::vector<std::string> states;    ///< -s: names or two-letter codes, in any case
  std::vector<std::string> accounts;  ///< -A
  std::vector<std::string> names;     ///< --name
  std::vector<std::string> jobs;      ///< -j and operands: job numbers, tasks of arrays
  std::optional<std::string> last;    ///< --last
};

/// Throws InputError with every fault, each naming its option and what to write instead.
HistoryFilter make_history_filter(const HistoryRequest& request, Timestamp now);

/// The words of all lists, which commas separate. A list without any is a fault that names `option` (with its
/// dashes), as it would otherwise select everything: berth cancel --name "$UNSET".
std::vector<std::string> listed_words(const std::vector<std::string>& lists, const std::string& option,
                                      std::vector<InputFault>& faults);

/// Of a word of --state. Throws InputError naming the option.
JobState state_named(const std::string& word);

/// "12", or "12_3": task 3 of array 12.
struct JobReference {
  JobId job = 0;  ///< or the array
  std::optional<unsigned> task;
};
/// Throws InputError naming `source`.
JobReference parse_job_reference(const std::string& text, const std::string& source);

/// As many jobs as one word may name.
constexpr std::size_t kMostNamed = 100'000;
/// "36-40", first and last; nothing where the word is no range but one job. Throws InputError naming `source`
/// for a range that is none, or of more than kMostNamed jobs.
std::optional<std::pair<JobId, JobId>> parse_job_range(const std::string& text, const std::string& source);

}  // namespace berth
