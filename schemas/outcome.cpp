#include "schemas/outcome.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>

namespace berth {

namespace {

constexpr std::array<std::string_view, 13> kCauses{
    "launch_failed", "wall_time", "cpu_time",      "output_limit",      "no_output", "cancelled", "preempted",
    "deadline",      "node_fail", "out_of_memory", "seccomp_violation", "signalled", "exited",
};
static_assert(kCauses.size() == static_cast<std::size_t>(Cause::exited) + 1);

constexpr int kTimedOut = 124;  // the codes of timeout(1) and env(1)
constexpr int kBerthFailed = 125;
constexpr int kNotExecutable = 126;
constexpr int kNotFound = 127;
constexpr int kSignalBase = 128;

int launch_failure_status(const Outcome& outcome) {
  if (outcome.stage != "exec") {
    return kBerthFailed;
  }
  return outcome.error_number == ENOENT ? kNotFound : kNotExecutable;
}

/// A job that we stopped may still exit by itself, even with 0: it must not look like a success.
int stopped_status(const Outcome& outcome) {
  if (outcome.signal != 0) {
    return kSignalBase + outcome.signal;
  }
  const int code = outcome.exit_code.value_or(0);
  return code != 0 ? code : kSignalBase + SIGTERM;
}

}  // namespace

std::string_view to_string(Cause cause) {
  return kCauses.at(static_cast<std::size_t>(cause));
}

std::optional<Cause> parse_cause(std::string_view text) {
  for (std::size_t index = 0; index < kCauses.size(); ++index) {
    if (kCauses.at(index) == text) {
      return static_cast<Cause>(index);
    }
  }
  return std::nullopt;
}

int exit_status(const Outcome& outcome) {
  switch (outcome.cause) {
    case Cause::launch_failed:
      return launch_failure_status(outcome);
    case Cause::wall_time:
    case Cause::cpu_time:
    case Cause::no_output:
    case Cause::deadline:
      return kTimedOut;
    case Cause::output_limit:
    case Cause::cancelled:
    case Cause::preempted:
      return stopped_status(outcome);
    case Cause::node_fail:
      return kBerthFailed;
    case Cause::out_of_memory:
      return kSignalBase + SIGKILL;
    case Cause::seccomp_violation:
    case Cause::signalled:
      return kSignalBase + outcome.signal;
    case Cause::exited:
      return outcome.exit_code.value_or(kBerthFailed);
  }
  return kBerthFailed;
}

std::string exit_code_field(const Outcome& outcome) {
  return std::to_string(outcome.exit_code ? *outcome.exit_code : exit_status(outcome)) + ":" +
         std::to_string(outcome.signal);
}

}  // namespace berth
