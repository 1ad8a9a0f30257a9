// Options of `berth run` to a JobSpec, by the same rules as a job file.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "scheduler/command_line.h"
#include "schemas/job_spec.h"

namespace berth {

/// What a command-line job takes over from the process that asks for it.
struct CallerContext {
  std::string directory;  ///< absolute current directory; empty when it is gone
  std::map<std::string, std::string> environment;
  std::optional<unsigned> umask = std::nullopt;
};
CallerContext caller_context();

/// The job of `berth run [options] -- COMMAND`, or of a script: `script` is its text and `script_name` its
/// file's name. Throws InputError with every fault, each named by its option ("command line: --mem: …").
JobSpec job_from_options(const CommandLine& line, const CallerContext& caller, std::string_view script = {},
                         std::string_view script_name = {});

/// A message that names fields as a job file has them (limits.io, "time_limit") with the options that set
/// them.
std::string in_terms_of_options(const CommandSpec& command, std::string message);

/// Of an option's value; what() of the std::invalid_argument completes `"x" …`.
std::uint64_t parse_count(std::string_view text);
std::int64_t parse_integer(std::string_view text);
/// sbatch(1): zero in any form, or one of its words for none.
bool is_no_time_limit(const std::string& text);

/// --export's list applied to the caller's environment.
std::map<std::string, std::string> exported_environment(
    std::string_view list, const std::map<std::string, std::string>& environment);

}  // namespace berth
