#include "scheduler/run_jobs_input.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <fstream>
#include <iterator>
#include <optional>
#include <stdexcept>

#include "scheduler/batch_script.h"
#include "scheduler/command_job.h"
#include "schemas/job_file.h"

namespace berth {
namespace {

constexpr std::size_t kLargestScript = std::size_t{4} * 1024 * 1024;  // slurm.conf(5), max_script_size

void append_job_file(const std::string& path, RequestedJobs& requested, std::vector<InputFault>& faults) {
  if (path != "-" && ::access(path.c_str(), F_OK) != 0 && errno == ENOENT) {
    faults.push_back(
        {path, "", "there is no such job file or script (a command goes after --: -- " + path + " …)"});
    return;
  }
  requested.input_is_read = requested.input_is_read || path == "-";
  try {
    for (JobSpec& spec : load_job_file(path)) {
      requested.jobs.push_back({std::move(spec), path});
    }
  } catch (const InputError& error) {
    faults.insert(faults.end(), error.faults().begin(), error.faults().end());
  }
}

unsigned parse_slots(const std::string& text) {
  unsigned number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number == 0) {
    throw std::invalid_argument("is not a number of jobs (use 1, 2, 3 …)");
  }
  return number;
}

}  // namespace

void refuse_job_options(const CommandLine& line) {
  for (const char* section : {"The job", "Limits", "Isolation", "In the queue"}) {
    if (const Option* option = line.first_of_section(section)) {
      throw UsageError(line.command,
                       "--" + std::string(option->name) +
                           " describes the job of a command or a script; a job file says itself what its "
                           "jobs are");
    }
  }
}

std::optional<std::string> read_script(const CommandLine& line) {
  if (line.operands.empty() || line.operands[0] == "-") {
    return std::nullopt;
  }
  std::ifstream file(line.operands[0], std::ios::binary);
  char begin[2] = {};
  if (!file.read(begin, sizeof begin) || begin[0] != '#' || begin[1] != '!') {
    return std::nullopt;
  }
  file.seekg(0);
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return text;
}

CommandLine with_batch_options(const CommandLine& line, const std::string& script, const std::string& name) {
  std::vector<std::string> words = batch_options(script, name);
  if (words.empty()) {
    return line;
  }
  words.insert(words.begin(), std::string(line.command->name));
  CommandLine merged = line;
  try {
    const CommandLine from_script = parse_command_line(words);
    if (!from_script.operands.empty() || from_script.job_command) {
      const std::string word = from_script.operands.empty() ? "--" : "\"" + from_script.operands[0] + "\"";
      throw UsageError(line.command, word + " is no option");
    }
    for (const char* own : {"wrap", "socket", "database", "help"}) {
      if (from_script.has(own)) {
        throw UsageError(line.command, "--" + std::string(own) + " is for the command line alone");
      }
    }
    merged.inherit(from_script);
  } catch (const UsageError& error) {
    throw InputError(name, "#SBATCH", error.what());
  }
  return merged;
}

RequestedJobs script_job(const CommandLine& line, const std::string& script, const std::string& name) {
  if (script.size() > kLargestScript) {
    throw InputError(name, "",
                     "is larger than 4M, which is the most that a script may be; let a small script run it");
  }
  // As sbatch: the words after the script are its arguments.
  CommandLine with_arguments = line;
  if (line.operands.size() > 1) {
    std::vector<std::string> arguments(line.operands.begin() + 1, line.operands.end());
    if (line.job_command) {
      arguments.insert(arguments.end(), line.job_command->begin(), line.job_command->end());
    }
    with_arguments.job_command = std::move(arguments);
  }
  RequestedJobs requested;
  requested.jobs.push_back({job_from_options(with_arguments, caller_context(), script, name), name});
  requested.from_options = true;
  return requested;
}

RequestedJobs requested_jobs(const CommandLine& line) {
  RequestedJobs requested;
  if (line.operands.empty()) {
    if (!line.job_command || line.job_command->empty()) {
      throw UsageError(line.command, "berth " + std::string(line.command->name) +
                                         " needs a job: \"-- COMMAND [ARGUMENT…]\", a job file or a script");
    }
    requested.jobs.push_back({job_from_options(line, caller_context()), "command line"});
    requested.from_options = true;
    return requested;
  }
  if (line.job_command) {
    throw UsageError(line.command, "berth " + std::string(line.command->name) +
                                       " takes either job files or a command, not both");
  }
  refuse_job_options(line);
  std::vector<InputFault> faults;
  for (const std::string& path : line.operands) {
    append_job_file(path, requested, faults);
  }
  if (!faults.empty()) {
    throw InputError(std::move(faults));
  }
  return requested;
}

PoolBounds pool_bounds(const CommandLine& line) {
  PoolBounds bounds;
  std::vector<InputFault> faults;
  const auto apply = [&](const char* option, const auto& parse) {
    if (const auto text = line.value(option)) {
      try {
        parse(*text);
      } catch (const std::invalid_argument& error) {
        faults.push_back({"command line", std::string("--") + option, '"' + *text + "\" " + error.what()});
      }
    }
  };
  apply("slots", [&](const std::string& text) { bounds.slots = parse_slots(text); });
  apply("cpus", [&](const std::string& text) { bounds.cpus = CpuSet::parse(text); });
  apply("slots-smt", [&](const std::string& text) {
    if (text != "shared" && text != "exclusive") {
      throw std::invalid_argument("is neither shared nor exclusive");
    }
    bounds.smt = text == "exclusive" ? SmtSharing::exclusive : SmtSharing::shared;
  });
  apply("memory", [&](const std::string& text) { bounds.memory = parse_size(text, Bytes{1024} * 1024); });
  if (!faults.empty()) {
    throw InputError(std::move(faults));
  }
  return bounds;
}

}  // namespace berth
