// OtherCpu under the real scheduler: where a process may run after each call.
#include <fcntl.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>

#include "executor/os/other_cpu.h"
#include "tests/support/skip_case.h"

using namespace berth;

namespace {

int allowed_cpus(pid_t process) {
  cpu_set_t mask;
  REQUIRE(::sched_getaffinity(process, sizeof mask, &mask) == 0);
  return CPU_COUNT(&mask);
}

}  // namespace

TEST_CASE("a process that is taken to the other CPU may use that alone until it leaves") {
  cpu_set_t before;
  REQUIRE(::sched_getaffinity(0, sizeof before, &before) == 0);
  cpu_set_t two;
  CPU_ZERO(&two);
  for (unsigned cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&two) < 2; ++cpu) {
    if (CPU_ISSET(cpu, &before)) {
      CPU_SET(cpu, &two);
    }
  }
  if (CPU_COUNT(&two) < 2) {
    skip_case("one CPU: there is no other");
    return;
  }
  REQUIRE(::sched_setaffinity(0, sizeof two, &two) == 0);
  OtherCpu other;
  int go[2];
  REQUIRE(::pipe2(go, O_CLOEXEC) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    char byte;
    (void)!::read(go[0], &byte, 1);
    other.leave();
    ::_exit(allowed_cpus(0) == 2 ? 0 : 1);
  }
  REQUIRE(child > 0);
  other.take_process(child);
  CHECK(allowed_cpus(child) == 1);
  CHECK(::write(go[1], "x", 1) == 1);
  int status = -1;
  CHECK(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);

  // With one CPU, or more than two, nothing is changed.
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<unsigned>(::sched_getcpu()), &one);
  REQUIRE(::sched_setaffinity(0, sizeof one, &one) == 0);
  OtherCpu none;
  none.take_process(::getpid());
  none.leave();
  CHECK(allowed_cpus(0) == 1);
  CHECK(::sched_setaffinity(0, sizeof before, &before) == 0);
  ::close(go[0]);
  ::close(go[1]);
}
