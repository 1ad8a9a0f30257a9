#include "scheduler/cli_history.h"

#include <algorithm>
#include <charconv>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "scheduler/listing.h"
#include "schemas/input_error.h"

namespace berth {
namespace {

template <typename Number>
std::optional<Number> parse_number(std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool is_whole = error == std::errc() && end == text.data() + text.size() && !text.empty();
  return is_whole ? std::optional(number) : std::nullopt;
}

std::optional<Timestamp> instant_of(const std::optional<std::string>& text, const std::string& option,
                                    Timestamp now, std::vector<InputFault>& faults) {
  if (!text) {
    return std::nullopt;
  }
  try {
    return parse_instant(*text, now);
  } catch (const std::invalid_argument& error) {
    faults.push_back({kCommandLine, option, "\"" + *text + "\" " + error.what()});
    return std::nullopt;
  }
}

std::optional<JobId> job_id_of(std::string_view text) {
  const auto id = parse_number<JobId>(text);
  return id && *id > 0 ? id : std::nullopt;
}

std::optional<JobReference> job_reference_of(const std::string& text) {
  const std::size_t underscore = text.find('_');
  const std::optional<JobId> job = job_id_of(text.substr(0, underscore));
  if (!job || underscore == std::string::npos) {
    return job ? std::optional(JobReference{*job, std::nullopt}) : std::nullopt;
  }
  const auto task = parse_number<unsigned>(std::string_view(text).substr(underscore + 1));
  return task ? std::optional(JobReference{*job, task}) : std::nullopt;
}

InputError job_fault(const std::string& source, const std::string& message) {
  return InputError(kCommandLine, source == kCommandLine ? "" : source, message);
}

std::string not_a_job_id(const std::string& text) {
  const std::string quoted = "\"" + text + "\" ";
  const std::size_t dot = text.find('.');
  if (dot != std::string::npos && job_reference_of(text.substr(0, dot))) {
    return quoted + "is a step of a job, and jobs have no steps here (use " + text.substr(0, dot) + ")";
  }
  if (same_word(text.substr(0, 3), "job")) {
    return quoted + "is scontrol's form; here jobs are named by their numbers alone, such as 36";
  }
  if (text.find("_[") != std::string::npos) {
    return quoted + "has brackets, which are not taken here (use 36_1,36_2, or 36 for all tasks of array 36)";
  }
  return quoted +
         "is not a job number (use one that `berth history` lists, or ARRAY_TASK for a task of an array)";
}

/// How long the first word of a list is; a comma in brackets (36_[1,3]) ends none.
std::size_t word_length(std::string_view list) {
  const std::size_t bracket = list.find('[');
  const std::size_t comma = list.find(',');
  const std::size_t end = bracket < comma ? list.find(']', bracket) : std::string_view::npos;
  return std::min(end == std::string_view::npos ? comma : list.find(',', end), list.size());
}

}  // namespace

std::vector<std::string> listed_words(const std::vector<std::string>& lists, const std::string& option,
                                      std::vector<InputFault>& faults) {
  std::vector<std::string> words;
  for (std::string_view list : lists) {
    const std::size_t before = words.size();
    while (!list.empty()) {
      const std::size_t length = word_length(list);
      if (length > 0) {
        words.emplace_back(list.substr(0, length));
      }
      list.remove_prefix(std::min(length + 1, list.size()));
    }
    if (words.size() == before) {
      faults.push_back({kCommandLine, option, "is empty: leave it out to select all"});
    }
  }
  return words;
}

JobState state_named(const std::string& word) {
  if (const auto state = parse_job_state(word)) {
    return *state;
  }
  throw InputError(kCommandLine, "--state",
                   "\"" + word +
                       "\" is not a state (use PENDING, RUNNING, COMPLETED, FAILED, TIMEOUT, "
                       "OUT_OF_MEMORY, CANCELLED, NODE_FAIL … or a code such as CD)");
}

JobReference parse_job_reference(const std::string& text, const std::string& source) {
  if (const auto reference = job_reference_of(text)) {
    return *reference;
  }
  throw job_fault(source, not_a_job_id(text));
}

std::optional<std::pair<JobId, JobId>> parse_job_range(const std::string& text, const std::string& source) {
  const std::size_t dash = text.find('-');
  if (dash == 0 || dash == std::string::npos || text.find('[') < dash) {
    return std::nullopt;
  }
  const std::optional<JobId> first = job_id_of(std::string_view(text).substr(0, dash));
  const std::optional<JobId> last = job_id_of(std::string_view(text).substr(dash + 1));
  if (!first || !last || *last < *first || static_cast<std::size_t>(*last - *first) >= kMostNamed) {
    throw job_fault(source, "\"" + text + "\" is no range of at most " + std::to_string(kMostNamed) +
                                " jobs (use 36-40)");
  }
  return std::pair(*first, *last);
}

namespace {

template <typename Action>
void collect_faults(std::vector<InputFault>& faults, const Action& action) {
  try {
    action();
  } catch (const InputError& error) {
    faults.insert(faults.end(), error.faults().begin(), error.faults().end());
  }
}

void add_jobs(const std::string& word, HistoryFilter& filter) {
  if (const auto range = parse_job_range(word, "--jobs")) {
    filter.job_ranges.push_back(*range);
    return;
  }
  const JobReference reference = parse_job_reference(word, "--jobs");
  if (reference.task) {
    filter.tasks.emplace_back(reference.job, *reference.task);
  } else {
    filter.job_ids.push_back(reference.job);
  }
}

}  // namespace

HistoryFilter make_history_filter(const HistoryRequest& request, Timestamp now) {
  std::vector<InputFault> faults;
  HistoryFilter filter;
  filter.with_tasks = true;
  filter.start = instant_of(request.start, "--starttime", now, faults);
  filter.end = instant_of(request.end, "--endtime", now, faults);
  if (filter.start && filter.end && *filter.start > *filter.end) {
    faults.push_back(
        {kCommandLine, "--endtime",
         "\"" + *request.end + "\" is before --starttime \"" + *request.start + "\": exchange them"});
  }
  filter.users = listed_words(request.users, "--user", faults);
  filter.accounts = listed_words(request.accounts, "--accounts", faults);
  filter.names = listed_words(request.names, "--name", faults);
  for (const std::string& word : listed_words(request.states, "--state", faults)) {
    collect_faults(faults, [&] { filter.states.push_back(state_named(word)); });
  }
  for (const std::string& word : listed_words(request.jobs, "--jobs", faults)) {
    collect_faults(faults, [&] { add_jobs(word, filter); });
  }
  if (request.last) {
    filter.last = parse_number<std::uint64_t>(*request.last);
    if (!filter.last || *filter.last == 0) {
      faults.push_back(
          {kCommandLine, "--last", "\"" + *request.last + "\" is not a number of jobs (use 10)"});
    }
  }
  if (!faults.empty()) {
    throw InputError(std::move(faults));
  }
  return filter;
}

}  // namespace berth
