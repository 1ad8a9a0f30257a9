// The jobs that a command line of `berth run` or `berth submit` asks for, from options, scripts and job
// files.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "scheduler/command_line.h"
#include "scheduler/slot_pool.h"
#include "schemas/job_file.h"
#include "schemas/job_spec.h"

namespace berth {

struct RequestedJob {
  JobSpec spec;
  std::string source;   ///< "command line", or the file's name
  std::string pointer;  ///< its place in the file: "/N", or empty where it is the only one
};

struct RequestedJobs {
  std::vector<RequestedJob> jobs;
  bool from_options = false;   ///< one job made from the command line, not from JSON files
  bool input_is_read = false;  ///< the job was read from our standard input
};

/// The files, pipes and standard input that one command line names as jobs. Each is read once: a pipe gives
/// its text to the first reader alone.
class JobTexts {
 public:
  /// Throws InputError for what cannot be read.
  JobText& of(const std::string& operand);
  /// False also for what cannot be read.
  bool is_script(const std::string& operand);
  /// The first operand's, where that is a script, else null.
  const JobText* script_of(const CommandLine& line);

 private:
  std::map<std::string, JobText> texts_;
};

/// Throws UsageError where sbatch's -q, with a QOS, was meant.
void refuse_qos(const CommandLine& line);

/// As sbatch: without a file and a command the job is what comes on standard input, unless that is a terminal
/// or empty. Reads it to its end.
CommandLine with_standard_input(const CommandLine& line, JobTexts& texts);

/// Of a command or of job files. Throws UsageError, and InputError with every fault of every file.
RequestedJobs requested_jobs(const CommandLine& line, JobTexts& texts);

/// With the options of a script's #SBATCH lines, which those of the command line override. Throws InputError
/// for what the command does not take, or not from a script.
CommandLine with_batch_options(const CommandLine& line, const JobText& script);

/// The job of a script, the only operand. Throws InputError.
RequestedJobs script_job(const CommandLine& line, const JobText& script);

/// Throws UsageError when an option describes a job, beside files that do so themselves.
void refuse_job_options(const CommandLine& line);

/// --slots, --cpus, --memory. Throws InputError.
PoolBounds pool_bounds(const CommandLine& line);

}  // namespace berth
