// Cgroups: one typed interface over cgroup v1 (one hierarchy per controller) and v2 (unified), chosen for
// each controller separately, so that a hybrid machine works.
//
// Sources: Documentation/admin-guide/cgroup-v1/*.rst and cgroup-v2.rst; cgroups(7). All access is relative
// to open directories, so a path that is removed and made again cannot fool it. Single-threaded.
// Failures throw CgroupError naming the control file, the value and errno.
#pragma once

#include <sys/types.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "executor/cpu_partition.h"
#include "executor/os/unique_fd.h"
#include "schemas/cpu_set.h"
#include "schemas/leftover_owner.h"
#include "schemas/quantities.h"
#include "schemas/usage.h"

namespace berth {

enum class Controller { cpu, cpuacct, cpuset, memory, pids, devices, freezer, blkio, net_cls, hugetlb };
inline constexpr std::size_t kControllerCount = 10;
const char* to_string(Controller controller);

class CgroupError : public std::system_error {
 public:
  CgroupError(int error_number, std::string file, const std::string& value);
  const std::string& file() const { return file_; }

 private:
  std::string file_;
};

/// One devices.allow line / one rule of the eBPF device program.
struct DeviceRule {
  char type = 'c';  ///< 'c' or 'b'
  unsigned major = 0;
  std::optional<unsigned> minor;  ///< absent: every minor ("*")
  std::string access = "rw";      ///< of r, w, m
  bool operator==(const DeviceRule&) const = default;
};

struct IoDeviceLimit {
  unsigned major = 0;
  unsigned minor = 0;
  std::optional<std::uint64_t> read_bps, write_bps, read_iops, write_iops;
  bool operator==(const IoDeviceLimit&) const = default;
};

/// What is written before the job's first instruction. Absent: leave the kernel's default.
struct CgroupLimits {
  std::optional<CpuSet> cpus;          ///< cpuset.cpus
  std::optional<CpuSet> memory_nodes;  ///< cpuset.mems
  std::optional<double> cpu_quota;     ///< CPUs' worth: cpu.cfs_quota_us/cfs_period_us | cpu.max
  std::optional<unsigned> cpu_weight;  ///< 1-10000: cpu.shares (scaled) | cpu.weight
  std::optional<Bytes> memory;         ///< memory.limit_in_bytes | memory.max
  std::optional<Bytes> swap;  ///< beside memory: memory.memsw.limit_in_bytes = memory+swap | memory.swap.max
  std::optional<Bytes> memory_high;                ///< memory.high; v2 only
  bool oom_group = false;                          ///< memory.oom.group; v2 only
  std::optional<std::uint64_t> pids;               ///< pids.max
  std::optional<std::vector<DeviceRule>> devices;  ///< deny all but these; absent: inherit
  std::vector<IoDeviceLimit> io;                   ///< blkio.throttle.* | io.max
  std::map<std::string, Bytes> hugetlb;            ///< hugetlb.<size>.limit_in_bytes | .max
  std::optional<std::uint32_t> net_class;          ///< net_cls.classid
};

/// What must be written to turn a cgroup that was made with `have` into one for `want`; nothing when that is
/// impossible, because a limit would have to be taken away or a controller is missing.
std::optional<CgroupLimits> limits_to_add(const CgroupLimits& have, const CgroupLimits& want);

/// Adds to `limits` what `more` names, or replaces it.
void add_limits(CgroupLimits& limits, const CgroupLimits& more);

/// Where a controller lives on this machine.
struct ControllerMount {
  int version = 0;          ///< 0: absent, 1, 2
  std::string mount_point;  ///< "/sys/fs/cgroup/memory"; empty when only berth's own mount has it
  std::string own_path;     ///< this process's cgroup below it ("/", "/user.slice/…")
  std::string hierarchy;    ///< v1: all its controllers ("cpu,cpuacct"); empty: no hierarchy has it yet
  std::string reason;       ///< why absent or unusable, for people
};

struct CgroupMachine {
  std::array<ControllerMount, kControllerCount> controllers;
  ControllerMount unified;  ///< the v2 tree, also when bare: gives cgroup.kill, PSI, populated
  const ControllerMount& at(Controller controller) const {
    return controllers[static_cast<std::size_t>(controller)];
  }
};
/// From /proc/self/mountinfo, /proc/self/cgroup, /proc/cgroups and cgroup.controllers. Throws
/// std::system_error when /proc is unreadable.
CgroupMachine detect_cgroups();

/// Under systemd with cgroup v2 a login session's cgroup, or that of a service without Delegate=, passes no
/// controllers on. Then this asks systemd to move this process, alone, to a scope of its own that is
/// delegated
/// ("berth-PID.scope": gone with its last process), and returns the machine as it looks from there. Else, and
/// when systemd refuses, returns `machine` as it was: CgroupTree says then what is missing. Call it before
/// any child is forked. Costs a run of busctl(1), some 10 ms, only where it is needed.
/// `always`: with cgroup v2 also out of a cgroup that is delegated, for a process that shares it with others.
CgroupMachine enter_own_scope(const CgroupMachine& machine, bool always = false);

/// Counters of one cgroup, absent where there is no such file. Peaks that v1 has no file for are sampled.
struct CgroupCounters {
  Usage usage;  ///< only the fields that a control file gives
  std::optional<std::uint64_t> memory_limit_hits;
  std::optional<Bytes> memory_current;
};

class JobCgroup;

/// Berth's part of every hierarchy: <own cgroup>/berth/<name>. Created with its parents (cpuset seeded from
/// the parent), removed by the destructor when empty.
class CgroupTree {
 public:
  /// `name` is one path component, unique per running berth. Controllers that are not usable (not
  /// mounted, no permission, not delegated) are left out: see usable().
  static std::unique_ptr<CgroupTree> create(const CgroupMachine& machine, const std::string& name) {
    std::unique_ptr<CgroupTree> tree = begin(machine, name);
    tree->complete();
    return tree;
  }
  /// The same in two steps: between them there is v2 alone, and begin_job() can be called.
  static std::unique_ptr<CgroupTree> begin(const CgroupMachine& machine, const std::string& name);
  virtual void complete() = 0;
  virtual ~CgroupTree() = default;

  /// True when limits of this controller can be applied to jobs of this tree.
  virtual bool usable(Controller controller) const = 0;
  /// 1 or 2 when usable, else 0.
  virtual int version(Controller controller) const = 0;
  /// Why not, with the remedy; empty when usable.
  virtual std::string reason_unusable(Controller controller) const = 0;
  virtual bool accounts_swap() const = 0;
  /// Makes the CPUs of each job to come a cpuset partition of its own (slots.partition), out of `cpus`.
  /// Returns why that cannot be, with the remedy; nothing when it is so. executor/cpuset_partition.h.
  virtual std::string use_partition(CpuPartition kind, const CpuSet& cpus) = 0;
  /// Why partitions cannot be had at all, with the remedy; nothing when it depends on the CPUs alone.
  virtual std::string why_no_partitions() const = 0;
  /// Names of the trees beside this one: of other berths that run, or that died and left theirs.
  virtual std::vector<std::string> siblings() const = 0;
  /// The jobs of this tree are recorded in `file`, which is there: siblings that ask know it then.
  virtual void set_owner(const std::string& file) = 0;
  /// Of a sibling, for one whose own file is `own`.
  virtual LeftoverOwner owner_of(const std::string& sibling, const std::string& own) const = 0;
  /// Whether a sibling holds a job, as far as one look at one hierarchy tells.
  virtual bool holds_job(const std::string& sibling) const = 0;

  /// A cgroup of its own in every usable hierarchy, fresh or without a trace of an earlier job (net_cls and
  /// hugetlb only when the limits name them: berth mounts these hierarchies itself, detached, with
  /// fsopen/fsmount, when nobody has). All limits are written before it returns. Throws CgroupError and
  /// leaves nothing behind. With a `name` that begins with kArmedPrefix it is to be renamed, and may be
  /// called otherwise until then.
  std::unique_ptr<JobCgroup> make_job(const std::string& name, const CgroupLimits& limits) {
    std::unique_ptr<JobCgroup> job = begin_job(name);
    complete_job(*job, limits);
    return job;
  }
  /// The same in two steps. A process may be born between them where JobCgroup::can_bear() says so: on a
  /// hybrid machine, in v2, which limits nothing there; it is attached to the cgroups of v1 later. When the
  /// second step throws, whoever was born is to be let go before the cgroup is.
  virtual std::unique_ptr<JobCgroup> begin_job(const std::string& name) = 0;
  virtual void complete_job(JobCgroup& begun, const CgroupLimits& limits) = 0;
};

/// What several steps may take together.
class Deadline {
 public:
  explicit Deadline(std::chrono::milliseconds patience) : end_(Clock::now() + patience) {}
  /// Never below 0.
  std::chrono::milliseconds left() const {
    return std::max(std::chrono::duration_cast<std::chrono::milliseconds>(end_ - Clock::now()),
                    std::chrono::milliseconds(0));
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point end_;
};

/// How long a kill waits for every process to be frozen, where the kernel has no cgroup.kill.
inline constexpr std::chrono::milliseconds kKillPatience{100};

/// Begins the name of a cgroup that waits for its job. v2 keeps such a name (JobCgroup::rename).
inline constexpr const char* kArmedPrefix = "armed-";
/// Whether a job was in a cgroup of this name, or is.
inline bool is_jobs_cgroup(const std::string& name) {
  return !name.starts_with(kArmedPrefix);
}

/// The cgroup of one attempt. Removed (with retry while busy, after kill) by remove() or the destructor; a
/// leftover by remove() alone.
class JobCgroup {
 public:
  virtual ~JobCgroup() = default;

  /// Writes only what `limits` names; used when a prepared cgroup gets its job.
  virtual void apply(const CgroupLimits& limits) = 0;
  /// Likewise: rename(2) in every v1 hierarchy. v2 has no rename: there it keeps its first name, and the
  /// job's becomes an attribute by which open_leftover_job() finds it.
  virtual void rename(const std::string& name) = 0;

  /// Whether a process may be born in it yet: CgroupTree::begin_job().
  virtual bool can_bear() const = 0;
  /// How a new process is born in it. v2: a directory for clone3's CLONE_INTO_CGROUP, or -1.
  virtual int clone_into_descriptor() const = 0;
  /// v1: open `tasks` files into which the (single-threaded) new process writes "0" itself: that skips
  /// cgroup_threadgroup_rwsem and so the RCU grace period that a write of another's pid costs.
  virtual std::vector<int> attach_descriptors() const = 0;
  /// Frees them, about ten per job; call it when the process is attached.
  virtual void close_attach_descriptors() = 0;

  virtual CgroupCounters read() = 0;
  /// Opens ahead what read() reads, some 20 files, so that a job's end need not wait for it.
  virtual void open_counters() = 0;
  /// Closes them again, when read() and limiting_cgroup() have been called for the last time.
  virtual void close_counters() = 0;
  /// Cheap sample of what v1 keeps no peak of (memory.stat rss/cache/swap, pids.current); folded into read().
  virtual void sample() = 0;
  /// User+system CPU time so far, of the whole tree.
  virtual std::optional<std::chrono::microseconds> cpu_time() = 0;
  virtual std::vector<pid_t> processes() = 0;
  /// cgroup.kill, else freeze, SIGKILL each, thaw; safe against fork bombs. Takes at most `patience`: who is
  /// in uninterruptible sleep dies later, and is to be killed again until empty(), as others may have forked.
  virtual void kill_all(std::chrono::milliseconds patience = kKillPatience) = 0;
  virtual void freeze(bool frozen) = 0;
  virtual bool empty() = 0;
  /// Path shown to people for a controller: below its mount ("/berth/run-1/job-1.1").
  virtual std::string path(Controller controller) const = 0;
  /// When an oom_kill was counted: the cgroup at whose limit memory ran out (this one or an ancestor), as a
  /// path; "/": the machine's. Empty when the kernel does not tell.
  virtual std::string limiting_cgroup() = 0;
  /// rmdir in every hierarchy, retried while busy for at most `patience`; returns false when it is still
  /// busy. `Traceless::keep`: v1 cgroups that hold no trace of the job are kept for the next job of the tree
  /// (executor/cgroup_spares.h).
  enum class Traceless { remove, keep };
  virtual bool remove(std::chrono::milliseconds patience = std::chrono::seconds(2),
                      Traceless traceless = Traceless::remove) = 0;
};

/// Opens what a dead berth left at <own>/berth/<tree>/<job>; null when no hierarchy has it.
std::unique_ptr<JobCgroup> open_leftover_job(const CgroupMachine& machine, const std::string& tree,
                                             const std::string& job);
/// Names of job cgroups left below <own>/berth/<tree>, over all hierarchies.
std::vector<std::string> list_leftover_jobs(const CgroupMachine& machine, const std::string& tree);
/// Removes <own>/berth/<tree> (and <own>/berth when it is then empty) in every hierarchy, retried while busy
/// for at most `patience`; returns false when it is still busy.
bool remove_leftover_tree(const CgroupMachine& machine, const std::string& tree,
                          std::chrono::milliseconds patience = std::chrono::seconds(2));

}  // namespace berth
