// JobId, JobState and the legal transitions between states; the words are Slurm's (squeue(1), "JOB
// STATE CODES").
//
//   PENDING ──► CONFIGURING ──► RUNNING ──► COMPLETING ──► COMPLETED | FAILED | TIMEOUT |
//      │             │            ▲  │                     OUT_OF_MEMORY | CANCELLED | PREEMPTED |
//      │             │            │  ▼                     DEADLINE | NODE_FAIL
//      │             │          SUSPENDED
//      └─────────────┴──► CANCELLED | DEADLINE | NODE_FAIL | FAILED (launch)
//
// COMPLETING may be skipped: an attempt whose end and record are committed at once goes from RUNNING or
// SUSPENDED straight to its final state. CONFIGURING may also end in OUT_OF_MEMORY, as a limit can be too
// small for the set-up alone, and in PREEMPTED, when the job is requeued before its command runs, or its
// runner starts none any more.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace berth {

/// Database-wide number of a job, from 1; 0 means "none yet".
using JobId = std::int64_t;

enum class JobState {
  pending,
  configuring,
  running,
  suspended,
  completing,
  completed,
  failed,
  timeout,
  out_of_memory,
  cancelled,
  preempted,
  node_fail,
  deadline,
};

/// "PENDING" …; the form in JSON, in the database and on screen.
std::string_view to_string(JobState state);
/// Accepts the long names and squeue's short codes ("CD"), in any case.
std::optional<JobState> parse_job_state(std::string_view text);

bool is_final(JobState state);
bool may_transition(JobState from, JobState to);

}  // namespace berth
