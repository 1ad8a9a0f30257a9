#include "scheduler/cli_exec.h"

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "scheduler/api_client.h"
#include "scheduler/cli_daemon.h"
#include "scheduler/stream_client.h"
#include "scheduler/terminal.h"

namespace berth {
namespace {

using Json = nlohmann::json;

Json environment_of(const CommandLine& line, bool terminal) {
  Json environment = Json::object();
  const char* type = std::getenv("TERM");
  if (terminal && type != nullptr) {
    environment["TERM"] = type;
  }
  for (const std::string& word : line.values("env")) {
    const std::size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    const char* own = std::getenv(name.c_str());
    if (name.empty() || (equals == std::string::npos && own == nullptr)) {
      throw UsageError(line.command,
                       "--env: \"" + word + "\" is neither NAME=VALUE nor a variable that is set here");
    }
    environment[name] = equals == std::string::npos ? std::string(own) : word.substr(equals + 1);
  }
  return environment;
}

std::string body_of(const CommandLine& line, bool terminal) {
  Json body{{"argv", *line.job_command}, {"environment", environment_of(line, terminal)}};
  if (const auto directory = line.value("chdir")) {
    if (!directory->starts_with('/')) {
      throw UsageError(line.command,
                       "--chdir: \"" + *directory + "\" is not an absolute path inside the job");
    }
    body["current_working_directory"] = *directory;
  }
  if (terminal) {
    const TerminalWindow window = terminal_window().value_or(TerminalWindow{});
    body["terminal"] = {{"rows", window.rows}, {"columns", window.columns}};
  }
  try {
    return body.dump();
  } catch (const Json::exception&) {
    throw UsageError(line.command,
                     "the command's words and variables are not all UTF-8; put them into a script");
  }
}

}  // namespace

int run_exec(const CommandLine& line) {
  if (line.operands.size() != 1 || !line.job_command || line.job_command->empty()) {
    throw UsageError(line.command, "berth exec needs one job and a command: berth exec 36 -- ps aux");
  }
  const bool terminal = line.has("pty");
  const std::string job = job_id(line);
  ApiClient client(daemon_socket(line));
  const ApiClient::Upgraded stream = client.upgrade("/v1/jobs/" + job + "/exec", {}, body_of(line, terminal));
  const StreamEnd end =
      run_stream(stream.descriptor, stream.received, {.input = !line.has("no-stdin"), .terminal = terminal});
  if (!end.message.empty()) {
    tell(line.job_command->front() + ": " + end.message);
  }
  return end.exit_status;
}

}  // namespace berth
