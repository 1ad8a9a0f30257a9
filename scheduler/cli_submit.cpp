#include "scheduler/cli_submit.h"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/api_client.h"
#include "scheduler/batch_script.h"
#include "scheduler/cli_daemon.h"
#include "scheduler/run_jobs_input.h"
#include "schemas/input_error.h"
#include "schemas/job_file.h"

namespace berth {
namespace {

struct Request {
  std::string text;       ///< a job file
  std::string file;       ///< its name, for faults
  std::string directory;  ///< where its relative paths start
};

/// The text of the one JSON file that is named: berthd alone has to parse it then.
std::optional<Request> single_file(const CommandLine& line) {
  if (line.operands.size() != 1 || line.job_command || line.operands[0] == "-") {
    return std::nullopt;
  }
  const std::string& path = line.operands[0];
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string::npos || (text[first] != '{' && text[first] != '[')) {
    return std::nullopt;
  }
  refuse_job_options(line);
  const std::filesystem::path absolute = std::filesystem::absolute(path).lexically_normal();
  return Request{std::move(text), path, absolute.parent_path().string()};
}

/// With the options of a script's #SBATCH lines, which those of the command line override.
CommandLine with_batch_options(const CommandLine& line) {
  if (line.operands.size() != 1 || line.operands[0] == "-") {
    return line;
  }
  std::ifstream file(line.operands[0], std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  std::vector<std::string> words =
      text.starts_with("#!") ? batch_options(text, line.operands[0]) : std::vector<std::string>();
  if (words.empty()) {
    return line;
  }
  words.insert(words.begin(), "submit");
  CommandLine merged = line;
  try {
    const CommandLine from_script = parse_command_line(words);
    if (!from_script.operands.empty()) {
      throw UsageError(line.command, "\"" + from_script.operands[0] + "\" is no option");
    }
    merged.inherit(from_script);
  } catch (const UsageError& error) {
    throw InputError(line.operands[0], "#SBATCH", error.what());
  }
  return merged;
}

CommandLine with_wrap(const CommandLine& line) {
  const std::optional<std::string> command = line.value("wrap");
  if (!command) {
    return line;
  }
  if (line.job_command || !line.operands.empty()) {
    throw UsageError(line.command, "--wrap is a job of its own: give it alone, without a command or files");
  }
  CommandLine wrapped = line;
  wrapped.job_command = {"/bin/sh", "-c", *command};
  if (!line.has("job-name")) {
    wrapped.add("job-name", "wrap");
  }
  return wrapped;
}

Request request_of(const CommandLine& line) {
  if (std::optional<Request> request = single_file(line)) {
    return std::move(*request);
  }
  Request request{"", "command line", std::filesystem::current_path().string()};
  for (const RequestedJob& job : requested_jobs(with_wrap(with_batch_options(line))).jobs) {
    request.text += (request.text.empty() ? "[" : ",\n") + to_json_text(job.spec);
    request.file = job.source;
  }
  request.text += "]";
  return request;
}

}  // namespace

int run_submit(const CommandLine& line) {
  const Request request = request_of(line);
  ApiClient client(daemon_socket(line));
  const std::string answer = client.request(
      "POST", "/v1/jobs", {{"directory", request.directory}, {"file", request.file}}, request.text);
  const auto ids = nlohmann::json::parse(answer).at("job_ids").get<std::vector<JobId>>();
  const bool bare = line.has("parsable");
  std::vector<std::string> names;
  for (const JobId id : ids) {
    names.push_back(std::to_string(id));
    std::printf(bare ? "%lld\n" : "Submitted batch job %lld\n", static_cast<long long>(id));
  }
  (void)std::fflush(stdout);
  return with_batch_options(line).has("wait") ? wait_for_jobs(client, names, false) : 0;
}

}  // namespace berth
