#include "schemas/daemon_config.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <span>
#include <system_error>

#include "schemas/input_error.h"
#include "schemas/job_reader.h"
#include "schemas/job_schema_gate.h"
#include "schemas/json_reader.h"
#include "schemas/json_text.h"

namespace berth {
namespace {

constexpr TextKind kConfigText{"a configuration", "three", "write {} where every key shall have its default"};
constexpr std::int64_t kMany = 1'000'000'000;

std::optional<unsigned> number(const Field& field, std::int64_t minimum, std::int64_t maximum = kMany) {
  const auto value = field.integer(minimum, maximum);
  return value ? std::optional(static_cast<unsigned>(*value)) : std::nullopt;
}

/// As read_members() does it for jobs; the nearest key is one of the same object.
template <typename Target>
void read_keys(const Field& field, std::span<const Member<Target>> table, Target& target) {
  read_members_or(field, table, target, [&](const Field& key) {
    constexpr std::size_t kLongestKey = 64;
    const std::string word = key.key().substr(0, kLongestKey);
    const auto nearest =
        std::min_element(table.begin(), table.end(), [&](const auto& left, const auto& right) {
          return edit_distance(word, left.name) < edit_distance(word, right.name);
        });
    key.refuse_plainly(std::string("is not a known key; the nearest one is \"") + nearest->name + '"');
  });
}

void read_cpus(const Field& field, DaemonConfig::Pool& pool) {
  if (const auto list = field.text()) {
    try {
      pool.cpus = CpuSet::parse(*list);
    } catch (const std::invalid_argument& error) {
      field.refuse_plainly(error.what());
    }
  }
}

constexpr Member<DaemonConfig::Pool> kPool[] = {
    {"cpus", read_cpus},
    {"memory",
     [](const Field& field, DaemonConfig::Pool& pool) {
       pool.memory = field.size({kMebibyte, false});
     }},
    {"slots", [](const Field& field, DaemonConfig::Pool& pool) { pool.slots = number(field, 1); }},
};

constexpr Member<DaemonConfig::Api> kApi[] = {
    {"body",
     [](const Field& field, DaemonConfig::Api& api) { api.body = field.size({}).value_or(api.body); }},
    {"connections",
     [](const Field& field, DaemonConfig::Api& api) {
       api.connections = number(field, 1).value_or(api.connections);
     }},
    {"connections_per_user",
     [](const Field& field, DaemonConfig::Api& api) {
       api.connections_per_user = number(field, 1).value_or(api.connections_per_user);
     }},
    {"requests_per_second",
     [](const Field& field, DaemonConfig::Api& api) {
       api.requests_per_second = number(field, 1).value_or(api.requests_per_second);
     }},
};

constexpr Member<DaemonConfig::UserLimits> kUserLimits[] = {
    {"waiting_jobs",
     [](const Field& field, DaemonConfig::UserLimits& limits) { limits.waiting_jobs = number(field, 1); }},
    {"running_jobs",
     [](const Field& field, DaemonConfig::UserLimits& limits) { limits.running_jobs = number(field, 1); }},
    {"cpus", [](const Field& field, DaemonConfig::UserLimits& limits) { limits.cpus = number(field, 1); }},
    {"memory",
     [](const Field& field, DaemonConfig::UserLimits& limits) {
       limits.memory = field.size({kMebibyte, false});
     }},
};

constexpr Member<NetworkSettings> kNetwork[] = {
    {"allow_host", [](const Field& field,
                      NetworkSettings& network) { network.allow_host = field.boolean().value_or(false); }},
    {"allow_privileged_ports",
     [](const Field& field, NetworkSettings& network) {
       network.allow_privileged_ports = field.boolean().value_or(false);
     }},
    {"connections",
     [](const Field& field, NetworkSettings& network) {
       network.connections = number(field, 0).value_or(network.connections);
     }},
    {"pool",
     [](const Field& field, NetworkSettings& network) {
       if (const auto ranges = field.text()) {
         try {
           parse_network_pool(*ranges, network);
         } catch (const std::invalid_argument& error) {
           field.refuse(error.what());
         }
       }
     }},
};

constexpr Member<DaemonConfig::Retain> kRetain[] = {
    {"age",
     [](const Field& field, DaemonConfig::Retain& retain) {
       retain.age = field.duration({std::chrono::seconds(1), false});
     }},
    {"jobs", [](const Field& field, DaemonConfig::Retain& retain) { retain.jobs = number(field, 0); }},
};

constexpr Member<DaemonConfig::Backup> kBackup[] = {
    {"every",
     [](const Field& field, DaemonConfig::Backup& backup) {
       backup.every = field.duration({std::chrono::seconds(1), true}).value_or(backup.every);
     }},
    {"file", [](const Field& field,
                DaemonConfig::Backup& backup) { backup.file = field.inside_path().value_or(""); }},
};

constexpr Member<DaemonConfig> kHistory[] = {
    {"backup", [](const Field& field,
                  DaemonConfig& config) { read_keys<DaemonConfig::Backup>(field, kBackup, config.backup); }},
    {"retain", [](const Field& field,
                  DaemonConfig& config) { read_keys<DaemonConfig::Retain>(field, kRetain, config.retain); }},
};

constexpr std::size_t kLongestSocket = 107;  // sockaddr_un
constexpr std::size_t kLongestRuntime = 60;  // the runners' sockets are below it
constexpr std::size_t kLongestPath = 4095;

template <std::string DaemonConfig::*Part, std::size_t Longest = kLongestPath>
void read_path(const Field& field, DaemonConfig& config) {
  const std::optional<std::string> path = field.inside_path();
  if (path && path->size() > Longest) {
    field.refuse("is longer than this path may be (" + std::to_string(Longest) + " bytes)");
  } else {
    config.*Part = path.value_or(config.*Part);
  }
}

void read_level(const Field& field, DaemonConfig& config) {
  constexpr std::array kLevels{"trace", "debug", "info", "warning", "error", "critical", "off"};
  const std::optional<std::string> level = field.text();
  if (level && std::find(kLevels.begin(), kLevels.end(), *level) == kLevels.end()) {
    field.refuse("is none of trace, debug, info, warning, error, critical, off");
  } else {
    config.log_level = level.value_or(config.log_level);
  }
}

constexpr Member<DaemonConfig> kConfig[] = {
    {"schema_version",
     [](const Field& field, DaemonConfig&) {
       if (field.value() != 1) {
         field.refuse("is not a version that this berth knows; use 1");
       }
     }},
    {"socket", read_path<&DaemonConfig::socket, kLongestSocket>},
    {"runtime_directory", read_path<&DaemonConfig::runtime_directory, kLongestRuntime>},
    {"state_directory", read_path<&DaemonConfig::state_directory>},
    {"runner_program", read_path<&DaemonConfig::runner_program>},
    {"runners",
     [](const Field& field, DaemonConfig& config) { config.runners = number(field, 0, 256).value_or(0); }},
    {"armed_ahead",
     [](const Field& field, DaemonConfig& config) { config.armed_ahead = number(field, 0, 64).value_or(0); }},
    {"administrators",
     [](const Field& field, DaemonConfig& config) {
       config.administrators = field.text(Emptiness::allowed).value_or("");
     }},
    {"pool", [](const Field& field,
                DaemonConfig& config) { read_keys<DaemonConfig::Pool>(field, kPool, config.pool); }},
    {"api",
     [](const Field& field, DaemonConfig& config) { read_keys<DaemonConfig::Api>(field, kApi, config.api); }},
    {"user_limits",
     [](const Field& field, DaemonConfig& config) {
       read_keys<DaemonConfig::UserLimits>(field, kUserLimits, config.user_limits);
     }},
    {"network", [](const Field& field,
                   DaemonConfig& config) { read_keys<NetworkSettings>(field, kNetwork, config.network); }},
    {"history",
     [](const Field& field, DaemonConfig& config) { read_keys<DaemonConfig>(field, kHistory, config); }},
    {"log_level", read_level},
};

[[noreturn]] void refuse_config(const std::string& path, int error_number) {
  throw InputError(path, "", "cannot open it: " + std::generic_category().message(error_number));
}

/// Nothing when it is not there. A FIFO or a device would keep whoever reads it waiting.
std::optional<std::string> read_config(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0 && errno == ENOENT) {
    return std::nullopt;
  }
  if (descriptor < 0) {
    refuse_config(path, errno);
  }
  struct stat status {};
  std::string text;
  ssize_t count = 0;
  if (::fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode)) {
    std::array<char, 65536> buffer{};
    while ((count = ::read(descriptor, buffer.data(), buffer.size())) > 0) {
      text.append(buffer.data(), static_cast<std::size_t>(count));
    }
  }
  const int error_number = count < 0 ? errno : 0;
  ::close(descriptor);
  if (error_number != 0) {
    refuse_config(path, error_number);
  }
  if (!S_ISREG(status.st_mode)) {
    throw InputError(path, "", "is not a regular file; name one that holds the configuration");
  }
  return text;
}

}  // namespace

DaemonConfig parse_daemon_config(std::string_view text, const std::string& file_name,
                                 const DaemonConfigCheck& check) {
  ReadContext context{file_name, "/", {}};
  DaemonConfig config;
  config.file = file_name;
  const std::optional<nlohmann::ordered_json> document =
      parse_json(text, file_name, context.faults, kConfigText);
  if (document) {
    read_keys<DaemonConfig>(Field(*document, "", context), kConfig, config);
    if (context.faults.empty()) {
      if (const auto fault = schema_fault(daemon_schema_text(), text, file_name, "docs/berthd.md")) {
        context.faults.push_back(*fault);
      }
    }
    if (check) {
      check(config, context.faults);
    }
    sort_by_position(context.faults, *document);
  }
  if (!context.faults.empty()) {
    throw InputError(std::move(context.faults));
  }
  return config;
}

DaemonConfig load_daemon_config(const std::string& path, bool optional, const DaemonConfigCheck& check) {
  const std::optional<std::string> text = read_config(path);
  if (!text && optional) {
    return parse_daemon_config("{}", "", check);
  }
  if (!text) {
    refuse_config(path, ENOENT);
  }
  return parse_daemon_config(*text, path, check);
}

}  // namespace berth
