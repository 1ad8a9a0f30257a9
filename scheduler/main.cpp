// berth: the command line. Takes the words apart, calls the command, maps errors to exit statuses.
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "executor/os/syscall.h"
#include "scheduler/cli_attach.h"
#include "scheduler/cli_check.h"
#include "scheduler/cli_daemon.h"
#include "scheduler/cli_doctor.h"
#include "scheduler/cli_exec.h"
#include "scheduler/cli_generate.h"
#include "scheduler/cli_query.h"
#include "scheduler/cli_run.h"
#include "scheduler/cli_submit.h"
#include "scheduler/cli_top.h"
#include "scheduler/cli_version.h"
#include "scheduler/command_line.h"
#include "scheduler/help.h"
#include "scheduler/log.h"
#include "scheduler/run_jobs_input.h"
#include "schemas/input_error.h"
#include "schemas/terminal_text.h"

namespace berth {
namespace {

void print_help(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
}

void configure_log(const CommandLine& line) {
  if (const auto name = line.value("log-level")) {
    LogLevel level{};
    if (!parse_log_level(*name, level)) {
      throw UsageError(
          line.command,
          "--log-level: \"" + *name + "\" is not one of trace, debug, info, warning, error, critical, off");
    }
    set_log_level(level);
    return;
  }
  if (line.has("quiet")) {
    set_log_level(LogLevel::error);
    return;
  }
  constexpr LogLevel kByVerbosity[] = {LogLevel::warning, LogLevel::info, LogLevel::debug, LogLevel::trace};
  set_log_level(kByVerbosity[line.count("verbose") < 3 ? line.count("verbose") : 3]);
}

int run_help(const CommandLine& line) {
  if (line.operands.empty()) {
    print_help(program_help(help_width()));
    return 0;
  }
  const CommandSpec* command = find_command(line.operands[0]);
  if (command == nullptr) {
    throw UsageError(line.command, "berth help: \"" + line.operands[0] + "\" is not a command");
  }
  print_help(command_help(*command, help_width()));
  return 0;
}

struct DaemonCommand {
  std::string_view name;
  int (*run)(const CommandLine& line);
};
constexpr DaemonCommand kDaemonCommands[] = {
    {"queue", run_queue},
    {"wait", run_wait},
    {"logs", run_logs},
    {"slots", run_slots},
    {"drain", run_drain},
    {"undrain", run_drain},
    {"events", run_events},
    {"cancel", run_cancel},
    {"hold", run_job_action},
    {"release", run_job_action},
    {"requeue", run_job_action},
    {"suspend", run_job_action},
    {"resume", run_job_action},
    {"signal", run_job_action},
    {"why", run_why},
    {"update", run_update},
    {"exec", run_exec},
    {"attach", run_attach},
    {"top", run_top},
};
const DaemonCommand* find_daemon_command(std::string_view name) {
  for (const DaemonCommand& command : kDaemonCommands) {
    if (command.name == name) {
      return &command;
    }
  }
  return nullptr;
}

int dispatch(const CommandLine& line, JobTexts& texts) {
  const std::string_view name = line.command->name;
  if (name == "run") {
    return run_jobs(line, texts);
  }
  if (name == "submit") {
    return run_submit(line, texts);
  }
  if (const auto* command = find_daemon_command(name)) {
    return command->run(line);
  }
  if (name == "check") {
    return run_check(line);
  }
  if (name == "history") {
    return run_history(line);
  }
  if (name == "report") {
    return run_report(line);
  }
  if (name == "show") {
    return run_show(line);
  }
  if (name == "efficiency") {
    return run_efficiency(line);
  }
  if (name == "doctor") {
    return run_doctor(line);
  }
  if (name == "version") {
    print_version(line.has("json"));
    return 0;
  }
  if (name == "help") {
    return run_help(line);
  }
  if (name == "generate") {
    return run_generate(line);
  }
  throw UsageError(line.command, "berth " + std::string(name) + " is not part of this build");
}

int run_command(const CommandLine& line, JobTexts& texts) {
  if (line.has("version")) {
    print_version(false);
    return 0;
  }
  if (line.has("help")) {
    print_help(line.command == nullptr ? program_help(help_width())
                                       : command_help(*line.command, help_width()));
    return 0;
  }
  configure_log(line);
  return dispatch(line, texts);
}

int report_failure(const std::string& text, int status) {
  (void)std::fprintf(stderr, "%s\n", printable_lines(text).c_str());
  return status;
}

/// 125 for run and those whose other statuses are a job's; 1 for the other commands.
int failure_status(const CommandLine& line) {
  return line.command != nullptr && line.command->usage_status == 125 ? 125 : 1;
}

/// What stands on the command line is the usage, also where only its meaning is wrong.
int failure_status(const CommandLine& line, const InputError& error) {
  const bool is_usage = std::all_of(error.faults().begin(), error.faults().end(),
                                    [](const InputFault& fault) { return fault.file == kCommandLine; });
  return line.command != nullptr && is_usage ? line.command->usage_status : failure_status(line);
}

int run_program(const std::vector<std::string>& arguments) {
  CommandLine line;
  JobTexts texts;
  try {
    line =
        parse_command_line(arguments, [&](const std::string& operand) { return texts.is_script(operand); });
    const int status = run_command(line, texts);
    // A full disk behind standard output is noticed here, not lost.
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
      return report_failure("berth: cannot write standard output", failure_status(line));
    }
    return status;
  } catch (const UsageError& error) {
    return report_failure(std::string(error.what()) + "\nTry \"" + error.help_command() + "\".",
                          error.status());
  } catch (const InputError& error) {
    return report_failure(error.what(), failure_status(line, error));
  } catch (const std::exception& error) {
    return report_failure("berth: " + std::string(error.what()), failure_status(line));
  }
}

}  // namespace
}  // namespace berth

int main(int argc, char** argv) {
  // The few threads of a command live for milliseconds: an arena of memory for each would cost more than
  // turns.
  ::mallopt(M_ARENA_MAX, 1);
  berth::occupy_standard_streams();
  return berth::run_program(std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
}
