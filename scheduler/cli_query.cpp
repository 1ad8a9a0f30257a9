#include "scheduler/cli_query.h"

#include <unistd.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "scheduler/api_client.h"
#include "scheduler/cli_daemon.h"
#include "scheduler/cli_efficiency.h"
#include "scheduler/cli_history.h"
#include "scheduler/cli_report.h"
#include "scheduler/cli_show.h"
#include "scheduler/clock.h"
#include "scheduler/database_path.h"
#include "scheduler/listing.h"
#include "schemas/terminal_text.h"
#include "store/queue_store.h"

namespace berth {
namespace {

void print_lines(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (!text.empty() && text.back() != '\n') {
    std::fputc('\n', stdout);
  }
}

/// Null when nothing was ever recorded there and nobody named the file: then there are no jobs, which is no
/// fault. A file that was named must exist.
template <typename Store>
std::unique_ptr<Store> open_for_reading(const CommandLine& line) {
  const std::string path = database_path(line);
  auto store = Store::open_existing(path);
  if (store == nullptr && line.has("database")) {
    throw std::runtime_error(path + ": there is no such database; berth run makes one");
  }
  return store;
}

std::vector<ShownJob> load_jobs(const CommandLine& line) {
  const auto store = open_for_reading<QueueStore>(line);
  std::vector<ShownJob> jobs;
  for (const std::string& operand : job_ids(line.operands)) {
    const JobReference job = parse_job_reference(operand, kCommandLine);
    if (store == nullptr) {
      throw std::runtime_error("there is no job " + operand + ": nothing was recorded in " +
                               database_path(line) + " yet");
    }
    const std::optional<JobId> number = job.task ? store->find_task(job.job, *job.task) : job.job;
    if (!number) {
      throw std::runtime_error("there is no job " + operand + " in " + database_path(line));
    }
    jobs.push_back(load_job(*store, *number));
  }
  return jobs;
}

/// Where there is a berthd its jobs are asked for, unless a database file or the socket of none was named.
bool asks_daemon(const CommandLine& line) {
  if (line.has("socket") && line.has("database")) {
    throw UsageError(line.command,
                     "--socket and --database exclude each other: ask berthd, or read a database");
  }
  return line.has("socket") || (!line.has("database") && ::access(daemon_socket(line).c_str(), F_OK) == 0);
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) {
    text += (text.empty() ? "" : ",") + word;
  }
  return text;
}

const char* wanted_form(const CommandLine& line) {
  return line.has("json")        ? "json"
         : line.has("parsable2") ? "parsable2"
         : line.has("parsable")  ? "parsable"
                                 : "table";
}

void add_word(QueryWords& query, const char* name, const std::string& value) {
  if (!value.empty()) {
    query.emplace(name, value);
  }
}

/// What history and report have in common. `checked` has the instants that local times mean here: berthd may
/// have another zone.
template <typename Filter>
QueryWords records_query(const CommandLine& line, const Filter& checked, Timestamp now) {
  QueryWords query{{"as", wanted_form(line)}};
  add_word(query, "start", checked.start ? format_instant_utc(*checked.start) : "");
  add_word(query, "end", checked.end ? format_instant_utc(*checked.end) : "");
  query.emplace("zone", TimeZone::local(now).to_text());
  add_word(query, "users", joined(line.values("user")));
  add_word(query, "accounts", joined(line.values("accounts")));
  add_word(query, "format", line.value("format").value_or(""));
  if (const auto delimiter = line.value("delimiter")) {
    query.emplace("delimiter", *delimiter);  // also an empty one
  }
  add_word(query, "noheader", line.has("noheader") ? "1" : "");
  return query;
}

/// A socket may be left where no berthd runs any more.
std::string ask_daemon(ApiClient& client, const std::string& path, const QueryWords& query) {
  try {
    return client.request("GET", path, query);
  } catch (const NoDaemon& error) {
    throw NoDaemon(std::string(error.what()) + ", and --database reads what it recorded");
  }
}

std::string history_of_daemon(const CommandLine& line, const HistoryFilter& checked, Timestamp now) {
  QueryWords query = records_query(line, checked, now);
  add_word(query, "last", line.value("last").value_or(""));
  add_word(query, "states", joined(line.values("state")));
  add_word(query, "names", joined(line.values("name")));
  std::vector<std::string> jobs = line.values("jobs");
  jobs.insert(jobs.end(), line.operands.begin(), line.operands.end());
  add_word(query, "jobs", joined(jobs));
  add_word(query, "long", line.has("long") ? "1" : "");
  ApiClient client(daemon_socket(line));
  return ask_daemon(client, "/v1/history", query);
}

std::string report_of_daemon(const CommandLine& line, const ReportFilter& checked, Timestamp now) {
  QueryWords query = records_query(line, checked, now);
  add_word(query, "by", line.value("by").value_or(""));
  ApiClient client(daemon_socket(line));
  return ask_daemon(client, "/v1/report", query);
}

/// `as`: text, efficiency or efficiency-json.
std::vector<std::string> shown_by_daemon(const CommandLine& line, const std::string& as) {
  ApiClient client(daemon_socket(line));
  const std::string zone = TimeZone::local(SystemClock().system_now()).to_text();
  std::vector<std::string> shown;
  for (const std::string& job : job_ids(line.operands)) {
    shown.push_back(ask_daemon(client, "/v1/jobs/" + job, {{"as", as}, {"zone", zone}}));
  }
  return shown;
}

/// {"jobs":[…],"events":[…]} of several jobs as one.
std::string merged(const std::vector<std::string>& shown) {
  if (shown.size() == 1) {
    return shown.front();
  }
  nlohmann::ordered_json all{{"jobs", nlohmann::ordered_json::array()},
                             {"events", nlohmann::ordered_json::array()}};
  for (const std::string& one : shown) {
    const auto value = nlohmann::ordered_json::parse(one);
    for (const char* part : {"jobs", "events"}) {
      all[part].insert(all[part].end(), value[part].begin(), value[part].end());
    }
  }
  return json_with_controls_escaped(all.dump());
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

}  // namespace

ListingStyle listing_style(const CommandLine& line) {
  ListingStyle style;
  style.form = line.has("parsable2")  ? ListingStyle::Form::parsable2
               : line.has("parsable") ? ListingStyle::Form::parsable
                                      : ListingStyle::Form::table;
  style.header = !line.has("noheader");
  style.delimiter = checked_delimiter(line.value("delimiter").value_or("|"));
  return style;
}

int run_history(const CommandLine& line) {
  if (line.has("helpformat")) {
    print_lines(listing_help());
    return 0;
  }
  if (line.has("quiet") && !line.operands.empty() && line.operands[0].find_first_of("0123456789") != 0) {
    throw UsageError(line.command,
                     "\"" + line.operands[0] +
                         "\" is no job number; sacct's -q names a QOS, and there is none: leave it "
                         "out (berth's -q is --quiet)");
  }
  const Timestamp now = SystemClock().system_now();
  const HistoryFilter filter = make_history_filter(history_request(line), now);
  const auto format = line.value("format");
  const ListingStyle style = listing_style(line);
  const std::vector<ChosenColumn> columns = format             ? parse_format(*format)
                                            : line.has("long") ? long_format()
                                                               : default_format();
  if (asks_daemon(line)) {
    print_lines(history_of_daemon(line, filter, now));
    return 0;
  }
  const auto store = open_for_reading<JobStore>(line);
  const std::vector<AccountingRecord> records =
      store == nullptr ? std::vector<AccountingRecord>() : store->history(filter);
  print_lines(line.has("json") ? listing_json(records) : format_listing(records, columns, style, now));
  return 0;
}

int run_report(const CommandLine& line) {
  if (line.has("helpformat")) {
    print_lines(report_help());
    return 0;
  }
  ReportRequest request;
  request.by = line.value("by");
  request.start = line.value("starttime");
  request.end = line.value("endtime");
  request.users = line.values("user");
  request.accounts = line.values("accounts");
  const Timestamp now = SystemClock().system_now();
  const ReportFilter filter = make_report_filter(request, now);
  (void)format_report({}, filter.key, line.value("format"), listing_style(line));  // are there such columns?
  if (asks_daemon(line)) {
    print_lines(report_of_daemon(line, filter, now));
    return 0;
  }
  const auto store = open_for_reading<QueueStore>(line);
  const std::vector<ReportRow> rows = store == nullptr ? std::vector<ReportRow>() : store->report(filter);
  print_lines(line.has("json") ? report_json(rows, filter.key)
                               : format_report(rows, filter.key, line.value("format"), listing_style(line)));
  return 0;
}

int run_show(const CommandLine& line) {
  if (asks_daemon(line)) {
    const std::vector<std::string> shown = shown_by_daemon(line, line.has("json") ? "json" : "text");
    print_lines(line.has("json") ? merged(shown) : shown.front());
    for (std::size_t index = 1; index < shown.size() && !line.has("json"); ++index) {
      print_lines("\n" + shown[index]);
    }
    return 0;
  }
  const std::vector<ShownJob> jobs = load_jobs(line);
  if (line.has("json")) {
    print_lines(show_json(jobs));
    return 0;
  }
  const Timestamp now = SystemClock().system_now();
  for (const ShownJob& job : jobs) {
    print_lines((&job == &jobs.front() ? "" : "\n") + show_text(job, now));
  }
  return 0;
}

int run_efficiency(const CommandLine& line) {
  if (asks_daemon(line)) {
    std::string text;
    const bool as_json = line.has("json");
    for (const std::string& one : shown_by_daemon(line, as_json ? "efficiency-json" : "efficiency")) {
      text += (text.empty() ? "" : as_json ? ",\n" : "\n") + one;
    }
    print_lines(as_json ? "[" + text + "]" : text);
    return 0;
  }
  const std::vector<ShownJob> jobs = load_jobs(line);
  const Timestamp now = SystemClock().system_now();
  std::string json;
  for (const ShownJob& job : jobs) {
    for (const AccountingRecord& record : job.records) {
      if (line.has("json")) {
        json += (json.empty() ? "" : ",\n") + efficiency_json(record, now);
      } else {
        print_lines((&job == &jobs.front() && &record == &job.records.front() ? "" : "\n") +
                    efficiency_text(record, now));
      }
    }
  }
  if (line.has("json")) {
    print_lines("[" + json + "]");
  }
  return 0;
}

}  // namespace berth
