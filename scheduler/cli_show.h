// `berth show`: everything that is known about a job: its spec, each attempt's allocation, outcome and
// usage, and its events in order.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "scheduler/listing.h"
#include "store/job_store.h"

namespace berth {

/// One job as the store has it.
struct ShownJob {
  std::vector<AccountingRecord> records;  ///< one for each attempt, oldest first; never empty
  std::vector<JobEvent> events;
};

/// Throws InputError when there is no such job.
ShownJob load_job(JobStore& store, JobId job);
/// Likewise, of a filter that names one job by its number and says how much it may take.
ShownJob load_job(JobStore& store, const HistoryFilter& filter);

std::string show_text(const ShownJob& job, const ListingTime& time);
/// {"jobs":[…],"events":[…]}: the records of all jobs as `history --json` prints them, and their events.
std::string show_json(std::span<const ShownJob> jobs);

}  // namespace berth
