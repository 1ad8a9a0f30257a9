// What test jobs run: one statically linked program, one behaviour per sub-command, so that a test reads as
// "berth run … payload allocate 100" and works inside an empty root directory too.
//
// Sub-commands print plain lines. Probes print one line "SUBJECT RESULT" where RESULT is "ok" (it worked),
// an errno's name ("EPERM") or "SIGSYS" (a signal ended the try); they exit 0 whatever the result is.
#pragma once

#include <string>
#include <vector>

namespace payload {

using Arguments = std::vector<std::string>;

struct Command {
  const char* name;
  const char* help;
  int (*run)(const Arguments& arguments);
};
using Commands = std::vector<Command>;

Commands memory_commands();
Commands cpu_commands();
Commands process_commands();
Commands output_commands();
Commands file_commands();
Commands network_commands();
Commands attempt_commands();
Commands report_commands();

/// arguments[index] as a number, or `otherwise` when there are fewer.
double number(const Arguments& arguments, std::size_t index, double otherwise);
/// "EPERM"; the number when it has no name.
std::string errno_name(int error_number);
/// Prints "SUBJECT RESULT" for a call that returned `result` (negative: failed, errno says why).
void print_result(const std::string& subject, long result);
/// Sleeps the whole time, whatever signals come.
void sleep_seconds(double seconds);

}  // namespace payload
