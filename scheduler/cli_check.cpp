#include "scheduler/cli_check.h"

#include <cstdio>
#include <string>

#include "scheduler/run_jobs_input.h"
#include "schemas/job_file.h"

namespace berth {
namespace {

/// As berth submit takes it.
std::size_t jobs_of_script(const JobText& script, const std::string& path) {
  CommandLine line;
  line.command = find_command("submit");
  line.operands = {path};
  return script_job(with_batch_options(line, script), script).jobs.size();
}

bool check_file(const std::string& path) {
  try {
    const JobText file = read_job_text(path);
    const std::size_t jobs = file.is_script() ? jobs_of_script(file, path) : file.parse().size();
    std::printf("%s: ok, %zu %s\n", path.c_str(), jobs, jobs == 1 ? "job" : "jobs");
    if (const std::string excess = file.is_script() ? "" : excess_of_request(file.text); !excess.empty()) {
      std::printf("%s: berth run takes it, berth submit does not: %s\n", path.c_str(), excess.c_str());
    }
    return true;
  } catch (const InputError& error) {
    for (const InputFault& fault : error.faults()) {
      std::fprintf(stderr, "%s\n", fault.to_string().c_str());
    }
    return false;
  }
}

}  // namespace

int run_check(const CommandLine& line) {
  if (line.has("schema")) {
    const std::string_view schema = job_schema_text();
    std::fwrite(schema.data(), 1, schema.size(), stdout);
    return 0;
  }
  if (line.operands.empty()) {
    throw UsageError(line.command, "berth check needs at least one FILE");
  }
  bool all_valid = true;
  for (const std::string& path : line.operands) {
    all_valid = check_file(path) && all_valid;
  }
  return all_valid ? 0 : 1;
}

}  // namespace berth
