#include "schemas/daemon_config.h"

#include <cerrno>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <system_error>

#include "schemas/input_error.h"
#include "schemas/job_reader.h"
#include "schemas/job_schema_gate.h"
#include "schemas/json_reader.h"
#include "schemas/json_text.h"

namespace berth {
namespace {

constexpr std::int64_t kMany = 1'000'000'000;

std::optional<unsigned> number(const Field& field, std::int64_t minimum, std::int64_t maximum = kMany) {
  const auto value = field.integer(minimum, maximum);
  return value ? std::optional(static_cast<unsigned>(*value)) : std::nullopt;
}

void read_cpus(const Field& field, DaemonConfig::Pool& pool) {
  if (const auto list = field.text()) {
    try {
      pool.cpus = CpuSet::parse(*list);
    } catch (const std::invalid_argument& error) {
      field.refuse(error.what());
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
    {"backup",
     [](const Field& field, DaemonConfig& config) {
       read_members<DaemonConfig::Backup>(field, kBackup, "/history/backup", config.backup);
     }},
    {"retain",
     [](const Field& field, DaemonConfig& config) {
       read_members<DaemonConfig::Retain>(field, kRetain, "/history/retain", config.retain);
     }},
};

template <std::string DaemonConfig::*Part>
void read_path(const Field& field, DaemonConfig& config) {
  config.*Part = field.inside_path().value_or(config.*Part);
}

constexpr Member<DaemonConfig> kConfig[] = {
    {"schema_version",
     [](const Field& field, DaemonConfig&) {
       if (field.value() != 1) {
         field.refuse("is not a version that this berth knows; use 1");
       }
     }},
    {"socket", read_path<&DaemonConfig::socket>},
    {"runtime_directory", read_path<&DaemonConfig::runtime_directory>},
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
    {"pool",
     [](const Field& field, DaemonConfig& config) {
       read_members<DaemonConfig::Pool>(field, kPool, "/pool", config.pool);
     }},
    {"api", [](const Field& field,
               DaemonConfig& config) { read_members<DaemonConfig::Api>(field, kApi, "/api", config.api); }},
    {"user_limits",
     [](const Field& field, DaemonConfig& config) {
       read_members<DaemonConfig::UserLimits>(field, kUserLimits, "/user_limits", config.user_limits);
     }},
    {"network",
     [](const Field& field, DaemonConfig& config) {
       read_members<NetworkSettings>(field, kNetwork, "/network", config.network);
     }},
    {"history",
     [](const Field& field, DaemonConfig& config) {
       read_members<DaemonConfig>(field, kHistory, "/history", config);
     }},
    {"log_level",
     [](const Field& field, DaemonConfig& config) { config.log_level = field.text().value_or("info"); }},
};

}  // namespace

DaemonConfig parse_daemon_config(std::string_view text, const std::string& file_name,
                                 const DaemonConfigCheck& check) {
  ReadContext context{file_name, "/", {}};
  DaemonConfig config;
  config.file = file_name;
  if (const auto document = parse_json(text, file_name, context.faults)) {
    // The schema first: it alone knows the keys of this file by name.
    if (const auto fault = schema_fault(daemon_schema_text(), text, file_name, "docs/berthd.md")) {
      context.faults.push_back(*fault);
    } else {
      read_members<DaemonConfig>(Field(*document, "", context), kConfig, "", config);
      if (check) {
        check(config, context.faults);
      }
    }
  }
  if (!context.faults.empty()) {
    throw InputError(std::move(context.faults));
  }
  return config;
}

DaemonConfig load_daemon_config(const std::string& path, bool optional, const DaemonConfigCheck& check) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    if (optional && errno == ENOENT) {
      return parse_daemon_config("{}", "", check);
    }
    throw InputError(path, "", "cannot open it: " + std::generic_category().message(errno));
  }
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return parse_daemon_config(text, path, check);
}

}  // namespace berth
