// Whether a job whose attempt has ended runs again, and when. Pure; the time is a parameter.
#pragma once

#include <optional>

#include "schemas/job_spec.h"
#include "schemas/outcome.h"
#include "store/queue_facts.h"

namespace berth {

/// What a spec says about running again; kept of running jobs.
struct RetryRule {
  bool requeue = false;
  std::optional<Retry> retry;
  bool empty() const { return !requeue && !retry; }
};

/// What the job waits with for its next attempt; nothing when it does not run again. `facts` are those of the
/// attempt that has ended, `memory` what that was granted.
std::optional<QueueFacts> facts_of_retry(const RetryRule& rule, QueueFacts facts, Bytes memory,
                                         unsigned attempt, const Outcome& outcome, Timestamp now);

}  // namespace berth
