// berth's init: pid 1 of a job's PID namespace.
//
// A freestanding static program (no libc: its exec costs a tenth of a dynamic one's) that the launcher
// starts in fresh user, PID, mount, network, IPC and UTS namespaces. It does the rest of the isolation from
// inside, starts the job as pid 2, reaps orphans, forwards signals, and exits with the job, whereupon the
// kernel kills whatever is left in the namespace (pid_namespaces(7)).
//
// It keeps no privilege once the job runs: same user, no capabilities, the job's own seccomp filter, not
// dumpable (so that the job can neither trace it nor read its memory, ptrace(2)).
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
constexpr int kSolSocket = 1;
constexpr int kScmRights = 1;
constexpr int kCmsgCloexec = 0x40000000;
constexpr int kSfdNonblock = 00004000;
constexpr int kSfdCloexec = 02000000;
constexpr int kMaximumDescriptors = 128;

struct Iovec {
  void* base;
  size_t size;
};
struct Msghdr {
  void* name;
  int name_size;
  Iovec* iov;
  size_t iov_count;
  void* control;
  size_t control_size;
  int flags;
};
struct Cmsghdr {
  size_t size;
  int level;
  int type;
};

alignas(16) char packet[sandbox::kInlinePlan];
alignas(16) Setup setup;
int64_t cpu_before_attach = 0;  // what the cgroup's counter of CPU time does not have
int setup_descriptors[kMaximumDescriptors];
int plan_descriptors[kMaximumDescriptors];

/// One packet and its descriptors. End of file means that the executor is gone: so are we.
size_t receive(void* buffer, size_t size, int* descriptors, int* descriptor_count) {
  alignas(8) char control[sizeof(Cmsghdr) + sizeof(int) * kMaximumDescriptors];
  Iovec iov{buffer, size};
  Msghdr message{nullptr, 0, &iov, 1, control, sizeof control, 0};
  long count;
  do {
    count = sys(SYS_recvmsg, sandbox::kChannelFd, &message, kCmsgCloexec);
  } while (count == -4 /* EINTR */);
  if (count <= 0) {
    sys(SYS_exit_group, 0);
  }
  *descriptor_count = 0;
  const auto* header = reinterpret_cast<const Cmsghdr*>(control);
  if (message.control_size >= sizeof(Cmsghdr) && header->level == kSolSocket && header->type == kScmRights) {
    const size_t bytes = header->size - sizeof(Cmsghdr);
    const auto* received = reinterpret_cast<const int*>(control + sizeof(Cmsghdr));
    for (size_t index = 0; index < bytes / sizeof(int); ++index) {
      descriptors[index] = received[index];
    }
    *descriptor_count = static_cast<int>(bytes / sizeof(int));
  }
  return static_cast<size_t>(count);
}

void send_report(const sandbox::Report& message) {
  const size_t size = offsetof(sandbox::Report, object) + length(message.object) + 1;
  sys(SYS_sendto, sandbox::kChannelFd, &message, size, 0x4000 /* MSG_NOSIGNAL */, 0, 0);
}

void report(sandbox::ReportKind kind, Step step, long error, int wait_status, const char* object,
            const StartedJob* job = nullptr, uint32_t command = 0) {
  sandbox::Report message{};
  message.kind = kind;
  message.step = step;
  message.error = static_cast<int32_t>(error);
  message.wait_status = wait_status;
  message.command = command;
  message.at = job != nullptr ? job->forked_at : read_clock(1 /* CLOCK_MONOTONIC */);
  message.setup_cpu = job != nullptr ? job->setup_cpu - cpu_before_attach : 0;
  copy(message.object, object, sizeof message.object);
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

void receive_setup() {
  int count = 0;
  if (receive(&setup, sizeof setup, setup_descriptors, &count) < offsetof(Setup, groups)) {
    fail(Step::receive, -71 /* EPROTO */, "setup");
  }
}

/// The plan's bytes when they did not fit into the packet.
ReceivedPlan map_plan() {
  auto* plan = reinterpret_cast<Plan*>(packet);
  const long mapped = sys(SYS_mmap, 0, static_cast<size_t>(plan->size), 3 /* READ|WRITE */,
                          2 /* MAP_PRIVATE */, plan_descriptors[0], 0);
  // The bare system call answers with a number. NOLINTNEXTLINE(performance-no-int-to-ptr)
  return ReceivedPlan{mapped < 0 ? nullptr : reinterpret_cast<Plan*>(mapped), plan_descriptors + 1};
}

ReceivedPlan receive_plan() {
  int count = 0;
  const size_t size = receive(packet, sizeof packet, plan_descriptors, &count);
  auto* plan = reinterpret_cast<Plan*>(packet);
  if (size < sizeof(Plan) || plan->descriptor_count != static_cast<uint32_t>(count)) {
    fail(Step::receive, -71 /* EPROTO */, "plan");
  }
  ReceivedPlan received{plan, plan_descriptors};
  if (plan->size > size) {
    received = map_plan();
    if (received.plan == nullptr) {
      fail(Step::receive, -12 /* ENOMEM */, "plan");
    }
    sys(SYS_close, plan_descriptors[0]);
  }
  if (received.plan->mount_count > sandbox::kMaximumMounts) {
    fail(Step::receive, -7 /* E2BIG */, "mounts");
  }
  return received;
}

/// Joins the cgroup, then makes the namespaces whose view begins there. In this order: a cgroup namespace
/// made before the attach would have the wrong root (cgroup_namespaces(7)).
void enter_cgroup(const int* tasks) {
  if ((setup.flags & sandbox::kCpuFromAttach) != 0) {
    cpu_before_attach = read_clock(2 /* CLOCK_PROCESS_CPUTIME_ID */);
  }
  for (uint32_t index = 0; index < setup.attach_count; ++index) {
    // "0" is the writing thread itself: the kernel then skips cgroup_threadgroup_rwsem, whose write side
    // costs an RCU grace period (11 ms on an idle machine).
    char digits[24];
    expect(sys(SYS_write, tasks[index], "0", 1), Step::attach_cgroup, decimal(index, digits));
    sys(SYS_close, tasks[index]);
  }
  expect(sys(SYS_unshare, CLONE_NEWCGROUP), Step::unshare_cgroup, "cgroup");
  expect(sys(SYS_unshare, CLONE_NEWTIME), Step::unshare_time, "time");
}

void write_time_offsets(const Plan& plan) {
  if (plan.monotonic_offset == 0 && plan.boottime_offset == 0) {
    return;
  }
  char text[96] = "monotonic ";
  char digits[24];
  append(text, decimal(plan.monotonic_offset, digits), sizeof text);
  append(text, " 0\nboottime ", sizeof text);
  append(text, decimal(plan.boottime_offset, digits), sizeof text);
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

/// A failure of ours here is the command's, never the job's: the job may have used up its processes.
void begin_command(size_t size, int descriptor_count) {
  auto* plan = reinterpret_cast<Plan*>(packet);
  const uint32_t number = plan->command;
  ReceivedPlan received{plan, plan_descriptors};
  long error = 0;
  if (plan->descriptor_count != static_cast<uint32_t>(descriptor_count)) {
    error = -24;  // EMFILE: the job lowered our limit, and the kernel left descriptors out
  } else if (plan->size > size) {
    received = map_plan();
    error = received.plan == nullptr ? -12 /* ENOMEM */ : 0;
  }
  Command* place = nullptr;
  for (Command& command : commands) {
    place = command.number == 0 ? &command : place;
  }
  if (error == 0) {
    error = place == nullptr ? -11 /* EAGAIN */ : start_command(received);
  }
  if (error > 0) {
    *place = {number, static_cast<int>(error)};
  } else {
    report(sandbox::ReportKind::command_failed, Step::fork, -error, 0, "", nullptr, number);
  }
  if (received.plan != nullptr && received.plan != plan) {
    sys(SYS_munmap, received.plan, static_cast<size_t>(plan->size));
  }
}

void send_signal(const sandbox::SignalMessage& message) {
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
  int count = 0;
  const size_t size = receive(packet, sizeof packet, plan_descriptors, &count);
  const auto* message = reinterpret_cast<const sandbox::SignalMessage*>(packet);
  if (size >= sizeof *message && message->kind == sandbox::MessageKind::signal) {
    send_signal(*message);
  } else if (size >= sizeof(Plan) && message->kind == sandbox::MessageKind::command) {
    begin_command(size, count);
  }
  for (int index = 0; index < count; ++index) {
    sys(SYS_close, plan_descriptors[index]);
  }
}

void end_command(int pid, int status) {
  for (Command& command : commands) {
    if (command.number != 0 && command.pid == pid) {
      report(sandbox::ReportKind::command_exited, Step::exec, 0, status, "", nullptr, command.number);
      command = {0, 0};
    }
  }
}

/// The main process has ended: ends the rest, waits for it and tells what all of it used. To exit at once
/// would end it too (pid_namespaces(7)), but our own end takes as long as a short job, for the namespaces
/// that go with it; the executor says when.
[[noreturn]] void finish(int wait_status) {
  report(sandbox::ReportKind::exited, Step::exec, 0, wait_status, "");
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
    int count = 0;
    alignas(8) char ignored[256];
    receive(ignored, sizeof ignored, plan_descriptors, &count);
  }
}

/// Reaps until the job's main process is gone.
[[noreturn]] void supervise(int job, int signals) {
  while (true) {
    pollfd descriptors[2] = {{sandbox::kChannelFd, POLLIN, 0}, {signals, POLLIN, 0}};
    const long ready = sys(SYS_ppoll, descriptors, 2, 0, 0, 8);
    if (ready < 0 && ready != -4 /* EINTR */) {
      sys(SYS_exit_group,
          125);  // deaf to its supervisor, as when the job took our descriptor limit: it ends too
    }
    if ((descriptors[1].revents & POLLIN) != 0) {
      char discarded[128 * 4];
      sys(SYS_read, signals, discarded, sizeof discarded);
    }
    // SIGCHLD may stand for several children; always drain.
    int status = 0;
    long pid;
    while ((pid = sys(SYS_wait4, -1, &status, WNOHANG | __WALL, 0)) > 0) {
      if (pid == job) {
        finish(status);
      }
      end_command(static_cast<int>(pid), status);
    }
    if (descriptors[0].revents != 0) {
      handle_message();
    }
  }
}

/// A caller that ignores SIGCHLD would otherwise have our children reaped unseen: SIG_IGN survives exec.
void reset_child_signal() {
  const unsigned long standard[4] = {};  // struct sigaction: SIG_DFL
  sys(SYS_rt_sigaction, SIGCHLD, standard, 0, 8);
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
  reset_child_signal();
  uint64_t ready = 0;
  expect(sys(SYS_read, sandbox::kMapsReadyFd, &ready, sizeof ready), Step::wait_for_maps, "eventfd");
  sys(SYS_close, sandbox::kMapsReadyFd);

  receive_setup();
  const bool own_root = (setup.flags & sandbox::kOwnRoot) != 0;
  const bool host_view = (setup.flags & sandbox::kHostView) != 0;
  const bool root_given = own_root && !host_view;
  enter_cgroup(setup_descriptors + (root_given ? 1 : 0));
  become_inside_user();
  ReceivedPlan received;
  if (host_view) {
    received = receive_plan();
    open_sources(received);
  }
  build_root(setup, root_given ? setup_descriptors[0] : -1, host_view ? &received : nullptr);
  if ((setup.flags & sandbox::kLoopbackUp) != 0) {
    loopback_up();
  }
  report(sandbox::ReportKind::ready, Step::receive, 0, 0, "");

  if (!host_view) {
    received = receive_plan();
  }
  const Plan& plan = *received.plan;
  write_time_offsets(plan);
  const char* hostname = received.text(plan.hostname);
  expect(sys(SYS_sethostname, hostname, length(hostname)), Step::set_hostname, hostname);
  if (plan.tmpfs_size != 0) {
    resize_private_tmpfs(plan.tmpfs_size);
  }
  apply_mounts(received, host_view);
  if (plan.hosts != 0) {
    mount_network_file("/etc/hosts", "hosts", received.text(plan.hosts));
    mount_network_file("/etc/resolv.conf", "resolv.conf", received.text(plan.resolver));
  }
  if (plan.script != 0) {
    write_script(received.text(plan.script), plan.script_size);
  }
  const int signals = open_signals();
  // What we read was in the socket's queue; whoever sent it may have given the job up since, when its
  // launcher died.
  pollfd supervisor{sandbox::kChannelFd, 0, 0};
  const int64_t at_once[2] = {0, 0};
  sys(SYS_ppoll, &supervisor, 1, at_once, 0, 8);
  if ((supervisor.revents & POLLHUP) != 0) {
    sys(SYS_exit_group, 0);
  }
  drop_privileges(received);
  const StartedJob job = start_job(received);
  for (uint32_t index = 0; index < 3; ++index) {
    sys(SYS_close, received.descriptors[index]);
  }
  report(sandbox::ReportKind::started, Step::exec, 0, 0, "", &job);
  supervise(job.pid, signals);
}

}  // namespace

void report_terminal(int master) {
  sandbox::Report message{};
  message.kind = sandbox::ReportKind::terminal;
  message.step = Step::open_terminal;
  message.command = command_number;
  alignas(8) struct {
    Cmsghdr header;
    int descriptor;
  } control{{sizeof(Cmsghdr) + sizeof(int), kSolSocket, kScmRights}, master};
  Iovec iov{&message, offsetof(sandbox::Report, object) + 1};
  const Msghdr packet_with_master{nullptr, 0, &iov, 1, &control, sizeof control, 0};
  expect(sys(SYS_sendmsg, sandbox::kChannelFd, &packet_with_master, 0x4000 /* MSG_NOSIGNAL */),
         Step::open_terminal, "sendmsg");
}

void fail(Step step, long negative_errno, const char* object) {
  const auto kind = command_number == 0 ? sandbox::ReportKind::failed : sandbox::ReportKind::command_failed;
  report(kind, step, -negative_errno, 0, object, nullptr, command_number);
  if (failure_pipe >= 0) {
    sys(SYS_write, failure_pipe, "", 1);
  }
  sys(SYS_exit_group, 125);
  __builtin_unreachable();
}

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
