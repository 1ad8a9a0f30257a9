#include "scheduler/retry.h"

#include <algorithm>

namespace berth {
namespace {

/// No job waits longer than this for its next attempt.
constexpr std::chrono::hours kLongestBackoff{24 * 7};
constexpr unsigned kMostDoublings = 20;

bool matches(const Retry& retry, const Outcome& outcome) {
  const bool has_code = outcome.cause == Cause::exited || outcome.cause == Cause::launch_failed;
  if (has_code && std::find(retry.exit_codes.begin(), retry.exit_codes.end(), exit_status(outcome)) !=
                      retry.exit_codes.end()) {
    return true;
  }
  if (retry.on.empty() && retry.exit_codes.empty()) {
    return outcome.state == JobState::failed || outcome.state == JobState::timeout ||
           outcome.state == JobState::out_of_memory || outcome.state == JobState::node_fail;
  }
  return std::find(retry.on.begin(), retry.on.end(), outcome.state) != retry.on.end();
}

}  // namespace

std::optional<QueueFacts> facts_of_retry(const RetryRule& rule, QueueFacts facts, Bytes memory,
                                         unsigned attempt, const Outcome& outcome, Timestamp now) {
  if (outcome.state == JobState::cancelled || outcome.state == JobState::completed) {
    return std::nullopt;
  }
  if (rule.requeue && outcome.state == JobState::node_fail) {
    return facts;
  }
  if (!rule.retry || attempt > rule.retry->max || !matches(*rule.retry, outcome)) {
    return std::nullopt;
  }
  const Retry& retry = *rule.retry;
  const std::int64_t factor = std::int64_t{1} << std::min(attempt - 1, kMostDoublings);
  const Milliseconds wait = std::min<Milliseconds>(
      retry.backoff > kLongestBackoff / factor ? kLongestBackoff : retry.backoff * factor, kLongestBackoff);
  facts.begin = wait.count() > 0 ? std::optional(now + wait) : std::nullopt;
  if (outcome.state == JobState::out_of_memory && retry.memory_factor > 1 && memory > 0) {
    facts.memory = static_cast<Bytes>(static_cast<double>(memory) * retry.memory_factor);
  }
  return facts;
}

}  // namespace berth
