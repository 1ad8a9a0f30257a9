// The directories that berth holds open in each hierarchy, shared by a CgroupTree and its jobs.
//
//   <mount>/<own cgroup>/berth/<tree>/<job>
//            own         berth  tree   JobDirectory
//
// Internal to the cgroup code; everything here is single-threaded.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "executor/cgroup.h"
#include "executor/cgroup_oom.h"
#include "executor/os/unique_fd.h"

namespace berth {

/// A set of Controller.
class ControllerSet {
 public:
  constexpr ControllerSet() = default;
  constexpr bool contains(Controller controller) const { return (bits_ & bit(controller)) != 0; }
  constexpr void insert(Controller controller) { bits_ |= bit(controller); }
  constexpr void insert(ControllerSet others) { bits_ |= others.bits_; }
  constexpr void erase(Controller controller) { bits_ &= ~bit(controller); }
  constexpr bool empty() const { return bits_ == 0; }
  constexpr bool is_within(ControllerSet other) const { return (bits_ & ~other.bits_) == 0; }

 private:
  static constexpr unsigned bit(Controller controller) { return 1U << static_cast<unsigned>(controller); }
  unsigned bits_ = 0;
};

inline constexpr const char* kBerthDirectory = "berth";
/// Below kBerthDirectory: the leaf that berth itself moves to on v2 when its own cgroup must become an
/// inner node.
inline constexpr const char* kDaemonDirectory = "daemon";

/// Descriptors that stay open, by the name of the control file: a string literal.
using KeptFiles = std::vector<std::pair<const char*, UniqueFd>>;

struct Hierarchy {
  Hierarchy() = default;
  ~Hierarchy();
  Hierarchy(const Hierarchy&) = delete;
  Hierarchy& operator=(const Hierarchy&) = delete;

  int version = 0;
  ControllerSet controllers;
  std::string mount_point;  ///< for messages; "(berth's net_cls mount)" when it is ours alone
  std::string own_path;     ///< below the mount; "/" or "/a/b"
  UniqueFd mount;           ///< our own detached mount; the hierarchy is gone when this closes
  UniqueFd own;
  UniqueFd berth;
  UniqueFd tree;
  std::string tree_path;  ///< below the mount: "/berth/run-1"

  // v2, what berth changed in its own cgroup and takes back at the end:
  std::string added_to_own;  ///< "memory pids": put into cgroup.subtree_control
  bool moved_to_daemon = false;

  /// v1 blkio: disks ("254:0") whose I/O this kernel counts only in cgroups that throttle it.
  std::vector<std::string> count_io_of;
  /// v1 cpuset: what a new job inherits; empty when unknown.
  std::string cpuset_cpus, cpuset_mems;

  /// v2 cpuset, executor/cpuset_partition.h: "root" or "isolated" when each job is a partition.
  std::string job_partition;
  CpuSet partition_cpus;

  /// v1: cgroups of ended jobs for the next ones, executor/cgroup_spares.h.
  struct Spare {
    UniqueFd fd;
    KeptFiles kept;
    std::string name;
    CgroupLimits limits;
  };
  std::vector<Spare> spares;

  /// memory, executor/cgroup_oom.h: how often it ran out at the limits above the jobs when last looked at;
  /// null: not known. A job keeps those of the time when it was made.
  std::shared_ptr<const OomCounts> ancestor_ooms;
  std::vector<OomEvents> oom_events;  ///< v1, in the same order

  std::string berth_path() const { return own_path == "/" ? "/berth" : own_path + "/berth"; }
};

/// Which hierarchies `machine` has, mounted ones by `mount_point`, each with its `own` open. Hierarchies that
/// cannot be opened are left out.
std::vector<std::unique_ptr<Hierarchy>> open_own_cgroups(const CgroupMachine& machine);
/// A v1 hierarchy that is mounted nowhere, mounted by fsopen(2) without a place in any tree. Throws
/// CgroupError.
std::unique_ptr<Hierarchy> mount_detached(const ControllerMount& where, Controller controller);

/// Where a control file is found: among `kept`, if any, else in the directory.
struct ControlFiles {
  ControlFiles(int of_directory) : directory(of_directory) {}
  int directory;
  KeptFiles* kept = nullptr;
  bool keeps_more = false;  ///< what is opened goes to `kept`
};

/// One cgroup of one hierarchy.
struct JobDirectory {
  Hierarchy* hierarchy = nullptr;
  std::string name;  ///< within the tree; not the job's while it waits for one, and in v2 for ever
  UniqueFd fd;
  mutable KeptFiles kept;
  UniqueFd tasks;  ///< v1 tasks, or v2 cgroup.procs; open while processes are to be attached
  std::optional<CgroupLimits> left_to_write;  ///< of a spare: less than all limits, at first

  /// Throws CgroupError. `job` is only for its message.
  void write(const char* file, std::string_view value, const std::string& job) const;
  /// 0 or errno.
  int try_write(const char* file, std::string_view value) const noexcept;
  bool has(const char* file) const noexcept;
  ControlFiles files() const;
  /// The same; files that are read through it stay open, for one that is read again and again, or soon.
  ControlFiles kept_files() const;
};

/// The file's text within `buffer`; empty when it cannot be read. A file larger than the buffer is cut.
std::string_view read_control(const ControlFiles& files, const char* file, std::span<char> buffer) noexcept;
std::optional<std::uint64_t> read_number(const ControlFiles& files, const char* file) noexcept;
/// All of cgroup.procs, however long.
std::vector<pid_t> read_processes(int directory);

/// Names of the cgroups in this one.
std::set<std::string> child_cgroups(int parent);
/// How many they are; the greatest number when it cannot be told.
nlink_t count_children(int directory) noexcept;

/// rmdir of `parent`/`name` with every cgroup inside; retries while busy until `patience` has passed. True
/// when it is gone (or never was).
bool remove_cgroup(int parent, const char* name, std::chrono::milliseconds patience) noexcept;

[[noreturn]] void throw_cgroup_error(const Hierarchy& hierarchy, std::string_view job, const char* file,
                                     std::string_view value, int error_number);

/// Big enough for every control file but cgroup.procs; memory.stat is the longest at about 3 KiB.
inline constexpr std::size_t kControlFileBytes = std::size_t{16} * 1024;

/// Decimal text of one number, for writes without an allocation.
class NumberText {
 public:
  explicit NumberText(std::uint64_t number);
  operator std::string_view() const { return {text_, size_}; }

 private:
  char text_[24] = {};
  std::size_t size_;
};

}  // namespace berth
