// Fixed records for the tests of the listings; the local time zone of these tests is UTC.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <string>

#include "schemas/accounting_record.h"

namespace berth {

inline void use_utc() {
  ::setenv("TZ", "UTC", 1);
  ::tzset();
}

/// Seconds after 2026-11-23T17:00:00Z.
inline Timestamp at(std::int64_t seconds) {
  return Timestamp(std::chrono::seconds(1'795'453'200 + seconds));
}

/// The record's own copy of its spec, which it may share, as `edit` makes it.
template <typename Edit>
void change_spec(AccountingRecord& record, Edit edit) {
  JobSpec spec = *record.spec;
  edit(spec);
  record.spec = std::make_shared<const JobSpec>(std::move(spec));
}

inline AccountingRecord pending_record() {
  AccountingRecord record;
  record.job_id = 13;
  record.attempt = 0;
  record.state = JobState::pending;
  record.user = "bob";
  record.user_id = 1003;
  record.job_user = "bob";
  record.job_user_id = 1003;
  record.host = "node1";
  record.submit = at(0);
  change_spec(record, [](JobSpec& spec) {
    spec.name = "an-encode-with-a-long-name";
    spec.argv = {"encode"};
    spec.current_working_directory = "/tmp";
    spec.environment = {{"MODE", "fast"}};
  });
  return record;
}

inline AccountingRecord running_record() {
  AccountingRecord record = pending_record();
  record.attempt = 1;
  record.state = JobState::running;
  record.start = at(10);
  record.allocation = Allocation{"cpu2", {2}, {0}, Bytes{1} << 30};
  return record;
}

/// 60 s on 2 CPUs with 30 s of CPU time, 256M of 512M, then killed for memory.
inline AccountingRecord ended_record() {
  AccountingRecord record = running_record();
  record.job_id = 12;
  record.state = JobState::out_of_memory;
  record.user = "ada";
  record.user_id = 1001;
  record.job_user = "render";
  record.job_user_id = 1002;
  change_spec(record, [](JobSpec& spec) {
    spec.name = "render";
    spec.account = "films";
    spec.argv = {"/usr/bin/render", "--frame", "12"};
    spec.cpus_per_task = 2;
    spec.memory_per_node = Bytes{512} << 20;
    spec.time_limit = Milliseconds(600'000);
  });
  record.end = at(70);
  record.allocation = Allocation{"cpu0-1", {0, 1}, {0}, Bytes{512} << 20};
  Outcome outcome;
  outcome.state = JobState::out_of_memory;
  outcome.cause = Cause::out_of_memory;
  outcome.exit_code = 0;
  outcome.signal = 9;
  outcome.limit = LimitHit{"memory_per_node", "512M", "/berth/run-1-2/job-12.1"};
  outcome.message = "out of memory: the job reached memory_per_node 512M";
  record.outcome = outcome;
  record.usage.wall = std::chrono::seconds(60);
  record.usage.cpu_total = std::chrono::milliseconds(30'250);
  record.usage.cpu_user = std::chrono::milliseconds(30'000);
  record.usage.cpu_system = std::chrono::milliseconds(250);
  record.usage.memory_peak = Bytes{256} << 20;
  record.usage.oom_kills = 1;
  record.usage.output_bytes = 0;
  return record;
}

}  // namespace berth
