// JobSpec: what a user asks for. The C++ twin of schemas/job.schema.json; a test keeps both equal.
//
// Field names are those of Slurm's REST job_desc_msg where it has one. A JobSpec that came out of
// schemas/job_file.h is valid: every field is in range and every field that this version cannot honour
// was refused, so code below needs no second check.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "schemas/job.h"
#include "schemas/network_spec.h"
#include "schemas/quantities.h"

namespace berth {

/// The least that a job's cgroup may have. For berth's own part before the first instruction the kernel
/// charges 64 pages at once for a CPU, and cgroup v1 takes no limit below what is charged (EBUSY). Init and
/// the smallest of programs need some 150 KiB of it.
inline constexpr Bytes kLeastMemory = Bytes{256} << 10U;

/// limits.io[]: bandwidth and IOPS of one block device (blkio.throttle.* | io.max).
struct IoLimit {
  std::string device;  ///< a block device node ("/dev/vda") or "major:minor"
  std::optional<std::uint64_t> read_bytes_per_second;
  std::optional<std::uint64_t> write_bytes_per_second;
  std::optional<std::uint64_t> read_operations_per_second;
  std::optional<std::uint64_t> write_operations_per_second;
  bool operator==(const IoLimit&) const = default;
};

/// limits{}: what is enforced beside memory_per_node, cpus_per_task and time_limit. Absent: no limit,
/// or the default that the field names.
struct Limits {
  std::optional<Milliseconds> cpu_time;  ///< CPU time of the whole tree
  std::optional<double> cpu_quota;       ///< CPUs' worth of time, e.g. 0.5 (cpu.cfs_quota_us | cpu.max)
  std::optional<unsigned> cpu_weight;    ///< 1-10000, 100 is normal (cpu.shares | cpu.weight)
  std::optional<Bytes> swap;             ///< beside memory_per_node; absent: 0 where accounted
  std::optional<Bytes> memory_high;      ///< slowed down and reclaimed from beyond it (memory.high, v2 only)
  bool oom_group = false;                ///< an OOM kill ends the whole job (memory.oom.group, v2 only)
  std::optional<std::uint64_t> pids;     ///< tasks at once (pids.max); absent: 4096
  std::optional<Bytes> output;           ///< standard output and error together
  std::optional<Bytes> tmpfs;            ///< the private /tmp, /var/tmp, /run, /dev/shm, home together
  std::optional<std::uint64_t> open_files;  ///< RLIMIT_NOFILE
  std::optional<Bytes> file_size;           ///< RLIMIT_FSIZE
  std::optional<Bytes> core_size;           ///< RLIMIT_CORE; absent: as 0
  std::optional<Bytes> stack_size;          ///< RLIMIT_STACK
  std::optional<Bytes> locked_memory;       ///< RLIMIT_MEMLOCK
  std::vector<IoLimit> io;
  std::map<std::string, Bytes> hugetlb;    ///< page size as the kernel names it ("2MB") to bytes
  std::optional<std::uint32_t> net_class;  ///< net_cls.classid, for tc and iptables
  bool operator==(const Limits&) const = default;
};

/// isolation.mounts[].
struct Mount {
  enum class Kind { bind, tmpfs };
  Kind kind = Kind::bind;
  std::string source;         ///< bind: absolute path on the host
  std::string target;         ///< absolute path inside the job
  bool read_only = true;      ///< bind only
  std::optional<Bytes> size;  ///< tmpfs only; required there
  bool operator==(const Mount&) const = default;
};

/// isolation.mounts, tmpfs and devices of one job together: with its working directory as many as one message
/// to its init carries (executor/sandbox_protocol.h).
inline constexpr std::size_t kMostMounts = 119;

/// isolation{}: the walls. All eight namespaces are always made.
struct Isolation {
  NetworkSpec network;
  std::string root;            ///< absolute path of an own root directory; empty: the host's
  bool root_writable = false;  ///< isolation.root given and its "writable" true
  bool overlay = false;        ///< writes anywhere in the root are allowed and thrown away
  std::vector<Mount> mounts;
  std::string hostname;              ///< empty: the job's name made into a host name
  std::string user;                  ///< "name", "uid" or "uid:gid"; empty: the invoking user
  std::vector<std::string> devices;  ///< further device nodes, e.g. "/dev/fuse"
  bool seccomp = true;               ///< "default" (true) or "none" (false)
  std::optional<std::int64_t> time_offset_monotonic_seconds;
  std::optional<std::int64_t> time_offset_boottime_seconds;
  bool operator==(const Isolation&) const = default;
};

enum class OpenMode { truncate, append };

/// retry{}: when a job that failed runs again.
struct Retry {
  unsigned max = 0;  ///< attempts after the first
  std::vector<JobState>
      on;  ///< final states; with exit_codes empty too: FAILED TIMEOUT OUT_OF_MEMORY NODE_FAIL
  std::vector<int> exit_codes;  ///< of a job that exited
  Milliseconds backoff{0};      ///< before the next attempt; doubles with each
  double memory_factor = 1;     ///< memory after OUT_OF_MEMORY
  bool operator==(const Retry&) const = default;
};

struct JobSpec {
  std::string name;                       ///< never empty: given, or argv[0]'s base name, or "script"
  std::string script;                     ///< text that starts with #!; argv are its arguments
  std::vector<std::string> argv;          ///< the command; may be empty when script is given
  std::string current_working_directory;  ///< absolute; the file's or caller's directory by default
  /// Complete environment: the `environment` object, over a minimal default (PATH, HOME, USER,
  /// LOGNAME, SHELL, LANG, TMPDIR are added at launch when missing). Nothing leaks from the caller.
  std::map<std::string, std::string> environment;
  std::string standard_input;   ///< host path with patterns; empty: /dev/null
  std::string standard_output;  ///< host path with %j %A %x %u %% patterns; empty: stream
  std::string standard_error;   ///< likewise; empty: with standard output's file, else stream
  OpenMode open_mode = OpenMode::truncate;
  std::optional<unsigned> umask;  ///< of the job, and of its output files; absent: 022
  /// The job's standard streams are a terminal of its own; berthd's jobs are attached to (berth attach).
  bool terminal = false;
  std::string account;
  std::string comment;
  std::int64_t priority = 0;               ///< larger first
  std::int64_t nice = 0;                   ///< lowers the priority
  unsigned cpus_per_task = 1;              ///< whole exclusive CPUs
  std::optional<Bytes> memory_per_node;    ///< absent: the pool's memory shared by CPUs
  std::optional<Milliseconds> time_limit;  ///< wall time
  int kill_warning_signal = 0;             ///< sent kill_warning_delay before time_limit; 0: none
  Milliseconds kill_warning_delay{60'000};
  bool kill_warning_batch_job = false;  ///< to the main process alone (Slurm's flag BATCH_JOB)
  Milliseconds grace_period{5'000};     ///< between SIGTERM and the kill of the cgroup
  std::optional<Milliseconds> no_output_timeout;
  // Of berthd's queue; berth run refuses them.
  bool hold = false;
  bool requeue = false;  ///< runs again after NODE_FAIL
  std::optional<Timestamp> begin_time;
  std::optional<Timestamp> deadline;
  std::string dependency;  ///< schemas/dependency.h; empty: none
  std::string array;       ///< schemas/index_list.h; empty: no array
  std::optional<Retry> retry;
  Limits limits;
  Isolation isolation;
  bool operator==(const JobSpec&) const = default;
};

}  // namespace berth
