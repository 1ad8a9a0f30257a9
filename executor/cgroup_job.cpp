#include "executor/cgroup_job.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "executor/cgroup_files.h"
#include "executor/cgroup_spares.h"
#include "executor/cgroup_v1.h"
#include "executor/cpuset_partition.h"
#include "executor/os/syscall.h"

namespace berth {
namespace {

/// 0 or errno.
int rename_directory(JobDirectory& directory, const std::string& name) {
  if (directory.name == name) {
    return 0;
  }
  remove_spare(*directory.hierarchy, name);
  const int tree = directory.hierarchy->tree.get();
  if (::renameat(tree, directory.name.c_str(), tree, name.c_str()) != 0) {
    return errno;
  }
  directory.name = name;
  return 0;
}

void keep_higher(std::optional<std::uint64_t>& peak, const std::optional<std::uint64_t>& value) {
  if (value && (!peak || *value > *peak)) {
    peak = value;
  }
}

}  // namespace

CgroupError::CgroupError(int error_number, std::string file, const std::string& value)
    : std::system_error(error_number, std::generic_category(),
                        value.empty() ? file : "write \"" + value + "\" to " + file),
      file_(std::move(file)) {}

ControllerSet controllers_of(const CgroupLimits& limits) {
  ControllerSet needed;
  const auto need = [&](bool named, Controller controller) {
    if (named) {
      needed.insert(controller);
    }
  };
  need(limits.cpus || limits.memory_nodes, Controller::cpuset);
  need(limits.cpu_quota || limits.cpu_weight, Controller::cpu);
  need(limits.memory || limits.swap || limits.memory_high || limits.oom_group, Controller::memory);
  need(limits.pids.has_value(), Controller::pids);
  need(limits.devices.has_value(), Controller::devices);
  need(!limits.io.empty(), Controller::blkio);
  need(!limits.hugetlb.empty(), Controller::hugetlb);
  need(limits.net_class.has_value(), Controller::net_cls);
  return needed;
}

OpenJobCgroup::OpenJobCgroup(std::shared_ptr<TreeDirectories> tree, std::string name, Kind kind)
    : tree_(std::move(tree)),
      name_(std::move(name)),
      kind_(kind),
      age_(kind == Kind::fresh ? Age::fresh : Age::used) {}

void OpenJobCgroup::open(Hierarchy& hierarchy, const CgroupLimits& limits) {
  JobDirectory directory;
  directory.hierarchy = &hierarchy;
  const int error_number = make_or_open(directory, limits);
  if (error_number != 0) {
    if (!directory.name.empty()) {
      remove_cgroup(hierarchy.tree.get(), directory.name.c_str(), std::chrono::milliseconds(0));
    }
    throw_cgroup_error(hierarchy, name_, "", "", error_number);
  }
  if (!directory.fd) {
    return;  // nothing was left there
  }
  directories_.push_back(std::move(directory));
  if (kind_ == Kind::fresh && hierarchy.controllers.contains(Controller::memory)) {
    if (hierarchy.version == 1) {
      count_ancestor_ooms(hierarchy);
      oom_events_ = OomEvents(directories_.back().fd.get());
    }
    ancestor_ooms_ = hierarchy.ancestor_ooms;
  }
}

int OpenJobCgroup::make_or_open(JobDirectory& directory, const CgroupLimits& limits) {
  Hierarchy& hierarchy = *directory.hierarchy;
  const int parent = hierarchy.tree.get();
  if (kind_ == Kind::fresh) {
    directory.left_to_write = take_spare(directory, limits);
    if (directory.left_to_write) {
      return name_.starts_with(kArmedPrefix) ? 0 : rename_directory(directory, name_);
    }
    remove_spare(hierarchy, name_);
    if (::mkdirat(parent, name_.c_str(), 0755) != 0) {
      return errno;  // nothing of ours: it may be another's
    }
  }
  // Not O_PATH: CLONE_INTO_CGROUP and bpf(2) take it, and it can be listed.
  constexpr int kFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW;
  directory.name = name_;
  directory.fd.reset(try_open_at(parent, name_.c_str(), kFlags));
  if (kind_ == Kind::fresh) {
    return directory.fd ? 0 : errno;
  }
  if (!directory.fd && hierarchy.version == 2) {
    directory.name = find_named_v2(parent, name_);
    directory.fd.reset(directory.name.empty() ? -1 : try_open_at(parent, directory.name.c_str(), kFlags));
  }
  return 0;
}

OpenJobCgroup::~OpenJobCgroup() {
  if (kind_ == Kind::leftover) {
    return;
  }
  try {
    if (!empty()) {
      kill_all(kKillPatience);
    }
    remove(std::chrono::seconds(2), Traceless::remove);
  } catch (const std::exception&) {
    // Only bad_alloc is left to come here; the next berth collects the leftover.
  }
}

bool OpenJobCgroup::is_in(const Hierarchy& hierarchy) const {
  return std::any_of(directories_.begin(), directories_.end(),
                     [&](const JobDirectory& directory) { return directory.hierarchy == &hierarchy; });
}

const JobDirectory* OpenJobCgroup::find(Controller controller) const {
  for (const JobDirectory& directory : directories_) {
    if (directory.hierarchy->controllers.contains(controller)) {
      return &directory;
    }
  }
  return nullptr;
}

const JobDirectory* OpenJobCgroup::unified() const {
  for (const JobDirectory& directory : directories_) {
    if (directory.hierarchy->version == 2) {
      return &directory;
    }
  }
  return nullptr;
}

void OpenJobCgroup::require(const CgroupLimits& limits) const {
  const ControllerSet needed = controllers_of(limits);
  for (std::size_t i = 0; i < kControllerCount; ++i) {
    const auto controller = static_cast<Controller>(i);
    if (needed.contains(controller) && find(controller) == nullptr) {
      const std::string& reason = tree_->reasons[i];
      throw CgroupError(EOPNOTSUPP,
                        std::string("cgroup controller ") + to_string(controller) + " of " + name_ + " (" +
                            (reason.empty() ? "this cgroup was made without it" : reason) + ")",
                        "");
    }
  }
}

void OpenJobCgroup::apply(const CgroupLimits& limits) {
  require(limits);
  for (JobDirectory& directory : directories_) {
    if (directory.hierarchy->version == 2) {
      apply_v2(directory, limits, tree_->programs, name_);
      continue;
    }
    const std::optional<CgroupLimits> left = std::exchange(directory.left_to_write, std::nullopt);
    for (std::size_t i = 0; i < kControllerCount; ++i) {
      if (directory.hierarchy->controllers.contains(static_cast<Controller>(i))) {
        apply_v1(directory, static_cast<Controller>(i), left ? *left : limits, left ? Age::used : age_,
                 name_);
      }
    }
  }
  age_ = Age::used;
  add_limits(traces_.limits, limits);
}

void OpenJobCgroup::rename(const std::string& name) {
  for (JobDirectory& directory : directories_) {
    if (directory.hierarchy->version == 2) {
      set_name_v2(directory, name);
    } else if (const int error_number = rename_directory(directory, name)) {
      throw_cgroup_error(*directory.hierarchy, name, "", "", error_number);
    }
  }
  name_ = name;
}

int OpenJobCgroup::clone_into_descriptor() const {
  const JobDirectory* directory = unified();
  return directory != nullptr && tree_->clone_into_cgroup ? directory->fd.get() : -1;
}

std::vector<int> OpenJobCgroup::attach_descriptors() const {
  std::vector<int> descriptors;
  descriptors.reserve(directories_.size());
  for (JobDirectory& directory : directories_) {
    const bool is_v2 = directory.hierarchy->version == 2;
    if (is_v2 && tree_->clone_into_cgroup) {
      continue;
    }
    if (!directory.tasks) {
      directory.tasks.reset(try_open_at(directory.fd.get(), is_v2 ? "cgroup.procs" : "tasks", O_WRONLY));
    }
    if (!directory.tasks) {
      throw_cgroup_error(*directory.hierarchy, name_, is_v2 ? "cgroup.procs" : "tasks", "0", errno);
    }
    descriptors.push_back(directory.tasks.get());
  }
  return descriptors;
}

void OpenJobCgroup::close_attach_descriptors() {
  for (JobDirectory& directory : directories_) {
    directory.tasks.reset();
  }
}

void OpenJobCgroup::fold_peaks(Usage& usage) {
  keep_higher(peaks_.memory_anon_peak, usage.memory_anon_peak);
  keep_higher(peaks_.memory_file_peak, usage.memory_file_peak);
  keep_higher(peaks_.swap_peak, usage.swap_peak);
  keep_higher(peaks_.pids_peak, usage.pids_peak);
  usage.memory_anon_peak = peaks_.memory_anon_peak;
  usage.memory_file_peak = peaks_.memory_file_peak;
  usage.swap_peak = peaks_.swap_peak;
  usage.pids_peak = peaks_.pids_peak;
}

bool OpenJobCgroup::limit_was_reached(const JobDirectory& memory, const CgroupCounters& counters) const {
  if (kind_ == Kind::leftover) {
    return v1_memory_limit_reached(memory.fd.get());
  }
  // Without a look at the files: hits go uncounted only where no swap is allowed beside the memory.
  return traces_.limits.memory && traces_.limits.swap && counters.usage.memory_peak &&
         *counters.usage.memory_peak + kLargestMemoryCharge >= *traces_.limits.memory;
}

CgroupCounters OpenJobCgroup::read_files(ControlFiles (JobDirectory::*files)() const) const {
  CgroupCounters counters;
  std::array<char, kControlFileBytes> buffer{};
  for (const JobDirectory& directory : directories_) {
    if (directory.hierarchy->version == 2) {
      read_v2((directory.*files)(), directory.hierarchy->controllers, buffer, counters);
      continue;
    }
    for (std::size_t i = 0; i < kControllerCount; ++i) {
      const auto controller = static_cast<Controller>(i);
      if (!directory.hierarchy->controllers.contains(controller)) {
        continue;
      }
      if (controller == Controller::cpu && kind_ == Kind::fresh && !traces_.limits.cpu_quota) {
        counters.usage.throttled_periods = 0;  // nothing could throttle it
        counters.usage.throttled_time = std::chrono::microseconds(0);
        continue;
      }
      read_v1((directory.*files)(), controller, buffer, counters);
      if (controller == Controller::memory && counters.memory_limit_hits == std::optional<std::uint64_t>(0) &&
          limit_was_reached(directory, counters)) {
        counters.memory_limit_hits.reset();  // this kernel forgot to count: see v1_memory_hits()
        counters.usage.memory_limit_hits.reset();
      }
    }
  }
  return counters;
}

void OpenJobCgroup::open_counters() {
  read_files(&JobDirectory::kept_files);
}

void OpenJobCgroup::close_counters() {
  oom_events_ = {};
  for (JobDirectory& directory : directories_) {
    if (!can_be_spare(*directory.hierarchy)) {  // those few serve the next job
      directory.kept.clear();
    }
  }
}

CgroupCounters OpenJobCgroup::read() {
  CgroupCounters counters = read_files(&JobDirectory::files);
  note_traces(counters.usage);
  // What is charged now that nobody is left is no peak: only samples taken meanwhile count.
  counters.usage.memory_anon_peak.reset();
  counters.usage.memory_file_peak.reset();
  if (!tree_->keeps_swap_peak) {
    counters.usage.swap_peak.reset();
    if (kind_ == Kind::fresh && traces_.limits.swap == std::optional<Bytes>(0)) {
      counters.usage.swap_peak = 0;  // none was allowed
    }
  }
  if (!tree_->keeps_pids_peak) {
    counters.usage.pids_peak.reset();
  }
  fold_peaks(counters.usage);
  if (const JobDirectory* cpuset = find(Controller::cpuset);
      cpuset != nullptr && !cpuset->hierarchy->job_partition.empty() && empty()) {
    free_partition(*cpuset);  // the next job may be given these CPUs before this cgroup is removed
  }
  return counters;
}

void OpenJobCgroup::note_traces(const Usage& usage) {
  constexpr Usage::Count kNone{0};
  /// Init and the job; some kernels keep no peak.
  constexpr std::uint64_t kFewestProcesses = 2;
  traces_.did_io = usage.io_read_operations != kNone || usage.io_write_operations != kNone;
  traces_.was_throttled = usage.throttled_periods != kNone;
  traces_.in_pids_counters =
      usage.pids_limit_hits != kNone ||
      (tree_->keeps_pids_peak && usage.pids_peak.value_or(kFewestProcesses + 1) > kFewestProcesses);
}

void OpenJobCgroup::sample() {
  std::array<char, kControlFileBytes> buffer{};
  Usage now;
  if (const JobDirectory* memory = find(Controller::memory)) {
    const bool is_v1 = memory->hierarchy->version == 1;
    const std::string_view stat = read_control(memory->kept_files(), "memory.stat", buffer);
    now.memory_anon_peak = parse_keyed(stat, is_v1 ? "total_rss" : "anon");
    now.memory_file_peak = parse_keyed(stat, is_v1 ? "total_cache" : "file");
    if (is_v1) {
      now.swap_peak = parse_keyed(stat, "total_swap");
    } else if (!tree_->keeps_swap_peak) {
      now.swap_peak = parse_number(read_control(memory->kept_files(), "memory.swap.current", buffer));
    }
  }
  if (const JobDirectory* pids = find(Controller::pids); pids != nullptr && !tree_->keeps_pids_peak) {
    now.pids_peak = parse_number(read_control(pids->kept_files(), "pids.current", buffer));
  }
  fold_peaks(now);
}

std::optional<std::chrono::microseconds> OpenJobCgroup::cpu_time() {
  const JobDirectory* directory = find(Controller::cpuacct);
  if (directory == nullptr) {
    return std::nullopt;
  }
  char buffer[1024];
  std::optional<std::uint64_t> value;
  if (directory->hierarchy->version == 1) {
    value = parse_number(read_control(directory->kept_files(), "cpuacct.usage", buffer));
    value = value ? std::optional(*value / 1000) : std::nullopt;
  } else {
    value = parse_keyed(read_control(directory->kept_files(), "cpu.stat", buffer), "usage_usec");
  }
  return value ? std::optional(std::chrono::microseconds(*value)) : std::nullopt;
}

const JobDirectory* OpenJobCgroup::witness() const {
  if (const JobDirectory* pids = find(Controller::pids); pids != nullptr && pids->hierarchy->version == 1) {
    return pids;
  }
  for (const JobDirectory& directory : directories_) {
    if (directory.hierarchy->version == 1) {
      return &directory;
    }
  }
  return nullptr;
}

std::vector<pid_t> OpenJobCgroup::processes() {
  std::vector<pid_t> pids;
  if (const JobDirectory* v2 = unified()) {
    pids = read_processes(v2->fd.get());
  }
  if (const JobDirectory* v1 = witness(); v1 != nullptr && pids.empty()) {
    pids = read_processes(v1->fd.get());
  }
  return pids;
}

bool OpenJobCgroup::empty() {
  char buffer[256];
  if (const JobDirectory* v2 = unified()) {
    const std::string_view events = read_control(v2->kept_files(), "cgroup.events", buffer);
    if (parse_keyed(events, "populated").value_or(0) != 0) {
      return false;
    }
  }
  const JobDirectory* v1 = witness();
  return v1 == nullptr || read_control(v1->fd.get(), "cgroup.procs", buffer).empty();
}

std::string OpenJobCgroup::path(Controller controller) const {
  const JobDirectory* directory = find(controller);
  return directory == nullptr ? std::string() : directory->hierarchy->tree_path + "/" + directory->name;
}

bool OpenJobCgroup::remove(std::chrono::milliseconds patience, Traceless traceless) {
  const Deadline deadline(patience);
  const auto gone = [&](const JobDirectory& directory) {
    return remove_cgroup(directory.hierarchy->tree.get(), directory.name.c_str(), deadline.left());
  };
  if (traceless == Traceless::keep && kind_ == Kind::fresh) {
    const std::size_t before = directories_.size();
    std::erase_if(directories_,
                  [&](const JobDirectory& each) { return !can_be_spare(*each.hierarchy) && gone(each); });
    const bool was_empty = directories_.size() < before;  // rmdir refuses while there is a process
    if (was_empty) {
      std::erase_if(directories_, [&](JobDirectory& each) { return keep_spare(each, traces_); });
    }
  }
  std::erase_if(directories_, gone);  // those that are still busy stay, for another try
  return directories_.empty();
}

}  // namespace berth
