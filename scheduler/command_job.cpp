#include "scheduler/command_job.h"

#include <strings.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <limits>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "scheduler/log.h"
#include "scheduler/small_file.h"
#include "schemas/coming_instant.h"
#include "schemas/input_error.h"
#include "schemas/job_file.h"
#include "schemas/signals.h"
#include "schemas/utf8.h"

namespace berth {
namespace {

using namespace std::string_view_literals;

/// What describes the calling session and not the job: inside, the home, the temporary folder and the user
/// may be others, and a path of the caller's run-time folder leads nowhere.
constexpr std::array kSessionVariables{"HOME"sv,
                                       "USER"sv,
                                       "LOGNAME"sv,
                                       "SHELL"sv,
                                       "MAIL"sv,
                                       "PWD"sv,
                                       "OLDPWD"sv,
                                       "SHLVL"sv,
                                       "_"sv,
                                       "TMPDIR"sv,
                                       "XDG_RUNTIME_DIR"sv,
                                       "XDG_SESSION_ID"sv,
                                       "DBUS_SESSION_BUS_ADDRESS"sv,
                                       "SSH_AUTH_SOCK"sv};

bool is_session_variable(std::string_view name) {
  return name.starts_with("SUDO_") ||
         std::find(kSessionVariables.begin(), kSessionVariables.end(), name) != kSessionVariables.end();
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const std::size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) {
      return parts;
    }
    text.remove_prefix(at + 1);
  }
}

template <typename Number>
Number parse_number(std::string_view text, std::string_view kind) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw std::invalid_argument("is not " + std::string(kind));
  }
  return number;
}

Bytes checked_product(Bytes size, unsigned count) {
  if (count > 0 && size > static_cast<Bytes>(std::numeric_limits<std::int64_t>::max()) / count) {
    throw std::invalid_argument("is too large (less than 8E)");
  }
  return size * count;
}

/// What the options that are written may not say together, in their own words.
void check_long_mount(const Mount& mount, bool says_read_only) {
  if (mount.target.empty()) {
    throw std::invalid_argument("names no target; add target=PATH");
  }
  if (mount.kind == Mount::Kind::bind) {
    if (mount.size) {
      throw std::invalid_argument("is a bind mount, which has no size; remove it, or use type=tmpfs");
    }
    return;
  }
  if (!mount.size) {
    throw std::invalid_argument("is a tmpfs without a size; add one, e.g. size=64M");
  }
  if (!mount.source.empty()) {
    throw std::invalid_argument("is a tmpfs, which has no source; remove it, or use type=bind");
  }
  if (says_read_only) {
    throw std::invalid_argument("is a tmpfs, which is always writable; remove ro");
  }
}

Mount parse_long_mount(std::string_view text) {
  Mount mount;
  bool says_read_only = false;
  for (const std::string_view part : split(text, ',')) {
    const std::size_t equals = part.find('=');
    const std::string_view key = part.substr(0, equals);
    const std::string value{equals == std::string_view::npos ? "" : part.substr(equals + 1)};
    if (key == "type" && (value == "bind" || value == "tmpfs")) {
      mount.kind = value == "bind" ? Mount::Kind::bind : Mount::Kind::tmpfs;
    } else if (key == "source" || key == "src") {
      mount.source = value;
    } else if (key == "target" || key == "destination" || key == "dst") {
      mount.target = value;
    } else if (key == "size") {
      try {
        mount.size = parse_size(value, kMebibyte);
      } catch (const std::invalid_argument& error) {
        throw std::invalid_argument("has a size that " + std::string(error.what()));
      }
    } else if (key == "ro" || key == "readonly") {
      mount.read_only = says_read_only = true;
    } else if (key == "rw") {
      mount.read_only = says_read_only = false;
    } else {
      throw std::invalid_argument("is not a mount: \"" + std::string(part) +
                                  "\" is none of type=bind|tmpfs, source=, target=, size=, ro, rw");
    }
  }
  if (mount.target.empty() && mount.kind == Mount::Kind::bind) {
    mount.target = mount.source;
  }
  check_long_mount(mount, says_read_only);
  return mount;
}

Mount parse_mount(std::string_view text) {
  const std::string_view head = text.substr(0, text.find_first_of("=,"));
  if (head.size() < text.size() && !text.starts_with('/')) {
    return parse_long_mount(text);
  }
  Mount mount;
  const std::vector<std::string_view> parts = split(text, ':');
  mount.source = parts[0];
  mount.target = parts[0];
  for (std::size_t i = 1; i < parts.size(); ++i) {
    if (parts[i] == "ro" || parts[i] == "rw") {
      mount.read_only = parts[i] == "ro";
    } else if (i == 1) {
      mount.target = parts[i];
    } else {
      throw std::invalid_argument("is not a mount (use PATH, PATH:INSIDE, PATH:INSIDE:rw)");
    }
  }
  return mount;
}

template <typename Value>
void set_once(std::optional<Value>& part, Value value, std::string_view name) {
  if (part) {
    throw std::invalid_argument("gives " + std::string(name) + " twice");
  }
  part = value;
}

/// Where the device ends in "/dev/vda:read_bps=1M" and "254:0:read_bps=1M": the last colon before the first
/// "=".
std::size_t end_of_device(std::string_view text) {
  return text.substr(0, text.find('=')).rfind(':');
}

IoLimit parse_io(std::string_view text) {
  const std::size_t colon = end_of_device(text);
  if (colon == std::string_view::npos || text.find('=') == std::string_view::npos) {
    throw std::invalid_argument("is not an I/O limit (use /dev/vda:read_bps=10M,write_iops=100)");
  }
  IoLimit limit;
  limit.device = text.substr(0, colon);
  for (const std::string_view part : split(text.substr(colon + 1), ',')) {
    const std::size_t equals = part.find('=');
    const std::string_view key = part.substr(0, equals);
    const std::string_view value = equals == std::string_view::npos ? ""sv : part.substr(equals + 1);
    if (key == "read_bps") {
      set_once(limit.read_bytes_per_second, parse_size(value), key);
    } else if (key == "write_bps") {
      set_once(limit.write_bytes_per_second, parse_size(value), key);
    } else if (key == "read_iops") {
      set_once(limit.read_operations_per_second, parse_count(value), key);
    } else if (key == "write_iops") {
      set_once(limit.write_operations_per_second, parse_count(value), key);
    } else {
      throw std::invalid_argument("is not an I/O limit: \"" + std::string(part) +
                                  "\" is none of read_bps=, write_bps=, read_iops=, write_iops=");
    }
  }
  return limit;
}

/// What a value of a repeatable option is about, where there can be one value about it: the target of a
/// mount, the device of an I/O limit, the size of a huge page. Else empty.
std::string subject_of(std::string_view option, const std::string& value) {
  if (option == "io") {
    return value.substr(0, std::min(end_of_device(value), value.size()));
  }
  if (option == "hugetlb") {
    return value.substr(0, value.find('='));
  }
  if (option != "mount") {
    return "";
  }
  try {
    return parse_mount(value).target;
  } catch (const std::invalid_argument&) {
    return "";  // told where it is read
  }
}

/// "0x100001", "1048577", or tc's "10:1" (hexadecimal, 0x00100001).
std::uint32_t parse_net_class(std::string_view text) {
  constexpr auto kKind = "a class (use 0x100001, or 10:1 as tc does)"sv;
  const auto hexadecimal = [&](std::string_view digits) {
    std::uint32_t number = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number, 16);
    if (error != std::errc() || end != digits.data() + digits.size()) {
      throw std::invalid_argument("is not " + std::string(kKind));
    }
    return number;
  };
  const std::size_t colon = text.find(':');
  if (colon != std::string_view::npos) {
    const std::uint32_t major = hexadecimal(text.substr(0, colon));
    const std::uint32_t minor = colon + 1 == text.size() ? 0 : hexadecimal(text.substr(colon + 1));
    if (major > 0xFFFF || minor > 0xFFFF) {
      throw std::invalid_argument("is not " + std::string(kKind));
    }
    return (major << 16U) | minor;
  }
  return text.starts_with("0x") ? hexadecimal(text.substr(2)) : parse_number<std::uint32_t>(text, kKind);
}

void parse_signal_option(std::string_view text, JobSpec& spec) {
  const std::size_t at = text.find('@');
  const std::string_view name = text.substr(0, at);
  const bool batch_job = name.starts_with("B:");
  const bool has_letter =
      batch_job || name.starts_with("R:");  // R speaks of reservations, which there are not
  const std::optional<int> number = parse_signal(has_letter ? name.substr(2) : name);
  if (!number) {
    throw std::invalid_argument("does not name a signal (use USR1, USR1@60, B:USR1@60 …)");
  }
  spec.kill_warning_signal = *number;
  spec.kill_warning_batch_job = batch_job;
  if (at != std::string_view::npos) {
    spec.kill_warning_delay = parse_duration(text.substr(at + 1), std::chrono::seconds(1));
  }
}

void parse_time_offset(std::string_view text, Isolation& isolation) {
  for (const std::string_view part : split(text, ',')) {
    const std::size_t equals = part.find('=');
    const std::string_view clock = part.substr(0, equals);
    if (equals == std::string_view::npos || (clock != "monotonic" && clock != "boottime")) {
      throw std::invalid_argument("is not a time offset (use monotonic=SECONDS,boottime=SECONDS)");
    }
    auto& offset = clock == "monotonic" ? isolation.time_offset_monotonic_seconds
                                        : isolation.time_offset_boottime_seconds;
    set_once(offset, parse_integer(part.substr(equals + 1)), clock);
  }
}

/// What it may be is checked with the whole job.
void parse_network(std::string_view text, NetworkSpec& network) {
  constexpr auto kShared = "shared:"sv;
  if (text == "none" || text == "loopback") {
    network.mode = text == "none" ? NetworkMode::none : NetworkMode::loopback;
  } else if (text == "host") {
    network.mode = NetworkMode::host;
  } else if (text == "private") {
    network.mode = NetworkMode::isolated;
  } else if (text.starts_with(kShared) && is_network_name(text.substr(kShared.size()))) {
    network.mode = NetworkMode::shared;
    network.shared_name = text.substr(kShared.size());
  } else {
    throw std::invalid_argument("is not a network (use private, shared:NAME, loopback, none or host)");
  }
}

/// One --egress: a policy, or one more rule.
void parse_egress(const std::string& text, Egress& egress) {
  const bool has_rules = egress.mode == EgressMode::rules;
  if (text == "deny" || text == "allow") {
    if (has_rules) {
      throw std::invalid_argument("does not go with rules: what none of them names is denied");
    }
    egress = {text == "deny" ? EgressMode::deny : EgressMode::allow, {}};
  } else if (text == "public" && !has_rules) {
    egress = {};
  } else {
    EgressRule rule = parse_egress_rule(text);
    egress.mode = EgressMode::rules;
    egress.rules.push_back(std::move(rule));
  }
}

IpAddress parse_address(std::string_view text) {
  const std::optional<IpAddress> address = IpAddress::parse(text);
  if (!address) {
    throw std::invalid_argument("is not an address (use 9.9.9.9 or 2620:fe::fe)");
  }
  return *address;
}

void parse_rate(std::string_view text, NetworkSpec& network) {
  for (const std::string_view part : split(text, ',')) {
    const std::size_t equals = part.find('=');
    const std::string_view key = part.substr(0, equals);
    if (equals == std::string_view::npos || (key != "in" && key != "out")) {
      throw std::invalid_argument("is not a rate (use in=10M,out=1M: bytes per second)");
    }
    set_once(key == "in" ? network.rate_in : network.rate_out, parse_size(part.substr(equals + 1)), key);
  }
}

/// "FOO=1", as Docker's -e takes it, and no name that somebody would give to a file.
bool is_variable(std::string_view text) {
  const std::size_t length = text.find('=');
  if (length == 0 || length == std::string_view::npos || (text[0] >= '0' && text[0] <= '9')) {
    return false;
  }
  const auto is_any_of = [](char c, std::string_view ranges) {
    return (c >= ranges[0] && c <= ranges[1]) || (c >= '0' && c <= '9') || c == '_';
  };
  const std::string_view name = text.substr(0, length);
  const bool is_capital = std::all_of(name.begin(), name.end(), [&](char c) { return is_any_of(c, "AZ"); });
  const bool is_name =
      std::all_of(name.begin(), name.end(), [&](char c) { return is_any_of(c, "AZ") || is_any_of(c, "az"); });
  return is_name && text.find('%') == std::string_view::npos &&
         (is_capital || text.find('.') == std::string_view::npos);
}

std::string absolute(const std::string& path, const CallerContext& caller) {
  // A relative one without a current directory is refused with the whole job.
  return path.starts_with('/') || caller.directory.empty()
             ? path
             : (std::filesystem::path(caller.directory) / path).lexically_normal().string();
}

/// The same for a path with patterns (%j …).
std::string absolute_pattern(const std::string& path, const CallerContext& caller) {
  CallerContext escaped;
  escaped.directory = escape_pattern(caller.directory);
  return absolute(path, escaped);
}

template <typename Value>
Value one_of(std::string_view text, std::initializer_list<std::pair<std::string_view, Value>> choices) {
  std::string names;
  for (const auto& [name, value] : choices) {
    if (text == name) {
      return value;
    }
    names += (names.empty() ? "" : " or ") + std::string(name);
  }
  throw std::invalid_argument("is not " + names);
}

/// Applies options one by one and gathers the faults of all.
class SpecBuilder {
 public:
  SpecBuilder(const CommandLine& line, const CallerContext& caller) : line_(line), caller_(caller) {}

  void add_job() {
    for (const char* option : {"nodes", "ntasks", "ntasks-per-node"}) {
      each(option, [](const std::string& text) {
        if (text != "1" && text != "1-1") {
          throw std::invalid_argument("is not 1: a job is one task on this machine; use -c for its CPUs");
        }
      });
    }
    each("job-name", [&](const std::string& text) { spec_.name = text; });
    spec_.current_working_directory = caller_.directory;
    each("chdir",
         [&](const std::string& text) { spec_.current_working_directory = absolute(text, caller_); });
    each("input", [&](const std::string& text) { spec_.standard_input = absolute_pattern(text, caller_); });
    each("output", [&](const std::string& text) { spec_.standard_output = absolute_pattern(text, caller_); });
    each("error", [&](const std::string& text) {
      if (is_variable(text)) {
        throw std::invalid_argument("looks like a variable, and this option names a file: use --env " + text +
                                    ", or for such a file ./" + text);
      }
      spec_.standard_error = absolute_pattern(text, caller_);
    });
    each("open-mode", [&](const std::string& text) {
      spec_.open_mode =
          one_of<OpenMode>(text, {{"truncate", OpenMode::truncate}, {"append", OpenMode::append}});
    });
    spec_.umask = caller_.umask;
    each("account", [&](const std::string& text) { spec_.account = text; });
    each("comment", [&](const std::string& text) { spec_.comment = text; });
    each("priority", [&](const std::string& text) { spec_.priority = parse_integer(text); });
    each("nice", [&](const std::string& text) { spec_.nice = parse_integer(text); });
    add_environment();
  }

  void add_queueing() {
    const auto now = std::chrono::time_point_cast<Timestamp::duration>(std::chrono::system_clock::now());
    each("array", [&](const std::string& text) { spec_.array = text; });
    each("begin", [&](const std::string& text) { spec_.begin_time = parse_coming_instant(text, now); });
    each("deadline", [&](const std::string& text) { spec_.deadline = parse_coming_instant(text, now); });
    each("dependency", [&](const std::string& text) { spec_.dependency = text; });
    spec_.hold = line_.has("hold");
    spec_.terminal = line_.command->name == "submit" && line_.has("pty");  // of berth run it is the caller's
    spec_.requeue = line_.last_of({"requeue", "no-requeue"}) == "requeue";
    each("retry", [&](const std::string& text) {
      spec_.retry.emplace().max = parse_number<unsigned>(text, "a number of attempts (use 1, 2, 3 …)");
    });
    each("retry-backoff",
         [&](const std::string& text) { retry().backoff = parse_duration(text, std::chrono::seconds(1)); });
    each("memory-factor", [&](const std::string& text) {
      constexpr auto kKind = "a factor (use a number from 1 to 100, such as 1.5)"sv;
      const auto factor = parse_number<double>(text, kKind);
      if (!(factor >= 1 && factor <= 100)) {  // nan too
        throw std::invalid_argument("is not " + std::string(kKind));
      }
      retry().memory_factor = factor;
    });
  }

  void add_limits() {
    each("cpus-per-task", [&](const std::string& text) {
      spec_.cpus_per_task = parse_number<unsigned>(text, "a number of CPUs (use 1, 2, 3 …)");
    });
    add_memory();
    each("time", [&](const std::string& text) {
      spec_.time_limit = is_no_time_limit(text)
                             ? std::nullopt
                             : std::optional(parse_duration(text, std::chrono::minutes(1)));
    });
    each("signal", [&](const std::string& text) { parse_signal_option(text, spec_); });
    each("grace", [&](const std::string& text) {
      spec_.grace_period = parse_duration(text, std::chrono::seconds(1));
    });
    each("no-output-timeout", [&](const std::string& text) {
      spec_.no_output_timeout = parse_duration(text, std::chrono::seconds(1));
    });
    Limits& limits = spec_.limits;
    each("cpu-time",
         [&](const std::string& text) { limits.cpu_time = parse_duration(text, std::chrono::seconds(1)); });
    each("cpu-quota", [&](const std::string& text) {
      limits.cpu_quota = parse_number<double>(text, "a number of CPUs (use 0.5, 2 …)");
      if (!std::isfinite(*limits.cpu_quota)) {
        throw std::invalid_argument("is not a number of CPUs (use 0.5, 2 …)");
      }
    });
    each("cpu-weight", [&](const std::string& text) {
      limits.cpu_weight = parse_number<unsigned>(text, "a weight (use 1 to 10000)");
    });
    size("swap", limits.swap);
    size("memory-high", limits.memory_high);
    limits.oom_group = line_.has("oom-group");
    size("output-limit", limits.output);
    size("tmpfs", limits.tmpfs);
    size("file-size", limits.file_size);
    size("core-size", limits.core_size);
    size("stack-size", limits.stack_size);
    size("locked-memory", limits.locked_memory);
    each("pids", [&](const std::string& text) { limits.pids = parse_count(text); });
    each("open-files", [&](const std::string& text) { limits.open_files = parse_count(text); });
    each("io", [&](const std::string& text) { limits.io.push_back(parse_io(text)); });
    each("hugetlb", [&](const std::string& text) {
      const std::size_t equals = text.find('=');
      if (equals == std::string::npos) {
        throw std::invalid_argument("is not a huge-page limit (use 2MB=64M)");
      }
      const std::string page = text.substr(0, equals);
      if (!limits.hugetlb.emplace(page, parse_size(std::string_view(text).substr(equals + 1))).second) {
        throw std::invalid_argument("gives " + page + " a second time");
      }
    });
    each("net-class", [&](const std::string& text) { limits.net_class = parse_net_class(text); });
  }

  void add_memory() {
    if (line_.last_of({"mem", "mem-per-cpu"}) == "mem-per-cpu") {
      each("mem-per-cpu", [&](const std::string& text) {
        spec_.memory_per_node = checked_product(parse_size(text, kMebibyte), spec_.cpus_per_task);
      });
      return;
    }
    each("mem", [&](const std::string& text) {
      spec_.memory_per_node = parse_size(text, kMebibyte);
      if (spec_.memory_per_node == Bytes{0}) {
        throw std::invalid_argument(
            "is not greater than 0; all memory, which sbatch means by 0, is a size here");
      }
    });
  }

  void add_isolation() {
    Isolation& isolation = spec_.isolation;
    each("network", [&](const std::string& text) { parse_network(text, isolation.network); });
    add_network(isolation.network);
    each("mount", [&](const std::string& text) { isolation.mounts.push_back(parse_mount(text)); });
    each("root", [&](const std::string& text) { isolation.root = absolute(text, caller_); });
    isolation.root_writable = line_.has("root-writable");
    if (isolation.root_writable && !line_.has("root")) {
      faults_.push_back({kCommandLine, "--root-writable", "says nothing without --root; add it"});
    }
    isolation.overlay = line_.has("overlay");
    each("user", [&](const std::string& text) { isolation.user = text; });
    each("hostname", [&](const std::string& text) { isolation.hostname = text; });
    each("device", [&](const std::string& text) { isolation.devices.push_back(text); });
    each("seccomp", [&](const std::string& text) {
      isolation.seccomp = one_of<bool>(text, {{"default", true}, {"none", false}});
    });
    each("time-offset", [&](const std::string& text) { parse_time_offset(text, isolation); });
  }

  void add_network(NetworkSpec& network) {
    const std::vector<std::string> egress = line_.values("egress");
    // "--egress public" beside rules is one of them.
    if (egress.size() > 1 && egress.front() == "public") {
      network.egress = {EgressMode::rules, {EgressRule{}}};
    }
    bool first = true;
    each("egress", [&](const std::string& text) {
      if (!std::exchange(first, false) || network.egress.mode != EgressMode::rules) {
        parse_egress(text, network.egress);
      }
    });
    each("publish", [&](const std::string& text) {
      try {
        network.publish.push_back(parse_published_port(text));
      } catch (const std::invalid_argument& error) {
        throw std::invalid_argument(std::string(error.what()) +
                                    "; sbatch's -p names a partition, and there are none: leave it out");
      }
    });
    each("rate", [&](const std::string& text) { parse_rate(text, network); });
    each("dns", [&](const std::string& text) { network.dns_servers.push_back(parse_address(text)); });
    each("dns-search", [&](const std::string& text) { network.dns_search.push_back(text); });
    each("add-host", [&](const std::string& text) {
      const std::size_t colon = text.find_first_of(":=");
      if (colon == std::string::npos) {
        throw std::invalid_argument("is not a name and its address (use db.internal:10.0.0.5)");
      }
      network.hosts[text.substr(0, colon)] = parse_address(std::string_view(text).substr(colon + 1));
    });
  }

  void add_command(std::string_view script, std::string_view script_name) {
    spec_.script = script;
    script_name_ = script_name;
    if (line_.job_command) {
      spec_.argv = *line_.job_command;
    }
    if (spec_.name.empty()) {
      const std::string from = !script.empty()      ? std::string(script_name)
                               : spec_.argv.empty() ? ""
                                                    : spec_.argv[0];
      spec_.name = std::filesystem::path(from).filename().string();
    }
    if (!is_utf8(spec_.script)) {
      faults_.push_back({std::string(script_name), "", "is not UTF-8 text; convert it"});
    }
    for (const std::string& word : spec_.argv) {
      if (!is_utf8(word)) {
        faults_.push_back({kCommandLine, "",
                           "\"" + word + "\" is not UTF-8, which records are kept in; name it otherwise"});
      }
    }
  }

  JobSpec finish() {
    if (faults_.empty()) {
      try {
        return validated(spec_, kCommandLine);
      } catch (const InputError& error) {
        faults_ = error.faults();
        for (InputFault& fault : faults_) {
          name_by_option(fault);
        }
      }
    }
    throw InputError(std::move(faults_));
  }

 private:
  Retry& retry() {
    if (!spec_.retry) {
      throw std::invalid_argument("says nothing without --retry");
    }
    return *spec_.retry;
  }

  /// The values of an option that count: one that is not repeatable is replaced by the next of its name, and
  /// what a line of a script says about a mount, a device or a page size by what another line or the command
  /// line says about it.
  std::vector<GivenOption> counting(std::string_view name) const {
    std::vector<GivenOption> given = line_.given(name);
    const auto options = line_.command->options;
    const auto option =
        std::find_if(options.begin(), options.end(), [&](const Option& known) { return known.name == name; });
    if (given.size() > 1 && option != options.end() && !option->repeatable) {
      given.erase(given.begin(), given.end() - 1);
    }
    for (auto later = given.begin(); later != given.end(); ++later) {
      if (const std::string subject = subject_of(name, later->value); !subject.empty()) {
        const auto kept = std::remove_if(given.begin(), later, [&](const GivenOption& earlier) {
          return earlier.place != later->place && subject_of(name, earlier.value) == subject;
        });
        later = given.erase(kept, later);
      }
    }
    return given;
  }

  /// Calls `apply` with each value that counts; what it throws becomes a fault that quotes the value.
  void each(const char* option, const std::function<void(const std::string&)>& apply) {
    for (const GivenOption& given : counting(option)) {
      const std::string& text = given.value;
      if (!is_utf8(text)) {
        faults_.push_back(
            {given.place, std::string("--") + option, "is not UTF-8, which records are kept in"});
        continue;
      }
      try {
        // A variable of a script that is not set. A job file's comment may be empty too.
        if (text.empty() && std::string_view(option) != "comment") {
          throw std::invalid_argument("is empty; leave the option out or give it a value");
        }
        apply(text);
      } catch (const std::invalid_argument& error) {
        faults_.push_back({given.place, std::string("--") + option, '"' + text + "\" " + error.what()});
      }
    }
  }

  void size(const char* option, std::optional<Bytes>& limit) {
    each(option, [&](const std::string& text) { limit = parse_size(text); });
  }

  void add_environment() {
    std::map<std::string, std::string> environment;
    std::string list = "ALL";
    each("export", [&](const std::string& text) { list = text; });
    for (auto& [name, value] : exported_environment(list, caller_.environment)) {
      if (is_utf8(name) && is_utf8(value)) {
        environment[name] = value;
      } else {
        log_warning("the environment variable " + name + " is not UTF-8 and is left out");
      }
    }
    if (spec_.current_working_directory != caller_.directory || environment.contains("SLURM_SUBMIT_DIR")) {
      environment["SLURM_SUBMIT_DIR"] = caller_.directory;
    }
    each("env", [&](const std::string& text) {
      const std::size_t equals = text.find('=');
      const std::string name = text.substr(0, equals);
      if (equals != std::string::npos) {
        environment[name] = text.substr(equals + 1);
      } else if (const auto found = caller_.environment.find(name); found != caller_.environment.end()) {
        environment[name] = found->second;
      } else {
        throw std::invalid_argument("is neither NAME=VALUE nor a variable that is set here");
      }
    });
    spec_.environment = std::move(environment);
  }

  /// The option that set a field, or a part of it: the last that was given, where several can.
  const Option* option_of(const std::string& pointer) const {
    const Option* option = option_of_field(*line_.command, pointer);
    for (const Option& other : line_.command->options) {
      const bool is_same =
          option != nullptr &&
          (other.field == option->field || (!line_.has(option->name) && other.field.starts_with(pointer)));
      option = is_same && line_.last_of({option->name, other.name}) == other.name ? &other : option;
    }
    return option;
  }

  void name_by_option(InputFault& fault) const {
    fault.message = in_terms_of_options(*line_.command, std::move(fault.message));
    if (const Option* option = option_of(fault.pointer)) {
      const std::vector<GivenOption> given = line_.given(option->name);
      if (!given.empty()) {
        fault.file = given.back().place;
        if (fault.pointer == option->field) {
          quote(given.back().value, fault.message);
        }
      }
      fault.pointer = "--" + std::string(option->name);
    } else if (fault.pointer.starts_with("/argv")) {
      fault.pointer = "COMMAND";
    } else if (fault.pointer == "/script") {
      fault.file = script_name_;
      fault.pointer.clear();
    }
  }

  /// `"0B" is not …` quotes a value as a job file would say it: as the user wrote it instead.
  static void quote(const std::string& written, std::string& message) {
    std::size_t end = 1;
    while (end < message.size() && message[end] != '"') {
      end += message[end] == '\\' ? 2U : 1U;
    }
    if (message.starts_with('"') && end < message.size()) {
      message.replace(0, end, '"' + written);
    }
    const std::size_t number = message.find_first_not_of("0123456789.");
    if (number > 0 && number != std::string::npos && message[number] == ' ') {
      message.replace(0, number, written);
    }
  }

  const CommandLine& line_;
  const CallerContext& caller_;
  JobSpec spec_;
  std::string script_name_;
  std::vector<InputFault> faults_;
};

/// The words of --export's list. A value in quotes may hold commas, as for sbatch: A="x,y",B.
std::vector<std::string> exported_words(std::string_view list) {
  std::vector<std::string> words;
  while (!list.empty()) {
    const std::size_t equals = list.find_first_of("=,");
    const bool is_quoted = equals != std::string_view::npos && list[equals] == '=' &&
                           equals + 1 < list.size() && (list[equals + 1] == '"' || list[equals + 1] == '\'');
    const std::size_t close = is_quoted ? list.find(list[equals + 1], equals + 2) : std::string_view::npos;
    if (close != std::string_view::npos && (close + 1 == list.size() || list[close + 1] == ',')) {
      words.emplace_back(list.substr(0, equals + 1)).append(list.substr(equals + 2, close - equals - 2));
      list.remove_prefix(std::min(close + 2, list.size()));
      continue;
    }
    const std::size_t comma = std::min(list.find(','), list.size());
    words.emplace_back(list.substr(0, comma));
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return words;
}

/// umask(2) tells it only by setting it, which other threads would notice.
std::optional<unsigned> own_umask() {
  constexpr std::string_view kName = "Umask:\t";
  constexpr int kOctal = 8;
  const std::string status = read_small_file("/proc/self/status").value_or("");
  const std::size_t line = status.find(kName);
  unsigned mask = 0;
  if (line == std::string::npos ||
      std::from_chars(status.data() + line + kName.size(), status.data() + status.size(), mask, kOctal).ec !=
          std::errc()) {
    return std::nullopt;
  }
  return mask;
}

}  // namespace

std::uint64_t parse_count(std::string_view text) {
  return parse_number<std::uint64_t>(text, "a count (use 1, 2, 3 …)");
}

std::int64_t parse_integer(std::string_view text) {
  return parse_number<std::int64_t>(text, "a whole number");
}

bool is_no_time_limit(const std::string& text) {
  return (text.starts_with('0') && text.find_first_not_of("0:-") == std::string::npos) ||
         ::strcasecmp(text.c_str(), "UNLIMITED") == 0 || ::strcasecmp(text.c_str(), "INFINITE") == 0;
}

CallerContext caller_context() {
  CallerContext context;
  std::error_code gone;
  context.directory = std::filesystem::current_path(gone).string();
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::size_t equals = text.find('=', 1);
    if (equals != std::string_view::npos) {
      context.environment.emplace(text.substr(0, equals), text.substr(equals + 1));
    }
  }
  context.umask = own_umask();
  return context;
}

std::string in_terms_of_options(const CommandSpec& command, std::string message) {
  const auto replace = [&](const std::string& word, const std::string& by) {
    for (std::size_t at = message.find(word); at != std::string::npos;
         at = message.find(word, at + by.size())) {
      const std::size_t end = at + word.size();
      const bool goes_on =
          end < message.size() && (message[end] == '_' || (message[end] >= 'a' && message[end] <= 'z'));
      message.replace(at, goes_on ? 0 : word.size(), goes_on ? "" : by);
    }
  };
  for (const Option& option : command.options) {
    if (option.field.empty()) {
      continue;
    }
    std::string field(option.field.substr(1));
    std::replace(field.begin(), field.end(), '/', '.');
    const std::string name = "--" + std::string(option.name);
    if (field.find('.') != std::string::npos) {
      replace(field, name);
    } else {
      replace(" \"" + field + '"', " " + name);  // what a message begins with is a value
    }
  }
  replace(" \"kill_warning_delay\"", " @SECONDS");
  return message;
}

std::map<std::string, std::string> exported_environment(
    std::string_view list, const std::map<std::string, std::string>& environment) {
  std::map<std::string, std::string> exported;
  const std::vector<std::string> words = exported_words(list);
  const auto is_word = [](std::string_view word, const char* known) {  // in any case, as Slurm has them
    return ::strcasecmp(std::string(word).c_str(), known) == 0;
  };
  if (std::any_of(words.begin(), words.end(),
                  [&](const std::string& word) { return is_word(word, "ALL"); })) {
    for (const auto& [name, value] : environment) {
      if (!is_session_variable(name)) {
        exported[name] = value;
      }
    }
  }
  for (const std::string& word : words) {
    const std::size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    if (name.empty() || is_word(word, "ALL") || is_word(word, "NONE") || is_word(word, "NIL")) {
      continue;
    }
    if (equals != std::string_view::npos) {
      exported[name] = word.substr(equals + 1);
    } else if (const auto found = environment.find(name); found != environment.end()) {
      exported[name] = found->second;
    }
  }
  return exported;
}

JobSpec job_from_options(const CommandLine& line, const CallerContext& caller, std::string_view script,
                         std::string_view script_name) {
  SpecBuilder builder(line, caller);
  builder.add_job();
  builder.add_queueing();
  builder.add_limits();
  builder.add_isolation();
  builder.add_command(script, script_name);
  return builder.finish();
}

}  // namespace berth
