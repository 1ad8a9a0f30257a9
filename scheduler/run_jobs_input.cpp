#include "scheduler/run_jobs_input.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <stdexcept>

#include "scheduler/batch_script.h"
#include "scheduler/command_job.h"

namespace berth {
namespace {

constexpr std::size_t kLargestScript = std::size_t{4} * 1024 * 1024;  // slurm.conf(5), max_script_size

constexpr const char* kNoQos =
    "sbatch's -q names a QOS, and there is none: leave it out (berth's -q is --quiet)";

bool is_missing(const std::string& file) {
  return file != "-" && ::access(file.c_str(), F_OK) != 0 && errno == ENOENT;
}

void append_job_file(const std::string& path, JobTexts& texts, RequestedJobs& requested,
                     std::vector<InputFault>& faults) {
  requested.input_is_read = requested.input_is_read || path == "-";
  try {
    const JobText& file = texts.of(path);
    if (file.is_script()) {
      faults.push_back({file.name, "", "is a script, and comes alone: its name, then its arguments"});
      return;
    }
    std::vector<JobSpec> specs = file.parse();
    for (std::size_t index = 0; index < specs.size(); ++index) {
      requested.jobs.push_back(
          {std::move(specs[index]), file.name, specs.size() > 1 ? "/" + std::to_string(index) : ""});
    }
  } catch (const InputError& error) {
    faults.insert(faults.end(), error.faults().begin(), error.faults().end());
  }
}

/// Words of a script that change nothing for berth run: a script can be tried before it is submitted.
bool concerns_queue_alone(std::string_view word) {
  constexpr std::array<std::string_view, 7> kWords{"--requeue", "--no-requeue", "--parsable", "--wait",
                                                   "-W",        "--hold",       "-H"};
  return std::find(kWords.begin(), kWords.end(), word) != kWords.end();
}

/// Of one #SBATCH line. Throws UsageError.
CommandLine batch_options(const CommandSpec& command, std::vector<std::string> words) {
  if (command.name == "run") {
    std::erase_if(words, concerns_queue_alone);
  }
  words.insert(words.begin(), std::string(command.name));
  CommandLine line = parse_command_line(words);
  if (!line.operands.empty() || line.job_command) {
    const std::string word = line.operands.empty() ? "--" : "\"" + line.operands[0] + "\"";
    throw UsageError(&command,
                     word + " is no option" + (line.has("quiet") ? std::string("; ") + kNoQos : ""));
  }
  for (const char* own : {"wrap", "socket", "database", "help"}) {
    if (line.has(own)) {
      throw UsageError(&command, "--" + std::string(own) + " is for the command line alone");
    }
  }
  return line;
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

JobText& JobTexts::of(const std::string& operand) {
  const auto found = texts_.find(operand);
  if (found == texts_.end() && is_missing(operand)) {
    throw InputError(operand, "",
                     "there is no such job file or script (a command goes after --: -- " + operand + " …)");
  }
  return found != texts_.end() ? found->second
                               : texts_.emplace(operand, read_job_text(operand)).first->second;
}

bool JobTexts::is_script(const std::string& operand) {
  try {
    return of(operand).is_script();
  } catch (const InputError&) {
    return false;  // told where job files are read
  }
}

const JobText* JobTexts::script_of(const CommandLine& line) {
  return !line.operands.empty() && is_script(line.operands[0]) ? &of(line.operands[0]) : nullptr;
}

void refuse_qos(const CommandLine& line) {
  if (line.has("quiet") && !line.operands.empty() && is_missing(line.operands[0])) {
    throw UsageError(line.command, "\"" + line.operands[0] + "\" is no file; " + kNoQos);
  }
}

CommandLine with_standard_input(const CommandLine& line, JobTexts& texts) {
  const bool has_job = !line.operands.empty() || line.job_command || line.has("wrap");
  if (has_job || ::isatty(STDIN_FILENO) == 1 || texts.of("-").text.empty()) {
    return line;
  }
  CommandLine with = line;
  with.operands = {"-"};
  return with;
}

CommandLine with_batch_options(const CommandLine& line, const JobText& script) {
  CommandLine of_script;
  std::vector<InputFault> faults;
  for (const BatchLine& batch : batch_lines(script.text, script.name)) {
    try {
      of_script.append(batch_options(*line.command, batch.words), batch.place);
    } catch (const UsageError& error) {
      faults.push_back({batch.place, "", error.what()});
    }
  }
  if (!faults.empty()) {
    throw InputError(std::move(faults));
  }
  CommandLine merged = line;
  merged.inherit(of_script);
  return merged;
}

RequestedJobs script_job(const CommandLine& line, const JobText& script) {
  if (script.text.size() > kLargestScript) {
    throw InputError(script.name, "",
                     "is larger than 4M, which is the most that a script may be; let a small script run it");
  }
  CommandLine named = line;
  const bool is_input = line.operands[0] == "-";
  if (is_input && !line.has("job-name")) {
    named.add("job-name", "stdin");
  }
  RequestedJobs requested;
  requested.jobs.push_back(
      {job_from_options(named, caller_context(), script.text, script.name), script.name, ""});
  requested.from_options = true;
  requested.input_is_read = is_input;
  return requested;
}

RequestedJobs requested_jobs(const CommandLine& line, JobTexts& texts) {
  RequestedJobs requested;
  if (line.operands.empty()) {
    if (!line.job_command || line.job_command->empty()) {
      const std::string command = "berth " + std::string(line.command->name);
      throw UsageError(line.command,
                       command + " needs a job: \"-- COMMAND [ARGUMENT…]\", a job file or a script (" +
                           command + " - reads standard input)");
    }
    requested.jobs.push_back({job_from_options(line, caller_context()), "command line", ""});
    requested.from_options = true;
    return requested;
  }
  if (line.job_command) {
    const std::string& first = line.operands[0];
    const bool is_volume =
        line.has("verbose") && first.starts_with('/') && first.find(':') != std::string::npos;
    throw UsageError(
        line.command,
        "berth " + std::string(line.command->name) + " takes either job files or a command, not both" +
            (is_volume ? " (-v is --verbose; to show a folder inside: --mount " + first + ")" : ""));
  }
  refuse_job_options(line);
  std::vector<InputFault> faults;
  for (const std::string& path : line.operands) {
    append_job_file(path, texts, requested, faults);
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
    const std::vector<GivenOption> given = line.given(option);
    if (given.empty()) {
      return;
    }
    const auto& [name, text, place] = given.back();
    try {
      parse(text);
    } catch (const std::invalid_argument& error) {
      const std::string what = error.what();
      faults.push_back({place, "--" + name, what.starts_with('"') ? what : '"' + text + "\" " + what});
    }
  };
  apply("slots", [&](const std::string& text) { bounds.slots = parse_slots(text); });
  apply("cpus", [&](const std::string& text) {
    if (text.find('.') != std::string::npos) {
      throw std::invalid_argument(
          "is not a list of CPUs (use 0-3,8; how many one job gets is -c, and a part of one is --cpu-quota)");
    }
    bounds.cpus = CpuSet::parse(text);
  });
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
