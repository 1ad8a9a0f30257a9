// AccountingRecord: one attempt of one job, joined: who asked, what was granted, how it ended, what it
// used. What `history`, `show` and `efficiency` print and what --json and --result write.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "schemas/cpu_set.h"
#include "schemas/job.h"
#include "schemas/job_spec.h"
#include "schemas/outcome.h"
#include "schemas/usage.h"

namespace berth {

/// What was leased to the attempt.
struct Allocation {
  std::string slot;  ///< "cpu0-1", unique among concurrent leases of one pool
  CpuSet cpus;
  CpuSet memory_nodes;
  Bytes memory = 0;  ///< the limit that was applied
  bool operator==(const Allocation&) const = default;
};

struct AccountingRecord {
  JobId job_id = 0;
  unsigned attempt = 1;               ///< from 1; 0: the job never had one
  std::optional<JobId> array_job_id;  ///< of a task of an array
  std::optional<unsigned> array_task_id;
  JobState state = JobState::pending;
  std::string user;  ///< who submitted: name, or the number when it has none
  unsigned user_id = 0;
  std::string job_user;  ///< who it ran as, outside the user namespace, likewise
  unsigned job_user_id = 0;
  std::string host;
  std::string reason;  ///< why it is PENDING ("Resources" …); empty otherwise
  Timestamp submit;
  std::chrono::microseconds suspended{0};  ///< for so long, since its start, of one that runs; not in JSON
  std::optional<Timestamp> start;
  std::optional<Timestamp> end;
  std::shared_ptr<const JobSpec> spec =
      std::make_shared<const JobSpec>();  ///< of many records at once; not null
  std::optional<Allocation> allocation;
  std::optional<Outcome> outcome;  ///< absent until the attempt ended
  Usage usage;
};

/// "36", or "36_4" for task 4 of array 36.
std::string shown_id(const AccountingRecord& record);

/// One JSON object with the fields above; absent counters are left out. Described in docs/accounting.md.
std::string to_json_text(const AccountingRecord& record, int indent = -1);

}  // namespace berth
