// Log lines to standard error. The only user of spdlog is log.cpp; nothing is built until the first line.
#pragma once

#include <exception>
#include <string>
#include <string_view>

namespace berth {

enum class LogLevel { trace, debug, info, warning, error, critical, off };

void set_log_level(LogLevel level);
LogLevel log_level();
/// False for an unknown name.
bool parse_log_level(std::string_view name, LogLevel& level);
/// Called before each line that is written, so that live progress can make room; null: nothing.
void set_before_log(void (*callback)());

void log_line(LogLevel level, std::string_view message);
/// what() of an exception that somebody else caught.
std::string text_of(const std::exception_ptr& error);

inline void log_debug(std::string_view message) {
  log_line(LogLevel::debug, message);
}
inline void log_info(std::string_view message) {
  log_line(LogLevel::info, message);
}
inline void log_warning(std::string_view message) {
  log_line(LogLevel::warning, message);
}
inline void log_error(std::string_view message) {
  log_line(LogLevel::error, message);
}

}  // namespace berth
