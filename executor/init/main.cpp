// berth's init: pid 1 of a job's PID namespace.
//
// A freestanding static program (no libc: its exec costs a tenth of a dynamic one's) that the launcher
// starts in fresh user, PID, mount, network, IPC and UTS namespaces. It does the rest of the isolation from
// inside, starts the job as pid 2, reaps orphans, forwards signals, and exits with the job, whereupon the
// kernel kills whatever is left in the namespace (pid_namespaces(7)).
//
// It keeps no privilege once the job runs: same user, no capabilities, not dumpable (so that the job can
// neither trace it nor read its memory, ptrace(2)), and after a moment the job's own seccomp filter.
#include <linux/capability.h>
#include <linux/poll.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/signal.h>
#include <linux/wait.h>
#include <sys/syscall.h>

#include "executor/init/freestanding.h"
#include "executor/init/raw_syscall.h"
#include "executor/init/sandbox.h"

namespace berth::init {
namespace {

constexpr int kFcntlSetFd = 2;
constexpr int kSfdNonblock = 00004000;
constexpr int kSfdCloexec = 02000000;
/// Each time that init runs it takes the CPU from its job, so that a short one is told of as a whole, at its
/// end, and what only matters while a job runs waits until it has run for a while. Nanoseconds.
constexpr int64_t kReportAfter = 1'000'000;
constexpr int64_t kConfineAfter = 10'000'000;

alignas(16) Setup setup;
alignas(16) sock_filter filter[sandbox::kMaximumFilter];
bool confined = false;
/// When the job is ended without a word from the executor (Plan::longest_run), CLOCK_MONOTONIC; 0: never.
int64_t end_at = 0;

void report(sandbox::ReportKind kind, int wait_status, uint32_t command = 0) {
  sandbox::Report message{};
  message.kind = kind;
  message.wait_status = wait_status;
  message.command = command;
  message.at = read_clock(1 /* CLOCK_MONOTONIC */);
  send_report(message);
}

void loopback_up() {
  struct {
    char name[16];
    short flags;
    char rest[22];
  } request{};  // struct ifreq, netdevice(7)
  copy(request.name, "lo", sizeof request.name);
  request.flags = 0x1 | 0x40;  // IFF_UP | IFF_RUNNING
  const long socket =
      expect(sys(SYS_socket, 2 /* AF_INET */, 2 /* SOCK_DGRAM */ | 02000000, 0), Step::loopback_up, "socket");
  expect(sys(SYS_ioctl, socket, 0x8914 /* SIOCSIFFLAGS */, &request), Step::loopback_up, "lo");
  sys(SYS_close, socket);
}

/// Capabilities stay: the new uid is not reached from uid 0 of this user namespace, or is 0 itself.
void become_inside_user() {
  sys(SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
  if (setup.set_groups != 0) {
    expect(sys(SYS_setgroups, setup.group_count, setup.groups), Step::set_groups, "setgroups");
  }
  expect(sys(SYS_setresgid, setup.inside_gid, setup.inside_gid, setup.inside_gid), Step::set_gid,
         "setresgid");
  expect(sys(SYS_setresuid, setup.inside_uid, setup.inside_uid, setup.inside_uid), Step::set_uid,
         "setresuid");
  // The uid change dropped the effective set where uid 0 is mapped; take it back from the permitted one.
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2];
  if (sys(SYS_capget, &header, data) == 0) {
    data[0].effective = data[0].permitted;
    data[1].effective = data[1].permitted;
    sys(SYS_capset, &header, data);
  }
  sys(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);  // a uid change cleared it, prctl(2)
}

/// The descriptors that came with it: [root] and `tasks` files.
const int* receive_setup() {
  const Packet packet = receive_packet(sandbox::kChannelFd, init_buffer);
  const auto* sent = reinterpret_cast<const Setup*>(packet.data);
  const size_t fixed = offsetof(Setup, groups);
  if (packet.size < fixed || sent->group_count > sandbox::kMaximumGroups ||
      sent->seccomp_count > sandbox::kMaximumFilter) {
    fail(Step::receive, -71 /* EPROTO */, "setup");
  }
  const size_t head = fixed + sent->group_count * sizeof sent->groups[0];
  const size_t filter_size = sent->seccomp_count * sizeof(sock_filter);
  if (packet.size != head + filter_size) {
    fail(Step::receive, -71 /* EPROTO */, "setup");
  }
  memcpy(&setup, packet.data, head);
  memcpy(filter, packet.data + head, filter_size);
  return packet.descriptors;
}

/// Joins the cgroup, then makes the namespaces whose view begins there. In this order: a cgroup namespace
/// made before the attach would have the wrong root (cgroup_namespaces(7)). Gives the CPU time that the
/// cgroup's counter does not have, nanoseconds.
int64_t enter_cgroup(const int* tasks) {
  const int64_t cpu_before = (setup.flags & sandbox::kCpuFromAttach) != 0 ? read_process_time() : 0;
  for (uint32_t index = 0; index < setup.attach_count; ++index) {
    // "0" is the writing thread itself: the kernel then skips cgroup_threadgroup_rwsem, whose write side
    // costs an RCU grace period (11 ms on an idle machine).
    char digits[24];
    expect(sys(SYS_write, tasks[index], "0", 1), Step::attach_cgroup, decimal(index, digits));
    sys(SYS_close, tasks[index]);
  }
  expect(sys(SYS_unshare, CLONE_NEWCGROUP), Step::unshare_cgroup, "cgroup");
  expect(sys(SYS_unshare, CLONE_NEWTIME), Step::unshare_time, "time");
  return cpu_before;
}

void write_time_offsets() {
  if (setup.monotonic_offset == 0 && setup.boottime_offset == 0) {
    return;
  }
  char text[96] = "monotonic ";
  char digits[24];
  append(text, decimal(setup.monotonic_offset, digits), sizeof text);
  append(text, " 0\nboottime ", sizeof text);
  append(text, decimal(setup.boottime_offset, digits), sizeof text);
  append(text, " 0\n", sizeof text);
  // The uid change made us undumpable, and /proc/self root's; until the job starts nobody is here to mind.
  sys(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
  const long file = expect(sys(SYS_openat, -100, "/proc/self/timens_offsets", 1 | 02000000, 0),
                           Step::time_offset, "/proc/self/timens_offsets");
  expect(sys(SYS_write, file, text, length(text)), Step::time_offset, "/proc/self/timens_offsets");
  sys(SYS_close, file);
}

/// Further commands that run beside the job. Each leads a session and so a process group of its own.
struct Command {
  uint32_t number;  ///< 0: a free place
  int pid;
};
Command commands[sandbox::kMaximumCommands];
int job_pid;  // of the job's main process, from its start on

/// Puts init under the job's filter, once. Not before the job starts: init mounts for it until then, and a
/// short job need not wait for it.
long confine() {
  const long error = confined ? 0 : load_filter(filter, setup.seccomp_count);
  confined = error >= 0;
  return error;
}

/// A failure of ours here is the command's, never the job's: the job may have used up its processes.
void begin_command(const Packet& packet) {
  const auto* plan = reinterpret_cast<const Plan*>(packet.data);
  Command* place = nullptr;
  for (Command& command : commands) {
    place = command.number == 0 ? &command : place;
  }
  ReceivedPlan received;
  // EMFILE: the job lowered our limit, and the kernel left descriptors out.
  long result = plan->descriptor_count == packet.descriptor_count ? open_plan(packet, received) : -24;
  if (result >= 0) {
    result = place != nullptr ? confine() : -11 /* EAGAIN */;  // the command's process inherits the filter
  }
  if (result >= 0) {
    result = start_command(received);
  }
  if (result > 0) {
    *place = {plan->command, static_cast<int>(result)};
  } else {
    sandbox::Report message{};
    message.kind = sandbox::ReportKind::command_failed;
    message.step = Step::fork;
    message.error = static_cast<int32_t>(-result);
    message.command = plan->command;
    send_report(message);
  }
  if (received.memory >= 0 && received.plan != nullptr) {
    sys(SYS_munmap, received.plan, static_cast<size_t>(plan->size));
  }
}

void send_signal(const sandbox::SignalMessage& message) {
  if (message.command == sandbox::kMainProcess) {
    sys(SYS_kill, job_pid, message.signal);  // reaped only when nothing is signalled any more
    return;
  }
  if (message.command == 0) {
    sys(SYS_kill, -1, message.signal);
    return;
  }
  for (const Command& command : commands) {
    if (command.number == message.command) {
      if (sys(SYS_kill, -command.pid, message.signal) < 0) {
        sys(SYS_kill, command.pid, message.signal);  // it has not come to setsid(2) yet
      }
    }
  }
}

/// Handles one packet from the executor while the job runs. The job's own plan is not needed any more.
void handle_message() {
  const Packet packet = receive_packet(sandbox::kChannelFd, init_buffer);
  const auto* message = reinterpret_cast<const sandbox::SignalMessage*>(packet.data);
  if (packet.size >= sizeof *message && message->kind == sandbox::MessageKind::signal) {
    send_signal(*message);
  } else if (packet.size >= sizeof(Plan) && message->kind == sandbox::MessageKind::command) {
    begin_command(packet);
  } else if (packet.size >= sizeof(sandbox::ExtendMessage) && message->kind == sandbox::MessageKind::extend) {
    end_at += end_at != 0 ? reinterpret_cast<const sandbox::ExtendMessage*>(packet.data)->pause : 0;
  }
  for (uint32_t index = 0; index < packet.descriptor_count; ++index) {
    sys(SYS_close, packet.descriptors[index]);
  }
}

void end_command(int pid, int status) {
  for (Command& command : commands) {
    if (command.number != 0 && command.pid == pid) {
      report(sandbox::ReportKind::command_exited, status, command.number);
      command = {0, 0};
    }
  }
}

/// The main process has ended: ends the rest, waits for it and tells what all of it used. To exit at once
/// would end it too (pid_namespaces(7)), but our own end takes as long as a short job, for the namespaces
/// that go with it; the executor says when.
[[noreturn]] void finish(int wait_status) {
  report(sandbox::ReportKind::exited, wait_status);
  int status = 0;
  long pid = sys(SYS_wait4, -1, &status, WNOHANG | __WALL, 0);
  if (pid >= 0) {
    sys(SYS_kill, -1, SIGKILL);  // under one lock: no fork escapes it
  }
  for (; pid >= 0; pid = sys(SYS_wait4, -1, &status, __WALL, 0)) {
    if (pid > 0) {
      end_command(static_cast<int>(pid), status);
    }
  }
  long usage[18];  // struct rusage: two struct timeval and 14 counters
  sandbox::Report message{};
  message.kind = sandbox::ReportKind::gone;
  if (sys(SYS_getrusage, -1 /* RUSAGE_CHILDREN */, usage) == 0) {
    message.voluntary_switches = usage[16];
    message.involuntary_switches = usage[17];
  }
  send_report(message);
  while (true) {  // until the executor lets go
    receive_packet(sandbox::kChannelFd, init_buffer);
  }
}

/// Until a child has ended, the executor says something, or `patience` has passed.
void wait_for_event(pollfd* descriptors, const int64_t* patience) {
  constexpr int64_t kSecond = 1'000'000'000;
  int64_t left[2] = {};  // ppoll(2) changes it
  if (patience != nullptr) {
    left[0] = *patience / kSecond;
    left[1] = *patience % kSecond;
  }
  const long ready = sys(SYS_ppoll, descriptors, 2, patience != nullptr ? left : nullptr, 0, 8);
  if (ready < 0 && ready != -4 /* EINTR */) {
    sys(SYS_exit_group,
        125);  // deaf to its supervisor, as when the job took our descriptor limit: it ends too
  }
}

/// Until the next thing that is due by itself; negative: nothing is.
int64_t time_to_wait() {
  if (!confined) {
    return kConfineAfter;
  }
  const int64_t left = end_at != 0 ? end_at - read_clock(1 /* CLOCK_MONOTONIC */) : -1;
  return end_at != 0 && left < 0 ? 0 : left;
}

/// Time limits are the executor's, but one that is stopped (SIGSTOP, a debugger) enforces none. Then the main
/// process ends as any does, so that the executor is told when, and of what all of it used.
void end_overdue_job() {
  if (end_at != 0 && read_clock(1 /* CLOCK_MONOTONIC */) >= end_at) {
    end_at = 0;
    sys(SYS_kill, -1, SIGKILL);  // under one lock: no fork escapes it
    report(sandbox::ReportKind::overdue, 0);
  }
}

/// Reaps until the job's main process is gone.
[[noreturn]] void supervise(int signals) {
  while (true) {
    pollfd descriptors[2] = {{sandbox::kChannelFd, POLLIN, 0}, {signals, POLLIN, 0}};
    const int64_t patience = time_to_wait();
    wait_for_event(descriptors, patience >= 0 ? &patience : nullptr);
    if ((descriptors[1].revents & POLLIN) != 0) {
      char discarded[128 * 4];
      sys(SYS_read, signals, discarded, sizeof discarded);
    }
    // SIGCHLD may stand for several children; always drain.
    int status = 0;
    long pid;
    while ((pid = sys(SYS_wait4, -1, &status, WNOHANG | __WALL, 0)) > 0) {
      if (pid == job_pid) {
        finish(status);
      }
      end_command(static_cast<int>(pid), status);
    }
    if (descriptors[0].revents != 0) {
      handle_message();
      continue;  // all of them before the look at the clock: the job may have been frozen meanwhile
    }
    end_overdue_job();
    confine();  // no memory for it now: tried again
  }
}

/// Blocks every signal and gives SIGCHLD as a descriptor. pid 1 gets from inside the namespace only signals
/// that it handles, so nothing else can end it.
int open_signals() {
  const uint64_t all = ~0ull;
  sys(SYS_rt_sigprocmask, SIG_SETMASK, &all, 0, 8);
  const uint64_t child = 1ull << (SIGCHLD - 1);
  return static_cast<int>(
      expect(sys(SYS_signalfd4, -1, &child, 8, kSfdNonblock | kSfdCloexec), Step::receive, "signalfd"));
}

[[noreturn]] void run() {
  sys(SYS_prctl, PR_SET_NAME, "berth-init", 0, 0, 0);
  sys(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  sys(SYS_fcntl, sandbox::kChannelFd, kFcntlSetFd, 1);
  uint64_t ready = 0;
  expect(sys(SYS_read, sandbox::kMapsReadyFd, &ready, sizeof ready), Step::wait_for_maps, "eventfd");
  sys(SYS_close, sandbox::kMapsReadyFd);

  const int* given = receive_setup();
  const bool own_root = (setup.flags & sandbox::kOwnRoot) != 0;
  const bool host_view = (setup.flags & sandbox::kHostView) != 0;
  const int root = own_root && !host_view ? *given++ : -1;
  const int64_t cpu_before_attach = enter_cgroup(given);
  become_inside_user();
  ReceivedPlan received;
  if (host_view) {
    received = receive_plan(sandbox::kChannelFd, init_buffer);
    open_sources(received);
  }
  build_root(setup, root, host_view ? &received : nullptr);
  if ((setup.flags & sandbox::kLoopbackUp) != 0) {
    loopback_up();
  }
  write_time_offsets();
  const int signals = open_signals();
  drop_ahead();
  const WaitingJob waiting = fork_job(filter, setup.seccomp_count);
  report(sandbox::ReportKind::ready, 0);

  if (!host_view) {
    received = receive_plan(sandbox::kChannelFd, init_buffer);
  }
  const Plan& plan = *received.plan;
  const char* hostname = received.text(plan.hostname);
  expect(sys(SYS_sethostname, hostname, length(hostname)), Step::set_hostname, hostname);
  if (plan.tmpfs_size != 0) {
    resize_private_tmpfs(plan.tmpfs_size);
  }
  apply_mounts(setup, received);
  if (plan.hosts != 0) {
    mount_network_file("/etc/hosts", "hosts", received.text(plan.hosts));
    mount_network_file("/etc/resolv.conf", "resolv.conf", received.text(plan.resolver));
  }
  if (plan.script != 0) {
    write_script(received.text(plan.script), plan.script_size);
  }
  // What we read was in the socket's queue; whoever sent it may have given the job up since, when its
  // launcher died.
  pollfd supervisor{sandbox::kChannelFd, 0, 0};
  const int64_t at_once[2] = {0, 0};
  sys(SYS_ppoll, &supervisor, 1, at_once, 0, 8);
  if ((supervisor.revents & POLLHUP) != 0) {
    sys(SYS_exit_group, 0);
  }
  drop_capabilities();
  sandbox::Report started{};
  started.kind = sandbox::ReportKind::started;
  started.at = read_clock(1 /* CLOCK_MONOTONIC */);
  started.setup_cpu = start_job(waiting, received) - cpu_before_attach;
  pollfd descriptors[2] = {{sandbox::kChannelFd, POLLIN, 0}, {signals, POLLIN, 0}};
  wait_for_event(descriptors, &kReportAfter);
  await_exec(waiting);
  send_report(started);
  end_at = plan.longest_run != 0 ? started.at + plan.longest_run : 0;
  job_pid = waiting.pid;
  supervise(signals);
}

}  // namespace

}  // namespace berth::init

extern "C" {

// The compiler may emit calls to these even in a freestanding program.
void* memcpy(void* to, const void* from, size_t size) {
  auto* target = static_cast<char*>(to);
  const auto* source = static_cast<const char*>(from);
  for (size_t index = 0; index < size; ++index) {
    target[index] = source[index];
    asm volatile("" ::: "memory");  // keeps the loop from being turned into a call to memcpy itself
  }
  return to;
}

void* memset(void* to, int value, size_t size) {
  auto* target = static_cast<char*>(to);
  for (size_t index = 0; index < size; ++index) {
    target[index] = static_cast<char>(value);
    asm volatile("" ::: "memory");
  }
  return to;
}

[[noreturn]] void berth_init_main() {
  berth::init::run();
}

}  // extern "C"

// The kernel enters with the stack aligned to 16 bytes; a function expects it so before its call.
#if defined(__x86_64__)
asm(".globl _start\n_start:\n\txor %ebp, %ebp\n\tand $-16, %rsp\n\tcall berth_init_main\n\thlt\n");
#elif defined(__aarch64__)
asm(".globl _start\n_start:\n\tmov x29, #0\n\tbl berth_init_main\n\tbrk #0\n");
#endif
