// States, causes, exit statuses, signals and faults.
#include <catch2/catch.hpp>
#include <cerrno>
#include <csignal>
#include <initializer_list>

#include "schemas/input_error.h"
#include "schemas/job.h"
#include "schemas/outcome.h"
#include "schemas/signals.h"

namespace berth {
namespace {

constexpr JobState kLastState = JobState::deadline;

template <typename Visitor>
void for_each_state(Visitor visit) {
  for (int state = 0; state <= static_cast<int>(kLastState); ++state) {
    visit(static_cast<JobState>(state));
  }
}

TEST_CASE("every state reads back from its name and its code, in any case") {
  for_each_state([](JobState state) { CHECK(parse_job_state(to_string(state)) == state); });
  JobState next = JobState::pending;
  for (const char* code : {"PD", "CF", "R", "S", "CG", "CD", "F", "TO", "OOM", "CA", "PR", "NF", "DL"}) {
    CHECK(parse_job_state(code) == next);
    next = static_cast<JobState>(static_cast<int>(next) + 1);
  }
  CHECK(to_string(JobState::out_of_memory) == "OUT_OF_MEMORY");
  CHECK(parse_job_state("completed") == JobState::completed);
  CHECK(parse_job_state("Cd") == JobState::completed);
  CHECK_FALSE(parse_job_state("DONE"));
  CHECK_FALSE(parse_job_state(""));
}

TEST_CASE("final states have no way out") {
  for_each_state([](JobState from) {
    for_each_state([&](JobState to) {
      if (is_final(from)) {
        CHECK_FALSE(may_transition(from, to));
      }
    });
  });
}

TEST_CASE("states follow the diagram in job.h") {
  using enum JobState;
  const std::initializer_list<JobState> ends{completed, failed,    timeout,  out_of_memory,
                                             cancelled, preempted, deadline, node_fail};
  const std::initializer_list<JobState> ends_without_running{cancelled, deadline, node_fail, failed};
  const auto expect = [](JobState from, std::initializer_list<std::initializer_list<JobState>> allowed) {
    for_each_state([&](JobState to) {
      bool is_allowed = false;
      for (const auto& group : allowed) {
        for (const JobState state : group) {
          is_allowed = is_allowed || state == to;
        }
      }
      INFO(to_string(from) << " to " << to_string(to));
      CHECK(may_transition(from, to) == is_allowed);
    });
  };
  expect(pending, {{configuring}, ends_without_running});
  expect(configuring, {{running, out_of_memory, preempted}, ends_without_running});
  expect(running, {{suspended, completing}, ends});
  expect(suspended, {{running, completing}, ends});
  expect(completing, {ends});
}

TEST_CASE("every cause reads back from its name") {
  for (int index = 0; index <= static_cast<int>(Cause::exited); ++index) {
    const auto cause = static_cast<Cause>(index);
    CHECK(parse_cause(to_string(cause)) == cause);
  }
  CHECK_FALSE(parse_cause("boredom"));
}

Outcome ended(Cause cause, int exit_code, int signal) {
  Outcome outcome;
  outcome.cause = cause;
  outcome.exit_code = exit_code;
  outcome.signal = signal;
  return outcome;
}

Outcome not_launched(const char* stage, int error_number) {
  Outcome outcome;
  outcome.cause = Cause::launch_failed;
  outcome.stage = stage;
  outcome.error_number = error_number;
  return outcome;
}

TEST_CASE("the exit status of berth run is the job's own, or says who ended it") {
  CHECK(exit_status(ended(Cause::exited, 0, 0)) == 0);
  CHECK(exit_status(ended(Cause::exited, 42, 0)) == 42);
  CHECK(exit_status(ended(Cause::exited, 127, 0)) == 127);
  CHECK(exit_status(ended(Cause::signalled, 0, SIGSEGV)) == 139);
  CHECK(exit_status(ended(Cause::seccomp_violation, 0, SIGSYS)) == 128 + SIGSYS);
  CHECK(exit_status(ended(Cause::out_of_memory, 0, SIGKILL)) == 137);
  CHECK(exit_status(ended(Cause::deadline, 0, 0)) == 124);
  CHECK(exit_status(ended(Cause::wall_time, 0, SIGKILL)) == 124);
  CHECK(exit_status(ended(Cause::wall_time, 0, 0)) == 124);
  CHECK(exit_status(ended(Cause::cpu_time, 0, SIGTERM)) == 124);
  CHECK(exit_status(ended(Cause::no_output, 3, 0)) == 124);
  CHECK(exit_status(ended(Cause::node_fail, 0, 0)) == 125);
  CHECK(exit_status(not_launched("mount /data", ENOENT)) == 125);
  CHECK(exit_status(not_launched("exec", ENOENT)) == 127);
  CHECK(exit_status(not_launched("exec", EACCES)) == 126);
  CHECK(exit_status(not_launched("exec", ENOEXEC)) == 126);
}

TEST_CASE("a job that was stopped never looks like a success") {
  for (const Cause cause : {Cause::cancelled, Cause::preempted, Cause::output_limit}) {
    CHECK(exit_status(ended(cause, 0, SIGKILL)) == 137);
    CHECK(exit_status(ended(cause, 5, 0)) == 5);
    CHECK(exit_status(ended(cause, 0, 0)) == 128 + SIGTERM);
  }
}

TEST_CASE("ExitCode is sacct's code:signal") {
  CHECK(exit_code_field(ended(Cause::exited, 3, 0)) == "3:0");
  CHECK(exit_code_field(ended(Cause::signalled, 0, 9)) == "0:9");
}

TEST_CASE("ExitCode of what never ran is no success") {
  CHECK(exit_code_field(not_launched("exec", ENOENT)) == "127:0");
  CHECK(exit_code_field(not_launched("open /nope/x", ENOENT)) == "125:0");
  Outcome outcome;
  outcome.cause = Cause::cancelled;
  CHECK(exit_code_field(outcome) == "143:0");
  outcome.cause = Cause::node_fail;
  CHECK(exit_code_field(outcome) == "125:0");
}

TEST_CASE("signals are named with or without SIG, in any case, or by number") {
  CHECK(parse_signal("USR1") == SIGUSR1);
  CHECK(parse_signal("SIGUSR1") == SIGUSR1);
  CHECK(parse_signal("sigterm") == SIGTERM);
  CHECK(parse_signal("10") == 10);
  for (const char* text : {"", "0", "65", "-1", "SIG", "USR3", "10 ", "SIGSIGUSR1"}) {
    INFO(text);
    CHECK_FALSE(parse_signal(text));
  }
  for (int number = 1; number <= kMaximumSignal; ++number) {
    CHECK(parse_signal(signal_name(number)) == number);
  }
  CHECK(signal_name(SIGKILL) == "KILL");
  CHECK(signal_name(40) == "40");
}

TEST_CASE("a fault prints as file, pointer and message on one line") {
  CHECK(InputFault{"job.json", "/nice", "is high"}.to_string() == "job.json: /nice: is high");
  CHECK(InputFault{"job.json", "", "is empty"}.to_string() == "job.json: is empty");
  CHECK(InputFault{"", "/\x1b[2J\n\xc2\x9b", "x"}.to_string() == "/\\u001b[2J\\u000a\\u009b: x");
  CHECK(InputFault{"", "/übung", "…"}.to_string() == "/übung: …");
}

TEST_CASE("an input error says every fault, one a line") {
  const InputError error({{"a", "/x", "one"}, {"a", "/y", "two"}});
  CHECK(std::string(error.what()) == "a: /x: one\na: /y: two");
  CHECK(error.faults().size() == 2);
  CHECK(InputError("command line", "--mem", "wrong").faults().front() ==
        InputFault{"command line", "--mem", "wrong"});
}

}  // namespace
}  // namespace berth
