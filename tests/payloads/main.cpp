#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "payload.h"

namespace payload {

double number(const Arguments& arguments, std::size_t index, double otherwise) {
  return index < arguments.size() ? std::strtod(arguments[index].c_str(), nullptr) : otherwise;
}

std::string errno_name(int error_number) {
  const char* name = strerrorname_np(error_number);
  return name != nullptr ? name : std::to_string(error_number);
}

void print_result(const std::string& subject, long result) {
  const std::string text = result >= 0 ? "ok" : errno_name(errno);
  std::printf("%s %s\n", subject.c_str(), text.c_str());
  std::fflush(stdout);
}

void sleep_seconds(double seconds) {
  timespec end{};
  clock_gettime(CLOCK_MONOTONIC, &end);
  const auto whole = static_cast<time_t>(seconds);
  end.tv_sec += whole;
  end.tv_nsec += static_cast<long>((seconds - static_cast<double>(whole)) * 1e9);
  if (end.tv_nsec >= 1'000'000'000) {
    end.tv_sec += 1;
    end.tv_nsec -= 1'000'000'000;
  }
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, nullptr) == EINTR) {
  }
}

}  // namespace payload

int main(int count, char** values) {
  payload::Commands commands;
  for (const auto& group : {payload::memory_commands(), payload::cpu_commands(), payload::process_commands(),
                            payload::output_commands(), payload::file_commands(), payload::network_commands(),
                            payload::attempt_commands(), payload::report_commands()}) {
    commands.insert(commands.end(), group.begin(), group.end());
  }
  const std::string name = count > 1 ? values[1] : "";
  for (const auto& command : commands) {
    if (name == command.name) {
      return command.run(payload::Arguments(values + 2, values + count));
    }
  }
  for (const auto& command : commands) {
    std::fprintf(stderr, "%-18s %s\n", command.name, command.help);
  }
  return 2;
}
