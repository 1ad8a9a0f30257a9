// What the executor and the init inside a sandbox say to each other, over one SOCK_SEQPACKET pair.
//
//   executor ── Setup (+ root, cgroup `tasks` files) ──►  init   all that does not depend on the job; init
//   forks the process that will become it
//   executor ◄── Report ready ───────────────────────────  init   the sandbox is armed
//   executor ── Plan (+ stdio, mounts) ─────────────────►  init   the job
//   executor ◄── Report started ─────────────────────────  init   exec of the job succeeded
//   executor ── Signal ─────────────────────────────────►  init   to every process of the job, or of a
//                                                                command
//   executor ── Extend ─────────────────────────────────►  init   the job was frozen for so long
//   executor ── Plan, kind command (+ stdio) ───────────►  init   a further command beside the job
//   executor ◄── Report command_failed | command_exited ─  init   of that command
//   executor ◄── Report terminal (+ its master) ─────────  init   of a job or command that asked for one
//   executor ◄── Report exited (wait status) ────────────  init   the main process has ended
//   executor ◄── Report gone ────────────────────────────  init   and so has everything else; init waits for
//                                                                end-of-file
//   executor ◄── Report failed (step, errno, object) ────  init   instead of ready or started
//
// The other end's death is end-of-file: init then exits, which ends the job's PID namespace.
// Plain data only: init has no C++ library. Both ends are built together, so the layout is private.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace berth::sandbox {

enum class MessageKind : uint32_t { setup = 1, plan, signal, command, extend };
enum class ReportKind : uint32_t {
  ready = 1,
  started,
  overdue,  ///< init ends it: its time is long over, and the executor does nothing about it
  exited,
  gone,
  failed,
  terminal,
  command_failed,
  command_exited
};

/// A step before exec, for LaunchError's stage. Names in step_name().
enum class Step : uint32_t {
  receive = 1,
  wait_for_maps,
  attach_cgroup,
  unshare_cgroup,
  unshare_time,
  set_groups,
  set_gid,
  set_uid,
  pivot_root,
  mount_root,
  mount_proc,
  mask_proc,
  mount_private,
  mount_dev,
  mount_devpts,
  loopback_up,
  time_offset,
  set_hostname,
  resize_tmpfs,
  mount_bind,
  mount_tmpfs,
  mount_device,
  mount_overlay,
  write_script,
  network_file,
  drop_capabilities,
  no_new_privileges,
  seccomp,
  fork,
  set_session,
  set_rlimit,
  redirect,
  close_descriptors,
  change_directory,
  open_terminal,
  exec,
};

constexpr uint32_t kMaximumGroups = 256;
constexpr uint32_t kPathSize = 512;
/// Largest plan that travels in the packet itself; a larger one comes as a memfd.
constexpr uint32_t kInlinePlan = 64 * 1024;
/// One packet carries 128 descriptors at most; memfd and standard streams are among them.
constexpr uint32_t kMaximumMounts = 120;
/// Commands at once beside the job.
constexpr uint32_t kMaximumCommands = 64;
constexpr int kChannelFd = 3;    ///< in init
constexpr int kMapsReadyFd = 4;  ///< eventfd: readable when the id maps are written

enum SetupFlag : uint32_t {
  kLoopbackUp = 1u << 0,
  /// The launcher stands in the host's tree (it could not pivot: no privilege) with the template as its
  /// working directory. Setup is then followed by Plan at once, and init opens the mounts' sources itself.
  kHostView = 1u << 1,
  kOwnRoot = 1u << 2,  ///< isolation.root: descriptor 0, or Plan's root_source with kHostView
  kOwnRootWritable = 1u << 3,
  kOverlay = 1u << 4,  ///< writes to the root go to the private tmpfs
  /// Not born in the cgroup that counts CPU time: what was used before the attach is not in that count.
  kCpuFromAttach = 1u << 5,
};

struct Setup {
  MessageKind kind;
  uint32_t flags;
  uint32_t attach_count;  ///< descriptors: [root] then this many `tasks` files
  uint32_t inside_uid;
  uint32_t inside_gid;
  uint32_t group_count;
  uint32_t set_groups;     ///< 0: setgroups(2) is denied in this user namespace
  uint32_t seccomp_count;  ///< sock_filter[seccomp_count] follow the groups
  int64_t monotonic_offset;
  int64_t boottime_offset;
  char home[kPathSize];
  uint32_t groups[kMaximumGroups];  ///< only the first group_count are sent
};

/// Longest filter that the kernel takes (BPF_MAXINSNS).
constexpr uint32_t kMaximumFilter = 4096;

/// An offset from the beginning of the plan; 0 means none.
using Offset = uint32_t;

struct PlanMount {
  uint32_t kind;       ///< PlanMountKind
  int32_t descriptor;  ///< a detached mount, as an index among the descriptors; -1: open `source`
  Offset source;       ///< host path, with kHostView
  Offset target;
  uint32_t read_only;
  uint64_t size;  ///< tmpfs
  /// Of what `source` led to when it was judged, statx(2): what is opened must be that. Inode 0: it was not
  /// judged.
  uint64_t inode;
  uint32_t device_major;
  uint32_t device_minor;
};
enum PlanMountKind : uint32_t { kMountBind, kMountTmpfs, kMountDevice };

struct PlanRlimit {
  uint32_t resource;
  uint32_t unused;
  uint64_t soft;
  uint64_t hard;
};

struct Plan {
  MessageKind kind;
  uint32_t size;  ///< of the whole plan; when larger than the packet, descriptor 0 is the memfd
  Offset hostname;
  Offset hosts;        ///< text of /etc/hosts; none: the root's own
  Offset resolver;     ///< of /etc/resolv.conf; likewise
  Offset root_source;  ///< with kHostView and kOwnRoot
  Offset working_directory;
  Offset script;  ///< written to kScriptPath and executed
  uint32_t script_size;
  Offset arguments;  ///< uint64_t[argument_count + 1]: offsets, made pointers by init; last 0
  uint32_t argument_count;
  Offset environment;  ///< likewise
  uint32_t environment_count;
  Offset search_path;  ///< PATH of the job
  Offset mounts;       ///< PlanMount[mount_count]
  uint32_t mount_count;
  Offset rlimits;  ///< PlanRlimit[rlimit_count]
  uint32_t rlimit_count;
  uint64_t tmpfs_size;  ///< bytes, of the private tmpfs; 0: the kernel's default
  Offset affinity;      ///< CPU mask, where no cpuset holds the job; none: every CPU
  uint32_t affinity_size;
  uint32_t umask;
  uint32_t descriptor_count;  ///< [memfd] stdin stdout stderr mounts…
  uint32_t command;           ///< its number, from 1, when the kind is command; 0: the job itself
  uint32_t terminal;          ///< 1: a terminal of the job's own devpts in place of the standard streams
  uint16_t rows;              ///< of the terminal
  uint16_t columns;
  int64_t longest_run;  ///< nanoseconds, after which init ends the job by itself; 0: none
};

constexpr const char* kScriptPath = "/run/berth/script";

/// SignalMessage::command for the job's main process alone.
inline constexpr uint32_t kMainProcess = ~uint32_t{0};

struct SignalMessage {
  MessageKind kind;
  int32_t signal;
  uint32_t command;  ///< 0: every process of the job; else the process group of this command
};

struct ExtendMessage {
  MessageKind kind;
  uint32_t unused;
  int64_t pause;  ///< nanoseconds
};

struct Report {
  ReportKind kind;
  Step step;
  int32_t error;        ///< errno
  int32_t wait_status;  ///< exited, command_exited: wait(2) format
  uint32_t command;     ///< whose; 0: the job
  int64_t at;           ///< CLOCK_MONOTONIC of the host, nanoseconds: when it happened; started: the fork
  int64_t setup_cpu;    ///< started: CPU time that init itself used up to then, nanoseconds
  int64_t voluntary_switches;    ///< gone: of all processes that the job was, getrusage(2)
  int64_t involuntary_switches;  ///< likewise
  char object[kPathSize];        ///< failed: what the step was about
};

}  // namespace berth::sandbox
