#include "schemas/job_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <type_traits>
#include <vector>

#include "schemas/job_file.h"
#include "schemas/signals.h"

namespace berth {

namespace {

using Json = nlohmann::ordered_json;

/// With a unit always: a bare number would take the field's own unit when read back.
std::string size_text(Bytes bytes) {
  std::string text = format_size(bytes);
  if (text.back() >= '0' && text.back() <= '9') {
    text += 'B';
  }
  return text;
}

std::string duration_text(Milliseconds duration) {
  if (duration.count() < 0 || duration.count() % 1000 != 0) {
    return std::to_string(duration.count()) + "ms";
  }
  return format_duration(duration);
}

/// Builds the value.
class ValueSink {
 public:
  ValueSink() : open_{&root_} {}

  void open_object(std::string_view key) { open(key, Json::object()); }
  void open_array(std::string_view key) { open(key, Json::array()); }
  void open_object_in_array() {
    open_.back()->push_back(Json::object());
    open_.push_back(&open_.back()->back());
  }
  void close() { open_.pop_back(); }
  /// As close(), but an object without members is taken back.
  void close_unless_empty() {
    const bool is_empty = open_.back()->empty();
    close();
    if (is_empty) {
      auto& members = open_.back()->get_ref<Json::object_t&>();
      members.pop_back();
    }
  }
  template <typename Value>
  void put(std::string_view key, const Value& value) {
    open_.back()->emplace(std::string(key), value);
  }
  template <typename Value>
  void add(const Value& value) {
    open_.back()->push_back(value);
  }
  Json take() { return std::move(root_); }

 private:
  void open(std::string_view key, Json container) {
    open_.push_back(&(*open_.back())[std::string(key)]);
    *open_.back() = std::move(container);
  }

  Json root_ = Json::object();
  std::vector<Json*> open_;  // only the last one grows, so the others stay where they are
};

/// Writes the value's text as nlohmann's dump() would, without the value: a submission of many jobs spends a
/// third of its time here otherwise.
class TextSink {
 public:
  TextSink() : text_("{") {}

  void open_object(std::string_view key) { open(key, '{', '}'); }
  void open_array(std::string_view key) { open(key, '[', ']'); }
  void open_object_in_array() {
    starts_.push_back(text_.size());
    separate();
    text_ += '{';
    closing_.push_back('}');
  }
  void close() {
    text_ += closing_.back();
    closing_.pop_back();
    starts_.pop_back();
  }
  void close_unless_empty() {
    const std::size_t start = starts_.back();
    const bool is_empty = text_.back() == '{';
    close();
    if (is_empty) {
      text_.resize(start);
    }
  }
  template <typename Value>
  void put(std::string_view key, const Value& value) {
    name(key);
    write(value);
  }
  template <typename Value>
  void add(const Value& value) {
    separate();
    write(value);
  }
  std::string take() {
    text_ += '}';
    return std::move(text_);
  }

 private:
  void open(std::string_view key, char opening, char closing) {
    starts_.push_back(text_.size());
    name(key);
    text_ += opening;
    closing_.push_back(closing);
  }
  /// No value ends in an opening bracket: a string ends in its quote.
  void separate() {
    if (text_.back() != '{' && text_.back() != '[') {
      text_ += ',';
    }
  }
  void name(std::string_view key) {
    separate();
    write(key);
    text_ += ':';
  }
  void write(bool value) { text_ += value ? "true" : "false"; }
  template <typename Number>
  std::enable_if_t<std::is_integral_v<Number>> write(Number value) {
    text_ += std::to_string(value);
  }
  void write(double value) { text_ += Json(value).dump(); }
  void write(const char* value) { write(std::string_view(value)); }
  void write(const std::string& value) { write(std::string_view(value)); }
  void write(std::string_view value) {
    const bool is_plain = std::all_of(value.begin(), value.end(),
                                      [](char c) { return c >= ' ' && c < '\x7f' && c != '"' && c != '\\'; });
    if (is_plain) {
      text_ += '"';
      text_ += value;
      text_ += '"';
    } else {
      text_ += Json(value).dump();
    }
  }

  std::string text_;
  std::string closing_;
  std::vector<std::size_t> starts_;
};

// -- the fields, in the order in which they are written --

template <typename Sink>
void put_text(Sink& sink, const char* key, const std::string& text) {
  if (!text.empty()) {
    sink.put(key, text);
  }
}

template <typename Sink>
void put_size(Sink& sink, const char* key, const std::optional<Bytes>& bytes) {
  if (bytes) {
    sink.put(key, size_text(*bytes));
  }
}

template <typename Sink>
void put_duration(Sink& sink, const char* key, const std::optional<Milliseconds>& duration) {
  if (duration) {
    sink.put(key, duration_text(*duration));
  }
}

template <typename Sink, typename Number>
void put_number(Sink& sink, const char* key, const std::optional<Number>& number) {
  if (number) {
    sink.put(key, *number);
  }
}

/// Calls `add` for each element, with the array open around them, if there are any.
template <typename Sink, typename Elements, typename Add>
void put_array(Sink& sink, const char* key, const Elements& elements, Add add) {
  if (elements.empty()) {
    return;
  }
  sink.open_array(key);
  for (const auto& element : elements) {
    add(element);
  }
  sink.close();
}

template <typename Sink>
void put_io(Sink& sink, const IoLimit& limit) {
  sink.open_object_in_array();
  sink.put("device", limit.device);
  put_size(sink, "read_bps", limit.read_bytes_per_second);
  put_size(sink, "write_bps", limit.write_bytes_per_second);
  put_number(sink, "read_iops", limit.read_operations_per_second);
  put_number(sink, "write_iops", limit.write_operations_per_second);
  sink.close();
}

template <typename Sink>
void put_limits(Sink& sink, const Limits& limits) {
  sink.open_object("limits");
  put_duration(sink, "cpu_time", limits.cpu_time);
  put_number(sink, "cpu_quota", limits.cpu_quota);
  put_number(sink, "cpu_weight", limits.cpu_weight);
  put_size(sink, "swap", limits.swap);
  put_size(sink, "memory_high", limits.memory_high);
  if (limits.oom_group) {
    sink.put("oom_group", true);
  }
  put_number(sink, "pids", limits.pids);
  put_size(sink, "output", limits.output);
  put_size(sink, "tmpfs", limits.tmpfs);
  put_number(sink, "open_files", limits.open_files);
  put_size(sink, "file_size", limits.file_size);
  put_size(sink, "core_size", limits.core_size);
  put_size(sink, "stack_size", limits.stack_size);
  put_size(sink, "locked_memory", limits.locked_memory);
  put_array(sink, "io", limits.io, [&](const IoLimit& limit) { put_io(sink, limit); });
  if (!limits.hugetlb.empty()) {
    sink.open_object("hugetlb");
    for (const auto& [page_size, bytes] : limits.hugetlb) {
      sink.put(page_size, size_text(bytes));
    }
    sink.close();
  }
  put_number(sink, "net_class", limits.net_class);
  sink.close_unless_empty();
}

template <typename Sink>
void put_mount(Sink& sink, const Mount& mount) {
  sink.open_object_in_array();
  sink.put("type", mount.kind == Mount::Kind::bind ? "bind" : "tmpfs");
  put_text(sink, "source", mount.source);
  sink.put("target", mount.target);
  if (mount.kind == Mount::Kind::bind) {
    sink.put("read_only", mount.read_only);
  }
  put_size(sink, "size", mount.size);
  sink.close();
}

template <typename Sink>
void put_egress(Sink& sink, const Egress& egress) {
  switch (egress.mode) {
    case EgressMode::public_addresses:
      sink.put("egress", "public");
      return;
    case EgressMode::deny:
      sink.put("egress", "deny");
      return;
    case EgressMode::allow:
      sink.put("egress", "allow");
      return;
    case EgressMode::rules:
      break;
  }
  sink.open_array("egress");
  for (const EgressRule& rule : egress.rules) {
    sink.add(egress_rule_text(rule));
  }
  sink.close();
}

template <typename Sink>
void put_network(Sink& sink, const NetworkSpec& network) {
  if (network.is_connected() || network.egress != Egress{}) {
    put_egress(sink, network.egress);
  }
  put_array(sink, "publish", network.publish, [&](const PublishedPort& port) { sink.add(port.to_text()); });
  sink.open_object("dns");
  put_array(sink, "servers", network.dns_servers,
            [&](const IpAddress& server) { sink.add(server.to_text()); });
  put_array(sink, "search", network.dns_search, [&](const std::string& domain) { sink.add(domain); });
  if (!network.hosts.empty()) {
    sink.open_object("hosts");
    for (const auto& [name, address] : network.hosts) {
      sink.put(name, address.to_text());
    }
    sink.close();
  }
  sink.close_unless_empty();
  sink.open_object("rate");
  put_size(sink, "in", network.rate_in);
  put_size(sink, "out", network.rate_out);
  sink.close_unless_empty();
}

template <typename Sink>
void put_isolation(Sink& sink, const Isolation& isolation) {
  sink.open_object("isolation");
  sink.put("network", network_mode_text(isolation.network));
  put_network(sink, isolation.network);
  if (!isolation.root.empty() || isolation.root_writable) {
    sink.open_object("root");
    sink.put("path", isolation.root);
    sink.put("writable", isolation.root_writable);
    sink.close();
  }
  sink.put("overlay", isolation.overlay);
  put_array(sink, "mounts", isolation.mounts, [&](const Mount& mount) { put_mount(sink, mount); });
  put_text(sink, "hostname", isolation.hostname);
  put_text(sink, "user", isolation.user);
  put_array(sink, "devices", isolation.devices, [&](const std::string& device) { sink.add(device); });
  sink.put("seccomp", isolation.seccomp ? "default" : "none");
  sink.open_object("time_offset");
  put_number(sink, "monotonic", isolation.time_offset_monotonic_seconds);
  put_number(sink, "boottime", isolation.time_offset_boottime_seconds);
  sink.close_unless_empty();
  sink.close();
}

template <typename Sink>
void put_command(Sink& sink, const JobSpec& spec) {
  put_text(sink, "name", spec.name);
  put_text(sink, "script", spec.script);
  put_array(sink, "argv", spec.argv, [&](const std::string& argument) { sink.add(argument); });
  put_text(sink, "current_working_directory", spec.current_working_directory);
  if (!spec.environment.empty()) {
    sink.open_object("environment");
    for (const auto& [name, value] : spec.environment) {
      sink.put(name, value);
    }
    sink.close();
  }
  put_text(sink, "standard_input", spec.standard_input);
  put_text(sink, "standard_output", spec.standard_output);
  put_text(sink, "standard_error", spec.standard_error);
  sink.put("open_mode", spec.open_mode == OpenMode::truncate ? "truncate" : "append");
  if (spec.umask) {
    std::string digits = "0000";
    for (unsigned mask = *spec.umask, place = 3; mask != 0; mask >>= 3U) {
      digits[place--] = static_cast<char>('0' + (mask & 7U));
    }
    sink.put("umask", digits);
  }
  if (spec.terminal) {
    sink.put("terminal", true);
  }
}

template <typename Sink>
void put_times(Sink& sink, const JobSpec& spec) {
  put_duration(sink, "time_limit", spec.time_limit);
  if (spec.kill_warning_signal != 0) {
    sink.put("kill_warning_signal", signal_name(spec.kill_warning_signal));
  }
  if (spec.kill_warning_batch_job) {
    sink.open_array("kill_warning_flags");
    sink.add("BATCH_JOB");
    sink.close();
  }
  if (spec.kill_warning_signal != 0 || spec.kill_warning_delay != JobSpec().kill_warning_delay) {
    sink.put("kill_warning_delay", duration_text(spec.kill_warning_delay));
  }
  sink.put("grace_period", duration_text(spec.grace_period));
  put_duration(sink, "no_output_timeout", spec.no_output_timeout);
}

template <typename Sink>
void put_queueing(Sink& sink, const JobSpec& spec) {
  if (spec.hold) {
    sink.put("hold", true);
  }
  if (spec.requeue) {
    sink.put("requeue", true);
  }
  if (spec.begin_time) {
    sink.put("begin_time", format_instant_utc(*spec.begin_time));
  }
  if (spec.deadline) {
    sink.put("deadline", format_instant_utc(*spec.deadline));
  }
  put_text(sink, "dependency", spec.dependency);
  put_text(sink, "array", spec.array);
  if (spec.retry) {
    sink.open_object("retry");
    sink.put("max", spec.retry->max);
    put_array(sink, "on", spec.retry->on, [&](JobState state) { sink.add(std::string(to_string(state))); });
    put_array(sink, "exit_codes", spec.retry->exit_codes, [&](int code) { sink.add(code); });
    sink.put("backoff", duration_text(spec.retry->backoff));
    sink.put("memory_factor", spec.retry->memory_factor);
    sink.close();
  }
}

template <typename Sink>
auto write_spec(const JobSpec& spec) {
  Sink sink;
  sink.put("schema_version", 1);
  put_command(sink, spec);
  put_text(sink, "account", spec.account);
  put_text(sink, "comment", spec.comment);
  sink.put("priority", spec.priority);
  sink.put("nice", spec.nice);
  sink.put("cpus_per_task", spec.cpus_per_task);
  put_size(sink, "memory_per_node", spec.memory_per_node);
  put_times(sink, spec);
  put_queueing(sink, spec);
  put_limits(sink, spec.limits);
  put_isolation(sink, spec.isolation);
  return sink.take();
}

}  // namespace

Json to_json(const JobSpec& spec) {
  return write_spec<ValueSink>(spec);
}

std::string to_json_text(const JobSpec& spec) {
  return write_spec<TextSink>(spec);
}

}  // namespace berth
