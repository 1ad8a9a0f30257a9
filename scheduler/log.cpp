#include "scheduler/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <array>
#include <memory>

#include "schemas/terminal_text.h"

namespace berth {
namespace {

constinit LogLevel current_level = LogLevel::warning;
using Callback = void (*)();
constinit Callback before_log = nullptr;

constexpr std::array<std::string_view, 7> kNames{"trace", "debug",    "info", "warning",
                                                 "error", "critical", "off"};

spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> kLogger = [] {
    // Single-threaded (_st): one thread writes log lines, and a mutex would only hide it if that changed.
    auto made =
        std::make_shared<spdlog::logger>("berth", std::make_shared<spdlog::sinks::stderr_color_sink_st>());
    made->set_level(spdlog::level::trace);
    made->set_pattern("berth: %^%l%$: %v");
    return made;
  }();
  return *kLogger;
}

}  // namespace

void set_log_level(LogLevel level) {
  current_level = level;
}

LogLevel log_level() {
  return current_level;
}

bool parse_log_level(std::string_view name, LogLevel& level) {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) {
      level = static_cast<LogLevel>(i);
      return true;
    }
  }
  return false;
}

void set_before_log(void (*callback)()) {
  before_log = callback;
}

void log_line(LogLevel level, std::string_view message) {
  if (level < current_level || level == LogLevel::off) {
    return;
  }
  if (before_log != nullptr) {
    before_log();
  }
  logger().log(static_cast<spdlog::level::level_enum>(level), printable_lines(message));
}

std::string text_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& exception) {
    return exception.what();
  }
}

}  // namespace berth
