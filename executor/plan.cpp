#include "executor/plan.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <span>

#include "executor/os/act_as.h"
#include "executor/os/syscall.h"
#include "executor/os/trusted_path.h"
#include "executor/seccomp_profile.h"

#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

namespace berth {
namespace {

using sandbox::Offset;
using sandbox::Plan;

/// Appends to a flat message; offsets stay valid while it grows.
class Blob {
 public:
  Blob() : bytes_(sizeof(Plan)) {}

  Offset add_bytes(const void* data, std::size_t size, std::size_t alignment = 1) {
    while (bytes_.size() % alignment != 0) {
      bytes_.push_back('\0');
    }
    const auto offset = static_cast<Offset>(bytes_.size());
    const char* first = static_cast<const char*>(data);
    bytes_.insert(bytes_.end(), first, first + size);
    return offset;
  }
  Offset add_text(const std::string& text) { return add_bytes(text.c_str(), text.size() + 1); }
  /// uint64_t offsets that init turns into pointers, ended by 0.
  Offset add_texts(const std::vector<std::string>& texts) {
    std::vector<std::uint64_t> offsets;
    offsets.reserve(texts.size() + 1);
    for (const std::string& text : texts) {
      offsets.push_back(add_text(text));
    }
    offsets.push_back(0);
    return add_bytes(offsets.data(), offsets.size() * sizeof(std::uint64_t), alignof(std::uint64_t));
  }
  template <typename Item>
  Offset add_array(const std::vector<Item>& items) {
    return items.empty() ? 0 : add_bytes(items.data(), items.size() * sizeof(Item), 8);
  }
  Plan& header() { return *reinterpret_cast<Plan*>(bytes_.data()); }
  std::vector<char> take() {
    header().size = static_cast<std::uint32_t>(bytes_.size());
    return std::move(bytes_);
  }

 private:
  std::vector<char> bytes_;
};

[[noreturn]] void refuse_path(const std::string& field, int error_number, const std::string& path) {
  throw LaunchError(field, error_number,
                    field + ": " + path + ": " + std::generic_category().message(error_number));
}

/// What is at `path`. To be called with the rights of `caller` (ActAs).
UniqueFd find_object(const std::string& field, const std::string& path, const Caller& caller,
                     int flags = O_PATH) {
  UniqueFd object = open_trusted(path, flags, 0, caller.uid);
  if (!object && errno == ELOOP) {
    throw LaunchError(field, ELOOP,
                      field + ": " + path +
                          ": a symbolic link of another user, or one of /proc into a process, is on the way, "
                          "which is not followed; name where it leads");
  }
  if (!object) {
    refuse_path(field, errno, path);
  }
  return object;
}

/// What is at `path`, found with the calling user's rights.
UniqueFd open_object(const std::string& field, const std::string& path, const LaunchRequest& request,
                     int flags = O_PATH) {
  const Caller& caller = caller_of(request);
  const ActAs access(caller.uid, caller.gid, caller.name);
  return find_object(field, path, caller, flags);
}

/// Whether something else than what is needed is at `path`, or nothing, as the job whose root this is would
/// find it. False where one may not look.
bool lacks(const UniqueFd& root, const char* path, bool needs_folder) {
  open_how how{};
  how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT;
  const UniqueFd found{static_cast<int>(::syscall(SYS_openat2, root.get(), path, &how, sizeof how))};
  struct stat status {};
  if (!found) {
    return errno == ENOENT || errno == ENOTDIR;
  }
  return needs_folder && (::fstat(found.get(), &status) != 0 || !S_ISDIR(status.st_mode));
}

void check_own_root(const UniqueFd& root, const std::string& path) {
  for (const char* needed : {".", "proc", "dev", "tmp"}) {
    if (lacks(root, needed, true)) {
      const bool is_root = *needed == '.';
      throw LaunchError("isolation.root", ENOTDIR,
                        "isolation.root: " + path + (is_root ? "" : std::string("/") + needed) +
                            " is not a directory" +
                            (is_root ? "" : "; make it, the job's own is mounted there"));
    }
  }
}

/// Init's own files are there, and nothing can be made in a read-only root, unless its "/" is made anew for a
/// target that is not in it.
void check_run_folder(const UniqueFd& root, const JobSpec& spec) {
  const Isolation& isolation = spec.isolation;
  const bool has_own_files = !spec.script.empty() || isolation.network.is_connected();
  if (!has_own_files || isolation.root_writable || isolation.overlay || !lacks(root, "run", false)) {
    return;
  }
  const auto is_new = [&](const Mount& mount) {
    const std::string top = mount.target.substr(1, mount.target.find('/', 1) - 1);
    return lacks(root, top.c_str(), false);
  };
  if (std::none_of(isolation.mounts.begin(), isolation.mounts.end(), is_new)) {
    throw LaunchError("isolation.root", ENOENT,
                      "isolation.root: there is no " + isolation.root +
                          "/run, where a script and the files of a network go; make it, the job's own is "
                          "mounted there");
  }
}

/// The job's own are mounted upon them: nothing can be made in a read-only root.
void check_network_files(const UniqueFd& root, const std::string& path) {
  for (const char* name : {"/etc/hosts", "/etc/resolv.conf"}) {
    if (lacks(root, name, false)) {
      const std::string file = path + name;
      std::string what = "isolation.network: there is no " + file + " for the job's own to be mounted on; ";
      what.append("make an empty one (touch ").append(file).append(")");
      throw LaunchError("isolation.network", ENOENT, what);
    }
  }
}

/// A detached clone of the tree at `object`, never with set-user-ID programs; device nodes only if asked for.
UniqueFd clone_tree(const std::string& field, const std::string& path, const UniqueFd& object, bool read_only,
                    bool devices) {
  UniqueFd tree{static_cast<int>(::syscall(
      SYS_open_tree, object.get(), "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE | AT_EMPTY_PATH))};
  if (!tree) {
    refuse_path(field, errno, path);
  }
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_NOSUID | (devices ? 0u : unsigned{MOUNT_ATTR_NODEV}) |
                        (read_only ? unsigned{MOUNT_ATTR_RDONLY} : 0u);
  attributes.propagation = MS_PRIVATE;
  if (::syscall(SYS_mount_setattr, tree.get(), "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes,
                sizeof attributes) != 0) {
    refuse_path(field, errno, path);
  }
  return tree;
}

bool is_at_or_below(const std::string& path, const std::string& directory) {
  return path == directory ||
         (path.starts_with(directory) && (directory == "/" || path[directory.size()] == '/'));
}

/// A working directory that is one of the job's private directories is the private one, never the host's.
bool is_private_directory(const std::string& path) {
  return path == "/" || is_private_to_jobs(path);
}

constexpr std::array<const char*, 3> kSpecial = {"/proc", "/sys", "/dev"};

std::string path_of(const UniqueFd& object) {
  std::array<char, 4096> path{};
  const std::string link = "/proc/self/fd/" + std::to_string(object.get());
  check(::readlink(link.c_str(), path.data(), path.size() - 1), "readlink", link);
  return path.data();
}

/// For no core dumps, one byte, where it may be had: no file is begun for less than a page, and where
/// core_pattern(5) is a pipe, 1 is the one limit that keeps the kernel from running its helper, as root and
/// outside of the job's cgroup (fs/coredump.c).
std::uint64_t core_limit(std::uint64_t asked) {
  rlimit own{};
  check(::getrlimit(RLIMIT_CORE, &own), "getrlimit", "RLIMIT_CORE");
  return asked == 0 ? std::min<std::uint64_t>(1, own.rlim_max) : asked;
}

/// So long after the last moment at which the executor ends a job, its init takes it for stopped.
constexpr std::chrono::seconds kOverdue{5};

class PlanBuilder {
 public:
  PlanBuilder(const LaunchRequest& request, const PlanContext& context)
      : request_(request), context_(context) {}

  PreparedPlan build() {
    const JobSpec& spec = request_.spec;
    Plan plan{};
    plan.kind = sandbox::MessageKind::plan;
    plan.hostname = blob_.add_text(hostname_of(request_.spec, context_.fallback_hostname));
    plan.working_directory = blob_.add_text(spec.current_working_directory);
    add_job_command(plan);
    add_environment(plan);
    add_mounts(plan);
    add_process_limits(plan);
    add_terminal(plan, request_.terminal);
    plan.tmpfs_size = spec.limits.tmpfs.value_or(0);
    if (request_.spec.time_limit) {
      using std::chrono::nanoseconds;
      plan.longest_run =
          nanoseconds(*request_.spec.time_limit + request_.spec.grace_period + kOverdue).count();
    }
    blob_.header() = plan;
    return {blob_.take(), std::move(mounts_)};
  }

  PreparedPlan build_command(const CommandRequest& command, std::uint32_t number) {
    const std::string& directory = command.current_working_directory;
    Plan plan{};
    plan.kind = sandbox::MessageKind::command;
    plan.command = number;
    plan.working_directory =
        blob_.add_text(directory.empty() ? request_.spec.current_working_directory : directory);
    plan.arguments = blob_.add_texts(command.argv);
    plan.argument_count = static_cast<std::uint32_t>(command.argv.size());
    add_environment(plan, command.environment);
    add_process_limits(plan);
    add_terminal(plan, command.terminal);
    blob_.header() = plan;
    return {blob_.take(), {}};
  }

 private:
  void add_process_limits(Plan& plan) {
    add_rlimits(plan);
    plan.umask = request_.spec.umask.value_or(022);
    if (!context_.cpuset_holds && !request_.allocation.cpus.empty()) {
      add_affinity(plan);
    }
  }

  static void add_terminal(Plan& plan, const std::optional<TerminalSize>& terminal) {
    plan.terminal = terminal ? 1 : 0;
    plan.rows = terminal ? terminal->rows : 0;
    plan.columns = terminal ? terminal->columns : 0;
  }

  void add_job_command(Plan& plan) {
    const JobSpec& spec = request_.spec;
    std::vector<std::string> arguments = spec.argv;
    if (!spec.script.empty()) {
      arguments.insert(arguments.begin(), sandbox::kScriptPath);
      plan.script = blob_.add_bytes(spec.script.data(), spec.script.size());
      plan.script_size = static_cast<std::uint32_t>(spec.script.size());
    }
    plan.arguments = blob_.add_texts(arguments);
    plan.argument_count = static_cast<std::uint32_t>(arguments.size());
  }

  /// `further` is stronger than all else.
  void add_environment(Plan& plan, const std::map<std::string, std::string>& further = {}) {
    const Identity& identity = request_.identity;
    std::map<std::string, std::string> environment = request_.spec.environment;
    const auto add = [&](const char* name, const std::string& value) {
      environment.try_emplace(name, value);
    };
    add("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    add("HOME", identity.home);
    add("USER", identity.name);
    add("LOGNAME", identity.name);
    add("SHELL", identity.shell);
    add("LANG", "C.UTF-8");
    add("TMPDIR", "/tmp");
    const std::string id = std::to_string(request_.job_id);
    const std::string cpus = std::to_string(request_.allocation.cpus.size());
    environment["BERTH_JOB_ID"] = environment["SLURM_JOB_ID"] = environment["SLURM_JOBID"] = id;
    environment["BERTH_JOB_NAME"] = environment["SLURM_JOB_NAME"] = request_.spec.name;
    environment["BERTH_ATTEMPT"] = std::to_string(request_.attempt);
    environment["SLURM_RESTART_COUNT"] = std::to_string(request_.attempt - 1);
    environment["SLURM_CPUS_PER_TASK"] = environment["SLURM_CPUS_ON_NODE"] = cpus;
    environment["BERTH_CPUS"] = request_.allocation.cpus.to_list();
    environment["SLURM_MEM_PER_NODE"] = std::to_string(request_.allocation.memory >> 20);
    environment.try_emplace("SLURM_SUBMIT_DIR", request_.spec.current_working_directory);
    for (const auto& [name, value] : further) {
      environment[name] = value;
    }
    std::vector<std::string> lines;
    lines.reserve(environment.size());
    for (const auto& [name, value] : environment) {
      lines.emplace_back(name).append("=").append(value);
    }
    plan.environment = blob_.add_texts(lines);
    plan.environment_count = static_cast<std::uint32_t>(lines.size());
    plan.search_path = blob_.add_text(environment["PATH"]);
  }

  void add_source(std::uint32_t kind, const std::string& field, const std::string& source,
                  const std::string& target, bool read_only) {
    add_source(kind, field, source, open_object(field, source, request_), target, read_only);
  }

  void add_source(std::uint32_t kind, const std::string& field, const std::string& source,
                  const UniqueFd& object, const std::string& target, bool read_only) {
    sandbox::PlanMount mount{};
    mount.kind = kind;
    mount.target = blob_.add_text(target);
    mount.read_only = read_only ? 1 : 0;
    mount.descriptor = -1;
    if (context_.host_view) {
      mount.source = blob_.add_text(source);
    } else {
      mount.descriptor = static_cast<std::int32_t>(3 + mounts_.size());  // after the standard streams
      mounts_.push_back(clone_tree(field, source, object, read_only, kind == sandbox::kMountDevice));
    }
    plan_mounts_.push_back(mount);
  }

  void add_working_directory() {
    const JobSpec& spec = request_.spec;
    const std::string& directory = spec.current_working_directory;
    const bool within_mount =
        std::any_of(spec.isolation.mounts.begin(), spec.isolation.mounts.end(),
                    [&](const Mount& mount) { return is_at_or_below(directory, mount.target); });
    if (within_mount || is_private_directory(directory) || !spec.isolation.root.empty()) {
      return;
    }
    // O_DIRECTORY also has a folder mounted that is mounted when it is used (autofs).
    const UniqueFd object =
        open_object("current_working_directory", directory, request_, O_PATH | O_DIRECTORY);
    // Of what was opened, not of the name: a link must not bring the host's /proc or the whole host in.
    const std::string real = path_of(object);
    if (is_private_directory(real) || std::any_of(kSpecial.begin(), kSpecial.end(), [&](const char* special) {
          return is_at_or_below(real, special);
        })) {
      throw LaunchError("current_working_directory", EINVAL,
                        "current_working_directory: " + directory +
                            (real == directory ? "" : " leads to " + real + ", which") +
                            " is the job's own; choose another directory");
    }
    add_source(sandbox::kMountBind, "current_working_directory", directory, object, directory, false);
    struct statx status {};
    check(::statx(object.get(), "", AT_EMPTY_PATH, STATX_INO, &status), "statx", directory);
    plan_mounts_.back().inode = status.stx_ino;
    plan_mounts_.back().device_major = status.stx_dev_major;
    plan_mounts_.back().device_minor = status.stx_dev_minor;
  }

  void add_mounts(Plan& plan) {
    add_working_directory();
    for (std::size_t index = 0; index < request_.spec.isolation.mounts.size(); ++index) {
      const Mount& mount = request_.spec.isolation.mounts[index];
      if (mount.kind == Mount::Kind::tmpfs) {
        sandbox::PlanMount tmpfs{};
        tmpfs.kind = sandbox::kMountTmpfs;
        tmpfs.descriptor = -1;
        tmpfs.target = blob_.add_text(mount.target);
        tmpfs.size = mount.size.value_or(0);
        plan_mounts_.push_back(tmpfs);
      } else {
        add_source(sandbox::kMountBind, "isolation.mounts[" + std::to_string(index) + "]", mount.source,
                   mount.target, mount.read_only);
      }
    }
    for (const std::string& device : request_.spec.isolation.devices) {
      add_source(sandbox::kMountDevice, "isolation.devices", device, device, false);
    }
    if (context_.host_view && !request_.spec.isolation.root.empty()) {
      plan.root_source = blob_.add_text(request_.spec.isolation.root);
    }
    static_assert(kMostMounts + 1 <= sandbox::kMaximumMounts);  // with the working directory
    plan.mounts = blob_.add_array(plan_mounts_);
    plan.mount_count = static_cast<std::uint32_t>(plan_mounts_.size());
  }

  void add_rlimits(Plan& plan) {
    const Limits& limits = request_.spec.limits;
    std::vector<sandbox::PlanRlimit> rlimits;
    const auto add = [&](auto resource, std::uint64_t soft, std::uint64_t hard) {
      rlimits.push_back({static_cast<std::uint32_t>(resource), 0, soft, hard});
    };
    const auto add_given = [&](auto resource, const std::optional<std::uint64_t>& value) {
      if (value) {
        add(resource, *value, *value);
      }
    };
    add_given(RLIMIT_NOFILE, limits.open_files);
    add_given(RLIMIT_FSIZE, limits.file_size);
    add_given(RLIMIT_STACK, limits.stack_size);
    add_given(RLIMIT_MEMLOCK, limits.locked_memory);
    const std::uint64_t core = core_limit(limits.core_size.value_or(0));
    add(RLIMIT_CORE, core, core);
    // What whoever started berth may do is nothing for a job: quotas do not hold for real-time threads.
    add(RLIMIT_RTPRIO, 0, 0);
    add(RLIMIT_NICE, 0, 0);
    plan.rlimits = blob_.add_array(rlimits);
    plan.rlimit_count = static_cast<std::uint32_t>(rlimits.size());
  }

  void add_affinity(Plan& plan) {
    std::vector<std::uint64_t> mask;
    for (const unsigned cpu : request_.allocation.cpus.members()) {
      mask.resize(std::max<std::size_t>(mask.size(), cpu / 64 + 1));
      mask[cpu / 64] |= std::uint64_t{1} << (cpu % 64);
    }
    plan.affinity = blob_.add_array(mask);
    plan.affinity_size = static_cast<std::uint32_t>(mask.size() * sizeof(std::uint64_t));
  }

  const LaunchRequest& request_;
  const PlanContext& context_;
  Blob blob_;
  std::vector<UniqueFd> mounts_;
  std::vector<sandbox::PlanMount> plan_mounts_;
};

/// Ids 0 to 65535 inside are berth's own outside. Identity::outside_uid is 0's; `nobody` is another.
const std::string kImageMap = "0 " + std::to_string(kUnprivilegedId) + " 65536\n";

/// A user namespace with kImageMap that nobody is in; what an id-mapped mount takes its map from.
UniqueFd make_image_namespace() {
  const pid_t parent = ::getpid();
  const long child = check(::syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, nullptr, nullptr, nullptr, nullptr),
                           "clone", "user namespace");
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (::getppid() == parent) {
      ::pause();  // until it is killed, a few system calls from now
    }
    ::_exit(0);
  }
  const std::string process = "/proc/" + std::to_string(child);
  UniqueFd map;
  if (write_at(AT_FDCWD, (process + "/uid_map").c_str(), kImageMap) == 0 &&
      write_at(AT_FDCWD, (process + "/gid_map").c_str(), kImageMap) == 0) {
    map.reset(try_open_at(AT_FDCWD, (process + "/ns/user").c_str(), O_RDONLY));
  }
  ::kill(static_cast<pid_t>(child), SIGKILL);
  retry_eintr([&] { return ::waitpid(static_cast<pid_t>(child), nullptr, 0); });
  return map;
}

/// mount_setattr(2), MOUNT_ATTR_IDMAP. A file system that cannot keeps its owners: unmapped inside.
void map_owners(int tree) {
  const UniqueFd map = make_image_namespace();
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_IDMAP;
  attributes.userns_fd = static_cast<__u64>(map.get());
  if (map) {
    ::syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes);
  }
}

std::string map_line(unsigned inside, unsigned outside) {
  return std::to_string(inside) + " " + std::to_string(outside) + " 1\n";
}

}  // namespace

bool is_private_to_jobs(const std::string& directory) {
  constexpr std::array<std::string_view, 6> kPrivate{"/tmp",     "/var/tmp", "/run",
                                                     "/dev/shm", "/home",    "/var/run"};
  return std::find(kPrivate.begin(), kPrivate.end(), directory) != kPrivate.end();
}

std::string hostname_of(const JobSpec& spec, const std::string& fallback) {
  if (!spec.isolation.hostname.empty()) {
    return spec.isolation.hostname;
  }
  std::string name;
  for (const char c : spec.name) {
    const bool usable = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c == '-' && !name.empty());
    const bool upper = c >= 'A' && c <= 'Z';
    if (usable || upper) {
      name += upper ? static_cast<char>(c - 'A' + 'a') : c;
    } else if (!name.empty() && name.back() != '-') {
      name += '-';
    }
  }
  name = name.substr(0, 63);
  while (!name.empty() && name.back() == '-') {
    name.pop_back();
  }
  return name.empty() ? fallback : name;
}

const Caller& caller_of(const LaunchRequest& request) {
  static const Caller kOwn = calling_user();
  return request.caller ? *request.caller : kOwn;
}

void check_time_offsets(const Isolation& isolation) {
  const auto check = [](const char* name, clockid_t clock, const std::optional<std::int64_t>& offset) {
    timespec now{};
    if (offset && ::clock_gettime(clock, &now) == 0 && *offset < -now.tv_sec) {
      throw LaunchError("isolation.time_offset", ERANGE,
                        "isolation.time_offset: " + std::string(name) + " " + std::to_string(*offset) +
                            " would be before the start of this clock (use -" + std::to_string(now.tv_sec) +
                            " or more)");
    }
  };
  check("monotonic", CLOCK_MONOTONIC, isolation.time_offset_monotonic_seconds);
  check("boottime", CLOCK_BOOTTIME, isolation.time_offset_boottime_seconds);
}

SandboxProfile profile_of(const JobSpec& spec, const Identity& identity) {
  SandboxProfile profile;
  profile.identity = identity;
  profile.loopback = spec.isolation.network.mode != NetworkMode::none &&
                     spec.isolation.network.mode != NetworkMode::host;  // which has its own up
  profile.network = spec.isolation.network.mode;
  profile.shared_network = spec.isolation.network.shared_name;
  profile.overlay = spec.isolation.overlay;
  profile.own_root = !spec.isolation.root.empty();
  profile.own_root_writable = spec.isolation.root_writable;
  profile.seccomp = spec.isolation.seccomp;
  profile.monotonic_offset = spec.isolation.time_offset_monotonic_seconds.value_or(0);
  profile.boottime_offset = spec.isolation.time_offset_boottime_seconds.value_or(0);
  profile.maps_image =
      profile.own_root && !profile.own_root_writable && identity.outside_uid == kUnprivilegedId;
  return profile;
}

bool is_connected(const SandboxProfile& profile) {
  return profile.network == NetworkMode::isolated || profile.network == NetworkMode::shared;
}

void add_network_files(PreparedPlan& plan, const std::string& hosts, const std::string& resolver) {
  const auto append = [&](const std::string& text) {
    const auto offset = static_cast<Offset>(plan.bytes.size());
    plan.bytes.insert(plan.bytes.end(), text.c_str(), text.c_str() + text.size() + 1);
    return offset;
  };
  const Offset hosts_offset = append(hosts);
  const Offset resolver_offset = append(resolver);
  plan.header().hosts = hosts_offset;
  plan.header().resolver = resolver_offset;
  plan.header().size = static_cast<std::uint32_t>(plan.bytes.size());
}

void add_host_network_files(PreparedPlan& plan) {
  try {
    add_network_files(plan, read_file_at(AT_FDCWD, "/etc/hosts"), read_file_at(AT_FDCWD, "/etc/resolv.conf"));
  } catch (const std::system_error&) {
    // A host without them; the job sees as much.
  }
}

std::string uid_map_of(const SandboxProfile& profile) {
  return profile.maps_image ? kImageMap : map_line(profile.identity.inside_uid, profile.identity.outside_uid);
}

std::string gid_map_of(const SandboxProfile& profile) {
  if (profile.maps_image) {
    return kImageMap;
  }
  std::string text = map_line(profile.identity.inside_gid, profile.identity.outside_gid);
  for (const gid_t group : profile.identity.groups) {
    text += map_line(group, group);
  }
  return text;
}

std::vector<char> make_setup(const SandboxProfile& profile, std::uint32_t flags, std::size_t attach_count) {
  sandbox::Setup setup{};
  setup.kind = sandbox::MessageKind::setup;
  setup.flags = flags | (profile.loopback ? sandbox::kLoopbackUp : 0u) |
                (profile.overlay ? sandbox::kOverlay : 0u) | (profile.own_root ? sandbox::kOwnRoot : 0u) |
                (profile.own_root_writable ? sandbox::kOwnRootWritable : 0u);
  setup.attach_count = static_cast<std::uint32_t>(attach_count);
  setup.inside_uid = profile.identity.inside_uid;
  setup.inside_gid = profile.identity.inside_gid;
  setup.set_groups = (flags & sandbox::kHostView) != 0 ? 0 : 1;
  setup.monotonic_offset = profile.monotonic_offset;
  setup.boottime_offset = profile.boottime_offset;
  const std::vector<gid_t>& groups = profile.identity.groups;
  setup.group_count = static_cast<std::uint32_t>(groups.size());  // resolve_identity() refuses too many
  std::copy(groups.begin(), groups.end(), setup.groups);
  std::strncpy(setup.home, profile.identity.home.c_str(), sizeof setup.home - 1);
  std::span<const sock_filter> filter;
  if (profile.seccomp) {
    filter = default_seccomp_program();
  }
  setup.seccomp_count = static_cast<std::uint32_t>(filter.size());
  const std::size_t size = offsetof(sandbox::Setup, groups) + setup.group_count * sizeof setup.groups[0];
  std::vector<char> message(size + filter.size_bytes());
  std::memcpy(message.data(), &setup, size);
  if (!filter.empty()) {
    std::memcpy(message.data() + size, filter.data(), filter.size_bytes());
  }
  return message;
}

PreparedPlan prepare_plan(const LaunchRequest& request, const PlanContext& context) {
  return PlanBuilder(request, context).build();
}

PreparedPlan prepare_command(const LaunchRequest& request, const CommandRequest& command,
                             std::uint32_t number, const PlanContext& context) {
  return PlanBuilder(request, context).build_command(command, number);
}

void check_mount_points(const JobSpec& spec, const Caller& caller) {
  const std::string& root = spec.isolation.root;
  const bool is_connected = spec.isolation.network.is_connected();
  if (!root.empty()) {
    const ActAs access(caller.uid, caller.gid, caller.name);
    const UniqueFd object = find_object("isolation.root", root, caller);
    check_own_root(object, root);
    check_run_folder(object, spec);
    if (is_connected) {
      check_network_files(object, root);
    }
  } else if (is_connected) {
    check_network_files(open_at(AT_FDCWD, "/", O_PATH), root);
  }
}

UniqueFd open_own_root(const LaunchRequest& request, const SandboxProfile& profile) {
  const JobSpec& spec = request.spec;
  const std::string& root = spec.isolation.root;
  UniqueFd tree = clone_tree("isolation.root", root, open_object("isolation.root", root, request),
                             !spec.isolation.root_writable, false);
  if (profile.maps_image) {
    map_owners(tree.get());
  }
  return tree;
}

/// As long as there are steps.
std::string step_name(sandbox::Step step, const std::string& object) {
  using sandbox::Step;
  switch (step) {
    case Step::exec:
      return "exec";
    case Step::attach_cgroup:
      return "attach to cgroup " + object;
    case Step::unshare_cgroup:
      return "cgroup namespace";
    case Step::unshare_time:
      return "time namespace";
    case Step::set_groups:
    case Step::set_gid:
    case Step::set_uid:
      return "set user and groups";
    case Step::pivot_root:
      return "pivot_root (" + object + ")";
    case Step::mount_root:
      return "mount root (" + object + ")";
    case Step::mount_proc:
      return "mount /proc";
    case Step::mask_proc:
      return "mask " + object;
    case Step::mount_private:
    case Step::mount_tmpfs:
      return "mount tmpfs (" + object + ")";
    case Step::mount_dev:
    case Step::mount_device:
      return "mount device (" + object + ")";
    case Step::mount_devpts:
      return "mount devpts";
    case Step::loopback_up:
      return "bring up loopback";
    case Step::time_offset:
      return "time offset";
    case Step::set_hostname:
      return "set host name " + object;
    case Step::resize_tmpfs:
      return "size of the private tmpfs";
    case Step::mount_bind:
      return "mount " + object;
    case Step::mount_overlay:
      return "mount overlay (" + object + ")";
    case Step::network_file:
      return "mount " + object;
    case Step::write_script:
      return "write script";
    case Step::drop_capabilities:
      return "drop capabilities";
    case Step::no_new_privileges:
      return "no_new_privs";
    case Step::seccomp:
      return "seccomp";
    case Step::fork:
      return "fork";
    case Step::set_session:
      return "setsid";
    case Step::set_rlimit:
      return "rlimit " + object;
    case Step::redirect:
    case Step::close_descriptors:
      return "standard streams";
    case Step::change_directory:
      return "chdir " + object;
    case Step::open_terminal:
      return "terminal (" + object + ")";
    case Step::receive:
    case Step::wait_for_maps:
      return "sandbox protocol (" + object + ")";
  }
  return "set-up";
}

}  // namespace berth
