#include "scheduler/cli_top.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/api_client.h"
#include "scheduler/listing.h"
#include "schemas/quantities.h"
#include "schemas/terminal_text.h"

namespace berth {
namespace {

using Json = nlohmann::json;

/// The cursor to the top left corner; what is below the cursor cleared; the rest of a line cleared (ECMA-48).
constexpr const char* kHome = "\x1b[H";
constexpr const char* kClearBelow = "\x1b[J";
constexpr const char* kClearLine = "\x1b[K";

struct Earlier {
  std::int64_t cpu_usec = 0;
  std::int64_t at_usec = 0;
};

struct TopColumn {
  const char* name;
  int width;  ///< negative: aligned left
};
constexpr std::array kColumns{TopColumn{"JOBID", 10}, TopColumn{"NAME", -16}, TopColumn{"USER", -10},
                              TopColumn{"STATE", -9}, TopColumn{"CPU%", 7},   TopColumn{"CPUS", 4},
                              TopColumn{"MEMORY", 8}, TopColumn{"LIMIT", 8},  TopColumn{"PROCS", 6},
                              TopColumn{"TIME", 12},  TopColumn{"LIMIT", 12}};

std::string fixed(double value) {
  std::array<char, 32> text{};
  (void)std::snprintf(text.data(), text.size(), "%.1f", value);
  return text.data();
}

/// Since the last look; at the first one since the job's start.
double cpu_percent(const Json& job, std::int64_t at_usec, std::map<std::string, Earlier>& earlier) {
  const std::string key = std::to_string(job["job_id"].get<std::int64_t>()) + "." +
                          std::to_string(job["attempt"].get<unsigned>());
  const std::int64_t cpu = job["cpu_total_usec"];
  Earlier before{0, at_usec - job["elapsed_usec"].get<std::int64_t>()};
  if (const auto found = earlier.find(key); found != earlier.end()) {
    before = found->second;
  }
  earlier[key] = {cpu, at_usec};
  const std::int64_t passed = at_usec - before.at_usec;
  return passed <= 0 ? 0 : 100.0 * static_cast<double>(cpu - before.cpu_usec) / static_cast<double>(passed);
}

std::vector<std::string> row_of(const Json& job) {
  const auto size = [&](const char* name) {
    return job.contains(name) ? format_size_human(job[name].get<Bytes>()) : std::string();
  };
  const auto time = [&](const char* name) {
    return job.contains(name) ? format_duration(std::chrono::duration_cast<Milliseconds>(
                                    std::chrono::microseconds(job[name].get<std::int64_t>())))
                              : std::string();
  };
  return {job["id"].get<std::string>(),
          printable(job["name"].get<std::string>()),
          printable(job["user"].get<std::string>()),
          job["state"].get<std::string>(),
          job.contains("cpu_percent") ? fixed(job["cpu_percent"].get<double>()) : "",
          std::to_string(job["cpus"].get<std::size_t>()),
          size("memory"),
          size("memory_limit"),
          job.contains("processes") ? std::to_string(job["processes"].get<std::uint64_t>()) : "",
          time("elapsed_usec"),
          job.contains("time_limit_usec") ? time("time_limit_usec") : "none"};
}

std::string line_of(const std::vector<std::string>& cells) {
  std::string line;
  for (std::size_t index = 0; index < kColumns.size(); ++index) {
    line += (index > 0 ? " " : "") + fit(cells[index], kColumns[index].width);
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

std::vector<std::string> frame_of(const Json& answer) {
  std::vector<std::string> lines;
  const Json& pool = answer["pool"];
  lines.push_back(std::to_string(answer["jobs"].size()) + " running, " +
                  std::to_string(pool["waiting"].get<std::uint64_t>()) + " waiting; " +
                  std::to_string(pool["free_cpus"].get<unsigned>()) + " of " +
                  std::to_string(pool["cpus"].get<unsigned>()) + " CPUs and " +
                  format_size_human(pool["free_memory"].get<Bytes>()) + " of " +
                  format_size_human(pool["memory"].get<Bytes>()) + " free" +
                  (pool["draining"].get<bool>() ? "; drained" : ""));
  std::vector<std::string> heads;
  heads.reserve(kColumns.size());
  for (const TopColumn& column : kColumns) {
    heads.emplace_back(column.name);
  }
  lines.push_back(line_of(heads));
  for (const Json& job : answer["jobs"]) {
    lines.push_back(line_of(row_of(job)));
  }
  return lines;
}

void print_live(const std::vector<std::string>& lines) {
  winsize size{};
  const bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 2 && size.ws_col > 0;
  const std::size_t rows = known ? size.ws_row - 1U : lines.size();
  std::string text = kHome;
  for (std::size_t index = 0; index < lines.size() && index < rows; ++index) {
    text += first_characters(lines[index], known ? size.ws_col : lines[index].size());
    text += std::string(kClearLine) + "\n";
  }
  text += kClearBelow;
  std::fwrite(text.data(), 1, text.size(), stdout);
}

template <typename Number>
Number number_option(const CommandLine& line, const char* name, Number fallback, Number most,
                     const char* kind) {
  const std::optional<std::string> text = line.value(name);
  if (!text) {
    return fallback;
  }
  Number number{};
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), number);
  if (error != std::errc() || end != text->data() + text->size() || !(number > 0) || number > most) {
    throw UsageError(line.command, "--" + std::string(name) + ": \"" + *text + "\" is not a number " + kind);
  }
  return number;
}

}  // namespace

int run_top(const CommandLine& line) {
  const bool live = ::isatty(STDOUT_FILENO) == 1 && !line.has("json") && !line.has("once");
  constexpr unsigned kEndless = std::numeric_limits<unsigned>::max();
  const unsigned frames = line.has("once") ? 1
                                           : number_option<unsigned>(line, "iterations", live ? kEndless : 1,
                                                                     kEndless, "from 1 to 4294967295");
  const double seconds =
      number_option<double>(line, "delay", 2, 86'400, "of seconds above 0 and up to 86400 (a day)");
  ApiClient client(daemon_socket(line));
  std::map<std::string, Earlier> earlier;
  for (unsigned frame = 0; frame < frames; ++frame) {
    if (frame > 0) {
      ::poll(nullptr, 0, static_cast<int>(seconds * 1000));
    }
    Json answer = Json::parse(client.request("GET", "/v1/top"));
    const std::int64_t at = answer["at_usec"];
    for (Json& job : answer["jobs"]) {
      if (job.contains("cpu_total_usec")) {
        job["cpu_percent"] = cpu_percent(job, at, earlier);
      }
    }
    if (line.has("json")) {
      const std::string text = json_with_controls_escaped(answer.dump() + "\n");
      std::fwrite(text.data(), 1, text.size(), stdout);
    } else if (live) {
      print_live(frame_of(answer));
    } else {
      for (const std::string& row : frame_of(answer)) {
        (void)std::printf("%s\n", row.c_str());
      }
      (void)std::fputs(frame + 1 < frames ? "\n" : "", stdout);
    }
    if (std::fflush(stdout) != 0) {
      break;
    }
  }
  return 0;
}

}  // namespace berth
