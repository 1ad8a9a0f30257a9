#include "executor/launcher_process.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/sched.h>
#include <linux/securebits.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <array>
#include <csignal>
#include <cstring>
#include <utility>

#include "executor/executor.h"
#include "executor/init/embedded_init.h"
#include "executor/os/message.h"
#include "executor/os/other_cpu.h"
#include "executor/os/syscall.h"
#include "executor/root_template.h"
#include "executor/sandbox_protocol.h"

namespace berth {
namespace {

/// user_namespaces(7): what is written to an id map is less than a page.
constexpr std::size_t kMapEnd = 4096;

struct RequestHeader {
  std::uint64_t token;
  std::uint32_t deny_setgroups;
  std::uint32_t has_cgroup;
  std::uint32_t host_network;
  std::uint32_t unused;
  std::uint32_t uid_map_size;
  std::uint32_t gid_map_size;
};
struct RequestPacket {
  RequestHeader header;
  std::array<char, 2 * kMapEnd> maps;  // uid map, then gid map
};
/// Token 0 is the report on the launcher's own set-up.
struct ReplyPacket {
  std::uint64_t token;
  std::int32_t error_number;
  std::int32_t pid;
  std::array<char, 96> step;
};

struct Capabilities {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> data{};
};

// ---- everything below, up to run_launcher, runs in the launcher only ----

[[noreturn]] void quit() {
  ::_exit(0);
}

void reply(int socket, std::uint64_t token, int error_number, const char* step, pid_t pid = 0,
           int pidfd = -1) {
  ReplyPacket packet{};
  packet.token = token;
  packet.error_number = error_number;
  packet.pid = pid;
  std::strncpy(packet.step.data(), step, packet.step.size() - 1);
  const std::array<int, 1> descriptors = {pidfd};
  if (send_message(socket, &packet, sizeof packet, {descriptors.data(), pidfd >= 0 ? 1u : 0u}) != 0) {
    quit();
  }
}

/// What the child needs between clone and exec; it shares our memory meanwhile (CLONE_VM|CLONE_VFORK).
struct ChildArguments {
  int init = -1;
  int channel = -1;
  int maps_ready = -1;
  int error_number = 0;
};

/// What init does, it does with these, over the new user namespace alone: mounts and host name, ids, the
/// bounding set, devices of the network, offsets of clocks, and the files of an overlay or an own root. Each
/// costs a prctl(2), which copies the credentials.
constexpr std::array kInitCapabilities = {
    CAP_CHOWN,  CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER,  CAP_FSETID,    CAP_SETGID,
    CAP_SETUID, CAP_SETPCAP,      CAP_NET_ADMIN,       CAP_SETFCAP, CAP_SYS_ADMIN, CAP_SYS_TIME,
};

/// A session keyring of its own, with nothing in it: a process has its parent's (keyrings(7)), and no
/// namespace parts them. Where there is no room for one, the launcher's, which is empty too, is better than
/// its caller's.
void join_new_keyring() {
  ::syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, nullptr);
}

/// Runs in the new namespaces, on its own stack, while the launcher is suspended. Keeps capabilities across
/// exec through the ambient set, since no uid is mapped yet.
void become_init(ChildArguments* arguments) {
  Capabilities capabilities;
  ::syscall(SYS_capget, &capabilities.header, capabilities.data.data());
  for (__user_cap_data_struct& data : capabilities.data) {
    data.inheritable = data.permitted;
  }
  ::syscall(SYS_capset, &capabilities.header, capabilities.data.data());
  join_new_keyring();
  for (const int capability : kInitCapabilities) {
    ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0);  // init tells what it lacks
  }
  ::dup3(arguments->channel, sandbox::kChannelFd, 0);
  ::dup3(arguments->maps_ready, sandbox::kMapsReadyFd, 0);
  std::array<char*, 2> argv = {const_cast<char*>("berth-init"), nullptr};
  std::array<char*, 1> environment = {nullptr};
  ::syscall(SYS_execveat, arguments->init, "", argv.data(), environment.data(), AT_EMPTY_PATH);
  arguments->error_number = errno;
  ::_exit(125);
}

/// clone3 with a stack of its own for the child: it cannot return into our frame.
pid_t clone_child(clone_args* arguments, ChildArguments* child) {
  void (*entry)(ChildArguments*) = become_init;
#if defined(__x86_64__)
  long result;
  asm volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      // rbp last: without frame pointers it may be what holds one of the operands.
      "mov %[child], %%rdi\n\t"
      "mov %[entry], %%rax\n\t"
      "xor %%ebp, %%ebp\n\t"
      "call *%%rax\n\t"
      "hlt\n"
      "1:"
      : "=a"(result)
      : "a"(SYS_clone3), "D"(arguments), "S"(sizeof *arguments), [entry] "r"(entry), [child] "r"(child)
      : "rcx", "r11", "memory");
#elif defined(__aarch64__)
  register long x8 asm("x8") = SYS_clone3;
  register long x0 asm("x0") = reinterpret_cast<long>(arguments);
  register long x1 asm("x1") = sizeof *arguments;
  asm volatile(
      "svc 0\n\t"
      "cbnz x0, 1f\n\t"
      "mov x0, %[child]\n\t"
      "mov x9, %[entry]\n\t"
      "mov x29, xzr\n\t"
      "blr x9\n\t"
      "brk 0\n"
      "1:"
      : "+r"(x0)
      : "r"(x8), "r"(x1), [entry] "r"(entry), [child] "r"(child)
      : "x9", "memory");
  const long result = x0;
#endif
  if (result < 0) {
    errno = static_cast<int>(-result);
    return -1;
  }
  return static_cast<pid_t>(result);
}

/// While it lives, this process has the ids of nobody (Launcher::namespace_owner) and its capabilities
/// nevertheless. Where ids beyond those of a container do not exist, nothing changes.
class AsNobody {
 public:
  explicit AsNobody(uid_t uid) { is_changed_ = uid != 0 && ::syscall(SYS_setresuid, uid, uid, uid) == 0; }
  ~AsNobody() {
    if (is_changed_) {
      ::syscall(SYS_setresuid, 0, 0, 0);
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // a change of ids clears it, prctl(2)
    }
  }
  AsNobody(const AsNobody&) = delete;
  AsNobody& operator=(const AsNobody&) = delete;

 private:
  bool is_changed_ = false;
};

/// Errors that mean "not into this cgroup", not "not at all": old kernel, threaded or restricted cgroup.
bool is_cgroup_refusal(int error_number) {
  return error_number == ENOSYS || error_number == EOPNOTSUPP || error_number == EBUSY ||
         error_number == EACCES || error_number == E2BIG;
}

class Launcher {
 public:
  Launcher(int socket, int proc, int init, bool privileged, const OtherCpu& other_cpu)
      : socket_(socket),
        other_cpu_(other_cpu),
        proc_(proc),
        init_(init),
        // Else a change of ids would take the capabilities away, and with them the way back.
        may_change_ids_(privileged && ::prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) == 0) {
    // One mapping, touched once: the child of every spawn runs on it.
    stack_ = static_cast<char*>(::mmap(nullptr, kStackSize, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0));
  }

  [[noreturn]] void run() {
    while (true) {
      RequestPacket packet{};
      Descriptors descriptors;
      const ssize_t size = receive_message(socket_, &packet, sizeof packet, descriptors, MessageWait::block);
      if (size < static_cast<ssize_t>(sizeof packet.header)) {
        quit();
      }
      other_cpu_.leave();  // the parent has done its part
      spawn(packet, descriptors);
    }
  }

 private:
  static constexpr std::size_t kStackSize = std::size_t{64} * 1024;

  void spawn(const RequestPacket& packet, Descriptors& descriptors) {
    ChildArguments child;
    const UniqueFd maps_ready{::eventfd(0, EFD_CLOEXEC)};
    child.init = init_;
    child.channel = descriptors.at(0);
    child.maps_ready = maps_ready.get();
    const int cgroup = packet.header.has_cgroup != 0 ? descriptors.at(1) : -1;
    int pidfd = -1;
    clone_args arguments{};
    arguments.flags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS |
                      CLONE_PARENT | CLONE_PIDFD | CLONE_VM | CLONE_VFORK;
    arguments.flags |= packet.header.host_network != 0 ? 0 : __u64{CLONE_NEWNET};
    arguments.pidfd = reinterpret_cast<__u64>(&pidfd);
    arguments.stack = reinterpret_cast<__u64>(stack_);
    arguments.stack_size = kStackSize;
    if (cgroup >= 0) {
      arguments.flags |= __u64{CLONE_INTO_CGROUP};
      arguments.cgroup = static_cast<__u64>(cgroup);
    }
    bool must_attach = false;
    pid_t pid = clone_owned(&arguments, &child, packet.header.token);
    if (pid < 0 && cgroup >= 0 && is_cgroup_refusal(errno)) {
      arguments.flags &= ~__u64{CLONE_INTO_CGROUP};
      arguments.cgroup = 0;
      must_attach = true;
      pid = clone_owned(&arguments, &child, packet.header.token);
    }
    const UniqueFd owned_pidfd{pidfd};
    if (pid < 0) {
      reply(socket_, packet.header.token, errno, "clone");
      return;
    }
    const char* failed = child.error_number != 0 ? "exec init" : nullptr;
    int error_number = child.error_number;
    if (failed == nullptr && must_attach) {
      error_number = write_at(cgroup, "cgroup.procs", std::to_string(pid));
      failed = error_number != 0 ? "attach to cgroup.procs" : nullptr;
    }
    if (failed == nullptr) {
      failed = write_maps(pid, packet, &error_number);
    }
    if (failed != nullptr) {
      ::kill(pid, SIGKILL);
    } else {
      const std::uint64_t one = 1;
      (void)!::write(maps_ready.get(), &one, sizeof one);
    }
    reply(socket_, packet.header.token, error_number, failed != nullptr ? failed : "", pid,
          owned_pidfd.get());
  }

  /// The owner of the job's user namespace is whom the kernel charges for what is made in it beside the job's
  /// own user: its inotify instances, message queues, timers, namespaces (user.max_* in namespaces(7),
  /// getrlimit(2)). Were that root, one job could use up what root has. So it is an id that is nobody's, and
  /// no other job's for as long as a launcher does not make 80,000 more. 2147465534 is among them, which
  /// plain root's job in an image has (kImageMap): that job may do nothing to a namespace that is not a child
  /// of its own (user_namespaces(7)).
  uid_t namespace_owner(std::uint64_t token) const {
    constexpr std::uint64_t kOwners = 80'000;
    const auto own = static_cast<std::uint64_t>(::getpid()) * 641;  // launchers begin at different ids
    return may_change_ids_ ? kUnprivilegedId + 1 + static_cast<uid_t>((own + token) % kOwners) : 0;
  }

  pid_t clone_owned(clone_args* arguments, ChildArguments* child, std::uint64_t token) const {
    pid_t pid = -1;
    int error_number = 0;
    {
      const AsNobody owner(namespace_owner(token));
      pid = clone_child(arguments, child);
      error_number = errno;
    }
    errno = error_number;
    return pid;
  }

  /// user_namespaces(7): each map is one write, by a process with privilege in the parent namespace.
  const char* write_maps(pid_t pid, const RequestPacket& packet, int* error_number) const {
    const std::string directory = std::to_string(pid);
    const RequestHeader& header = packet.header;
    if (header.deny_setgroups != 0 &&
        (*error_number = write_at(proc_, (directory + "/setgroups").c_str(), "deny")) != 0) {
      return "write setgroups";
    }
    const std::string_view uid_map(packet.maps.data(), header.uid_map_size);
    const std::string_view gid_map(packet.maps.data() + header.uid_map_size, header.gid_map_size);
    if ((*error_number = write_at(proc_, (directory + "/uid_map").c_str(), uid_map)) != 0) {
      return "write uid_map";
    }
    if ((*error_number = write_at(proc_, (directory + "/gid_map").c_str(), gid_map)) != 0) {
      return "write gid_map";
    }
    return nullptr;
  }

  int socket_;
  OtherCpu other_cpu_;
  int proc_;
  int init_;
  bool may_change_ids_;
  char* stack_ = nullptr;
};

/// Where the launcher keeps its end: a low number, which is below every limit (RLIMIT_NOFILE).
constexpr int kLauncherSocket = sandbox::kMapsReadyFd + 1;

/// The standard streams, and the numbers that init's descriptors get, must be occupied so that no other
/// descriptor of ours ever has them; all else goes.
void close_inherited(int socket) {
  ::dup3(socket, kLauncherSocket, O_CLOEXEC);  // EINVAL: it is there already
  ::close_range(kLauncherSocket + 1, ~0u, 0);
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int target = 0; target <= sandbox::kMapsReadyFd; ++target) {
    if (target != null) {
      ::dup3(null, target, target < 3 ? 0 : O_CLOEXEC);
    }
  }
  ::close_range(kLauncherSocket + 1, ~0u, 0);
}

/// Once for all the jobs to come, which inherit them: SIG_IGN survives exec (signal(7)). By the bare call, as
/// glibc keeps two signals to itself.
void reset_dispositions() {
  const std::array<unsigned long, 4> standard{};  // the kernel's struct sigaction: SIG_DFL
  for (int signal = 1; signal < NSIG; ++signal) {
    ::syscall(SYS_rt_sigaction, signal, standard.data(), nullptr, sizeof(unsigned long));
  }
}

void write_own_map(const char* file, unsigned id) {
  const std::string text = std::to_string(id) + " " + std::to_string(id) + " 1\n";
  const int error_number = write_at(AT_FDCWD, file, text);
  if (error_number != 0) {
    throw TemplateError{file, error_number};
  }
}

/// Without privilege over the machine: a user namespace first, in which we have every capability.
void enter_user_namespace() {
  const uid_t uid = ::geteuid();
  const gid_t gid = ::getegid();
  if (::unshare(CLONE_NEWUSER) != 0) {
    throw TemplateError{"unshare the user namespace", errno};
  }
  write_at(AT_FDCWD, "/proc/self/setgroups", "deny");
  write_own_map("/proc/self/uid_map", uid);
  write_own_map("/proc/self/gid_map", gid);
}

/// The init program in a sealed memory file: nothing can change it, whoever opens /proc/1/exe.
UniqueFd make_init_file() {
  UniqueFd file{::memfd_create("berth-init", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
  const std::string_view program = embedded_init();
  if (!file || !write_all(file.get(), program.data(), program.size()) || ::fchmod(file.get(), 0555) != 0 ||
      ::fcntl(file.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0) {
    throw TemplateError{"memfd for init", errno};
  }
  return file;
}

[[noreturn]] void run_launcher(int inherited_socket, pid_t parent, LauncherProcess::View view,
                               const rlimit& open_files, const OtherCpu& other_cpu) {
  ::prctl(PR_SET_NAME, "berth-launcher");
  // A session of its own: a job with root inside may change the nice value of its init's (sched(7),
  // autogroup), which else would be the caller's.
  ::setsid();
  join_new_keyring();
  // Jobs inherit it: a service that the kernel should spare lets it spare no job.
  write_at(AT_FDCWD, "/proc/self/oom_score_adj", "0");
  reset_dispositions();
  close_inherited(inherited_socket);
  ::setrlimit(RLIMIT_NOFILE, &open_files);
  try {
    const bool privileged = view == LauncherProcess::View::template_root;
    if (!privileged) {
      enter_user_namespace();
    }
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) {
      quit();
    }
    const UniqueFd init = make_init_file();
    const UniqueFd proc{::open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC)};
    if (!proc) {
      throw TemplateError{"open /proc", errno};
    }
    enter_root_template(privileged);
    reply(kLauncherSocket, 0, 0, "");  // nothing is left that a kernel may refuse
    if (privileged) {
      drop_host_tree();
    }
    Launcher(kLauncherSocket, proc.get(), init.get(), privileged, other_cpu).run();
  } catch (const TemplateError& error) {
    reply(kLauncherSocket, 0, error.error_number, error.step);
    quit();
  }
}

std::string explain_setup_failure(const std::string& step, int error_number) {
  std::string text =
      "cannot prepare sandboxes: " + step + ": " + std::generic_category().message(error_number);
  if (error_number == EAGAIN) {  // fork(2): RLIMIT_NPROC, pids.max
    text += "; there may be no more processes: raise ulimit -u, or pids.max of this process's cgroup";
  } else if (!is_privileged()) {
    text +=
        "; run as root, or allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
        "user.max_user_namespaces above 0, kernel.apparmor_restrict_unprivileged_userns=0); "
        "`berth doctor` tells which";
  }
  return text;
}

}  // namespace

bool is_privileged() {
  Capabilities capabilities;
  if (::geteuid() != 0 || ::syscall(SYS_capget, &capabilities.header, capabilities.data.data()) != 0) {
    return false;
  }
  const auto needed =
      (1u << CAP_SYS_ADMIN) | (1u << CAP_SETUID) | (1u << CAP_SETGID) | (1u << CAP_DAC_OVERRIDE);
  return (capabilities.data[0].effective & needed) == needed;
}

LauncherProcess::LauncherProcess(const rlimit& open_files)
    : view_(is_privileged() ? View::template_root : View::host_tree) {
  std::signal(SIGCHLD, SIG_DFL);  // a caller may have left it ignored: then nothing could be waited for
  FdPair pair = make_socket_pair(SOCK_SEQPACKET);
  const pid_t parent = ::getpid();
  const OtherCpu other_cpu;
  // Ctrl-C is for this process to deal with: the launcher is never without its own mask.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::sigprocmask(SIG_SETMASK, &all, &before);
  pid_ = ::fork();
  if (pid_ == 0) {
    run_launcher(pair.second.get(), parent, view_, open_files, other_cpu);
  }
  if (pid_ > 0) {
    other_cpu.take_process(pid_);
  }
  const int error_number = errno;
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
  errno = error_number;
  check(pid_, "fork", "launcher");
  socket_ = std::move(pair.first);
}

LauncherProcess::~LauncherProcess() {
  dismiss();
  reap();
}

void LauncherProcess::dismiss() {
  socket_.reset();  // end-of-file: it exits
}

void LauncherProcess::reap() {
  if (pid_ > 0) {
    retry_eintr([&] { return ::waitpid(pid_, &status_, 0); });
    pid_ = -1;
  }
}

bool LauncherProcess::has_ended() const {
  pollfd end{socket_.get(), 0, 0};
  return ::poll(&end, 1, 0) > 0 && (end.revents & POLLHUP) != 0;
}

void LauncherProcess::fail_lost() {
  reap();  // its end of the socket closes only when it ends
  throw LaunchError("launcher", ECONNRESET,
                    "the launcher, berth's process that makes sandboxes, " +
                        (WIFSIGNALED(status_) ? "was killed by signal " + std::to_string(WTERMSIG(status_))
                                              : "ended unexpectedly") +
                        "; another one takes its place, so run the job again");
}

void LauncherProcess::spawn(const SpawnRequest& request) {
  RequestPacket packet{};
  packet.header = {request.token,
                   request.deny_setgroups ? 1u : 0u,
                   request.cgroup >= 0 ? 1u : 0u,
                   request.host_network ? 1u : 0u,
                   0,
                   static_cast<std::uint32_t>(request.uid_map.size()),
                   static_cast<std::uint32_t>(request.gid_map.size())};
  if (request.uid_map.size() >= kMapEnd || request.gid_map.size() >= kMapEnd) {
    throw LaunchError("user", E2BIG,
                      "the user has too many supplementary groups for one id map, which the kernel takes up "
                      "to " +
                          std::to_string(kMapEnd) +
                          " bytes of; take the user out of some, or name another one in isolation.user");
  }
  std::memcpy(packet.maps.data(), request.uid_map.data(), request.uid_map.size());
  std::memcpy(packet.maps.data() + request.uid_map.size(), request.gid_map.data(), request.gid_map.size());
  const std::array<int, 2> descriptors = {request.channel, request.cgroup};
  const std::size_t size = sizeof packet.header + request.uid_map.size() + request.gid_map.size();
  const auto send = [&] {
    return send_message(socket_.get(), &packet, size, {descriptors.data(), request.cgroup >= 0 ? 2u : 1u},
                        MessageWait::poll);
  };
  int error_number = send();
  while (error_number == EAGAIN) {
    await_room();
    error_number = send();
  }
  if (error_number != 0) {
    if (!ready_) {
      wait_until_ready();  // throws with the reason that it left
    }
    if (error_number == EPIPE || error_number == ECONNRESET) {
      fail_lost();
    }
    throw_system_error(error_number, "ask the launcher", "for a sandbox");
  }
}

/// It may be waiting for room itself, with an answer: that is read.
void LauncherProcess::await_room() {
  pollfd ready{socket_.get(), POLLIN | POLLOUT, 0};
  retry_eintr([&] { return ::poll(&ready, 1, -1); });
  if ((ready.revents & POLLIN) != 0) {
    if (std::optional<Spawned> answer = read_answer(MessageWait::poll)) {
      received_.push_back(std::move(*answer));
    }
  }
}

std::optional<Spawned> LauncherProcess::receive(bool block) {
  if (!received_.empty()) {
    Spawned spawned = std::move(received_.front());
    received_.pop_front();
    return spawned;
  }
  return read_answer(block ? MessageWait::block : MessageWait::poll);
}

std::optional<Spawned> LauncherProcess::read_answer(MessageWait wait) {
  while (true) {
    ReplyPacket packet{};
    Descriptors descriptors;
    const ssize_t size = receive_message(socket_.get(), &packet, sizeof packet, descriptors, wait);
    if (size < 0 && errno == EAGAIN) {
      return std::nullopt;
    }
    if (size < static_cast<ssize_t>(sizeof packet)) {
      fail_lost();
    }
    if (packet.token != 0) {
      Spawned spawned{packet.token, packet.error_number, packet.step.data(), packet.pid, UniqueFd{}};
      if (!descriptors.empty()) {
        spawned.pidfd = descriptors.take(0);
      }
      return spawned;
    }
    if (packet.error_number != 0) {
      setup_failure_.emplace(packet.step.data(), packet.error_number,
                             explain_setup_failure(packet.step.data(), packet.error_number));
      throw *setup_failure_;
    }
    ready_ = true;
    if (wait == MessageWait::block) {
      return std::nullopt;
    }
  }
}

void LauncherProcess::wait_until_ready() {
  if (setup_failure_) {
    throw *setup_failure_;
  }
  if (!ready_) {
    read_answer(MessageWait::block);
  }
}

}  // namespace berth
