// Attempts to leave the sandbox or to reach the kernel's dangerous parts. Each is tried in a child of its
// own, because a seccomp filter may answer with SIGSYS; "ok" means a hole.
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/kexec.h>
#include <linux/keyctl.h>
#include <linux/perf_event.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "payload.h"

namespace payload {
namespace {

struct Attempt {
  const char* name;
  long (*make)();  // negative and errno: refused
};

long fail(int error_number) {
  errno = error_number;
  return -1;
}

long open_file(const char* path, int flags) {
  const int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK);
  struct stat status {};
  const bool is_masked =
      fd >= 0 && fstat(fd, &status) == 0 && S_ISCHR(status.st_mode) && status.st_rdev == makedev(1, 3);
  return is_masked ? fail(ENODATA) : fd;  // what opened is /dev/null, laid over it
}

long read_file(const char* path) {
  char block[16];
  const long fd = open_file(path, O_RDONLY);
  const long size = fd < 0 ? fd : read(static_cast<int>(fd), block, sizeof(block));
  return size == 0 ? fail(ENODATA) : size;  // a mask: something empty lies over it
}

// -- mounts: the old interface and the new one --

long clear_read_only() {
  struct {
    std::uint64_t set, clear, propagation, user;
  } attributes{0, 1 /* MOUNT_ATTR_RDONLY */, 0, 0};
  return syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, &attributes, sizeof(attributes));
}

long clone_tree() {
  return syscall(SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */);
}

long move_tree() {
  const long fd = syscall(SYS_open_tree, AT_FDCWD, "/tmp", 0);
  return syscall(SYS_move_mount, static_cast<int>(fd), "", AT_FDCWD, "/var/tmp",
                 4 /* MOVE_MOUNT_F_EMPTY_PATH */);
}

// -- namespaces --

long clone_user() {
  clone_args arguments{};
  arguments.flags = CLONE_NEWUSER;
  arguments.exit_signal = SIGCHLD;
  const long child = syscall(SYS_clone3, &arguments, sizeof(arguments));
  if (child == 0) {
    _exit(0);
  }
  return child;
}

long old_clone_user() {
  const long child = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, nullptr, nullptr, nullptr, nullptr);
  if (child == 0) {
    _exit(0);
  }
  return child;
}

long enter(const char* path) {
  const long fd = open_file(path, O_RDONLY);
  return fd < 0 ? fd : setns(static_cast<int>(fd), 0);
}

// -- kernel interfaces --

long make_bpf_map() {
  bpf_attr attributes{};
  attributes.map_type = BPF_MAP_TYPE_ARRAY;
  attributes.key_size = 4;
  attributes.value_size = 4;
  attributes.max_entries = 1;
  return syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof(attributes));
}

long count_events() {
  perf_event_attr attributes{};
  attributes.type = PERF_TYPE_SOFTWARE;
  attributes.size = sizeof(attributes);
  attributes.config = PERF_COUNT_SW_TASK_CLOCK;
  return syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0);
}

long terminal_ioctl(unsigned long request) {
  int terminal = open("/dev/tty", O_RDWR | O_CLOEXEC);
  if (terminal < 0) {
    // A terminal of its own, so that the answer is about the request and not about the descriptor.
    terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  }
  char byte = request == 0x541C /* TIOCLINUX */ ? 2 : 'x';
  return syscall(SYS_ioctl, terminal < 0 ? 0 : terminal, request, &byte);
}

#if defined(__x86_64__)
// getpid through the 32-bit entry: a filter that looks at 64-bit numbers only would see another call here.
long ia32_getpid() {
  long result = 20;
  asm volatile("int $0x80" : "+a"(result) : : "memory", "r8", "r9", "r10", "r11");
  return result < 0 ? fail(static_cast<int>(-result)) : result;
}

long x32_getpid() {
  return syscall(0x40000000 | SYS_getpid);
}
#endif

// -- privileges --

long gain_capability() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  data[0].effective = data[0].permitted = 1U << CAP_SYS_ADMIN;
  return syscall(SYS_capset, &header, data);
}

long raise_limit() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_max += 1;
  return setrlimit(RLIMIT_NOFILE, &limit);
}

long raise_core_limit() {
  const rlimit limit{RLIM_INFINITY, RLIM_INFINITY};
  return setrlimit(RLIMIT_CORE, &limit);
}

long real_time() {
  const sched_param parameters{1};
  return sched_setscheduler(0, SCHED_FIFO, &parameters);
}

long set_clock() {
  timespec time{};
  clock_gettime(CLOCK_REALTIME, &time);
  return clock_settime(CLOCK_REALTIME, &time);
}

long trace_init() {
  return ptrace(PTRACE_SEIZE, 1, nullptr, nullptr);
}

long read_init_memory() {
  char byte = 0;
  iovec local{&byte, 1};
  iovec remote{reinterpret_cast<void*>(0x400000), 1};
  return process_vm_readv(1, &local, 1, &remote, 1, 0);
}

long kill_init() {
  const long result = kill(1, SIGKILL);
  sleep_seconds(0.2);
  // The kernel drops what init has no handler for (pid_namespaces(7)): alive afterwards is what counts.
  return result == 0 && kill(1, 0) == 0 ? fail(EPERM) : result;
}

long take_descriptor_of_init() {
  const long process = syscall(SYS_pidfd_open, 1, 0);
  return process < 0 ? process : syscall(SYS_pidfd_getfd, static_cast<int>(process), 0, 0);
}

const Attempt kAttempts[] = {
    {"mount_tmpfs", [] { return long{mount("none", "/tmp", "tmpfs", 0, nullptr)}; }},
    {"mount_proc", [] { return long{mount("proc", "/tmp", "proc", 0, nullptr)}; }},
    {"mount_bind", [] { return long{mount("/", "/tmp", nullptr, MS_BIND | MS_REC, nullptr)}; }},
    {"mount_cgroup", [] { return long{mount("none", "/tmp", "cgroup", 0, "memory")}; }},
    {"mount_cgroup2", [] { return long{mount("none", "/tmp", "cgroup2", 0, nullptr)}; }},
    {"remount_root_writable",
     [] { return long{mount(nullptr, "/", nullptr, MS_REMOUNT | MS_BIND, nullptr)}; }},
    {"remount_tmp_larger", [] { return long{mount(nullptr, "/tmp", nullptr, MS_REMOUNT, "size=100%")}; }},
    {"make_shared", [] { return long{mount(nullptr, "/", nullptr, MS_SHARED | MS_REC, nullptr)}; }},
    {"umount_proc", [] { return long{umount2("/proc", MNT_DETACH)}; }},
    {"umount_root", [] { return long{umount2("/", MNT_DETACH)}; }},
    {"umount_tmp", [] { return long{umount2("/tmp", MNT_DETACH)}; }},
    {"umount_sys", [] { return long{umount2("/sys", MNT_DETACH)}; }},
    {"fsopen", [] { return syscall(SYS_fsopen, "tmpfs", 0); }},
    {"fspick", [] { return syscall(SYS_fspick, AT_FDCWD, "/tmp", 0); }},
    {"fsmount", [] { return syscall(SYS_fsmount, -1, 0, 0); }},
    {"open_tree_clone", clone_tree},
    {"move_mount", move_tree},
    {"mount_setattr", clear_read_only},
    {"pivot_root", [] { return syscall(SYS_pivot_root, "/tmp", "/tmp"); }},
    {"chroot", [] { return long{chroot("/tmp")}; }},
    {"unshare_user", [] { return long{unshare(CLONE_NEWUSER)}; }},
    {"unshare_mount", [] { return long{unshare(CLONE_NEWNS)}; }},
    {"unshare_net", [] { return long{unshare(CLONE_NEWNET)}; }},
    {"unshare_pid", [] { return long{unshare(CLONE_NEWPID)}; }},
    {"unshare_uts", [] { return long{unshare(CLONE_NEWUTS)}; }},
    {"unshare_ipc", [] { return long{unshare(CLONE_NEWIPC)}; }},
    {"unshare_cgroup", [] { return long{unshare(CLONE_NEWCGROUP)}; }},
    {"unshare_time", [] { return long{unshare(CLONE_NEWTIME)}; }},
    {"clone3_user", clone_user},
    {"clone_user", old_clone_user},
    {"setns_init_mount", [] { return enter("/proc/1/ns/mnt"); }},
    {"setns_init_net", [] { return enter("/proc/1/ns/net"); }},
    {"setns_own_user", [] { return enter("/proc/self/ns/user"); }},
    {"setns_own_net", [] { return enter("/proc/self/ns/net"); }},
    {"ptrace_init", trace_init},
    {"process_vm_readv_init", read_init_memory},
    {"pidfd_getfd_init", take_descriptor_of_init},
    {"kill_init", kill_init},
    {"open_init_root", [] { return open_file("/proc/1/root/etc", O_RDONLY); }},
    {"open_init_memory", [] { return open_file("/proc/1/mem", O_RDWR); }},
    {"keyctl", [] { return syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_USER_KEYRING, 1, 0, 0); }},
    {"add_key", [] { return syscall(SYS_add_key, "user", "berth", "x", 1, KEY_SPEC_SESSION_KEYRING); }},
    {"request_key", [] { return syscall(SYS_request_key, "user", "berth", nullptr, 0); }},
    {"bpf", make_bpf_map},
    {"perf_event_open", count_events},
    {"userfaultfd", [] { return syscall(SYS_userfaultfd, O_CLOEXEC); }},
    {"userfaultfd_user_mode",
     [] { return syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */); }},
    {"init_module", [] { return syscall(SYS_init_module, "", 0, ""); }},
    {"finit_module", [] { return syscall(SYS_finit_module, 0, "", 0); }},
    {"delete_module", [] { return syscall(SYS_delete_module, "berth", 0); }},
    {"kexec_load", [] { return syscall(SYS_kexec_load, 0, 0, nullptr, 0); }},
    {"kexec_file_load", [] { return syscall(SYS_kexec_file_load, -1, -1, 0, "", 0); }},
    {"tiocsti", [] { return terminal_ioctl(TIOCSTI); }},
    {"tiocsti_high_bits", [] { return terminal_ioctl(TIOCSTI | 0x100000000UL); }},
    {"tioclinux", [] { return terminal_ioctl(0x541C); }},
    {"tioclinux_high_bits", [] { return terminal_ioctl(0x541C | 0xdead00000000UL); }},
#if defined(__x86_64__)
    {"ia32_syscall", ia32_getpid},
    {"x32_syscall", x32_getpid},
    {"iopl", [] { return long{iopl(3)}; }},
    {"ioperm", [] { return long{ioperm(0x80, 1, 1)}; }},
#endif
    {"mknod_block", [] { return long{mknod("/tmp/block", S_IFBLK | 0666, makedev(254, 0))}; }},
    {"mknod_kmsg", [] { return long{mknod("/tmp/kmsg", S_IFCHR | 0666, makedev(1, 11))}; }},
    {"mknod_null_in_dev", [] { return long{mknod("/dev/null2", S_IFCHR | 0666, makedev(1, 3))}; }},
    {"open_kcore", [] { return read_file("/proc/kcore"); }},
    {"open_dev_kmsg", [] { return open_file("/dev/kmsg", O_RDONLY); }},
    {"open_dev_mem", [] { return open_file("/dev/mem", O_RDWR); }},
    {"open_proc_kmsg", [] { return read_file("/proc/kmsg"); }},
    {"open_keys", [] { return read_file("/proc/keys"); }},
    {"open_sysrq", [] { return open_file("/proc/sysrq-trigger", O_WRONLY); }},
    {"write_sysctl", [] { return open_file("/proc/sys/kernel/core_pattern", O_WRONLY); }},
    {"write_hostname", [] { return open_file("/proc/sys/kernel/hostname", O_WRONLY); }},
    {"write_uevent_helper", [] { return open_file("/sys/kernel/uevent_helper", O_WRONLY); }},
    {"write_oom_score_adj",
     [] {
       const long fd = open_file("/proc/self/oom_score_adj", O_WRONLY);
       return fd < 0 ? fd : write(static_cast<int>(fd), "-1000", 5);
     }},
    {"syslog_read",
     [] {
       char block[64];
       return long{klogctl(3, block, sizeof(block))};
     }},
    {"syslog_console_off", [] { return long{klogctl(6, nullptr, 0)}; }},
    {"sethostname", [] { return long{sethostname("breach", 6)}; }},
    {"settimeofday", set_clock},
    {"reboot", [] { return syscall(SYS_reboot, 0xfee1dead, 672274793, 0x89abcdef /* CAD on */, nullptr); }},
    {"swapon", [] { return long{swapon("/tmp/none", 0)}; }},
    {"swapoff", [] { return long{swapoff("/tmp/none")}; }},
    {"acct", [] { return long{acct("/tmp/none")}; }},
    {"quotactl", [] { return syscall(SYS_quotactl, 0x800002 << 8, nullptr, 0, nullptr); }},
    {"open_by_handle_at",
     [] {
       struct {
         unsigned size = 8;
         int type = 1;
         std::uint64_t handle = 2;
       } handle;
       return syscall(SYS_open_by_handle_at, AT_FDCWD, &handle, O_RDONLY);
     }},
    {"capset", gain_capability},
    {"ambient_capability",
     [] { return long{prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_ADMIN, 0, 0)}; }},
    {"setuid_0", [] { return getuid() == 0 ? fail(EALREADY) : long{setuid(0)}; }},
    {"setuid_other", [] { return long{setuid(12345)}; }},
    {"setgroups", [] { return syscall(SYS_setgroups, 0, nullptr); }},
    {"raise_open_files", raise_limit},
    {"raise_core_size", raise_core_limit},
    {"nice_negative", [] { return long{setpriority(PRIO_PROCESS, 0, -10)}; }},
    {"real_time", real_time},
    {"drop_no_new_privs", [] { return long{prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0)}; }},
};

std::string try_it(const Attempt& attempt) {
  int pipe_ends[2] = {-1, -1};
  if (pipe2(pipe_ends, O_CLOEXEC) != 0) {
    return "no pipe";
  }
  const pid_t child = fork();
  if (child == 0) {
    errno = 0;
    const int answer = attempt.make() >= 0 ? 0 : errno;
    [[maybe_unused]] const ssize_t written = write(pipe_ends[1], &answer, sizeof(answer));
    _exit(0);
  }
  close(pipe_ends[1]);
  int answer = -1;
  const bool answered = read(pipe_ends[0], &answer, sizeof(answer)) == sizeof(answer);
  close(pipe_ends[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!answered) {
    return WIFSIGNALED(status) ? std::string("SIG") + sigabbrev_np(WTERMSIG(status)) : "nothing";
  }
  return answer == 0 ? "ok" : errno_name(answer);
}

// Run by mistake as root on the host, the attempts would succeed.
bool is_safe_here() {
  if (std::getenv("PAYLOAD_IS_IN_A_JOB") == nullptr) {
    std::fprintf(stderr, "payload: set PAYLOAD_IS_IN_A_JOB=1 in a sandbox, and only there\n");
    return false;
  }
  return true;
}

int attempts(const Arguments& arguments) {
  if (!is_safe_here()) {
    return 2;
  }
  for (const auto& attempt : kAttempts) {
    bool wanted = arguments.empty();
    for (const auto& name : arguments) {
      wanted = wanted || name == attempt.name;
    }
    if (wanted) {
      std::printf("%s %s\n", attempt.name, try_it(attempt).c_str());
      std::fflush(stdout);
    }
  }
  return 0;
}

// In this process, so that what the filter answers is this process's end.
int attempt_here(const Arguments& arguments) {
  if (!is_safe_here()) {
    return 2;
  }
  for (const auto& attempt : kAttempts) {
    if (arguments.at(0) == attempt.name) {
      print_result(attempt.name, attempt.make());
      return 0;
    }
  }
  return 2;
}

}  // namespace

Commands attempt_commands() {
  return {{"attempts", "[NAME…]: each attempt in a child (default: all): probe", attempts},
          {"attempt_here", "NAME: in this process", attempt_here}};
}

}  // namespace payload
