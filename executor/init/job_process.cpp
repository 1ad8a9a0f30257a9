// The last steps: init gives up its privileges, forks, and the child becomes the job.
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/filter.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/signal.h>
#include <linux/wait.h>
#include <sys/syscall.h>

#include "executor/init/freestanding.h"
#include "executor/init/raw_syscall.h"
#include "executor/init/sandbox.h"

namespace berth::init {
namespace {

constexpr long kEnoent = -2;
constexpr long kEacces = -13;
constexpr long kEnotdir = -20;
constexpr int kLastCapability = 63;
constexpr int kAfUnix = 1;
constexpr int kSockSeqpacket = 5;
constexpr int kSockCloexec = 02000000;

constexpr unsigned long kSharedMemory = 0x100;  // CLONE_VM
constexpr long kEinval = -22;

/// Of the process that becomes the job, while it shares init's memory.
alignas(16) char job_stack[16 * 1024];
PacketBuffer job_buffer;
int job_socket;
const sock_filter* job_filter;
uint32_t job_filter_size;
/// Where it mapped a plan that came in a memory file, until its exec.
struct Mapping {
  void* address;
  size_t size;
};
volatile Mapping job_mapping;

void make_pointers(const ReceivedPlan& received, sandbox::Offset array, uint32_t count) {
  auto* items = received.array<uint64_t>(array);
  for (uint32_t index = 0; index < count; ++index) {
    items[index] = reinterpret_cast<uint64_t>(received.text(static_cast<sandbox::Offset>(items[index])));
  }
}

/// A mask would reach the job (execve(2)). What was blocked meanwhile is delivered now.
void unblock_signals() {
  const uint64_t none = 0;
  sys(SYS_rt_sigprocmask, SIG_SETMASK, &none, 0, 8);
}

/// Linux 6.2 and later keep an inherited affinity when a process joins a cpuset: ask for every CPU, the
/// kernel cuts it to the cpuset's.
void reset_affinity(const ReceivedPlan& received) {
  if (received.plan->affinity != 0) {
    sys(SYS_sched_setaffinity, 0, received.plan->affinity_size, received.text(received.plan->affinity));
    return;
  }
  unsigned long every[1024 / sizeof(unsigned long)];
  for (unsigned long& word : every) {
    word = ~0ul;
  }
  sys(SYS_sched_setaffinity, 0, sizeof every, every);
}

/// execvpe(3) without the shell fall-back: a file without a known format is not executable.
[[noreturn]] void exec_job(const ReceivedPlan& received) {
  const Plan& plan = *received.plan;
  auto** arguments = received.array<char*>(plan.arguments);
  auto** environment = received.array<char*>(plan.environment);
  const char* program = plan.script != 0 ? sandbox::kScriptPath : arguments[0];
  bool has_slash = false;
  for (const char* c = program; *c != '\0'; ++c) {
    has_slash = has_slash || *c == '/';
  }
  long error = kEnoent;
  if (has_slash) {
    error = sys(SYS_execve, program, arguments, environment);
    fail(Step::exec, error, program);
  }
  char candidate[4096];
  for (const char* path = received.text(plan.search_path); path != nullptr && *path != '\0';) {
    size_t size = 0;
    while (path[size] != '\0' && path[size] != ':') {
      ++size;
    }
    if (size + length(program) + 2 < sizeof candidate) {
      copy(candidate, path, size + 1);
      append(candidate, size == 0 ? "./" : "/", sizeof candidate);
      append(candidate, program, sizeof candidate);
      const long result = sys(SYS_execve, candidate, arguments, environment);
      if (result != kEnoent && result != kEnotdir && result != kEacces) {
        fail(Step::exec, result, candidate);
      }
      if (result == kEacces) {
        error = kEacces;  // told only when no later folder has it either
      }
    }
    path += size;
    path += *path == ':' ? 1 : 0;
  }
  fail(Step::exec, error, program);
}

/// A terminal of the job's own devpts instance (pts(4)), made the controlling one of this session. The slave
/// is taken from the master, not found by its name.
int open_terminal(const Plan& plan) {
  constexpr long kPtmxFlags = 2 | 0400 | 02000000;  // O_RDWR | O_NOCTTY | O_CLOEXEC
  const char* path = "/dev/pts/ptmx";
  const long master = expect(sys(SYS_openat, -100, path, kPtmxFlags, 0), Step::open_terminal, path);
  const int unlocked = 0;
  expect(sys(SYS_ioctl, master, 0x40045431 /* TIOCSPTLCK */, &unlocked), Step::open_terminal, "TIOCSPTLCK");
  const long slave = expect(sys(SYS_ioctl, master, 0x5441 /* TIOCGPTPEER */, kPtmxFlags), Step::open_terminal,
                            "TIOCGPTPEER");
  const unsigned short size[4] = {plan.rows, plan.columns, 0, 0};  // struct winsize, ioctl_tty(2)
  sys(SYS_ioctl, slave, 0x5414 /* TIOCSWINSZ */, size);
  expect(sys(SYS_ioctl, slave, 0x540E /* TIOCSCTTY */, 0), Step::open_terminal, "TIOCSCTTY");
  report_terminal(static_cast<int>(master));
  return static_cast<int>(slave);
}

/// Only in a child that leads a session of its own: the last steps, with the plan.
[[noreturn]] void become_job(const ReceivedPlan& received) {
  const Plan& plan = *received.plan;
  make_pointers(received, plan.arguments, plan.argument_count);
  make_pointers(received, plan.environment, plan.environment_count);
  const int terminal = plan.terminal != 0 ? open_terminal(plan) : -1;
  for (int target = 0; target < 3; ++target) {
    const int stream = terminal >= 0 ? terminal : received.descriptors[target];
    expect(sys(SYS_dup3, stream, target, 0), Step::redirect, "standard streams");
  }
  const int kept = command_number == 0 ? kFailureFd : sandbox::kChannelFd;
  expect(sys(SYS_close_range, kept + 1, ~0u, 0), Step::close_descriptors, "close_range");
  const auto* rlimits = received.array<const sandbox::PlanRlimit>(plan.rlimits);
  for (uint32_t index = 0; index < plan.rlimit_count; ++index) {
    const uint64_t values[2] = {rlimits[index].soft, rlimits[index].hard};
    char digits[24];
    expect(sys(SYS_prlimit64, 0, rlimits[index].resource, values, 0), Step::set_rlimit,
           decimal(rlimits[index].resource, digits));
  }
  sys(SYS_umask, plan.umask);
  reset_affinity(received);
  const char* directory = received.text(plan.working_directory);
  expect(sys(SYS_chdir, directory), Step::change_directory, directory);
  unblock_signals();
  exec_job(received);
}

/// Only in a child: what a job and a further command have alike, plan or none. Signal dispositions are the
/// standard ones already: the launcher has reset its own, and nobody between has set any.
void begin_session() {
  sys(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  expect(sys(SYS_setsid), Step::set_session, "setsid");
}

/// Others may use up what the kernel keeps filters in (net.core.bpf_jit_limit), which soon has room again.
long load_filter_patiently(const sock_filter* filter, uint32_t size) {
  constexpr long kEnotsupp = -524;  // the kernel's own: no memory for the translated filter
  constexpr long kEnomem = -12;
  constexpr int kTries = 500;
  constexpr int64_t kPause[2] = {0, 10'000'000};
  for (int tries = 1;; ++tries) {
    const long result = load_filter(filter, size);
    if ((result != kEnotsupp && result != kEnomem) || tries == kTries) {
      return result;
    }
    sys(SYS_ppoll, nullptr, 0, kPause, nullptr, 0);
  }
}

/// Only in the child: all that needs no plan, then waits for it.
[[noreturn]] void wait_for_plan() {
  expect(sys(SYS_dup3, job_socket, kFailureFd, kSockCloexec), Step::close_descriptors, "dup3");
  begin_session();
  drop_capabilities();
  expect(load_filter_patiently(job_filter, job_filter_size), Step::seccomp, "filter");
  const ReceivedPlan received = receive_plan(kFailureFd, job_buffer);
  if (received.memory >= 0) {
    job_mapping.address = received.plan;
    job_mapping.size = received.plan->size;
  }
  become_job(received);
}

/// CPU time of another process, clock_getcpuclockid(3).
int process_clock(int pid) {
  constexpr int kSchedulerClock = 2;
  return (~pid << 3) | kSchedulerClock;
}

}  // namespace

uint32_t command_number = 0;

void drop_ahead() {
  for (int capability = 0; capability <= kLastCapability; ++capability) {
    if (sys(SYS_prctl, PR_CAPBSET_DROP, capability, 0, 0, 0) < 0) {
      break;  // EINVAL: past the last one this kernel knows
    }
  }
  sys(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  expect(sys(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), Step::no_new_privileges, "no_new_privs");
}

void drop_capabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  const __user_cap_data_struct none[2] = {};
  expect(sys(SYS_capset, &header, none), Step::drop_capabilities, "capset");
  sys(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
}

long load_filter(const sock_filter* filter, uint32_t size) {
  if (size == 0) {
    return 0;
  }
  const sock_fprog program{static_cast<unsigned short>(size), const_cast<sock_filter*>(filter)};
  return sys(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

int64_t read_clock(int clock) {
  int64_t now[2] = {0, 0};
  sys(SYS_clock_gettime, clock, now);
  return now[0] * 1'000'000'000 + now[1];
}

int64_t read_process_time() {
  return read_clock(2 /* CLOCK_PROCESS_CPUTIME_ID */);
}

WaitingJob fork_job(const sock_filter* filter, uint32_t filter_size) {
  int ends[2];
  expect(sys(SYS_socketpair, kAfUnix, kSockSeqpacket | kSockCloexec, 0, ends), Step::fork, "socketpair");
  job_socket = ends[1];
  job_filter = filter;
  job_filter_size = filter_size;
  long pid = clone_on_stack(SYS_clone, kSharedMemory | SIGCHLD, job_stack + sizeof job_stack, wait_for_plan);
  if (pid == kEinval) {
    // With a time namespace pending for our children, kernels before 6.3 refuse to share memory across it.
    pid = sys(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) {
      wait_for_plan();
    }
  }
  expect(pid, Step::fork, "clone");
  sys(SYS_close, ends[1]);
  return {static_cast<int>(pid), ends[0]};
}

int64_t start_job(const WaitingJob& job, const ReceivedPlan& received) {
  int descriptors[4];
  uint32_t count = 0;
  if (received.memory >= 0) {
    descriptors[count++] = received.memory;
  }
  for (uint32_t stream = 0; stream < 3; ++stream) {
    descriptors[count++] = received.descriptors[stream];
  }
  reinterpret_cast<Plan*>(received.packet.data)->descriptor_count = count;
  // Only our children are in the job's time namespace: these are the host's clocks.
  const int64_t setup_cpu = read_process_time() + read_clock(process_clock(job.pid));
  expect(send_packet(job.socket, received.packet.data, received.packet.size, descriptors, count), Step::fork,
         "plan");
  for (uint32_t index = 0; index < count; ++index) {
    sys(SYS_close, descriptors[index]);
  }
  return setup_cpu;
}

void await_exec(const WaitingJob& job) {
  // exec closes the other end; a failed step is reported to the executor first and then told here.
  char failed;
  if (sys(SYS_read, job.socket, &failed, 1) == 1) {
    sys(SYS_exit_group, 125);
  }
  sys(SYS_close, job.socket);
  if (job_mapping.size != 0) {  // 0: the plan came in the packet, or the child was a fork
    sys(SYS_munmap, job_mapping.address, job_mapping.size);
  }
}

long start_command(const ReceivedPlan& received) {
  const long pid = sys(SYS_clone, SIGCHLD, 0, 0, 0, 0);
  if (pid == 0) {
    command_number = received.plan->command;
    begin_session();
    become_job(received);
  }
  return pid;
}

}  // namespace berth::init
