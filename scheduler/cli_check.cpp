#include "scheduler/cli_check.h"

#include <cstdio>
#include <string>

#include "schemas/job_file.h"

namespace berth {
namespace {

bool check_file(const std::string& path) {
  try {
    const std::size_t jobs = load_job_file(path).size();
    std::printf("%s: ok, %zu %s\n", path.c_str(), jobs, jobs == 1 ? "job" : "jobs");
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
