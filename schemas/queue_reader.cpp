#include "schemas/queue_reader.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "schemas/coming_instant.h"
#include "schemas/dependency.h"
#include "schemas/index_list.h"
#include "schemas/json_reader.h"

namespace berth {
namespace {

Timestamp now() {
  return std::chrono::time_point_cast<Timestamp::duration>(std::chrono::system_clock::now());
}

/// An instant, or minutes from now.
std::optional<Timestamp> read_instant(const Field& field) {
  if (field.value().is_number()) {
    const auto minutes = field.integer(0, 10'000'000);
    return minutes ? std::optional(now() + std::chrono::minutes(*minutes)) : std::nullopt;
  }
  const std::optional<std::string> text = field.text();
  if (!text) {
    return std::nullopt;
  }
  try {
    return parse_coming_instant(*text, now());
  } catch (const std::invalid_argument& error) {
    field.refuse(error.what());
    return std::nullopt;
  }
}

constexpr std::int64_t kMostRetries = 1000;

void read_max(const Field& field, Retry& retry) {
  retry.max = static_cast<unsigned>(field.integer(0, kMostRetries).value_or(0));
}

void read_on(const Field& field, Retry& retry) {
  for (const Field& element : field.elements("an array of job states").value_or(std::vector<Field>())) {
    if (const auto word = element.text()) {
      const std::optional<JobState> state = parse_job_state(*word);
      if (!state || !is_final(*state) || *state == JobState::completed || *state == JobState::cancelled) {
        element.refuse(
            "is no state to run a job again after (use FAILED, TIMEOUT, OUT_OF_MEMORY, NODE_FAIL …)");
      } else {
        retry.on.push_back(*state);
      }
    }
  }
}

void read_exit_codes(const Field& field, Retry& retry) {
  for (const Field& element : field.elements("an array of exit codes").value_or(std::vector<Field>())) {
    if (const auto code = element.integer(field.context().is_stored ? 0 : 1, 255)) {
      retry.exit_codes.push_back(static_cast<int>(*code));
    }
  }
}

void read_backoff(const Field& field, Retry& retry) {
  retry.backoff = field.duration({std::chrono::seconds(1), true}).value_or(Milliseconds(0));
}

void read_memory_factor(const Field& field, Retry& retry) {
  if (!field.value().is_number() || field.value().get<double>() < 1 || field.value().get<double>() > 100) {
    field.refuse("is not a factor (use a number from 1 to 100, such as 1.5)");
    return;
  }
  retry.memory_factor = field.value().get<double>();
}

/// What would be taken and never matter. Of a stored job that is too late.
void check_retry(const Field& field, const Retry& retry) {
  const auto given = [&](const char* key) { return field.value().contains(key); };
  const auto refuse = [&](const char* key, const char* message) {
    field.child(key, field.value()[key]).refuse_plainly(message);
  };
  for (const char* key : {"on", "exit_codes", "backoff", "memory_factor"}) {
    if (given(key) && !given("max")) {
      refuse(key, "has no effect without \"max\", which is 0; add it, e.g. \"max\": 1");
    }
  }
  for (const char* key : {"on", "exit_codes"}) {
    if (given(key) && field.value()[key].empty()) {
      refuse(key, "is empty; leave the field out or name what is followed by another attempt");
    }
  }
  const bool is_default = retry.on.empty() && retry.exit_codes.empty();
  const bool has_memory =
      is_default || std::find(retry.on.begin(), retry.on.end(), JobState::out_of_memory) != retry.on.end();
  if (retry.memory_factor > 1 && !has_memory) {
    refuse("memory_factor", "has no effect without \"OUT_OF_MEMORY\" in \"on\"; add that");
  }
}

constexpr Member<Retry> kRetryMembers[] = {
    {"max", read_max},
    {"on", read_on},
    {"exit_codes", read_exit_codes},
    {"backoff", read_backoff},
    {"memory_factor", read_memory_factor},
};

}  // namespace

void read_array(const Field& field, JobSpec& spec) {
  if (const auto text = field.text()) {
    try {
      const ArraySpec array = field.context().is_stored ? parse_array(*text) : parse_new_array(*text);
      spec.array = array.tasks.to_text() + (array.limit > 0 ? "%" + std::to_string(array.limit) : "");
    } catch (const std::invalid_argument& error) {
      field.refuse(error.what());
    }
  }
}

void read_begin_time(const Field& field, JobSpec& spec) {
  spec.begin_time = read_instant(field);
}

void read_deadline(const Field& field, JobSpec& spec) {
  spec.deadline = read_instant(field);
}

void read_dependency(const Field& field, JobSpec& spec) {
  if (const auto text = field.text()) {
    try {
      (void)(field.context().is_stored ? parse_dependency(*text) : parse_new_dependency(*text));
      spec.dependency = *text;
    } catch (const std::invalid_argument& error) {
      field.refuse(error.what());
    }
  }
}

void read_retry(const Field& field, JobSpec& spec) {
  Retry retry;
  const std::size_t faults_before = field.context().faults.size();
  read_members<Retry>(field, kRetryMembers, "/retry", retry);
  if (!field.context().is_stored && field.context().faults.size() == faults_before) {
    check_retry(field, retry);
  }
  spec.retry = std::move(retry);
}

std::vector<ObjectFields> retry_fields() {
  return {names_of<Retry>("/retry", kRetryMembers)};
}

}  // namespace berth
