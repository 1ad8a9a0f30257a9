#include "scheduler/cli_doctor.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "executor/executor.h"

namespace berth {
namespace {

const char* level_name(Finding::Level level) {
  switch (level) {
    case Finding::Level::ok:
      return "ok";
    case Finding::Level::limited:
      return "limited";
    case Finding::Level::missing:
      return "missing";
  }
  return "missing";
}

void print_json(const std::vector<Finding>& findings) {
  auto array = nlohmann::ordered_json::array();
  for (const Finding& finding : findings) {
    array.push_back({{"level", level_name(finding.level)},
                     {"subject", finding.subject},
                     {"detail", finding.detail},
                     {"remedy", finding.remedy}});
  }
  std::puts(array.dump(2).c_str());
}

/// Green, yellow, red (console_codes(4)).
const char* colour_of(Finding::Level level) {
  return level == Finding::Level::ok        ? "\x1b[32m"
         : level == Finding::Level::limited ? "\x1b[33m"
                                            : "\x1b[31m";
}

void print_text(const std::vector<Finding>& findings) {
  const bool coloured = ::isatty(STDOUT_FILENO) == 1;
  std::size_t width = 0;
  for (const Finding& finding : findings) {
    width = std::max(width, finding.subject.size());
  }
  for (const Finding& finding : findings) {
    std::printf("%s%-8s%s%-*s  %s\n", coloured ? colour_of(finding.level) : "", level_name(finding.level),
                coloured ? "\x1b[0m" : "", static_cast<int>(width), finding.subject.c_str(),
                finding.detail.c_str());
    if (!finding.remedy.empty()) {
      std::printf("        %-*s  -> %s\n", static_cast<int>(width), "", finding.remedy.c_str());
    }
  }
}

}  // namespace

int run_doctor(const CommandLine& line) {
  const std::vector<Finding> findings = examine_machine();
  if (line.has("json")) {
    print_json(findings);
  } else {
    print_text(findings);
  }
  const bool complete = std::none_of(findings.begin(), findings.end(), [](const Finding& finding) {
    return finding.level == Finding::Level::missing;
  });
  return complete ? 0 : 1;
}

}  // namespace berth
