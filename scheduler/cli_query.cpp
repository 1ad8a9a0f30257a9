#include "scheduler/cli_query.h"

#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "scheduler/cli_efficiency.h"
#include "scheduler/cli_history.h"
#include "scheduler/cli_show.h"
#include "scheduler/clock.h"
#include "scheduler/database_path.h"
#include "scheduler/listing.h"

namespace berth {
namespace {

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (!text.empty() && text.back() != '\n') {
    std::fputc('\n', stdout);
  }
}

/// Null when nothing was ever recorded there and nobody named the file: then there are no jobs, which is no
/// fault. A file that was named must exist.
std::unique_ptr<JobStore> open_for_reading(const CommandLine& line) {
  const std::string path = database_path(line);
  auto store = JobStore::open_existing(path);
  if (store == nullptr && line.has("database")) {
    throw std::runtime_error(path + ": there is no such database; berth run makes one");
  }
  return store;
}

std::vector<ShownJob> load_jobs(const CommandLine& line) {
  const auto store = open_for_reading(line);
  std::vector<ShownJob> jobs;
  for (const std::string& operand : line.operands) {
    const JobId job = parse_job_id(operand, "command line");
    if (store == nullptr) {
      throw std::runtime_error("there is no job " + operand + ": nothing was recorded in " +
                               database_path(line) + " yet");
    }
    jobs.push_back(load_job(*store, job));
  }
  return jobs;
}

HistoryRequest history_request(const CommandLine& line) {
  HistoryRequest request;
  request.start = line.value("starttime");
  request.end = line.value("endtime");
  request.users = line.values("user");
  request.states = line.values("state");
  request.accounts = line.values("accounts");
  request.names = line.values("name");
  request.jobs = line.values("jobs");
  request.jobs.insert(request.jobs.end(), line.operands.begin(), line.operands.end());
  request.last = line.value("last");
  return request;
}

ListingStyle listing_style(const CommandLine& line) {
  ListingStyle style;
  style.form = line.has("parsable2")  ? ListingStyle::Form::parsable2
               : line.has("parsable") ? ListingStyle::Form::parsable
                                      : ListingStyle::Form::table;
  style.header = !line.has("noheader");
  style.delimiter = line.value("delimiter").value_or("|");
  return style;
}

}  // namespace

int run_history(const CommandLine& line) {
  if (line.has("helpformat")) {
    print(listing_help());
    return 0;
  }
  const Timestamp now = SystemClock().system_now();
  const HistoryFilter filter = make_history_filter(history_request(line), now);
  const auto format = line.value("format");
  const std::vector<ChosenColumn> columns = format             ? parse_format(*format)
                                            : line.has("long") ? long_format()
                                                               : default_format();
  const auto store = open_for_reading(line);
  const std::vector<AccountingRecord> records =
      store == nullptr ? std::vector<AccountingRecord>() : store->history(filter);
  print(line.has("json") ? listing_json(records)
                         : format_listing(records, columns, listing_style(line), now));
  return 0;
}

int run_show(const CommandLine& line) {
  const std::vector<ShownJob> jobs = load_jobs(line);
  if (line.has("json")) {
    print(show_json(jobs));
    return 0;
  }
  const Timestamp now = SystemClock().system_now();
  for (const ShownJob& job : jobs) {
    print((&job == &jobs.front() ? "" : "\n") + show_text(job, now));
  }
  return 0;
}

int run_efficiency(const CommandLine& line) {
  const std::vector<ShownJob> jobs = load_jobs(line);
  const Timestamp now = SystemClock().system_now();
  std::string json;
  for (const ShownJob& job : jobs) {
    for (const AccountingRecord& record : job.records) {
      if (line.has("json")) {
        json += (json.empty() ? "" : ",\n") + efficiency_json(record, now);
      } else {
        print((&job == &jobs.front() && &record == &job.records.front() ? "" : "\n") +
              efficiency_text(record, now));
      }
    }
  }
  if (line.has("json")) {
    print("[" + json + "]");
  }
  return 0;
}

}  // namespace berth
