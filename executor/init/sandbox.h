// What init's parts share: the channel to the executor and the steps of isolation. Everything here runs as
// pid 1 of the job's PID namespace, single-threaded, without libc.
#pragma once

#include <linux/filter.h>

#include "executor/sandbox_protocol.h"

namespace berth::init {

using sandbox::Plan;
using sandbox::PlanMount;
using sandbox::Setup;
using sandbox::Step;

// -- channel.cpp --
constexpr int kMaximumDescriptors = 128;
/// Where packets are received: init's own, and that of the process which becomes the job, whose memory it is.
struct PacketBuffer {
  alignas(16) char data[sandbox::kInlinePlan];
  int descriptors[kMaximumDescriptors];
};
/// As received; the next one in the same buffer takes its place.
struct Packet {
  char* data = nullptr;
  size_t size = 0;
  const int* descriptors = nullptr;
  uint32_t descriptor_count = 0;
};
/// End of file means that whoever sent it is gone: so are we.
Packet receive_packet(int socket, PacketBuffer& buffer);
/// Init's own.
extern PacketBuffer init_buffer;
/// Negative errno when it could not be sent.
long send_packet(int socket, const void* data, size_t size, const int* descriptors, size_t count);
void send_report(const sandbox::Report& message);
/// Sends the master of a terminal to the executor.
void report_terminal(int master);
/// Reports the failed step and ends this process: init, the job before its exec, or a command before its own.
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
  const int* descriptors = nullptr;  ///< the standard streams and mounts
  Packet packet;                     ///< as it came: the plan, or the head of one that is in `memory`
  int memory = -1;                   ///< memfd
  char* text(sandbox::Offset offset) const {
    return offset == 0 ? nullptr : reinterpret_cast<char*>(plan) + offset;
  }
  template <typename Item>
  Item* array(sandbox::Offset offset) const {
    return reinterpret_cast<Item*>(reinterpret_cast<char*>(plan) + offset);
  }
};

/// The plan in `packet`. Negative errno when one in memory could not be mapped.
long open_plan(const Packet& packet, ReceivedPlan& received);
/// The plan from `socket`.
ReceivedPlan receive_plan(int socket, PacketBuffer& buffer);

// -- filesystem.cpp --
/// Builds the root and everything in it that does not depend on the job; ends with the job's root as "/".
/// `plan` is given only with kHostView.
void build_root(const Setup& setup, int own_root, const ReceivedPlan* plan);
/// The job's own mounts, in order.
void apply_mounts(const Setup& setup, const ReceivedPlan& received);
void resize_private_tmpfs(uint64_t size);
void write_script(const char* text, size_t size);
/// Puts `text` at `target`, /etc/hosts or /etc/resolv.conf, through a file of this `name` below /run/berth.
void mount_network_file(const char* target, const char* name, const char* text);
/// With kHostView: opens every mount's source while the host's tree is still reachable.
void open_sources(const ReceivedPlan& received);

// -- job_process.cpp --
/// In the process that becomes the job, until its exec: where fail() tells init that it did.
constexpr int kFailureFd = sandbox::kChannelFd + 1;
/// In the child that becomes a further command: its number, for reports. 0 in init and in the job.
extern uint32_t command_number;
/// What can be given up before the job is known: the bounding and ambient sets, privileges to gain by exec.
void drop_ahead();
/// The rest of what init itself must not keep: its capabilities.
void drop_capabilities();
/// Leaves this process and its children to come only the system calls that `filter` allows; with none, all.
/// Negative errno when it could not be.
long load_filter(const sock_filter* filter, uint32_t size);
/// Nanoseconds of a clock, clock_gettime(2).
int64_t read_clock(int clock);
/// CPU time of this process, nanoseconds.
int64_t read_process_time();
/// The process that will become the job: without capabilities, under `filter`, waiting for its plan. It runs
/// in init's memory until its exec (CLONE_VM): a copy of the page tables, and its end, would cost more than
/// all else that it does. So it writes to nothing of init's; what is its own is in job_process.cpp. That it
/// makes itself undumpable makes init so too.
struct WaitingJob {
  int pid;
  int socket;  ///< the plan goes in, with [memfd] and standard streams; a byte comes back when a step failed
};
WaitingJob fork_job(const sock_filter* filter, uint32_t filter_size);
/// Hands the plan over. Gives the CPU time of init and of the waiting process up to then, nanoseconds.
int64_t start_job(const WaitingJob& job, const ReceivedPlan& received);
/// Returns once the exec succeeded; ends init when a step before it failed.
void await_exec(const WaitingJob& job);
/// Forks a further command beside the job: its pid, or a negative errno. Does not wait for the exec, which a
/// job could hold up by stopping the child; the child reports a failure itself. Init is confined by then.
long start_command(const ReceivedPlan& received);

}  // namespace berth::init
