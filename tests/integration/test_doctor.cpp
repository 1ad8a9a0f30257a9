// examine_machine() on the real kernel, with whatever rights the test has: it tries things, and must leave
// none of them behind.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cerrno>
#include <fstream>
#include <iterator>

#include "executor/executor.h"

using namespace berth;

namespace {

std::string slurp(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

bool mentions(const std::vector<Finding>& findings, const std::string& subject) {
  return std::any_of(findings.begin(), findings.end(),
                     [&](const Finding& finding) { return finding.subject.starts_with(subject); });
}

void check_findings(const std::vector<Finding>& findings) {
  for (const Finding& finding : findings) {
    INFO(finding.subject << ": " << finding.detail << " -> " << finding.remedy);
    CHECK_FALSE(finding.subject.empty());
    CHECK_FALSE(finding.detail.empty());
    CHECK(finding.remedy.empty() == (finding.level == Finding::Level::ok));
  }
}

}  // namespace

TEST_CASE("the doctor speaks of every namespace and controller, and every lack has a remedy") {
  const std::string mounts = slurp("/proc/self/mountinfo"), cgroups = slurp("/proc/self/cgroup");
  const std::vector<Finding> findings = examine_machine();
  for (const char* kind : {"user", "pid", "mount", "network", "ipc", "uts", "cgroup", "time"}) {
    CHECK(mentions(findings, std::string("namespace ") + kind));
  }
  for (const char* name :
       {"cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio", "net_cls", "hugetlb"}) {
    CHECK((mentions(findings, std::string("controller ") + name) || mentions(findings, "cgroups")));
  }
  for (const char* subject : {"kernel", "pidfd", "seccomp", "user namespaces without privileges",
                              "new mount API", "overlayfs", "subordinate ids", "private networks"}) {
    CHECK(mentions(findings, subject));
  }
  check_findings(findings);
  CHECK(slurp("/proc/self/mountinfo") == mounts);
  CHECK(::waitpid(-1, nullptr, WNOHANG) == -1);
  CHECK(errno == ECHILD);
  // The hierarchies that berth mounts itself dissolve in their own time.
  for (int i = 0; i < 2500 && slurp("/proc/self/cgroup") != cgroups; ++i) {
    ::usleep(2000);
  }
  CHECK(slurp("/proc/self/cgroup") == cgroups);
}

TEST_CASE("without privileges the doctor still answers, with remedies") {
  if (::geteuid() != 0) {
    SUCCEED("the test above ran without privileges");
    return;
  }
  const pid_t child = ::fork();
  if (child == 0) {
    constexpr unsigned kNobody = 65534;
    if (::setresgid(kNobody, kNobody, kNobody) != 0 || ::setresuid(kNobody, kNobody, kNobody) != 0) {
      ::_exit(9);
    }
    const std::vector<Finding> findings = examine_machine();
    const bool each_has_remedy = std::all_of(findings.begin(), findings.end(), [](const Finding& finding) {
      return finding.remedy.empty() == (finding.level == Finding::Level::ok) && !finding.detail.empty();
    });
    ::_exit(each_has_remedy && findings.size() > 20 ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WEXITSTATUS(status) == 0);
}
