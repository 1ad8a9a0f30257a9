// A program of the build: translates the default seccomp profile with libseccomp and prints the instructions,
// as rows of an array, on its standard output. To translate it takes as long as to start a job's namespaces,
// and the result is always the same.
#include <linux/filter.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <initializer_list>
#include <memory>
#include <system_error>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace {

using Filter = std::unique_ptr<void, void (*)(scmp_filter_ctx)>;

void require(int result, const char* what) {
  if (result < 0) {
    throw std::system_error(-result, std::generic_category(), what);
  }
}

/// A group of system calls and what a job that makes one gets.
struct Group {
  std::uint32_t action = 0;
  std::initializer_list<const char*> names;
};

const std::initializer_list<Group> kGroups = {
    // Kernel code: modules and another kernel.
    {SCMP_ACT_ERRNO(EPERM),
     {"init_module", "finit_module", "delete_module", "create_module", "kexec_load", "kexec_file_load"}},
    // The mount family, old and new: the job's view of the file system is finished before it starts.
    {SCMP_ACT_ERRNO(EPERM),
     {"mount", "umount", "umount2", "pivot_root", "chroot", "fsopen", "fsconfig", "fsmount", "fspick",
      "open_tree", "move_mount", "mount_setattr", "swapon", "swapoff", "quotactl",
      "quotactl_fd"}},  // and kOpenTreeAttr
    // Joining another's namespaces; making new ones is filtered by flag below.
    {SCMP_ACT_ERRNO(EPERM), {"setns"}},
    // Flags of clone3 lie in memory, which a filter cannot read; libc falls back to clone on ENOSYS.
    {SCMP_ACT_ERRNO(ENOSYS), {"clone3"}},
    // Large kernel interfaces with a history of privilege escalation, or that see beyond one job.
    {SCMP_ACT_ERRNO(EPERM), {"bpf", "perf_event_open", "userfaultfd", "fanotify_init", "lookup_dcookie"}},
    // Its operations are not seen by this filter; programs fall back on ENOSYS.
    {SCMP_ACT_ERRNO(ENOSYS), {"io_uring_setup", "io_uring_enter", "io_uring_register"}},
    // Keyrings are not fully namespaced.
    {SCMP_ACT_ERRNO(EPERM), {"add_key", "request_key", "keyctl"}},
    // Opens by inode number, past every mount (the "shocker" escape).
    {SCMP_ACT_ERRNO(EPERM), {"open_by_handle_at"}},
    // The machine itself: clock, power, accounting, kernel log, I/O ports, terminals.
    {SCMP_ACT_ERRNO(EPERM),
     {"settimeofday", "stime", "clock_settime", "clock_settime64", "reboot", "acct", "syslog", "iopl",
      "ioperm", "vhangup", "nfsservctl", "_sysctl", "uselib", "ustat", "sysfs", "vm86", "vm86old"}},
};

/// Of an argument that the kernel takes as an int it looks at no more than these bits.
constexpr scmp_datum_t kLow = 0xffffffff;

/// Newer than this libseccomp, Linux 6.15; such calls have one number on all architectures.
constexpr int kOpenTreeAttr = 467;

constexpr unsigned long kNamespaceFlags[] = {CLONE_NEWNS,  CLONE_NEWUTS, CLONE_NEWIPC,   CLONE_NEWUSER,
                                             CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWCGROUP};

void deny_group(scmp_filter_ctx filter, const Group& group) {
  for (const char* name : group.names) {
    const int number = seccomp_syscall_resolve_name(name);
    if (number == __NR_SCMP_ERROR) {
      throw std::runtime_error(std::string(name) + ": this libseccomp does not know it; give its number");
    }
    if (number >= 0) {  // else this architecture has not got it
      require(seccomp_rule_add(filter, group.action, number, 0), name);
    }
  }
}

/// A new user namespace would give a job capabilities over it, and with them the rest of the kernel.
void deny_new_namespaces(scmp_filter_ctx filter) {
  for (const unsigned long flag : kNamespaceFlags) {
    require(seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                             SCMP_A0(SCMP_CMP_MASKED_EQ, flag, flag)),
            "clone");
    require(seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(unshare), 1,
                             SCMP_A0(SCMP_CMP_MASKED_EQ, flag, flag)),
            "unshare");
  }
  require(seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(unshare), 1,
                           SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_NEWTIME, CLONE_NEWTIME)),
          "unshare");
}

/// Faking terminal input. The kernel looks at the low 32 bits of the request only, so the filter must too
/// (CVE-2019-10063).
void deny_terminal_injection(scmp_filter_ctx filter) {
  for (const unsigned long request :
       {static_cast<unsigned long>(TIOCSTI), static_cast<unsigned long>(TIOCLINUX)}) {
    require(seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1,
                             SCMP_A1(SCMP_CMP_MASKED_EQ, kLow, request)),
            "ioctl");
  }
}

/// Sockets but those of AF_UNIX, AF_INET, AF_INET6, AF_NETLINK and AF_PACKET: as where the kernel lacks a
/// family, so programs go on without. Some belong to no network namespace (through AF_VSOCK a job in a
/// virtual machine reaches the hypervisor's services and the host's own, vsock(7); AF_QIPCRTR and AF_RDS join
/// jobs of different users), others are large and loaded by whoever asks, with a history of privilege
/// escalation (AF_ALG, AF_RXRPC, AF_TIPC, AF_CAN …).
void deny_socket_families(scmp_filter_ctx filter) {
  static_assert(AF_UNIX == 1 && AF_INET == 2 && AF_INET6 == 10 && AF_NETLINK == 16 && AF_PACKET == 17);
  /// `count` families, a power of two, from a multiple of it on. The kernel takes an int, so that nobody has
  /// to clear the bits above.
  struct Families {
    scmp_datum_t first, count;
  };
  constexpr Families kDenied[] = {{3, 1},  {4, 4},  {8, 2},  {11, 1}, {12, 4},
                                  {18, 2}, {20, 4}, {24, 8}, {32, 32}};  // more there are not: AF_MAX
  static_assert(AF_MAX <= 64);
  for (const int call : {SCMP_SYS(socket), SCMP_SYS(socketpair)}) {
    for (const auto& [first, count] : kDenied) {
      const scmp_arg_cmp denied = SCMP_A0(SCMP_CMP_MASKED_EQ, kLow & ~(count - 1), first);
      require(seccomp_rule_add_array(filter, SCMP_ACT_ERRNO(EAFNOSUPPORT), call, 1, &denied), "socket");
    }
  }
}

/// A cookie of core scheduling keeps the neighbouring hardware thread, which is another job's, idle
/// (prctl(2), PR_SCHED_CORE). As where the kernel has none.
void deny_core_scheduling(scmp_filter_ctx filter) {
  constexpr unsigned long kSchedCore = 62;
  require(seccomp_rule_add(filter, SCMP_ACT_ERRNO(EINVAL), SCMP_SYS(prctl), 1,
                           SCMP_A0(SCMP_CMP_MASKED_EQ, kLow, kSchedCore)),
          "prctl");
}

/// Every filter takes memory that all processes of the machine share (net.core.bpf_jit_limit), and that the
/// filters of later jobs must have.
void deny_socket_filters(scmp_filter_ctx filter) {
  for (const int option :
       {SO_ATTACH_FILTER, SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_CBPF, SO_ATTACH_REUSEPORT_EBPF}) {
    require(seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(setsockopt), 2,
                             SCMP_A1(SCMP_CMP_MASKED_EQ, kLow, SOL_SOCKET),
                             SCMP_A2(SCMP_CMP_MASKED_EQ, kLow, static_cast<scmp_datum_t>(option))),
            "setsockopt");
  }
}

/// Init runs as the job's user, and these ask no more than that: a CPU limit would kill it, one of no
/// descriptors would stop it from hearing its supervisor, and with a low priority among many processes it
/// would hardly run, and not see the job's end. Process 1 is init, and so is group 1; all processes of the
/// user are init too.
void deny_limits_of_init(scmp_filter_ctx filter) {
  const auto deny = [filter](int call, std::initializer_list<scmp_arg_cmp> arguments) {
    require(seccomp_rule_add_array(filter, SCMP_ACT_ERRNO(EPERM), call,
                                   static_cast<unsigned>(arguments.size()), arguments.begin()),
            "limits of init");
  };
  const scmp_arg_cmp first_is_init = SCMP_A0(SCMP_CMP_MASKED_EQ, kLow, 1);
  const scmp_arg_cmp second_is_init = SCMP_A1(SCMP_CMP_MASKED_EQ, kLow, 1);
  for (const int call : {SCMP_SYS(prlimit64), SCMP_SYS(sched_setaffinity), SCMP_SYS(sched_setattr),
                         SCMP_SYS(sched_setparam), SCMP_SYS(sched_setscheduler)}) {
    deny(call, {first_is_init});
  }
  deny(SCMP_SYS(setpriority), {SCMP_A0(SCMP_CMP_MASKED_EQ, kLow, PRIO_USER)});
  for (const unsigned long which : {PRIO_PROCESS, PRIO_PGRP}) {
    deny(SCMP_SYS(setpriority), {SCMP_A0(SCMP_CMP_MASKED_EQ, kLow, which), second_is_init});
  }
  constexpr unsigned long kIoProcess = 1;  // ioprio_set(2), for which glibc has no header
  constexpr unsigned long kIoGroup = 2;
  constexpr unsigned long kIoUser = 3;
  deny(SCMP_SYS(ioprio_set), {SCMP_A0(SCMP_CMP_MASKED_EQ, kLow, kIoUser)});
  for (const unsigned long which : {kIoProcess, kIoGroup}) {
    deny(SCMP_SYS(ioprio_set), {SCMP_A0(SCMP_CMP_MASKED_EQ, kLow, which), second_is_init});
  }
}

Filter make_profile() {
  Filter filter(seccomp_init(SCMP_ACT_ALLOW), seccomp_release);
  require(filter ? 0 : -ENOMEM, "init");
  // Foreign ABIs (32-bit, x32) have other numbers and would slip past every rule: the process dies of SIGSYS.
  require(seccomp_attr_set(filter.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS), "bad architecture");
  require(seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2), "optimize");
  for (const Group& group : kGroups) {
    deny_group(filter.get(), group);
  }
  deny_new_namespaces(filter.get());
  deny_terminal_injection(filter.get());
  require(seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(EPERM), kOpenTreeAttr, 0), "open_tree_attr");
  deny_socket_families(filter.get());
  deny_core_scheduling(filter.get());
  deny_socket_filters(filter.get());
  deny_limits_of_init(filter.get());
  return filter;
}

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

void print_rows(const Filter& filter) {
  const File program(std::tmpfile(), std::fclose);
  require(program ? 0 : -errno, "tmpfile");
  require(seccomp_export_bpf(filter.get(), ::fileno(program.get())), "export");
  std::rewind(program.get());
  sock_filter instruction{};
  while (std::fread(&instruction, sizeof instruction, 1, program.get()) == 1) {
    std::printf("{0x%02x, %u, %u, 0x%08x},\n", instruction.code, instruction.jt, instruction.jf,
                instruction.k);
  }
}

}  // namespace

int main() {
  try {
    print_rows(make_profile());
    return std::fflush(stdout) == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    (void)std::fprintf(stderr, "seccomp_compiler: %s\n", error.what());
    return 1;
  }
}
