#include "scheduler/cli_attach.h"

#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "scheduler/api_client.h"
#include "scheduler/cli_daemon.h"
#include "scheduler/stream_client.h"
#include "scheduler/terminal.h"

namespace berth {
namespace {

using Json = nlohmann::json;

DetachKeys detach_keys(const CommandLine& line) {
  const std::string text = line.value("detach-keys").value_or(std::string(DetachKeys::kDefault));
  try {
    return DetachKeys::parse(text);
  } catch (const std::invalid_argument& error) {
    throw UsageError(line.command, "--detach-keys: \"" + text + "\" " + error.what());
  }
}

/// One job, attempt after attempt.
class Attachment {
 public:
  explicit Attachment(const CommandLine& line)
      : line_(line),
        socket_(daemon_socket(line)),
        job_(job_id(line)),
        options_{.input = !line.has("no-stdin"),
                 .attach = detach_keys(line),
                 .pass_signals = line.has("sig-proxy")} {}

  int run() {
    while (true) {
      ApiClient::Upgraded stream;
      try {
        stream = through_restarts([this] { return ask(); });
      } catch (const NoDaemon&) {
        if (last_.attempt == 0) {
          throw;
        }
        return last_.exit_status;  // berthd does not run: what the job's runner told is all there is
      }
      if (stream.descriptor < 0) {
        return end(Json::parse(stream.received));
      }
      last_ = run_stream(stream.descriptor, stream.received, options_);
      if (last_.detached) {
        if (::isatty(STDERR_FILENO) != 0) {
          (void)std::fputs("\n", stderr);  // the job may have left the cursor anywhere in a line
        }
        tell("detached from job " + job_ + ", which goes on; berth attach " + job_ + " joins it again");
        return last_.exit_status;
      }
      if (!last_.message.empty()) {
        tell("job " + job_ + ": " + last_.message);
      }
      if (last_.attempt == 0) {
        return last_.exit_status;  // its runner does not take this client
      }
    }
  }

 private:
  ApiClient::Upgraded ask() {
    Json body = Json::object();
    if (const auto window = terminal_window(); window && options_.input) {
      body["terminal"] = {{"rows", window->rows}, {"columns", window->columns}};
    }
    return ApiClient(socket_).upgrade(
        "/v1/jobs/" + job_ + "/attach",
        {{"after_attempt", std::to_string(last_.attempt)}, {"wait", line_.has("no-wait") ? "0" : "1"}},
        body.dump(), [this] { tell_why_it_waits(); });
  }

  void tell_why_it_waits() {
    if (line_.has("quiet")) {
      return;
    }
    try {
      const Json why = Json::parse(ApiClient(socket_).request("GET", "/v1/jobs/" + job_ + "/why"));
      const std::string reason = why.contains("reason") ? " (" + why["reason"].get<std::string>() + ")" : "";
      tell("job " + job_ + " is " + why["state"].get<std::string>() + reason + ": " +
           why["explanation"].get<std::string>() + "; waiting until it starts");
    } catch (const std::exception&) {
      // It was only a courtesy; the answer that is waited for says what is wrong.
    }
  }

  int end(const Json& end) const {
    if (last_.attempt == 0) {
      tell("job " + job_ + " has ended, as " + end.at("state").get<std::string>() + "; berth logs " + job_ +
           " prints what it wrote");
    }
    return end.at("exit_status");
  }

  const CommandLine& line_;
  const std::string socket_;
  const std::string job_;
  const StreamClientOptions options_;
  StreamEnd last_;
};

}  // namespace

int run_attach(const CommandLine& line) {
  return Attachment(line).run();
}

}  // namespace berth
