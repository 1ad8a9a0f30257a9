#include "scheduler/cli_submit.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "scheduler/api_client.h"
#include "scheduler/cli_daemon.h"
#include "scheduler/clock.h"
#include "scheduler/listing.h"
#include "scheduler/run_jobs_input.h"
#include "schemas/coming_instant.h"
#include "schemas/input_error.h"
#include "schemas/job_file.h"
#include "schemas/json_text.h"
#include "schemas/terminal_text.h"

namespace berth {
namespace {

using Json = nlohmann::json;

/// Where a job was read.
struct Place {
  std::string file;
  std::string pointer;  ///< empty where it is the file's only job
};

struct Request {
  std::string text;           ///< a job file
  std::string file;           ///< its name, for faults; empty where it is made of several
  std::string directory;      ///< where its relative paths start
  std::vector<Place> places;  ///< of its jobs, where it is made of them
};

void resolve_instants(nlohmann::ordered_json& job, Timestamp now) {
  for (const char* field : {"begin_time", "deadline"}) {
    const auto found = job.is_object() ? job.find(field) : job.end();
    if (found == job.end() || !found->is_string()) {
      continue;
    }
    try {
      *found = format_instant_utc(parse_coming_instant(found->get<std::string>(), now));
    } catch (const std::invalid_argument&) {
      continue;  // berthd says what is wrong with it
    }
  }
}

/// A job file whose local times do not depend on berthd's time zone; what else it says is berthd's to parse.
std::string with_instants_in_utc(std::string text) {
  if (text.find("\"begin_time\"") == std::string::npos && text.find("\"deadline\"") == std::string::npos) {
    return text;
  }
  std::vector<InputFault> faults;
  std::optional<nlohmann::ordered_json> file = parse_json(text, "", faults);
  if (!file || !faults.empty()) {
    return text;  // likewise
  }
  const Timestamp now = SystemClock().system_now();
  if (file->is_array()) {
    for (auto& job : *file) {
      resolve_instants(job, now);
    }
  } else {
    resolve_instants(*file, now);
  }
  return file->dump();
}

/// A single job file, which berthd alone has to parse then.
Request request_of(const CommandLine& line, JobText& file) {
  refuse_job_options(line);
  file.check_is_json();
  if (file.directory.empty()) {
    throw InputError(file.name, "", "has no folder: the current directory is gone; change to another");
  }
  return {with_instants_in_utc(std::move(file.text)), file.name, file.directory.string(), {}};
}

CommandLine with_wrap(const CommandLine& line) {
  const std::optional<std::string> command = line.value("wrap");
  if (!command) {
    return line;
  }
  if (line.job_command || !line.operands.empty()) {
    throw UsageError(line.command, "--wrap is a job of its own: give it alone, without a command or files");
  }
  if (command->empty()) {
    throw UsageError(line.command, "--wrap: \"\" is empty; give it a command");
  }
  CommandLine wrapped = line;
  wrapped.job_command = {"/bin/sh", "-c", *command};
  if (!line.has("job-name")) {
    wrapped.add("job-name", "wrap");
  }
  return wrapped;
}

/// --exclusive is all CPUs of berthd's pool.
CommandLine with_exclusive(const CommandLine& line, ApiClient& client) {
  if (!line.has("exclusive")) {
    return line;
  }
  CommandLine whole = line;
  const Json pool = Json::parse(client.request("GET", "/v1/slots"));
  whole.add("cpus-per-task", std::to_string(pool.at("cpus").get<unsigned>()));
  return whole;
}

Request request_of(const RequestedJobs& requested) {
  Request request{"", requested.jobs.front().source, "/", {}};  // their paths are absolute
  for (const RequestedJob& job : requested.jobs) {
    request.text += (request.text.empty() ? "[" : ",\n") + to_json_text(job.spec);
    request.places.push_back({job.source, job.pointer});
    if (job.source != request.file) {
      request.file.clear();
    }
  }
  request.text += "]";
  return request;
}

/// A fault of job N of the request, at /N, becomes one of the file that the job is from.
void put_in_place(InputFault& fault, const std::vector<Place>& places) {
  if (!fault.pointer.starts_with('/')) {
    return;
  }
  const std::size_t end = std::min(fault.pointer.find('/', 1), fault.pointer.size());
  std::size_t index = places.size();
  const auto [rest, error] = std::from_chars(fault.pointer.data() + 1, fault.pointer.data() + end, index);
  if (error == std::errc() && rest == fault.pointer.data() + end && index < places.size()) {
    fault.file = places[index].file;
    fault.pointer.replace(0, end, places[index].pointer);
  }
}

std::string ask(ApiClient& client, const Request& request, bool test_only) {
  QueryWords query{{"directory", request.directory}, {"file", request.file}};
  if (test_only) {
    query.emplace("test_only", "1");
  }
  try {
    return client.request("POST", "/v1/jobs", query, request.text);
  } catch (const ApiRefusal& refusal) {
    std::vector<InputFault> faults = refusal.faults();
    if (faults.empty()) {
      throw;
    }
    for (InputFault& fault : faults) {
      put_in_place(fault, request.places);
    }
    throw ApiRefusal(refusal.status(), InputError(std::move(faults)).what());
  }
}

int test_only(ApiClient& client, const Request& request) {
  const Json answer = Json::parse(ask(client, request, true));
  for (const Json& job : answer.at("jobs")) {
    const std::string name = printable(job.at("name").get<std::string>());
    const std::string cpus = std::to_string(job.at("cpus").get<unsigned>());
    const bool is_told = job.contains("expected_start");
    if (is_told || job.contains("begin_time")) {
      const auto& instant = job[is_told ? "expected_start" : "begin_time"].get_ref<const std::string&>();
      std::printf("job \"%s\" would start %s %s, on %s CPUs\n", name.c_str(),
                  is_told ? "by" : "no sooner than",
                  format_instant(parse_instant(instant, Timestamp())).c_str(), cpus.c_str());
    } else {
      std::printf("job \"%s\" would be taken, for %s CPUs; when it would start cannot be told\n",
                  name.c_str(), cpus.c_str());
    }
  }
  return 0;
}

}  // namespace

int run_submit(const CommandLine& given, JobTexts& texts) {
  refuse_qos(given);
  CommandLine line = with_wrap(with_standard_input(given, texts));
  ApiClient client(daemon_socket(line));
  Request request;
  if (const JobText* script = texts.script_of(line)) {
    line = with_exclusive(with_batch_options(line, *script), client);
    request = request_of(script_job(line, *script));
  } else if (line.operands.size() == 1 && !line.job_command) {
    request = request_of(line, texts.of(line.operands[0]));
  } else {
    line = with_exclusive(line, client);
    request = request_of(requested_jobs(line, texts));
  }
  if (line.has("test-only")) {
    return test_only(client, request);
  }
  const std::string answer = ask(client, request, false);
  const auto ids = Json::parse(answer).at("job_ids").get<std::vector<JobId>>();
  const bool bare = line.has("parsable");
  std::vector<std::string> names;
  for (const JobId id : ids) {
    names.push_back(std::to_string(id));
    std::printf(bare ? "%lld\n" : "Submitted batch job %lld\n", static_cast<long long>(id));
  }
  (void)std::fflush(stdout);
  return line.has("wait") ? wait_for_jobs(client, names, false) : 0;
}

}  // namespace berth
