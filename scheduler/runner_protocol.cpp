#include "scheduler/runner_protocol.h"

#include <sys/stat.h>

#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "schemas/record_json.h"

namespace berth {
namespace {

using Json = nlohmann::json;
using Kind = RunnerMessage::Kind;

/// A spec with a script of 4 MiB in JSON escapes, and room.
constexpr std::uint32_t kLargestFrame = 64u << 20;

struct KindName {
  Kind kind;
  const char* name;
};
constexpr std::array kKinds{
    KindName{Kind::start, "start"},     KindName{Kind::stop, "stop"},
    KindName{Kind::signal, "signal"},   KindName{Kind::suspend, "suspend"},
    KindName{Kind::resume, "resume"},   KindName{Kind::acknowledge, "acknowledge"},
    KindName{Kind::retire, "retire"},   KindName{Kind::hello, "hello"},
    KindName{Kind::started, "started"}, KindName{Kind::ended, "ended"},
    KindName{Kind::sample, "sample"},   KindName{Kind::samples, "samples"},
    KindName{Kind::paused, "paused"},
};

std::int64_t to_number(Timestamp instant) {
  return instant.time_since_epoch().count();
}
Timestamp to_instant(std::int64_t microseconds) {
  return Timestamp(std::chrono::microseconds(microseconds));
}

void put_greeting(const RunnerMessage& message, Json& header) {
  header["boot_id"] = message.runner.boot_id;
  header["pid"] = message.runner.pid;
  header["start_time"] = message.runner.start_time;
  header["cgroup"] = message.runner.cgroup;
  header["knows_umask"] = message.knows_umask;
  header["tells_pauses"] = message.tells_pauses;
  header["program"] = message.program;
  header["controllers"] = Json::array();
  for (const ControllerReport::Entry& entry : message.controllers.controllers) {
    header["controllers"].push_back({entry.version, entry.reason});
  }
  header["accounts_swap"] = message.controllers.accounts_swap;
  header["jobs"] = Json::array();
  for (const AttemptId& id : message.jobs) {
    header["jobs"].push_back({id.job_id, id.attempt});
  }
}

void take_greeting(const Json& header, RunnerMessage& message) {
  message.runner.boot_id = header.at("boot_id");
  message.runner.pid = header.at("pid");
  message.runner.start_time = header.at("start_time");
  message.runner.cgroup = header.at("cgroup");
  message.knows_umask = header.value("knows_umask", false);
  message.tells_pauses = header.value("tells_pauses", false);
  message.program = header.value("program", "");
  for (const Json& entry : header.at("controllers")) {
    message.controllers.controllers.push_back({entry.at(0), entry.at(1)});
  }
  message.controllers.accounts_swap = header.at("accounts_swap");
  for (const Json& id : header.at("jobs")) {
    message.jobs.push_back({id.at(0), id.at(1)});
  }
}

/// As long as there are kinds of message: what each carries beside its job.
void put_details(const RunnerMessage& message, Json& header) {
  switch (message.kind) {
    case Kind::start:
      header["user"] = message.user;
      header["user_id"] = message.user_id;
      header["group_id"] = message.group_id;
      header["allocation"] = to_json_text(message.allocation);
      header["host_network"] = message.network.allow_host;
      header["privileged_ports"] = message.network.allow_privileged_ports;
      header["network_pool"] = message.network.pool_text();
      header["network_connections"] = message.network.connections;
      header["counters"] = message.counters;
      if (message.array_job_id) {
        header["array_job_id"] = *message.array_job_id;
        header["array_task_id"] = message.array_task_id.value_or(0);
      }
      break;
    case Kind::stop:
      header["cause"] = std::string(to_string(message.cause));
      header["at_once"] = message.at_once;
      header["by"] = message.by;
      break;
    case Kind::signal:
      header["signal"] = message.signal_number;
      header["batch"] = message.batch_job;
      break;
    case Kind::suspend:
    case Kind::resume:
      header["tells_pauses"] = message.tells_pauses;
      break;
    case Kind::paused:
      header["detail"] = message.detail;
      break;
    case Kind::hello:
      put_greeting(message, header);
      break;
    case Kind::samples: {
      Json samples = Json::array();
      for (const RunningSample& sample : message.samples) {
        samples.push_back({sample.id.job_id, sample.id.attempt,
                           sample.cpu_time ? Json(sample.cpu_time->count()) : Json(),
                           sample.memory ? Json(*sample.memory) : Json(), sample.processes});
      }
      header["samples"] = std::move(samples);
      break;
    }
    case Kind::ended:
      header["outcome"] = to_json_text(message.outcome);
      if (message.counters) {
        header["counters"] = to_counters(message.usage);
      } else {
        header["usage"] = to_json_text(message.usage);
      }
      if (message.started_at) {
        header["started_at"] = to_number(*message.started_at);
      }
      [[fallthrough]];
    case Kind::started:
      header["at"] = to_number(message.at);
      if (!message.detail.empty()) {
        header["detail"] = message.detail;
      }
      break;
    default:
      break;
  }
}

/// The same, read.
void take_details(const Json& header, RunnerMessage& message) {
  switch (message.kind) {
    case Kind::start:
      message.user = header.at("user");
      message.user_id = header.at("user_id");
      message.group_id = header.at("group_id");
      message.allocation = parse_allocation(header.at("allocation").get_ref<const std::string&>());
      message.network.allow_host = header.value("host_network", false);
      message.network.allow_privileged_ports = header.value("privileged_ports", false);
      message.counters = header.value("counters", false);
      message.network.connections = header.value("network_connections", kDefaultConnections);
      if (header.contains("network_pool")) {
        parse_network_pool(header.at("network_pool").get_ref<const std::string&>(), message.network);
      }
      if (header.contains("array_job_id")) {
        message.array_job_id = header.at("array_job_id").get<JobId>();
        message.array_task_id = header.at("array_task_id").get<unsigned>();
      }
      break;
    case Kind::stop:
      message.cause =
          parse_cause(header.at("cause").get_ref<const std::string&>()).value_or(Cause::cancelled);
      message.at_once = header.at("at_once");
      message.by = header.value("by", "");
      break;
    case Kind::signal:
      message.signal_number = header.at("signal");
      message.batch_job = header.value("batch", false);
      break;
    case Kind::suspend:
    case Kind::resume:
      message.tells_pauses = header.value("tells_pauses", false);
      break;
    case Kind::paused:
      message.detail = header.at("detail");
      break;
    case Kind::hello:
      take_greeting(header, message);
      break;
    case Kind::samples:
      for (const Json& entry : header.at("samples")) {
        RunningSample& sample = message.samples.emplace_back();
        sample.id = {entry.at(0), entry.at(1)};
        if (!entry.at(2).is_null()) {
          sample.cpu_time = std::chrono::microseconds(entry.at(2).get<std::int64_t>());
        }
        if (!entry.at(3).is_null()) {
          sample.memory = entry.at(3).get<Bytes>();
        }
        sample.processes = entry.at(4);
      }
      break;
    case Kind::ended:
      message.outcome = parse_outcome(header.at("outcome").get_ref<const std::string&>());
      message.usage = header.contains("counters")
                          ? parse_counters(header.at("counters").get_ref<const std::string&>())
                          : parse_usage(header.at("usage").get_ref<const std::string&>());
      if (header.contains("started_at")) {
        message.started_at = to_instant(header.at("started_at"));
      }
      [[fallthrough]];
    case Kind::started:
      message.at = to_instant(header.at("at"));
      message.detail = header.value("detail", "");
      break;
    default:
      break;
  }
}

RunnerMessage parse(std::string_view header_text, std::string_view body) {
  const Json header = Json::parse(header_text);
  const std::string& name = header.at("kind").get_ref<const std::string&>();
  RunnerMessage message;
  bool known = false;
  for (const KindName& kind : kKinds) {
    if (name == kind.name) {
      message.kind = kind.kind;
      known = true;
    }
  }
  if (!known) {
    throw std::runtime_error("\"" + name + "\" is no message that this berth knows");
  }
  message.id = {header.at("job"), header.at("attempt")};
  take_details(header, message);
  message.spec_text = body;
  return message;
}

}  // namespace

std::string to_frame(const RunnerMessage& message) {
  Json header{{"job", message.id.job_id}, {"attempt", message.id.attempt}};
  for (const KindName& kind : kKinds) {
    if (kind.kind == message.kind) {
      header["kind"] = kind.name;
    }
  }
  put_details(message, header);
  const std::string text = header.dump();
  const std::array<std::uint32_t, 2> sizes{static_cast<std::uint32_t>(text.size()),
                                           static_cast<std::uint32_t>(message.spec_text.size())};
  std::string frame(sizeof sizes, '\0');
  std::memcpy(frame.data(), sizes.data(), sizeof sizes);
  frame += text;
  frame += message.spec_text;
  return frame;
}

void name_canceller(Outcome& outcome, const std::string& by) {
  constexpr std::string_view kCancelled = "cancelled";
  if (!by.empty() && outcome.cause == Cause::cancelled && outcome.message.starts_with(kCancelled) &&
      !outcome.message.starts_with("cancelled by ")) {
    outcome.message.insert(kCancelled.size(), " by " + by);
  }
}

Outcome refused_by_leaving_runner() {
  Outcome outcome;
  outcome.state = JobState::preempted;
  outcome.cause = Cause::preempted;
  outcome.message = "its berth-runner was being ended";
  return outcome;
}

std::string program_identity(const std::string& path) {
  struct stat file {};
  if (::stat(path.c_str(), &file) != 0) {
    return {};
  }
  return std::to_string(file.st_dev) + ":" + std::to_string(file.st_ino) + ":" +
         std::to_string(file.st_mtim.tv_sec) + "." + std::to_string(file.st_mtim.tv_nsec);
}

std::optional<RunnerMessage> FrameReader::next() {
  std::array<std::uint32_t, 2> sizes{};
  if (buffer_.size() - position_ < sizeof sizes) {
    return std::nullopt;
  }
  std::memcpy(sizes.data(), buffer_.data() + position_, sizeof sizes);
  if (sizes[0] > kLargestFrame || sizes[1] > kLargestFrame) {
    throw std::runtime_error("a frame of " + std::to_string(sizes[0]) + " bytes is none of berth's");
  }
  const std::size_t total = sizeof sizes + sizes[0] + sizes[1];
  if (buffer_.size() - position_ < total) {
    return std::nullopt;
  }
  const std::string_view header(buffer_.data() + position_ + sizeof sizes, sizes[0]);
  const std::string_view body(header.data() + header.size(), sizes[1]);
  RunnerMessage message;
  try {
    message = parse(header, body);
  } catch (const Json::exception& error) {
    throw std::runtime_error(std::string("a frame cannot be read: ") + error.what());
  } catch (const std::invalid_argument& error) {  // of a part that is text of its own
    throw std::runtime_error(std::string("a frame cannot be read: ") + error.what());
  }
  position_ += total;
  if (position_ == buffer_.size() || position_ > (1u << 20)) {
    buffer_.erase(0, position_);
    position_ = 0;
  }
  return message;
}

}  // namespace berth
