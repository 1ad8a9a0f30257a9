#include "schemas/job_json.h"

#include <nlohmann/json.hpp>

#include "schemas/job_file.h"
#include "schemas/signals.h"

namespace berth {

namespace {

using Json = nlohmann::ordered_json;

/// With a unit always: a bare number would take the field's own unit when read back.
Json size_value(Bytes bytes) {
  std::string text = format_size(bytes);
  if (text.back() >= '0' && text.back() <= '9') {
    text += 'B';
  }
  return text;
}

Json duration_value(Milliseconds duration) {
  if (duration.count() < 0 || duration.count() % 1000 != 0) {
    return std::to_string(duration.count()) + "ms";
  }
  return format_duration(duration);
}

void put_text(Json& object, const char* key, const std::string& text) {
  if (!text.empty()) {
    object[key] = text;
  }
}

void put_size(Json& object, const char* key, const std::optional<Bytes>& bytes) {
  if (bytes) {
    object[key] = size_value(*bytes);
  }
}

void put_duration(Json& object, const char* key, const std::optional<Milliseconds>& duration) {
  if (duration) {
    object[key] = duration_value(*duration);
  }
}

template <typename Number>
void put_number(Json& object, const char* key, const std::optional<Number>& number) {
  if (number) {
    object[key] = *number;
  }
}

Json io_value(const IoLimit& limit) {
  Json object{{"device", limit.device}};
  put_size(object, "read_bps", limit.read_bytes_per_second);
  put_size(object, "write_bps", limit.write_bytes_per_second);
  put_number(object, "read_iops", limit.read_operations_per_second);
  put_number(object, "write_iops", limit.write_operations_per_second);
  return object;
}

Json limits_value(const Limits& limits) {
  Json object = Json::object();
  put_duration(object, "cpu_time", limits.cpu_time);
  put_number(object, "cpu_quota", limits.cpu_quota);
  put_number(object, "cpu_weight", limits.cpu_weight);
  put_size(object, "swap", limits.swap);
  put_size(object, "memory_high", limits.memory_high);
  if (limits.oom_group) {
    object["oom_group"] = true;
  }
  put_number(object, "pids", limits.pids);
  put_size(object, "output", limits.output);
  put_size(object, "tmpfs", limits.tmpfs);
  put_number(object, "open_files", limits.open_files);
  put_size(object, "file_size", limits.file_size);
  put_size(object, "core_size", limits.core_size);
  put_size(object, "stack_size", limits.stack_size);
  put_size(object, "locked_memory", limits.locked_memory);
  for (const IoLimit& limit : limits.io) {
    object["io"].push_back(io_value(limit));
  }
  for (const auto& [page_size, bytes] : limits.hugetlb) {
    object["hugetlb"][page_size] = size_value(bytes);
  }
  put_number(object, "net_class", limits.net_class);
  return object;
}

Json mount_value(const Mount& mount) {
  Json object{{"type", mount.kind == Mount::Kind::bind ? "bind" : "tmpfs"}};
  put_text(object, "source", mount.source);
  object["target"] = mount.target;
  if (mount.kind == Mount::Kind::bind) {
    object["read_only"] = mount.read_only;
  }
  put_size(object, "size", mount.size);
  return object;
}

Json egress_value(const Egress& egress) {
  switch (egress.mode) {
    case EgressMode::public_addresses:
      return "public";
    case EgressMode::deny:
      return "deny";
    case EgressMode::allow:
      return "allow";
    case EgressMode::rules:
      break;
  }
  Json rules = Json::array();
  for (const EgressRule& rule : egress.rules) {
    rules.push_back(egress_rule_text(rule));
  }
  return rules;
}

void put_network(Json& object, const NetworkSpec& network) {
  if (network.is_connected() || network.egress != Egress{}) {
    object["egress"] = egress_value(network.egress);
  }
  for (const PublishedPort& port : network.publish) {
    object["publish"].push_back(port.to_text());
  }
  for (const IpAddress& server : network.dns_servers) {
    object["dns"]["servers"].push_back(server.to_text());
  }
  for (const std::string& domain : network.dns_search) {
    object["dns"]["search"].push_back(domain);
  }
  for (const auto& [name, address] : network.hosts) {
    object["dns"]["hosts"][name] = address.to_text();
  }
  if (network.rate_in) {
    object["rate"]["in"] = size_value(*network.rate_in);
  }
  if (network.rate_out) {
    object["rate"]["out"] = size_value(*network.rate_out);
  }
}

Json isolation_value(const Isolation& isolation) {
  Json object{{"network", network_mode_text(isolation.network)}};
  put_network(object, isolation.network);
  if (!isolation.root.empty() || isolation.root_writable) {
    object["root"] = Json{{"path", isolation.root}, {"writable", isolation.root_writable}};
  }
  object["overlay"] = isolation.overlay;
  for (const Mount& mount : isolation.mounts) {
    object["mounts"].push_back(mount_value(mount));
  }
  put_text(object, "hostname", isolation.hostname);
  put_text(object, "user", isolation.user);
  for (const std::string& device : isolation.devices) {
    object["devices"].push_back(device);
  }
  object["seccomp"] = isolation.seccomp ? "default" : "none";
  Json offset = Json::object();
  put_number(offset, "monotonic", isolation.time_offset_monotonic_seconds);
  put_number(offset, "boottime", isolation.time_offset_boottime_seconds);
  if (!offset.empty()) {
    object["time_offset"] = std::move(offset);
  }
  return object;
}

void put_command(Json& object, const JobSpec& spec) {
  put_text(object, "name", spec.name);
  put_text(object, "script", spec.script);
  if (!spec.argv.empty()) {
    object["argv"] = spec.argv;
  }
  put_text(object, "current_working_directory", spec.current_working_directory);
  if (!spec.environment.empty()) {
    object["environment"] = spec.environment;
  }
  put_text(object, "standard_input", spec.standard_input);
  put_text(object, "standard_output", spec.standard_output);
  put_text(object, "standard_error", spec.standard_error);
  object["open_mode"] = spec.open_mode == OpenMode::truncate ? "truncate" : "append";
}

void put_times(Json& object, const JobSpec& spec) {
  put_duration(object, "time_limit", spec.time_limit);
  if (spec.kill_warning_signal != 0) {
    object["kill_warning_signal"] = signal_name(spec.kill_warning_signal);
  }
  if (spec.kill_warning_signal != 0 || spec.kill_warning_delay != JobSpec().kill_warning_delay) {
    object["kill_warning_delay"] = duration_value(spec.kill_warning_delay);
  }
  object["grace_period"] = duration_value(spec.grace_period);
  put_duration(object, "no_output_timeout", spec.no_output_timeout);
}

void put_queueing(Json& object, const JobSpec& spec) {
  if (spec.hold) {
    object["hold"] = true;
  }
  if (spec.requeue) {
    object["requeue"] = true;
  }
  if (spec.begin_time) {
    object["begin_time"] = format_instant_utc(*spec.begin_time);
  }
  if (spec.deadline) {
    object["deadline"] = format_instant_utc(*spec.deadline);
  }
  put_text(object, "dependency", spec.dependency);
  put_text(object, "array", spec.array);
  if (spec.retry) {
    Json retry{{"max", spec.retry->max}};
    for (const JobState state : spec.retry->on) {
      retry["on"].push_back(std::string(to_string(state)));
    }
    if (!spec.retry->exit_codes.empty()) {
      retry["exit_codes"] = spec.retry->exit_codes;
    }
    retry["backoff"] = duration_value(spec.retry->backoff);
    retry["memory_factor"] = spec.retry->memory_factor;
    object["retry"] = std::move(retry);
  }
}

}  // namespace

Json to_json(const JobSpec& spec) {
  Json object{{"schema_version", 1}};
  put_command(object, spec);
  put_text(object, "account", spec.account);
  put_text(object, "comment", spec.comment);
  object["priority"] = spec.priority;
  object["nice"] = spec.nice;
  object["cpus_per_task"] = spec.cpus_per_task;
  put_size(object, "memory_per_node", spec.memory_per_node);
  put_times(object, spec);
  put_queueing(object, spec);
  if (Json limits = limits_value(spec.limits); !limits.empty()) {
    object["limits"] = std::move(limits);
  }
  object["isolation"] = isolation_value(spec.isolation);
  return object;
}

std::string to_json_text(const JobSpec& spec) {
  return to_json(spec).dump();
}

}  // namespace berth
