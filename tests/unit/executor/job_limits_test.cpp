// What a machine cannot enforce is refused before it is queued (executor/executor.h: check_limits).
#include <unistd.h>

#include <catch2/catch.hpp>

#include "executor/cgroup.h"
#include "executor/executor.h"

using namespace berth;

namespace {

/// Every controller in v1, but no accounting of swap.
ControllerReport without_swap_accounting() {
  ControllerReport report;
  report.controllers.assign(kControllerCount, {1, ""});
  return report;
}

JobSpec with_swap(std::optional<Bytes> swap) {
  JobSpec spec;
  spec.limits.swap = swap;
  return spec;
}

}  // namespace

TEST_CASE("a limit of swap that is not accounted is refused, also that of none, unless the kernel has none") {
  const ControllerReport report = without_swap_accounting();
  CHECK_NOTHROW(check_limits(with_swap({}), report));
  CHECK_THROWS_WITH(check_limits(with_swap(1u << 20), report), Catch::Contains("limits.swap"));
  if (::access("/proc/swaps", F_OK) == 0) {
    CHECK_THROWS_WITH(check_limits(with_swap(0), report), Catch::Contains("limits.swap"));
  } else {
    CHECK_NOTHROW(check_limits(with_swap(0), report));
  }
}
