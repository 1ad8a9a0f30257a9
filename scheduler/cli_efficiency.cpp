#include "scheduler/cli_efficiency.h"

#include <grp.h>
#include <pwd.h>

#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "scheduler/listing.h"
#include "schemas/terminal_text.h"

namespace berth {
namespace {

using Micros = std::chrono::microseconds;

struct Efficiency {
  std::optional<std::size_t> cores;
  std::optional<Micros> wall;
  std::optional<Micros> cpu_used;
  std::optional<Micros> cpu_granted;
  std::optional<Bytes> memory_used;
  std::optional<Bytes> memory_granted;
  std::optional<double> cpu_percent;  ///< absent when a part is, or nothing was granted
  std::optional<double> memory_percent;
};

template <typename Number>
std::optional<double> percent(std::optional<Number> used, std::optional<Number> granted) {
  if (!used || !granted || *granted <= Number{0}) {
    return std::nullopt;
  }
  return 100.0 * static_cast<double>(*used) / static_cast<double>(*granted);
}

std::optional<std::int64_t> count_of(const std::optional<Micros>& duration) {
  return duration ? std::optional(duration->count()) : std::nullopt;
}

Efficiency measure(const AccountingRecord& record, Timestamp now) {
  Efficiency result;
  result.wall = elapsed_time(record, now);
  result.cpu_used = record.usage.cpu_total;
  result.cpu_granted = granted_cpu_time(record, now);
  result.memory_used = record.usage.memory_peak;
  if (record.allocation) {
    result.cores = record.allocation->cpus.size();
    result.memory_granted = record.allocation->memory;
  }
  result.cpu_percent = percent(count_of(result.cpu_used), count_of(result.cpu_granted));
  result.memory_percent = percent(result.memory_used, result.memory_granted);
  return result;
}

template <typename... Values>
std::string print(const char* format, Values... values) {
  std::array<char, 64> text{};
  const int length = std::snprintf(text.data(), text.size(), format, values...);
  return {text.data(), static_cast<std::size_t>(length)};
}

/// seff's sizes: kilobytes of 1024 bytes and up, two decimals; nothing at all is megabytes there.
std::string seff_size(Bytes bytes) {
  if (bytes == 0) {
    return "0.00 MB";
  }
  constexpr std::array<const char*, 5> kUnits{"KB", "MB", "GB", "TB", "PB"};
  double amount = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  while (amount >= 1024 && unit + 1 < kUnits.size()) {
    amount /= 1024;
    ++unit;
  }
  return print("%.2f ", amount) + kUnits.at(unit);
}

std::string duration_text(const std::optional<Micros>& duration) {
  return duration ? format_duration(std::chrono::duration_cast<Milliseconds>(*duration)) : "not measured";
}

std::string state_text(const AccountingRecord& record) {
  std::string text(to_string(record.state));
  if (record.outcome && record.outcome->exit_code) {
    text += " (exit code " + std::to_string(*record.outcome->exit_code);
    text += record.outcome->signal != 0 ? ", signal " + std::to_string(record.outcome->signal) + ")" : ")";
  }
  return text;
}

std::string cores_text(std::optional<std::size_t> cores) {
  if (!cores) {
    return "Cores: not measured\n";
  }
  return *cores == 1 ? "Cores: 1\n" : "Nodes: 1\nCores per node: " + std::to_string(*cores) + "\n";
}

std::string used_text(const Efficiency& result) {
  std::string text = "CPU Utilized: " + duration_text(result.cpu_used) + "\nCPU Efficiency: ";
  text += result.cpu_percent ? print("%.2f%% of ", *result.cpu_percent) + duration_text(result.cpu_granted) +
                                   " core-walltime"
                             : "not measured";
  text += "\nJob Wall-clock time: " + duration_text(result.wall) + "\nMemory Utilized: ";
  text += result.memory_used ? seff_size(*result.memory_used) : "not measured";
  text += "\nMemory Efficiency: ";
  text += result.memory_percent
              ? print("%.2f%% of ", *result.memory_percent) + seff_size(*result.memory_granted)
              : "not measured";
  return text + "\n";
}

}  // namespace

std::string primary_group(unsigned user_id) {
  std::array<char, 16'384> buffer{};
  struct passwd user {};
  struct passwd* found_user = nullptr;
  if (::getpwuid_r(user_id, &user, buffer.data(), buffer.size(), &found_user) != 0 || found_user == nullptr) {
    return "";
  }
  struct group group {};
  struct group* found_group = nullptr;
  if (::getgrgid_r(user.pw_gid, &group, buffer.data(), buffer.size(), &found_group) != 0 ||
      found_group == nullptr) {
    return "";
  }
  return group.gr_name;
}

std::string efficiency_text(const AccountingRecord& record, Timestamp now, const GroupOfUser& group_of) {
  const Efficiency result = measure(record, now);
  std::string text = "Job ID: " + std::to_string(record.job_id) + "\n";
  if (record.attempt > 1) {
    text += "Attempt: " + std::to_string(record.attempt) + "\n";
  }
  text += "Cluster: " + record.host + "\n";
  text += "User/Group: " + record.user + "/" + group_of(record.user_id) + "\n";
  text += "State: " + state_text(record) + "\n";
  if (is_array_of_tasks(record)) {
    return text + "Efficiency not available for an array; " + where_tasks_are(record) + "\n";
  }
  if (!record.start) {
    return text + "Efficiency not available for jobs " +
           (record.outcome ? "that never ran.\n"
                           : "in the " + std::string(to_string(record.state)) + " state.\n");
  }
  text += cores_text(result.cores) + used_text(result);
  if (!record.outcome) {
    text += "WARNING: Efficiency statistics may be misleading for " + std::string(to_string(record.state)) +
            " jobs.\n";
  }
  return text;
}

std::string efficiency_json(const AccountingRecord& record, Timestamp now, const GroupOfUser& group_of) {
  const Efficiency result = measure(record, now);
  nlohmann::ordered_json object{
      {"job_id", record.job_id}, {"attempt", record.attempt},         {"cluster", record.host},
      {"user", record.user},     {"group", group_of(record.user_id)}, {"state", to_string(record.state)}};
  if (record.outcome && record.outcome->exit_code) {
    object["exit_code"] = *record.outcome->exit_code;
    object["signal"] = record.outcome->signal;
  }
  object["nodes"] = 1;
  const auto add = [&](const char* key, const auto& value) {
    if (value) {
      object[key] = *value;
    }
  };
  add("cores", result.cores);
  add("cpu_utilized_usec", count_of(result.cpu_used));
  add("core_walltime_usec", count_of(result.cpu_granted));
  add("cpu_efficiency_percent", result.cpu_percent);
  add("wall_usec", count_of(result.wall));
  add("memory_utilized", result.memory_used);
  add("memory_granted", result.memory_granted);
  add("memory_efficiency_percent", result.memory_percent);
  return printable_json(object);
}

}  // namespace berth
