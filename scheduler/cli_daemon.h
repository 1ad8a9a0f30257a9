// The commands that ask berthd: queue, cancel, wait, logs, hold, release, requeue, suspend, resume, signal,
// why, update, slots, drain, undrain, events.
#pragma once

#include <string>
#include <vector>

#include "scheduler/api_client.h"
#include "scheduler/command_line.h"
#include "schemas/job.h"

namespace berth {

/// Each returns the exit status and throws UsageError, InputError, ApiRefusal, NoDaemon.
int run_queue(const CommandLine& line);
int run_wait(const CommandLine& line);
int run_logs(const CommandLine& line);
int run_slots(const CommandLine& line);
int run_why(const CommandLine& line);
int run_update(const CommandLine& line);
int run_drain(const CommandLine& line);
int run_events(const CommandLine& line);
/// cancel, hold, release, requeue, suspend, resume, signal: one request for each job; goes on after a
/// refusal.
int run_job_action(const CommandLine& line);

/// The operands, each checked to be a job's id ("36") or that of a task ("36_4"). Throws InputError.
std::vector<std::string> job_ids(const std::vector<std::string>& operands);

/// The exit status of the first that did not complete, else 0; `as_json` prints each end.
int wait_for_jobs(ApiClient& client, const std::vector<std::string>& jobs, bool as_json);

}  // namespace berth
