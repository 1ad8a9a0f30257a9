// What init's parts share: the channel to the executor and the steps of isolation. Everything here runs as
// pid 1 of the job's PID namespace, single-threaded, without libc.
#pragma once

#include "executor/sandbox_protocol.h"

namespace berth::init {

using sandbox::Plan;
using sandbox::PlanMount;
using sandbox::Setup;
using sandbox::Step;

/// Reports the failed step and ends the sandbox.
[[noreturn]] void fail(Step step, long negative_errno, const char* object);
inline long expect(long result, Step step, const char* object) {
  if (result < 0) {
    fail(step, result, object);
  }
  return result;
}

/// The plan with its offsets, and the descriptors that came with it.
struct ReceivedPlan {
  Plan* plan = nullptr;
  const int* descriptors = nullptr;
  char* text(sandbox::Offset offset) const {
    return offset == 0 ? nullptr : reinterpret_cast<char*>(plan) + offset;
  }
  template <typename Item>
  Item* array(sandbox::Offset offset) const {
    return reinterpret_cast<Item*>(reinterpret_cast<char*>(plan) + offset);
  }
};

// -- filesystem.cpp --
/// Builds the root and everything in it that does not depend on the job; ends with the job's root as "/".
/// `plan` is given only with kHostView.
void build_root(const Setup& setup, int own_root, const ReceivedPlan* plan);
/// The job's own mounts, in order.
void apply_mounts(const ReceivedPlan& received, bool host_view);
void resize_private_tmpfs(uint64_t size);
void write_script(const char* text, size_t size);
/// Puts `text` at `target`, /etc/hosts or /etc/resolv.conf, through a file of this `name` below /run/berth.
void mount_network_file(const char* target, const char* name, const char* text);
/// With kHostView: opens every mount's source while the host's tree is still reachable.
void open_sources(const ReceivedPlan& received);

// -- job_process.cpp --
/// In the child between fork and exec: where fail() tells init that it did. -1 in init itself.
extern int failure_pipe;
/// In the child that becomes a further command: its number, for reports. 0 in init and in the job.
extern uint32_t command_number;
/// Sends the master of a terminal to the executor.
void report_terminal(int master);
/// Drops what init itself must not keep: capabilities, privileges to gain, forbidden system calls.
void drop_privileges(const ReceivedPlan& received);
/// Nanoseconds of a clock, clock_gettime(2).
int64_t read_clock(int clock);
struct StartedJob {
  int pid;
  int64_t forked_at;  ///< CLOCK_MONOTONIC
  int64_t setup_cpu;  ///< our own CPU time before the fork
};
/// Forks the job and execs it; returns once the exec succeeded.
StartedJob start_job(const ReceivedPlan& received);
/// Forks a further command beside the job: its pid, or a negative errno. Does not wait for the exec, which a
/// job could hold up by stopping the child; the child reports a failure itself.
long start_command(const ReceivedPlan& received);

}  // namespace berth::init
