// The jobs that a `berth run` command line asks for, from options, scripts and job files.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "scheduler/command_line.h"
#include "scheduler/slot_pool.h"
#include "schemas/job_spec.h"

namespace berth {

struct RequestedJob {
  JobSpec spec;
  std::string source;  ///< "command line", or the file's name
};

struct RequestedJobs {
  std::vector<RequestedJob> jobs;
  bool from_options = false;   ///< one job made from the command line, not from JSON files
  bool input_is_read = false;  ///< a job file was read from our standard input
};

/// Of a command or of job files. Throws UsageError, and InputError with every fault of every file.
RequestedJobs requested_jobs(const CommandLine& line);

/// The text of the script, a file that begins with "#!", that is the first operand; nothing where it is none.
std::optional<std::string> read_script(const CommandLine& line);

/// With the options of a script's #SBATCH lines, which those of the command line override. Throws InputError
/// for what the command does not take, or not from a script.
CommandLine with_batch_options(const CommandLine& line, const std::string& script, const std::string& name);

/// The job of a script, whose text begins with "#!"; further operands are its arguments. Throws InputError.
RequestedJobs script_job(const CommandLine& line, const std::string& script, const std::string& name);

/// Throws UsageError when an option describes a job, beside files that do so themselves.
void refuse_job_options(const CommandLine& line);

/// --slots, --cpus, --memory. Throws InputError.
PoolBounds pool_bounds(const CommandLine& line);

}  // namespace berth
