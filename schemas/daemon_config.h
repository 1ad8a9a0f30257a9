// DaemonConfig: what the administrator sets in /etc/berth/berthd.json. The C++ twin of
// schemas/berthd.schema.json; docs/berthd.md describes each key.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "schemas/cpu_set.h"
#include "schemas/input_error.h"
#include "schemas/network_settings.h"
#include "schemas/quantities.h"

namespace berth {

inline constexpr const char* kDefaultDaemonConfig = "/etc/berth/berthd.json";

struct DaemonConfig {
  struct Pool {
    std::optional<CpuSet> cpus;
    std::optional<Bytes> memory;
    std::optional<unsigned> slots;
    bool operator==(const Pool&) const = default;
  };
  struct Api {
    Bytes body = Bytes{64} << 20U;
    unsigned connections = 1024;
    unsigned connections_per_user = 128;
    unsigned requests_per_second = 10'000;
    bool operator==(const Api&) const = default;
  };
  struct UserLimits {
    std::optional<unsigned> waiting_jobs;
    std::optional<unsigned> running_jobs;
    std::optional<unsigned> cpus;
    std::optional<Bytes> memory;
    bool operator==(const UserLimits&) const = default;
  };

  /// history.retain: which ended jobs stay in the database; absent: all.
  struct Retain {
    std::optional<Milliseconds> age;
    std::optional<unsigned> jobs;
    bool operator==(const Retain&) const = default;
  };

  /// history.backup: how often the database is copied, and to where.
  struct Backup {
    Milliseconds every = std::chrono::hours(24);  ///< 0: never
    std::string file;                             ///< empty: beside the database
    bool operator==(const Backup&) const = default;
  };

  std::string socket = "/run/berth/berthd.sock";
  std::string runtime_directory = "/run/berth";
  std::string state_directory = "/var/lib/berth";
  std::string runner_program;  ///< empty: beside the installed program
  unsigned runners = 0;        ///< 0: one for each CPU of the pool, at most 8
  unsigned armed_ahead = 1;
  std::string administrators = "berth";
  Pool pool;
  Api api;
  UserLimits user_limits;
  NetworkSettings network;
  Retain retain;
  Backup backup;
  std::string log_level = "info";
  std::string file;  ///< where it was read; empty: nowhere
  bool operator==(const DaemonConfig&) const = default;

  std::string database() const { return state_directory + "/berthd.db"; }
  std::string backup_file() const { return backup.file.empty() ? database() + ".backup" : backup.file; }
  std::string number_file() const { return state_directory + "/numbers"; }
  std::string drain_file() const { return state_directory + "/draining"; }
};

/// What else a configuration must be, told as further faults. A value that is at fault already has its
/// default.
using DaemonConfigCheck = std::function<void(const DaemonConfig&, std::vector<InputFault>&)>;

/// Throws InputError with every fault: syntax, unknown keys, wrong types and values, and what `check` finds.
DaemonConfig parse_daemon_config(std::string_view text, const std::string& file_name,
                                 const DaemonConfigCheck& check = {});
/// Reads and parses. A file that is not there gives the defaults when `optional`.
DaemonConfig load_daemon_config(const std::string& path, bool optional, const DaemonConfigCheck& check = {});
/// The JSON Schema, embedded at build time.
std::string_view daemon_schema_text();

}  // namespace berth
