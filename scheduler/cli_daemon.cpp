#include "scheduler/cli_daemon.h"

#include <pwd.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "scheduler/cli_history.h"
#include "scheduler/clock.h"
#include "scheduler/listing.h"
#include "schemas/index_list.h"

namespace berth {
namespace {

using Json = nlohmann::json;

void print(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
}

std::string path_of(const std::string& job) {
  return "/v1/jobs/" + job;
}

std::string user_number(const CommandLine& line, const std::string& user) {
  if (user.find_first_not_of("0123456789") == std::string::npos) {
    return user;
  }
  const passwd* entry = ::getpwnam(user.c_str());
  if (entry == nullptr) {
    throw UsageError(line.command, "--user: there is no user \"" + user + "\" on this machine");
  }
  return std::to_string(entry->pw_uid);
}

std::string elapsed(const Json& job, Timestamp now) {
  if (!job.contains("start")) {
    return "0:00";
  }
  const Timestamp start = parse_instant(job["start"].get<std::string>(), now);
  return format_duration(std::chrono::duration_cast<Milliseconds>(now - start));
}

/// squeue's columns: the job's id, name, user, state, time, CPUs, memory, and where it runs or why it waits.
struct QueueRow {
  std::vector<std::string> cells;
};
constexpr int kQueueWidths[] = {10, 16, 10, 11, 12, 5, 9, 0};  // 0: as wide as it is
constexpr const char* kQueueHeads[] = {"JOBID", "NAME", "USER",   "STATE",
                                       "TIME",  "CPUS", "MEMORY", "SLOT(REASON)"};

/// "36", "36_4" for a task, "36_[5-99]" for the rest of an array.
std::string shown_id(const Json& job) {
  if (job.contains("array_job_id")) {
    return std::to_string(job["array_job_id"].get<JobId>()) + "_" +
           std::to_string(job["array_task_id"].get<unsigned>());
  }
  const std::string tasks = job.value("queue", Json::object()).value("array_tasks", "");
  return std::to_string(job["job_id"].get<JobId>()) + (tasks.empty() ? "" : "_[" + tasks + "]");
}

QueueRow queue_row(const Json& job, Timestamp now) {
  const Json queue = job.value("queue", Json::object());
  const bool waits = job["state"] == "PENDING";
  std::string place = waits ? "(" + job.value("reason", std::string("None")) + ")" : job.value("slot", "");
  const Bytes memory = waits ? queue.value("memory", Bytes{0}) : job.value("allocated_memory", Bytes{0});
  const std::string cpus = waits ? std::to_string(queue.value("cpus", 1U))
                                 : std::to_string(CpuSet::parse(job.value("allocated_cpus", "")).size());
  return {{shown_id(job), printable(job["name"].get<std::string>()), job["user"].get<std::string>(),
           job["state"].get<std::string>(), elapsed(job, now), cpus,
           memory == 0 ? "share" : format_size(memory), std::move(place)}};
}

std::string row_text(const std::vector<std::string>& cells, bool parsable) {
  std::string text;
  for (std::size_t index = 0; index < cells.size(); ++index) {
    if (parsable) {
      text += (index > 0 ? "|" : "") + cells[index];
      continue;
    }
    const int width = kQueueWidths[index];
    text += (index > 0 ? " " : "") + (width == 0 ? cells[index] : fit(cells[index], width));
  }
  return text + '\n';
}

}  // namespace

std::vector<std::string> job_ids(const std::vector<std::string>& operands) {
  for (const std::string& operand : operands) {
    const std::size_t underscore = operand.find('_');
    parse_job_id(operand.substr(0, underscore), "command line");
    if (underscore != std::string::npos) {
      (void)IndexList::parse(operand.substr(underscore + 1));
    }
  }
  return operands;
}

int run_queue(const CommandLine& line) {
  QueryWords query;
  if (const auto user = line.value("user")) {
    query.emplace("user", user_number(line, *user));
  }
  if (const auto states = line.value("state")) {
    query.emplace("state", *states);
  }
  if (const auto limit = line.value("limit")) {
    query.emplace("limit", *limit);
  }
  ApiClient client(daemon_socket(line));
  const std::string answer = client.request("GET", "/v1/jobs", query);
  if (line.has("json")) {
    print(answer);
    return 0;
  }
  const Json listing = Json::parse(answer);
  const bool parsable = line.has("parsable2");
  if (!line.has("noheader")) {
    print(row_text({std::begin(kQueueHeads), std::end(kQueueHeads)}, parsable));
  }
  const Timestamp now = SystemClock().system_now();
  for (const Json& job : listing.at("jobs")) {
    print(row_text(queue_row(job, now).cells, parsable));
  }
  if (listing.value("truncated", false)) {
    (void)std::fputs("berth: there are more; --limit shows them\n", stderr);
  }
  return 0;
}

int wait_for_jobs(ApiClient& client, const std::vector<std::string>& jobs, bool as_json) {
  int status = 0;
  for (const std::string& job : jobs) {
    const std::string answer = client.request("GET", path_of(job) + "/wait");
    const Json end = Json::parse(answer);
    if (as_json) {
      print(answer);
    }
    const int own = end.at("exit_status");
    status = status == 0 ? own : status;
  }
  return status;
}

int run_wait(const CommandLine& line) {
  ApiClient client(daemon_socket(line));
  return wait_for_jobs(client, job_ids(line.operands), line.has("json"));
}

int run_logs(const CommandLine& line) {
  const std::string job = job_ids(line.operands).at(0);
  QueryWords query{{"follow", line.has("follow") ? "1" : "0"},
                   {"stream", line.has("error") ? "error" : "output"}};
  if (const auto offset = line.value("offset")) {
    query.emplace("offset", *offset);
  }
  ApiClient client(daemon_socket(line));
  client.stream(path_of(job) + "/output", query, [](std::string_view piece) {
    print(piece);
    return std::fflush(stdout) == 0;
  });
  return 0;
}

int run_events(const CommandLine& line) {
  ApiClient client(daemon_socket(line));
  client.stream("/v1/events",
                {{"follow", line.has("follow") ? "1" : "0"}, {"after", line.value("after").value_or("0")}},
                [](std::string_view piece) {
                  print(piece);
                  return std::fflush(stdout) == 0;
                });
  return 0;
}

int run_slots(const CommandLine& line) {
  ApiClient client(daemon_socket(line));
  const std::string answer = client.request("GET", "/v1/slots");
  if (line.has("json")) {
    print(answer);
    return 0;
  }
  const Json pool = Json::parse(answer);
  std::printf("CPUs    %u of %u free\n", pool["free_cpus"].get<unsigned>(), pool["cpus"].get<unsigned>());
  std::printf("Memory  %s of %s free\n", format_size(pool["free_memory"].get<Bytes>()).c_str(),
              format_size(pool["memory"].get<Bytes>()).c_str());
  std::printf("Slots   %u of %u free%s\n", pool["free_slots"].get<unsigned>(), pool["slots"].get<unsigned>(),
              pool["draining"].get<bool>() ? "; drained: no job starts" : "");
  std::printf("Waiting %llu jobs\n", pool["waiting"].get<unsigned long long>());
  for (const Json& job : pool["running"]) {
    std::printf("%-20s job %lld, CPUs %s, memory %s\n", job["slot"].get<std::string>().c_str(),
                job["job_id"].get<long long>(), job["cpus"].get<std::string>().c_str(),
                format_size(job["memory"].get<Bytes>()).c_str());
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
    text += ": " + why["explanation"].get<std::string>() + "\n";
    if (why.contains("jobs_before")) {
      text += "  jobs before it: " + std::to_string(why["jobs_before"].get<std::size_t>()) + "\n";
    }
    if (why.contains("dependency")) {
      text += "  depends on: " + why["dependency"].get<std::string>() + "\n";
    }
    if (why.contains("expected_start")) {
      const Timestamp start =
          parse_instant(why["expected_start"].get<std::string>(), SystemClock().system_now());
      text += "  starts by: " + format_instant(start) + "\n";
    }
    print(text);
  }
  return 0;
}

int run_update(const CommandLine& line) {
  Json changes = Json::object();
  for (const auto& [option, field] : {std::pair{"job-name", "name"},
                                      {"comment", "comment"},
                                      {"account", "account"},
                                      {"begin", "begin_time"},
                                      {"deadline", "deadline"},
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
  const auto integer = [](const std::string& text) {
    std::size_t end = 0;
    const long long value = std::stoll(text, &end);
    if (end != text.size()) {
      throw std::invalid_argument("is not a whole number");
    }
    return value;
  };
  add("priority", "priority", integer);
  add("nice", "nice", integer);
  add("cpus-per-task", "cpus_per_task", integer);
  add("time", "time_limit", [](const std::string& text) { return format_duration(parse_duration(text)); });
  add("mem", "memory_per_node",
      [](const std::string& text) { return std::to_string(parse_size(text, Bytes{1} << 20U)) + "B"; });
  if (changes.empty()) {
    throw UsageError(line.command, "berth update needs an option that says what to change");
  }
  ApiClient client(daemon_socket(line));
  for (const std::string& job : job_ids(line.operands)) {
    client.request("PATCH", path_of(job), {}, changes.dump());
  }
  return 0;
}

int run_drain(const CommandLine& line) {
  ApiClient client(daemon_socket(line));
  client.request("POST", "/v1/" + std::string(line.command->name));
  return 0;
}

int run_job_action(const CommandLine& line) {
  std::vector<std::string> operands = line.operands;
  QueryWords query;
  if (line.command->name == "signal") {
    if (operands.size() < 2) {
      throw UsageError(line.command,
                       "berth signal needs a signal and at least one job: berth signal USR1 36");
    }
    query.emplace("signal", operands.front());
    operands.erase(operands.begin());
  }
  if (line.command->name == "cancel" && line.has("now")) {
    query.emplace("at_once", "1");
  }
  ApiClient client(daemon_socket(line));
  int status = 0;
  for (const std::string& job : job_ids(operands)) {
    try {
      client.request("POST", path_of(job) + "/" + std::string(line.command->name), query);
    } catch (const ApiRefusal& refusal) {
      (void)std::fprintf(stderr, "berth: %s\n", refusal.what());
      status = 1;
    }
  }
  return status;
}

}  // namespace berth
