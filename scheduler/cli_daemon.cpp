#include "scheduler/cli_daemon.h"

#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>

#include "scheduler/cli_history.h"
#include "scheduler/cli_query.h"
#include "scheduler/clock.h"
#include "scheduler/command_job.h"
#include "scheduler/listing.h"
#include "scheduler/log.h"
#include "scheduler/table.h"
#include "schemas/coming_instant.h"
#include "schemas/index_list.h"
#include "schemas/input_error.h"
#include "schemas/signals.h"
#include "schemas/terminal_text.h"

namespace berth {
namespace {

using Json = nlohmann::json;

void print(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
}

std::string path_of(const std::string& job) {
  return "/v1/jobs/" + job;
}

[[noreturn]] void refuse_option(const std::string& option, const std::string& why) {
  throw InputError(kCommandLine, "--" + option, why);
}

/// The value of an option that berthd takes as a number.
std::string number_of(const CommandLine& line, const char* option, const char* otherwise) {
  std::string text = line.value(option).value_or(otherwise);
  if (text != otherwise) {
    try {
      (void)parse_count(text);
    } catch (const std::invalid_argument& error) {
      refuse_option(option, "\"" + text + "\" " + error.what());
    }
  }
  return text;
}

std::string user_number(const CommandLine& line, const std::string& user) {
  uid_t number = 0;
  const auto [end, error] = std::from_chars(user.data(), user.data() + user.size(), number);
  if (error == std::errc() && end == user.data() + user.size()) {
    return std::to_string(number);  // 00 is root too
  }
  const passwd* entry = ::getpwnam(user.c_str());
  if (entry == nullptr) {
    throw UsageError(line.command, "--user: there is no user \"" + user + "\" on this machine");
  }
  return std::to_string(entry->pw_uid);
}

std::string duration_text(std::chrono::microseconds duration) {
  return format_duration(std::chrono::duration_cast<Milliseconds>(duration));
}

/// Of one that has started and not ended, without the time for which it was suspended.
std::chrono::microseconds running_time(const Json& job, Timestamp now) {
  const std::chrono::microseconds suspended(job.value("suspended_usec", std::int64_t{0}));
  return now - parse_instant(job["start"].get<std::string>(), now) - suspended;
}

/// Empty when it was not measured.
std::string elapsed(const Json& job, Timestamp now) {
  if (!job.contains("start")) {
    return "0:00";
  }
  if (!job.contains("end")) {
    return duration_text(running_time(job, now));
  }
  return job.contains("wall_usec")
             ? duration_text(std::chrono::microseconds(job["wall_usec"].get<std::int64_t>()))
             : "";
}

/// "36", "36_4" for a task, "36_[5-99]" for the rest of an array.
std::string shown_id(const Json& job) {
  if (job.contains("array_job_id")) {
    return std::to_string(job["array_job_id"].get<JobId>()) + "_" +
           std::to_string(job["array_task_id"].get<unsigned>());
  }
  const std::string tasks = job.value("queue", Json::object()).value("array_tasks", "");
  return std::to_string(job["job_id"].get<JobId>()) + (tasks.empty() ? "" : "_[" + tasks + "]");
}

struct QueueRow {
  const Json& job;
  Timestamp now;
  const Json& queue() const {
    static const Json kNone = Json::object();
    return job.contains("queue") ? job["queue"] : kNone;
  }
  bool waits() const { return job["state"] == "PENDING"; }
  bool runs() const { return job.contains("start") && !job.contains("end"); }
};

std::string memory_cell(const QueueRow& row) {
  const Bytes memory =
      row.waits() ? row.queue().value("memory", Bytes{0}) : row.job.value("allocated_memory", Bytes{0});
  return memory == 0 ? "share" : format_size(memory);
}

std::string cpus_cell(const QueueRow& row) {
  return row.waits() ? std::to_string(row.queue().value("cpus", 1U))
                     : std::to_string(CpuSet::parse(row.job.value("allocated_cpus", "")).size());
}

std::string place_cell(const QueueRow& row) {
  return row.waits() ? "(" + row.job.value("reason", std::string("None")) + ")" : row.job.value("slot", "");
}

std::string instant_cell(const Json& of, const char* name, Timestamp now) {
  return of.contains(name) ? format_instant(parse_instant(of[name].get<std::string>(), now)) : "";
}

/// `of` a job that runs and has a time limit; else as squeue has it.
std::string of_time_limit(const QueueRow& row,
                          std::string (*of)(std::chrono::microseconds limit, const QueueRow& row),
                          const char* without_limit) {
  if (!row.runs()) {
    return "N/A";
  }
  return row.job.contains("time_limit_usec")
             ? of(std::chrono::microseconds(row.job["time_limit_usec"].get<std::int64_t>()), row)
             : without_limit;
}

std::string time_limit_cell(const QueueRow& row) {
  return of_time_limit(
      row, [](std::chrono::microseconds limit, const QueueRow&) { return duration_text(limit); },
      "UNLIMITED");
}

std::string time_left_cell(const QueueRow& row) {
  return of_time_limit(
      row,
      [](std::chrono::microseconds limit, const QueueRow& running) {
        const std::chrono::microseconds left = limit - running_time(running.job, running.now);
        return duration_text(std::max(left, std::chrono::microseconds(0)));
      },
      "UNLIMITED");
}

std::string end_time_cell(const QueueRow& row) {
  if (row.job.contains("end")) {
    return instant_cell(row.job, "end", row.now);
  }
  return of_time_limit(
      row,
      [](std::chrono::microseconds limit, const QueueRow& running) {
        return format_instant(running.now + limit - running_time(running.job, running.now));
      },
      "N/A");
}

/// squeue's: those that are shown without --format, and further ones.
constexpr std::array kQueueColumns{
    TableColumn<QueueRow>{"JobID", "JOBID", 10, [](const QueueRow& row) { return shown_id(row.job); }},
    TableColumn<QueueRow>{"JobName", "NAME", 16,
                          [](const QueueRow& row) { return row.job["name"].get<std::string>(); }},
    TableColumn<QueueRow>{"User", "USER", 10,
                          [](const QueueRow& row) { return row.job["user"].get<std::string>(); }},
    TableColumn<QueueRow>{"State", "STATE", 11,
                          [](const QueueRow& row) { return row.job["state"].get<std::string>(); }},
    TableColumn<QueueRow>{"Time", "TIME", 12, [](const QueueRow& row) { return elapsed(row.job, row.now); }},
    TableColumn<QueueRow>{"CPUs", "CPUS", 5, cpus_cell},
    TableColumn<QueueRow>{"Memory", "MEMORY", 9, memory_cell},
    TableColumn<QueueRow>{"Place", "SLOT(REASON)", 0, place_cell},
    TableColumn<QueueRow>{"JobIDRaw", "JOBIDRAW", 10,
                          [](const QueueRow& row) { return std::to_string(row.job["job_id"].get<JobId>()); }},
    TableColumn<QueueRow>{
        "UID", "UID", 6,
        [](const QueueRow& row) { return std::to_string(row.job["user_id"].get<unsigned>()); }},
    TableColumn<QueueRow>{"Account", "ACCOUNT", 10,
                          [](const QueueRow& row) { return row.job["account"].get<std::string>(); }},
    TableColumn<QueueRow>{
        "Attempt", "ATTEMPT", 7,
        [](const QueueRow& row) { return std::to_string(row.job["attempt"].get<unsigned>()); }},
    TableColumn<QueueRow>{"Priority", "PRIORITY", 10,
                          [](const QueueRow& row) {
                            return row.queue().contains("priority")
                                       ? std::to_string(row.queue()["priority"].get<std::int64_t>())
                                       : "";
                          }},
    TableColumn<QueueRow>{"Reason", "REASON", 24,
                          [](const QueueRow& row) { return row.job.value("reason", std::string("None")); }},
    TableColumn<QueueRow>{"Slot", "SLOT", -12, [](const QueueRow& row) { return row.job.value("slot", ""); }},
    TableColumn<QueueRow>{"Submit", "SUBMIT_TIME", 19,
                          [](const QueueRow& row) { return instant_cell(row.job, "submit", row.now); }},
    TableColumn<QueueRow>{"Start", "START_TIME", 19,
                          [](const QueueRow& row) { return instant_cell(row.job, "start", row.now); }},
    TableColumn<QueueRow>{"EndTime", "END_TIME", 19, end_time_cell},
    TableColumn<QueueRow>{"TimeLimit", "TIME_LIMIT", 12, time_limit_cell},
    TableColumn<QueueRow>{"TimeLeft", "TIME_LEFT", 12, time_left_cell},
    TableColumn<QueueRow>{
        "Begin", "BEGIN_TIME", 19,
        [](const QueueRow& row) { return instant_cell(row.queue(), "begin_time", row.now); }},
    TableColumn<QueueRow>{"Deadline", "DEADLINE", 19,
                          [](const QueueRow& row) { return instant_cell(row.queue(), "deadline", row.now); }},
    TableColumn<QueueRow>{"Dependency", "DEPENDENCY", -24,
                          [](const QueueRow& row) { return row.queue().value("dependency", ""); }},
};
constexpr std::size_t kQueueShown = 8;

struct SlotRow {
  const Json& job;
};
constexpr std::array kSlotColumns{
    TableColumn<SlotRow>{"Slot", "SLOT", -20,
                         [](const SlotRow& row) { return row.job["slot"].get<std::string>(); }},
    TableColumn<SlotRow>{"JobID", "JOBID", 10,
                         [](const SlotRow& row) { return std::to_string(row.job["job_id"].get<JobId>()); }},
    TableColumn<SlotRow>{"CPUs", "CPUS", 10,
                         [](const SlotRow& row) { return row.job["cpus"].get<std::string>(); }},
    TableColumn<SlotRow>{"Memory", "MEMORY", 10,
                         [](const SlotRow& row) { return format_size(row.job["memory"].get<Bytes>()); }},
    TableColumn<SlotRow>{"Runner", "RUNNER", -20,
                         [](const SlotRow& row) { return row.job["runner"].get<std::string>(); }},
};
constexpr std::size_t kSlotsShown = 4;

std::set<std::string> words_of(const CommandLine& line, const char* option) {
  std::vector<InputFault> faults;
  const std::vector<std::string> words =
      listed_words(line.values(option), std::string("--") + option, faults);
  if (!faults.empty()) {
    throw InputError(std::move(faults));
  }
  return {words.begin(), words.end()};
}

/// Numbers of the users whose jobs are selected; none: everybody's.
std::set<std::string> selected_users(const CommandLine& line) {
  if (line.has("me")) {
    if (line.has("user")) {
      throw UsageError(line.command, "--me and --user exclude each other; leave one out");
    }
    return {std::to_string(::getuid())};
  }
  std::set<std::string> numbers;
  for (const std::string& user : words_of(line, "user")) {
    numbers.insert(user_number(line, user));
  }
  return numbers;
}

/// As the API takes them.
std::string selected_states(const CommandLine& line) {
  std::string states;
  for (const std::string& state : words_of(line, "state")) {
    if (same_word(state, "all")) {
      return "all";
    }
    (void)state_named(state);
    states += (states.empty() ? "" : ",") + state;
  }
  return states;
}

QueryWords selection_query(const CommandLine& line) {
  QueryWords query;
  if (const std::set<std::string> users = selected_users(line); users.size() == 1) {
    query.emplace("user", *users.begin());
  }
  if (const std::string states = selected_states(line); !states.empty()) {
    query.emplace("state", states);
  }
  return query;
}

bool is_named(const std::set<std::string>& words, const std::string& word) {
  return words.empty() || words.contains(word);
}

/// Of those, which are tasks of the array that have not started.
std::vector<std::string> named_tasks(const std::set<std::string>& jobs, const Json& array) {
  std::vector<std::string> tasks;
  const std::string of_array = std::to_string(array["job_id"].get<JobId>()) + "_";
  std::optional<IndexList> unstarted;
  for (auto job = jobs.lower_bound(of_array); job != jobs.end() && job->starts_with(of_array); ++job) {
    if (!unstarted) {
      unstarted = IndexList::parse(array.value("queue", Json::object()).value("array_tasks", ""));
    }
    const std::optional<unsigned> task = parse_job_reference(*job, kCommandLine).task;
    if (task && unstarted->contains(*task)) {
      tasks.push_back(*job);
    }
  }
  return tasks;
}

/// Is the job one of those? A task of an array also by its array, an array also by a task that waits in it.
bool is_one_of(const std::set<std::string>& jobs, const Json& job) {
  return is_named(jobs, std::to_string(job["job_id"].get<JobId>())) || jobs.contains(shown_id(job)) ||
         (job.contains("array_job_id") && jobs.contains(std::to_string(job["array_job_id"].get<JobId>()))) ||
         !named_tasks(jobs, job).empty();
}

/// Of what berthd listed, what --user, --name, --account and --jobs select.
std::vector<Json> selected(const CommandLine& line, const Json& listing, const std::set<std::string>& jobs) {
  const std::set<std::string> names = words_of(line, "name");
  const std::set<std::string> accounts = words_of(line, "account");
  const std::set<std::string> users = selected_users(line);
  std::vector<Json> chosen;
  for (const Json& job : listing.at("jobs")) {
    if (is_named(names, job["name"]) && is_named(accounts, job["account"]) && is_one_of(jobs, job) &&
        is_named(users, std::to_string(job["user_id"].get<unsigned>()))) {
      chosen.push_back(job);
    }
  }
  return chosen;
}

constexpr const char* kAllJobs = "1000000";  ///< as a limit: berthd's highest

/// The query of `berth queue`. A limit counts the jobs that are listed: where `selected` leaves some of
/// berthd's answer out, that has to be all.
QueryWords queue_query(const CommandLine& line, const std::string& limit) {
  QueryWords query = selection_query(line);
  const bool selects_here =
      line.has("name") || line.has("account") || line.has("jobs") || selected_users(line).size() > 1;
  query.emplace("limit", selects_here ? kAllJobs : limit);
  return query;
}

[[noreturn]] void refuse_job(const std::string& operand, const std::string& why) {
  throw InputError(kCommandLine, "", "\"" + operand + "\" " + why);
}

/// "36_[1-3,7]": tasks 1, 2, 3 and 7 of array 36.
void add_tasks(const std::string& operand, std::size_t bracket, std::vector<std::string>& jobs) {
  const std::string array = operand.substr(0, bracket - 1);
  (void)parse_job_reference(array, kCommandLine);
  try {
    IndexList tasks =
        IndexList::parse(std::string_view(operand).substr(bracket + 1, operand.size() - bracket - 2));
    if (tasks.empty() || tasks.size() > kMostNamed) {
      refuse_job(operand, "names no tasks, or more than 100000");
    }
    while (const std::optional<unsigned> task = tasks.take_first()) {
      jobs.push_back(array + "_" + std::to_string(*task));
    }
  } catch (const std::invalid_argument& error) {
    refuse_job(operand, error.what());
  }
}

/// One word: a job, a task, tasks in brackets or a range.
void add_jobs(const std::string& word, std::vector<std::string>& jobs) {
  const std::size_t bracket = word.find("_[");
  if (bracket != std::string::npos && word.ends_with(']')) {
    add_tasks(word, bracket + 1, jobs);
  } else if (const auto range = parse_job_range(word, kCommandLine)) {
    for (JobId job = range->first; job <= range->second; ++job) {
      jobs.push_back(std::to_string(job));
    }
  } else {
    (void)parse_job_reference(word, kCommandLine);
    jobs.push_back(word);
  }
}

}  // namespace

std::vector<std::string> job_ids(const std::vector<std::string>& operands) {
  std::vector<std::string> jobs;
  for (const std::string& operand : operands) {
    std::vector<InputFault> faults;
    const std::vector<std::string> words = listed_words({operand}, "", faults);
    if (words.empty()) {
      refuse_job(operand, "names no job (use numbers that berth history lists)");
    }
    for (const std::string& word : words) {
      add_jobs(word, jobs);
    }
  }
  return jobs;
}

std::string job_id(const CommandLine& line) {
  (void)parse_job_reference(line.operands.at(0), kCommandLine);
  return line.operands[0];
}

void tell(const std::string& text) {
  (void)std::fprintf(stderr, "berth: %s\n", printable_lines(text).c_str());
}

int run_queue(const CommandLine& line) {
  const Table<QueueRow> table(kQueueColumns, kQueueShown, line.value("format"), listing_style(line));
  const std::set<std::string> words = words_of(line, "jobs");
  const std::vector<std::string> named = job_ids({words.begin(), words.end()});
  const std::set<std::string> jobs(named.begin(), named.end());
  const std::string limit = number_of(line, "limit", "10000");
  const QueryWords query = queue_query(line, limit);
  ApiClient client(daemon_socket(line));
  const std::string answer = client.request("GET", "/v1/jobs", query);
  Json listing = Json::parse(answer);
  std::vector<Json> chosen = selected(line, listing, jobs);
  if (const std::uint64_t most = parse_count(limit); chosen.size() > most) {
    chosen.resize(most);
    listing["truncated"] = true;
  }
  if (line.has("json")) {
    const bool is_whole = chosen.size() == listing["jobs"].size();
    listing["jobs"] = is_whole ? Json() : Json(chosen);
    print(is_whole ? answer : json_with_controls_escaped(listing.dump() + "\n"));
    return 0;
  }
  print(table.head());
  const Timestamp now = SystemClock().system_now();
  for (const Json& job : chosen) {
    print(table.row({job, now}));
  }
  if (listing.value("truncated", false)) {
    (void)std::fputs("berth: there are more; --limit shows them\n", stderr);
  }
  return 0;
}

namespace {

/// Its exit status. Throws NotAnswered.
int wait_for_job(ApiClient& client, const std::string& job, bool as_json) {
  const std::string answer = through_restarts([&] { return client.request("GET", path_of(job) + "/wait"); });
  const Json end = Json::parse(answer);
  if (as_json) {
    print(answer);
  }
  if (end.contains("message")) {  // a task that never started
    tell(end["message"]);
  }
  return end.at("exit_status");
}

std::optional<Milliseconds> wait_timeout(const CommandLine& line) {
  const std::optional<std::string> text = line.value("timeout");
  if (!text) {
    return std::nullopt;
  }
  try {
    constexpr Milliseconds kLongest = std::chrono::hours(24 * 365);
    return std::min(parse_duration(*text, std::chrono::seconds(1)), kLongest);
  } catch (const std::invalid_argument& error) {
    refuse_option("timeout", "\"" + *text + "\" " + error.what());
  }
}

}  // namespace

int wait_for_jobs(ApiClient& client, const std::vector<std::string>& jobs, bool as_json,
                  std::optional<Milliseconds> timeout) {
  using Steady = std::chrono::steady_clock;
  constexpr std::chrono::seconds kAnswerTime{1};  // in which berthd tells of what is over
  const Steady::time_point end = Steady::now() + timeout.value_or(Milliseconds(0));
  int status = 0;
  for (const std::string& job : jobs) {
    if (timeout) {
      client.answer_by(std::max(end, Steady::now() + kAnswerTime));
    }
    try {
      const int own = wait_for_job(client, job, as_json);
      status = status == 0 ? own : status;
    } catch (const NotAnswered&) {
      tell("job " + job + " is not over after " + format_duration(*timeout) + ", and goes on");
      return 124;
    }
  }
  return status;
}

int run_wait(const CommandLine& line) {
  const std::optional<Milliseconds> timeout = wait_timeout(line);
  ApiClient client(daemon_socket(line));
  return wait_for_jobs(client, job_ids(line.operands), line.has("json"), timeout);
}

int run_logs(const CommandLine& line) {
  const std::string job = job_id(line);
  const bool follow = line.has("follow");
  std::string offset = number_of(line, "offset", "");
  ApiClient client(daemon_socket(line));
  const auto print_rest = [&] {
    QueryWords query{{"follow", follow ? "1" : "0"}, {"stream", line.has("error") ? "error" : "output"}};
    if (!offset.empty()) {
      query.emplace("offset", offset);
    }
    client.stream(
        path_of(job) + "/output", query,
        [&](std::string_view piece) {
          print(piece);
          offset = std::to_string(std::strtoull(offset.c_str(), nullptr, 10) + piece.size());
          return std::fflush(stdout) == 0;
        },
        {}, [&] { offset.clear(); });
  };
  if (follow) {
    through_restarts(print_rest);
  } else {
    print_rest();
  }
  return 0;
}

int run_events(const CommandLine& line) {
  const bool follow = line.has("follow");
  std::string after = line.value("after") == "now" ? std::string("now") : number_of(line, "after", "0");
  ApiClient client(daemon_socket(line));
  const auto print_rest = [&] {
    std::string begun;  // of a line; only whole ones are printed, each once
    client.stream(
        "/v1/events", {{"follow", follow ? "1" : "0"}, {"after", after}},
        [&](std::string_view piece) {
          begun += piece;
          const std::size_t whole = begun.rfind('\n') + 1;  // 0 where there is none
          if (whole == 0) {
            return true;
          }
          const std::size_t last = whole > 1 ? begun.rfind('\n', whole - 2) + 1 : 0;
          print(std::string_view(begun).substr(0, whole));
          after = std::to_string(Json::parse(begun.substr(last, whole - last)).at("sequence").get<JobId>());
          begun.erase(0, whole);
          return std::fflush(stdout) == 0;
        },
        [&](const std::string& first) { after = first; });
  };
  if (follow) {
    through_restarts(print_rest);
  } else {
    print_rest();
  }
  return 0;
}

int run_slots(const CommandLine& line) {
  const Table<SlotRow> table(kSlotColumns, kSlotsShown, line.value("format"), listing_style(line));
  ApiClient client(daemon_socket(line));
  const std::string answer = client.request("GET", "/v1/slots");
  if (line.has("json")) {
    print(answer);
    return 0;
  }
  const Json pool = Json::parse(answer);
  if (!line.has("parsable2") && !line.has("noheader") && !line.has("format")) {
    const unsigned withheld = pool.value("withheld_cpus", 0U);  // an older berthd does not say
    std::printf("CPUs    %u of %u free%s\n", pool["free_cpus"].get<unsigned>(), pool["cpus"].get<unsigned>(),
                withheld > 0 ? ("; " + std::to_string(withheld) + " other berths'").c_str() : "");
    std::printf("Memory  %s of %s free\n", format_size(pool["free_memory"].get<Bytes>()).c_str(),
                format_size(pool["memory"].get<Bytes>()).c_str());
    std::printf("Slots   %u of %u free%s\n", pool["free_slots"].get<unsigned>(),
                pool["slots"].get<unsigned>(),
                pool["draining"].get<bool>() ? "; drained: no job starts" : "");
    std::printf("Waiting %llu jobs\n%s", pool["waiting"].get<unsigned long long>(),
                pool["running"].empty() ? "" : "\n");
    if (pool["running"].empty()) {
      return 0;
    }
  }
  print(table.head());
  for (const Json& job : pool["running"]) {
    print(table.row({job}));
  }
  return 0;
}

int run_why(const CommandLine& line) {
  ApiClient client(daemon_socket(line));
  for (const std::string& job : job_ids(line.operands)) {
    const std::string answer = client.request("GET", path_of(job) + "/why");
    if (line.has("json")) {
      print(answer);
      continue;
    }
    const Json why = Json::parse(answer);
    std::string text = "job " + job + " is " + why["state"].get<std::string>();
    if (why.contains("reason")) {
      text += " (" + why["reason"].get<std::string>() + ")";
    }
    text += ": " + printable(why["explanation"].get<std::string>()) + "\n";
    if (why.contains("jobs_before")) {
      text += "  jobs before it: " + std::to_string(why["jobs_before"].get<std::size_t>()) + "\n";
    }
    if (why.contains("dependency")) {
      text += "  depends on: " + printable(why["dependency"].get<std::string>()) + "\n";
    }
    for (const auto& [field, words] : {std::pair{"expected_start", "starts by"},
                                       {"begin_time", "starts no sooner than"},
                                       {"deadline", "unless it ends as DEADLINE at"}}) {
      if (why.contains(field)) {
        const Timestamp at = parse_instant(why[field].get<std::string>(), SystemClock().system_now());
        text += std::string("  ") + words + ": " + format_instant(at) + "\n";
      }
    }
    print(text);
  }
  return 0;
}

namespace {

/// Goes on after a refusal, which it tells: 1. `selected`: nobody named the jobs, so that one which has ended
/// meanwhile, or is in another state, is no fault.
template <typename Ask>
int ask_for_each(const CommandLine& line, const std::vector<std::string>& jobs, const Ask& ask,
                 bool selected = false) {
  ApiClient client(daemon_socket(line));
  int status = 0;
  for (const std::string& job : jobs) {
    try {
      ask(client, job);
    } catch (const ApiRefusal& refusal) {
      constexpr unsigned kConflict = 409;
      if (!selected || refusal.status() != kConflict) {
        tell(refusal.what());
        status = 1;
      }
    }
  }
  return status;
}

}  // namespace

int run_update(const CommandLine& line) {
  for (const std::string& operand : line.operands) {
    if (operand.find('=') != std::string::npos) {
      throw UsageError(line.command, "\"" + operand +
                                         "\" is scontrol's form; here it is an option and the jobs, such as: "
                                         "berth update --time 10 36");
    }
  }
  Json changes = Json::object();
  for (const auto& [option, field] : {std::pair{"job-name", "name"},
                                      {"comment", "comment"},
                                      {"account", "account"},
                                      {"dependency", "dependency"}}) {
    if (const auto text = line.value(option)) {
      changes[field] = *text == "none" ? Json() : Json(*text);
    }
  }
  const auto add = [&](const char* option, const char* field, const auto& parse) {
    if (const auto text = line.value(option)) {
      try {
        changes[field] = parse(*text);
      } catch (const std::exception& error) {
        throw UsageError(line.command, "--" + std::string(option) + ": \"" + *text + "\" " + error.what());
      }
    }
  };
  const auto or_none = [](const auto& parse) {
    return [parse](const std::string& text) { return text == "none" ? Json() : Json(parse(text)); };
  };
  // Resolved here: berthd may have another time zone.
  const auto instant = or_none([now = SystemClock().system_now()](const std::string& text) {
    return format_instant_utc(parse_coming_instant(text, now));
  });
  add("begin", "begin_time", instant);
  add("deadline", "deadline", instant);
  add("priority", "priority", parse_integer);
  add("nice", "nice", parse_integer);
  add("cpus-per-task", "cpus_per_task", parse_integer);
  add("time", "time_limit", or_none([](const std::string& text) {
        return is_no_time_limit(text)
                   ? Json()
                   : Json(std::to_string(parse_duration(text, std::chrono::minutes(1)).count()) + "ms");
      }));
  add("mem", "memory_per_node", or_none([](const std::string& text) {
        return std::to_string(parse_size(text, Bytes{1} << 20U)) + "B";
      }));
  if (changes.empty()) {
    throw UsageError(line.command, "berth update needs an option that says what to change");
  }
  return ask_for_each(line, job_ids(line.operands), [&](ApiClient& client, const std::string& job) {
    client.request("PATCH", path_of(job), {}, changes.dump());
  });
}

int run_drain(const CommandLine& line) {
  ApiClient client(daemon_socket(line));
  client.request("POST", "/v1/" + std::string(line.command->name));
  return 0;
}

namespace {

int act_on(const CommandLine& line, std::string_view action, const std::vector<std::string>& jobs,
           const QueryWords& query, bool selected = false) {
  return ask_for_each(
      line, jobs,
      [&](ApiClient& client, const std::string& job) {
        client.request("POST", path_of(job) + "/" + std::string(action), query);
      },
      selected);
}

bool selects(const CommandLine& line) {
  return line.has("user") || line.has("me") || line.has("name") || line.has("state") || line.has("account");
}

/// The selected job by what it is named by in a request; of an array, those tasks of it that were named.
void add_selected(const Json& job, const std::set<std::string>& named, std::vector<std::string>& jobs) {
  const std::string id = std::to_string(job["job_id"].get<JobId>());
  const std::vector<std::string> tasks =
      named.contains(id) ? std::vector<std::string>() : named_tasks(named, job);
  tasks.empty() ? jobs.push_back(id) : (void)jobs.insert(jobs.end(), tasks.begin(), tasks.end());
}

/// As scancel does: with a selection, those of the operands (without operands, of all) that it selects.
/// `only_started`: what waits is left out.
std::vector<std::string> jobs_to_cancel(const CommandLine& line, bool only_started) {
  std::vector<std::string> named = job_ids(line.operands);
  if (!selects(line)) {
    if (named.empty()) {
      throw UsageError(line.command,
                       "berth cancel needs at least one JOBID, or --user, --name, --state or --account");
    }
    return named;
  }
  QueryWords query = selection_query(line);
  query.emplace("limit", kAllJobs);
  const Json listing = Json::parse(ApiClient(daemon_socket(line)).request("GET", "/v1/jobs", query));
  if (listing.value("truncated", false)) {
    throw InputError(kCommandLine, "",
                     "more than " + std::string(kAllJobs) +
                         " jobs are there to select from: name them (berth cancel 1-100000), or a state");
  }
  const std::set<std::string> among(named.begin(), named.end());
  std::vector<std::string> jobs;
  for (const Json& job : selected(line, listing, among)) {
    const JobState state = parse_job_state(job["state"].get<std::string>()).value_or(JobState::pending);
    if (!is_final(state) && !(only_started && state == JobState::pending)) {
      add_selected(job, among, jobs);
    }
  }
  return jobs;
}

QueryWords signal_query(const CommandLine& line, const std::string& signal) {
  if (!parse_signal(signal)) {
    throw UsageError(line.command, "\"" + signal + "\" is not a signal (use USR1, SIGUSR1 or 10)");
  }
  QueryWords query{{"signal", signal}};
  if (line.has("batch")) {
    query.emplace("batch", "1");
  }
  return query;
}

}  // namespace

int run_cancel(const CommandLine& line) {
  const std::optional<std::string> signal = line.value("signal");
  if (signal && line.has("now")) {
    throw UsageError(line.command, "--now does not go with --signal, which ends no job by itself");
  }
  if (!signal && line.has("batch")) {
    throw UsageError(line.command, "--batch goes with --signal: a job that is cancelled ends as a whole");
  }
  if (signal) {
    const QueryWords query = signal_query(line, *signal);
    // A running task is listed by itself: its array, which waits, would send it the signal once more.
    return act_on(line, "signal", jobs_to_cancel(line, true), query, selects(line));
  }
  QueryWords query;
  // Once more for berthd: the row of an array stands for what has not started, but its number for all of it.
  if (const std::string states = selected_states(line); !states.empty()) {
    query.emplace("state", states);
  }
  if (line.has("now")) {
    query.emplace("at_once", "1");
  }
  return act_on(line, "cancel", jobs_to_cancel(line, false), query, selects(line));
}

int run_job_action(const CommandLine& line) {
  std::vector<std::string> operands = line.operands;
  QueryWords query;
  if (line.command->name == "signal") {
    if (operands.size() < 2) {
      throw UsageError(line.command,
                       "berth signal needs a signal and at least one job: berth signal USR1 36");
    }
    query = signal_query(line, operands.front());
    operands.erase(operands.begin());
  }
  return act_on(line, line.command->name, job_ids(operands), query);
}

}  // namespace berth
