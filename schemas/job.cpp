#include "schemas/job.h"

#include <array>
#include <cstddef>

namespace berth {

namespace {

struct StateNames {
  JobState state;
  std::string_view name;
  std::string_view code;
};

constexpr std::array kStates{
    StateNames{JobState::pending, "PENDING", "PD"},
    StateNames{JobState::configuring, "CONFIGURING", "CF"},
    StateNames{JobState::running, "RUNNING", "R"},
    StateNames{JobState::suspended, "SUSPENDED", "S"},
    StateNames{JobState::completing, "COMPLETING", "CG"},
    StateNames{JobState::completed, "COMPLETED", "CD"},
    StateNames{JobState::failed, "FAILED", "F"},
    StateNames{JobState::timeout, "TIMEOUT", "TO"},
    StateNames{JobState::out_of_memory, "OUT_OF_MEMORY", "OOM"},
    StateNames{JobState::cancelled, "CANCELLED", "CA"},
    StateNames{JobState::preempted, "PREEMPTED", "PR"},
    StateNames{JobState::node_fail, "NODE_FAIL", "NF"},
    StateNames{JobState::deadline, "DEADLINE", "DL"},
};

constexpr bool in_order() {
  for (std::size_t index = 0; index < kStates.size(); ++index) {
    if (static_cast<std::size_t>(kStates[index].state) != index) {
      return false;
    }
  }
  return true;
}
static_assert(in_order(), "names_of indexes the table by state");

const StateNames& names_of(JobState state) {
  return kStates.at(static_cast<std::size_t>(state));
}

bool equal_ignoring_case(std::string_view text, std::string_view upper) {
  if (text.size() != upper.size()) {
    return false;
  }
  for (std::size_t index = 0; index < text.size(); ++index) {
    const char c = text[index];
    if ((c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c) != upper[index]) {
      return false;
    }
  }
  return true;
}

/// Ends that need no process: before the exec handshake nothing can time out, run out of memory or exit.
bool ends_without_running(JobState state) {
  return state == JobState::cancelled || state == JobState::deadline || state == JobState::node_fail ||
         state == JobState::failed;
}

}  // namespace

std::string_view to_string(JobState state) {
  return names_of(state).name;
}

std::optional<JobState> parse_job_state(std::string_view text) {
  for (const StateNames& names : kStates) {
    if (equal_ignoring_case(text, names.name) || equal_ignoring_case(text, names.code)) {
      return names.state;
    }
  }
  return std::nullopt;
}

bool is_final(JobState state) {
  return state >= JobState::completed;
}

bool may_transition(JobState from, JobState to) {
  switch (from) {
    case JobState::pending:
      return to == JobState::configuring || ends_without_running(to);
    case JobState::configuring:
      return to == JobState::running || to == JobState::out_of_memory || to == JobState::preempted ||
             ends_without_running(to);
    case JobState::running:
      return to == JobState::suspended || to == JobState::completing || is_final(to);
    case JobState::suspended:
      return to == JobState::running || to == JobState::completing || is_final(to);
    case JobState::completing:
      return is_final(to);
    default:
      return false;
  }
}

}  // namespace berth
