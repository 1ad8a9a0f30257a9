// CgroupTree: berth's part of every hierarchy, and what a dead berth left of it.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "executor/cgroup_files.h"
#include "executor/cgroup_job.h"
#include "executor/cgroup_owner.h"
#include "executor/cgroup_spares.h"
#include "executor/cgroup_v1.h"
#include "executor/cpuset_partition.h"
#include "executor/os/syscall.h"

namespace berth {
namespace {

std::size_t index_of(Controller controller) {
  return static_cast<std::size_t>(controller);
}

/// Makes <own>/berth/<name> and opens it. 0 or errno. A berth that ends at this moment may remove
/// <own>/berth under our feet: then it is made again.
int make_tree_directory(Hierarchy& hierarchy, const std::string& name) {
  int error_number = 0;
  for (int attempt = 0; attempt < 20; ++attempt) {
    const bool made = ::mkdirat(hierarchy.own.get(), kBerthDirectory, 0755) == 0;
    if (!made && errno != EEXIST) {
      return errno;
    }
    hierarchy.berth.reset(
        try_open_at(hierarchy.own.get(), kBerthDirectory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    if (hierarchy.berth && hierarchy.version == 1) {
      seed_v1(hierarchy, hierarchy.own.get(), hierarchy.berth.get(), "");
    }
    if (hierarchy.berth && ::mkdirat(hierarchy.berth.get(), name.c_str(), 0755) == 0) {
      hierarchy.tree.reset(
          try_open_at(hierarchy.berth.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
      return hierarchy.tree ? 0 : errno;
    }
    error_number = errno;
    if (error_number != ENOENT && error_number != ENODEV) {
      if (made) {
        ::unlinkat(hierarchy.own.get(), kBerthDirectory, AT_REMOVEDIR);
      }
      return error_number;
    }
  }
  return error_number;
}

/// False when it is still busy.
bool remove_tree_directory(Hierarchy& hierarchy, const std::string& name,
                           std::chrono::milliseconds patience = std::chrono::seconds(2)) noexcept {
  const bool was_partition = !hierarchy.job_partition.empty();
  bool is_gone = true;
  if (hierarchy.tree) {
    remove_spares(hierarchy);
    is_gone = remove_cgroup(hierarchy.berth.get(), name.c_str(), patience);
    hierarchy.tree.reset();
  }
  if (was_partition) {
    leave_partition(hierarchy);
  }
  if (hierarchy.version == 2 && hierarchy.berth) {
    restore_own_v2(hierarchy);
  }
  ::unlinkat(hierarchy.own.get(), kBerthDirectory, AT_REMOVEDIR);  // fails while another berth is in it
  return is_gone;
}

std::string why_not_made(const Hierarchy& hierarchy, int error_number) {
  std::string reason = "cannot make a cgroup in " + hierarchy.mount_point + hierarchy.own_path + ": " +
                       std::generic_category().message(error_number);
  if (error_number == EACCES || error_number == EPERM || error_number == EROFS) {
    reason += hierarchy.version == 1
                  ? "; run berth as root (cgroup v1 cannot be delegated safely), or boot with cgroup v2"
                  : "; start it in a cgroup of its own: systemd-run --user --scope -p Delegate=yes berth …";
  }
  return reason;
}

/// A spare bears the name of a job that has ended. A job has its cgroup in every hierarchy, and where there
/// is one of these, it is in that.
bool keeps_no_spares(const Hierarchy& hierarchy) {
  return hierarchy.version == 2 || hierarchy.controllers.contains(Controller::memory);
}

/// Of a berth beside this one.
UniqueFd open_tree_directory(const Hierarchy& hierarchy, const std::string& name) {
  return UniqueFd{hierarchy.berth
                      ? try_open_at(hierarchy.berth.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
                      : -1};
}

/// What is in its cgroups is counted and can be stopped, and has no limits yet to come.
bool limits_nothing(const Hierarchy& hierarchy) {
  ControllerSet harmless;
  harmless.insert(Controller::cpuacct);
  harmless.insert(Controller::freezer);
  return hierarchy.controllers.is_within(harmless);
}

/// What the v2 hierarchy does without a controller, in its open `tree`. Even a bare one counts CPU time,
/// freezes and kills.
ControllerSet given_by_v2(const Hierarchy& unified, bool clone_into_cgroup) {
  const auto has = [&](const char* file) { return ::faccessat(unified.tree.get(), file, F_OK, 0) == 0; };
  ControllerSet given;
  if (has("cgroup.kill") && has("cgroup.freeze")) {
    given.insert(Controller::freezer);
  }
  if (clone_into_cgroup && has("cpu.stat")) {
    given.insert(Controller::cpuacct);
  }
  return given;
}

/// What v2 gives is not asked of v1. Each v1 hierarchy less saves its mkdir, attach and rmdir, some 50 µs per
/// job; one that has other controllers too may have counted the CPU time of earlier jobs (cgroup_spares.h).
void leave_to_v2(Hierarchy& v1, const ControllerSet& given) {
  for (const Controller controller : {Controller::freezer, Controller::cpuacct}) {
    if (given.contains(controller)) {
      v1.controllers.erase(controller);
    }
  }
}

/// Which peaks this kernel keeps in the tree's hierarchies.
void find_kept_peaks(TreeDirectories& tree) {
  for (const auto& hierarchy : tree.hierarchies) {
    const auto keeps = [&](Controller controller, const char* file) {
      return hierarchy->controllers.contains(controller) &&
             ::faccessat(hierarchy->tree.get(), file, F_OK, 0) == 0;
    };
    tree.keeps_pids_peak = tree.keeps_pids_peak || keeps(Controller::pids, "pids.peak");
    tree.keeps_swap_peak = tree.keeps_swap_peak || keeps(Controller::memory, "memory.swap.peak");
  }
}

/// The tree's directories and the jobs' in them; `name` is removed when this goes.
struct OwnedTree : TreeDirectories {
  explicit OwnedTree(std::string tree_name) : name(std::move(tree_name)) {}
  ~OwnedTree() {
    for (const auto& hierarchy : hierarchies) {
      remove_tree_directory(*hierarchy, name);
    }
  }
  OwnedTree(const OwnedTree&) = delete;
  OwnedTree& operator=(const OwnedTree&) = delete;

  std::string name;
};

class OpenCgroupTree final : public CgroupTree {
 public:
  OpenCgroupTree(const CgroupMachine& machine, const std::string& name);
  void complete() override;

  bool usable(Controller controller) const override { return hierarchy_of(controller) != nullptr; }
  int version(Controller controller) const override {
    const Hierarchy* hierarchy = hierarchy_of(controller);
    return hierarchy == nullptr ? 0 : hierarchy->version;
  }
  std::string reason_unusable(Controller controller) const override {
    return usable(controller) ? std::string() : tree_->reasons[index_of(controller)];
  }
  bool accounts_swap() const override { return accounts_swap_; }
  std::string use_partition(CpuPartition kind, const CpuSet& cpus) override;
  std::string why_no_partitions() const override {
    const Hierarchy* hierarchy = hierarchy_of(Controller::cpuset);
    return hierarchy == nullptr ? reason_unusable(Controller::cpuset) : berth::why_no_partitions(*hierarchy);
  }
  std::vector<std::string> siblings() const override;
  void set_owner(const std::string& file) override;
  LeftoverOwner owner_of(const std::string& sibling, const std::string& own) const override;
  bool holds_job(const std::string& sibling) const override;
  std::unique_ptr<JobCgroup> begin_job(const std::string& name) override;
  void complete_job(JobCgroup& begun, const CgroupLimits& limits) override;

 private:
  void open_hierarchy(std::unique_ptr<Hierarchy> hierarchy);
  /// Why the v2 directory cannot be used after all, or nothing.
  std::string finish_unified(Hierarchy& hierarchy);
  void examine_memory();
  Hierarchy* hierarchy_of(Controller controller) const;
  const Hierarchy* unified() const;

  CgroupMachine machine_;
  std::vector<std::unique_ptr<Hierarchy>> rest_;  ///< for complete()
  std::shared_ptr<OwnedTree> tree_;
  bool accounts_swap_ = false;
  ControllerSet v2_gives_;  ///< also where v1 has the controller
};

OpenCgroupTree::OpenCgroupTree(const CgroupMachine& machine, const std::string& name)
    : machine_(machine), tree_(std::make_shared<OwnedTree>(name)) {
  for (std::size_t i = 0; i < kControllerCount; ++i) {
    tree_->reasons[i] = machine.controllers[i].reason;
  }
  rest_ = open_own_cgroups(machine);
  if (!rest_.empty() && rest_.front()->version == 2) {
    open_hierarchy(std::move(rest_.front()));
    rest_.erase(rest_.begin());
  }
}

void OpenCgroupTree::complete() {
  for (auto& hierarchy : std::exchange(rest_, {})) {
    leave_to_v2(*hierarchy, v2_gives_);
    if (!hierarchy->controllers.empty()) {
      open_hierarchy(std::move(hierarchy));
    }
  }
  for (std::size_t i = 0; i < kControllerCount; ++i) {
    const ControllerMount& where = machine_.controllers[i];
    const bool is_mounted = !where.mount_point.empty();  // else it is only when somebody needs it
    if (is_mounted && tree_->reasons[i].empty() && hierarchy_of(static_cast<Controller>(i)) == nullptr) {
      tree_->reasons[i] = "cgroup " + where.own_path + " cannot be opened below " + where.mount_point +
                          "; unmount what hides it";
    }
  }
  examine_memory();
}

void OpenCgroupTree::open_hierarchy(std::unique_ptr<Hierarchy> hierarchy) {
  Hierarchy& made = *hierarchy;
  made.tree_path = made.berth_path() + "/" + tree_->name;
  tree_->hierarchies.push_back(std::move(hierarchy));  // from here on it is removed with the tree
  std::string reason;
  try {
    const int error_number = make_tree_directory(made, tree_->name);
    if (error_number == EEXIST) {
      throw_cgroup_error(made, "", "", "", error_number);  // a berth of this name runs, or left it
    }
    if (error_number != 0) {
      reason = why_not_made(made, error_number);
    } else if (made.version == 1) {
      seed_v1(made, made.berth.get(), made.tree.get(), "");
      if (made.controllers.contains(Controller::blkio)) {
        start_io_counting(made);
      }
    } else {
      reason = finish_unified(made);
    }
  } catch (const CgroupError& error) {
    if (error.code().value() == EEXIST) {
      throw;
    }
    reason = error.what();
  }
  if (!reason.empty()) {
    for (std::size_t i = 0; i < kControllerCount; ++i) {
      if (made.controllers.contains(static_cast<Controller>(i))) {
        tree_->reasons[i] = reason;
      }
    }
    remove_tree_directory(made, tree_->name);
    tree_->hierarchies.pop_back();
  }
}

std::string OpenCgroupTree::finish_unified(Hierarchy& hierarchy) {
  const bool hybrid =
      std::any_of(machine_.controllers.begin(), machine_.controllers.end(),
                  [](const auto& where) { return where.version == 1 && !where.mount_point.empty(); });
  enable_controllers_v2(hierarchy, hybrid ? OwnCgroup::leave_alone : OwnCgroup::may_change, tree_->reasons);
  char buffer[64];
  const std::string_view type = read_control(hierarchy.tree.get(), "cgroup.type", buffer);
  if (type != "domain\n") {
    return "cgroup " + hierarchy.own_path + " is threaded, so no process can be born below it";
  }
  const int tree = hierarchy.tree.get();
  tree_->clone_into_cgroup = has_clone_into_cgroup();
  v2_gives_ = given_by_v2(hierarchy, tree_->clone_into_cgroup);
  hierarchy.controllers.insert(v2_gives_);
  if (hierarchy.controllers.contains(Controller::devices)) {
    // Asked of the kernel: no permission, no CONFIG_CGROUP_BPF and a locked-down kernel all look alike.
    const int program = tree_->programs.get({});
    int error_number = program < 0 ? errno : attach_device_program(program, tree);
    if (error_number == 0) {
      error_number = detach_device_program(program, tree);
    }
    if (error_number != 0) {
      hierarchy.controllers.erase(Controller::devices);
      tree_->reasons[index_of(Controller::devices)] =
          "the kernel refuses an eBPF device program: " + std::generic_category().message(error_number) +
          "; run berth as root";
    }
  }
  return {};
}

void OpenCgroupTree::examine_memory() {
  Hierarchy* memory = hierarchy_of(Controller::memory);
  if (memory != nullptr) {
    const bool is_v1 = memory->version == 1;
    const auto has = [&](const char* file) { return ::faccessat(memory->tree.get(), file, F_OK, 0) == 0; };
    accounts_swap_ = has(is_v1 ? "memory.memsw.limit_in_bytes" : "memory.swap.max");
    watch_ancestors(*memory);
    count_ancestor_ooms(*memory);
  }
  find_kept_peaks(*tree_);
}

const Hierarchy* OpenCgroupTree::unified() const {
  for (const auto& hierarchy : tree_->hierarchies) {
    if (hierarchy->version == 2) {
      return hierarchy.get();
    }
  }
  return nullptr;
}

Hierarchy* OpenCgroupTree::hierarchy_of(Controller controller) const {
  for (const auto& hierarchy : tree_->hierarchies) {
    if (hierarchy->controllers.contains(controller)) {
      return hierarchy.get();
    }
  }
  // Mounted by berth itself, at the first question: an unused hierarchy would only cost time at each exit.
  const ControllerMount& where = machine_.at(controller);
  std::string& reason = tree_->reasons[index_of(controller)];
  if (where.version != 1 || !where.mount_point.empty() || !reason.empty()) {
    return nullptr;
  }
  try {
    std::unique_ptr<Hierarchy> hierarchy = mount_detached(where, controller);
    hierarchy->tree_path = hierarchy->berth_path() + "/" + tree_->name;
    if (const int error_number = make_tree_directory(*hierarchy, tree_->name)) {
      reason = why_not_made(*hierarchy, error_number);
      return nullptr;
    }
    tree_->hierarchies.push_back(std::move(hierarchy));
    return tree_->hierarchies.back().get();
  } catch (const CgroupError& error) {
    reason = std::string("berth cannot mount it: ") + error.what();
    return nullptr;
  }
}

std::string OpenCgroupTree::use_partition(CpuPartition kind, const CpuSet& cpus) {
  Hierarchy* hierarchy = hierarchy_of(Controller::cpuset);
  if (hierarchy == nullptr) {
    return kind == CpuPartition::none ? std::string() : reason_unusable(Controller::cpuset);
  }
  return enter_partition(*hierarchy, kind, cpus, siblings().empty());
}

std::unique_ptr<JobCgroup> OpenCgroupTree::begin_job(const std::string& name) {
  auto job = std::make_unique<OpenJobCgroup>(tree_, name, OpenJobCgroup::Kind::fresh);
  for (const auto& hierarchy : tree_->hierarchies) {
    if (hierarchy->version == 2 && limits_nothing(*hierarchy)) {
      job->open(*hierarchy, {});
      job->let_bear();
    }
  }
  return job;
}

void OpenCgroupTree::complete_job(JobCgroup& begun, const CgroupLimits& limits) {
  auto& job = static_cast<OpenJobCgroup&>(begun);  // from begin_job()
  const ControllerSet needed = controllers_of(limits);
  for (const Controller lazy : {Controller::net_cls, Controller::hugetlb}) {
    if (needed.contains(lazy)) {
      hierarchy_of(lazy);
    }
  }
  for (const auto& hierarchy : tree_->hierarchies) {
    const bool only_if_named = static_cast<bool>(hierarchy->mount);
    const bool is_named =
        (needed.contains(Controller::net_cls) && hierarchy->controllers.contains(Controller::net_cls)) ||
        (needed.contains(Controller::hugetlb) && hierarchy->controllers.contains(Controller::hugetlb));
    if ((!only_if_named || is_named) && !job.is_in(*hierarchy)) {
      job.open(*hierarchy, limits);
    }
  }
  job.apply(limits);
  job.let_bear();
}

/// Every hierarchy in which a dead berth's `tree` still is, with its directories open.
std::shared_ptr<TreeDirectories> open_leftover_tree(const CgroupMachine& machine, const std::string& tree) {
  auto found = std::make_shared<TreeDirectories>();
  std::vector<std::unique_ptr<Hierarchy>> candidates = open_own_cgroups(machine);
  for (const Controller lazy : {Controller::net_cls, Controller::hugetlb}) {
    const ControllerMount& where = machine.at(lazy);
    // A hierarchy that is mounted nowhere and yet alive still has cgroups in it.
    if (where.version == 1 && where.mount_point.empty() && !where.hierarchy.empty()) {
      try {
        candidates.push_back(mount_detached(where, lazy));
      } catch (const CgroupError&) {
        continue;  // what cannot be mounted cannot be cleaned; the next berth tries again
      }
    }
  }
  ControllerSet v2_gives;
  for (auto& hierarchy : candidates) {
    hierarchy->berth.reset(
        try_open_at(hierarchy->own.get(), kBerthDirectory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    hierarchy->tree = open_tree_directory(*hierarchy, tree);
    if (!hierarchy->tree) {
      continue;
    }
    hierarchy->tree_path = hierarchy->berth_path() + "/" + tree;
    if (hierarchy->version == 2) {  // the first of all
      v2_gives = given_by_v2(*hierarchy, has_clone_into_cgroup());
      hierarchy->controllers.insert(v2_gives);
    } else {
      leave_to_v2(*hierarchy, v2_gives);
    }
    found->hierarchies.push_back(std::move(hierarchy));
  }
  find_kept_peaks(*found);
  return found;
}

bool is_plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos;
}

}  // namespace

std::unique_ptr<CgroupTree> CgroupTree::begin(const CgroupMachine& machine, const std::string& name) {
  if (!is_plain_name(name)) {
    throw CgroupError(EINVAL, "cgroup name \"" + name + "\"", "");
  }
  return std::make_unique<OpenCgroupTree>(machine, name);
}

std::unique_ptr<JobCgroup> open_leftover_job(const CgroupMachine& machine, const std::string& tree,
                                             const std::string& job) {
  if (!is_plain_name(tree) || !is_plain_name(job)) {
    return nullptr;
  }
  std::shared_ptr<TreeDirectories> directories = open_leftover_tree(machine, tree);
  auto found = std::make_unique<OpenJobCgroup>(directories, job, OpenJobCgroup::Kind::leftover);
  for (const auto& hierarchy : directories->hierarchies) {
    found->open(*hierarchy, {});
  }
  return found->exists() ? std::move(found) : nullptr;
}

std::vector<std::string> list_leftover_jobs(const CgroupMachine& machine, const std::string& tree) {
  if (!is_plain_name(tree)) {
    return {};
  }
  const auto all = open_own_cgroups(machine);
  const bool any_keeps_none =
      std::any_of(all.begin(), all.end(), [](const auto& hierarchy) { return keeps_no_spares(*hierarchy); });
  std::set<std::string> names;
  const std::shared_ptr<TreeDirectories> directories = open_leftover_tree(machine, tree);
  for (const auto& hierarchy : directories->hierarchies) {
    if (!any_keeps_none || keeps_no_spares(*hierarchy)) {
      names.merge(child_cgroups(hierarchy->tree.get()));
    }
  }
  return {names.begin(), names.end()};
}

std::vector<std::string> OpenCgroupTree::siblings() const {
  std::set<std::string> names;
  constexpr nlink_t kTreeAlone = 1;
  for (const auto& hierarchy : tree_->hierarchies) {
    if (hierarchy->berth && count_children(hierarchy->berth.get()) != kTreeAlone) {
      names.merge(child_cgroups(hierarchy->berth.get()));  // one that was killed at its end is in some alone
    }
  }
  names.erase(tree_->name);
  names.erase(kDaemonDirectory);
  return {names.begin(), names.end()};
}

void OpenCgroupTree::set_owner(const std::string& file) {
  if (const Hierarchy* v2 = unified()) {
    set_owner_file(v2->tree.get(), file);
  }
}

LeftoverOwner OpenCgroupTree::owner_of(const std::string& sibling, const std::string& own) const {
  const Hierarchy* v2 = unified();
  const UniqueFd tree = v2 == nullptr ? UniqueFd{} : open_tree_directory(*v2, sibling);
  return tree ? berth::owner_of(tree.get(), own) : LeftoverOwner::unknown;
}

bool OpenCgroupTree::holds_job(const std::string& sibling) const {
  for (const auto& hierarchy : tree_->hierarchies) {
    const UniqueFd tree = keeps_no_spares(*hierarchy) ? open_tree_directory(*hierarchy, sibling) : UniqueFd{};
    if (tree) {
      const std::set<std::string> names = child_cgroups(tree.get());
      return std::any_of(names.begin(), names.end(), is_jobs_cgroup);
    }
  }
  return false;
}

bool remove_leftover_tree(const CgroupMachine& machine, const std::string& tree,
                          std::chrono::milliseconds patience) {
  if (!is_plain_name(tree)) {
    return true;
  }
  const Deadline deadline(patience);
  const std::shared_ptr<TreeDirectories> directories = open_leftover_tree(machine, tree);
  bool is_gone = true;
  for (const auto& hierarchy : directories->hierarchies) {
    is_gone = remove_tree_directory(*hierarchy, tree, deadline.left()) && is_gone;
  }
  return is_gone;
}

}  // namespace berth
