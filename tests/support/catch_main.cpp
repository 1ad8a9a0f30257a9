// The one translation unit that holds main, and what the programs print about each case: one line
// "CASE: passed NAME", "CASE: failed NAME" or "CASE: skipped NAME" where BERTH_CASES is set, for
// scripts/test-matrix.
#define CATCH_CONFIG_RUNNER
#define CATCH_CONFIG_EXTERNAL_INTERFACES
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>

#include "tests/support/skip_case.h"

namespace {

std::string& skip_reason() {
  static std::string reason;
  return reason;
}

class CaseLines : public Catch::TestEventListenerBase {
 public:
  using TestEventListenerBase::TestEventListenerBase;

  void testCaseStarting(const Catch::TestCaseInfo& info) override {
    TestEventListenerBase::testCaseStarting(info);
    skip_reason().clear();
  }
  void testCaseEnded(const Catch::TestCaseStats& stats) override {
    const char* result = stats.totals.assertions.failed > 0 ? "failed"
                         : skip_reason().empty()            ? "passed"
                                                            : "skipped";
    const std::string& name = stats.testInfo.name;
    if (!skip_reason().empty()) {
      std::printf("SKIPPED: %s: %s\n", name.c_str(), skip_reason().c_str());
    }
    if (std::getenv("BERTH_CASES") != nullptr) {
      std::printf("CASE: %s %s\n", result, name.c_str());
    }
    std::fflush(stdout);
    TestEventListenerBase::testCaseEnded(stats);
  }
};

CATCH_REGISTER_LISTENER(CaseLines)

}  // namespace

void skip_case(const std::string& reason) {
  skip_reason() = reason;
}

/// 1 when anything failed. Catch2 tells how many assertions did, and CTest takes 77 for a skip.
int main(int argc, char** argv) {
  return Catch::Session().run(argc, argv) == 0 ? 0 : 1;
}
