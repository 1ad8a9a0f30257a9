// The JobCgroup of this library, made by CgroupTree and by the functions for leftovers.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "executor/cgroup_hierarchy.h"
#include "executor/cgroup_spares.h"
#include "executor/cgroup_v1.h"
#include "executor/cgroup_v2.h"

namespace berth {

/// What a tree and its jobs share; the last of them closes it.
struct TreeDirectories {
  std::vector<std::unique_ptr<Hierarchy>> hierarchies;
  DevicePrograms programs;
  Reasons reasons;
  bool clone_into_cgroup = false;
  bool keeps_pids_peak = false;  ///< pids.peak is there: no need to sample
  bool keeps_swap_peak = false;  ///< memory.swap.peak
};

class OpenJobCgroup final : public JobCgroup {
 public:
  enum class Kind { fresh, leftover };

  /// In no hierarchy yet.
  OpenJobCgroup(std::shared_ptr<TreeDirectories> tree, std::string name, Kind kind);
  ~OpenJobCgroup() override;
  OpenJobCgroup(const OpenJobCgroup&) = delete;
  OpenJobCgroup& operator=(const OpenJobCgroup&) = delete;

  /// Fresh: makes the cgroup in this hierarchy, or takes a spare that `limits` can be applied to next; throws
  /// CgroupError and leaves nothing behind in it. Leftover: opens what is there.
  void open(Hierarchy& hierarchy, const CgroupLimits& limits);
  void apply(const CgroupLimits& limits) override;
  void rename(const std::string& name) override;
  bool can_bear() const override { return can_bear_; }
  int clone_into_descriptor() const override;
  std::vector<int> attach_descriptors() const override;
  void close_attach_descriptors() override;
  CgroupCounters read() override;
  void open_counters() override;
  void close_counters() override;
  void sample() override;
  std::optional<std::chrono::microseconds> cpu_time() override;
  std::vector<pid_t> processes() override;
  void kill_all(std::chrono::milliseconds patience) override;
  void freeze(bool frozen) override;
  bool empty() override;
  std::string path(Controller controller) const override;
  std::string limiting_cgroup() override;
  bool remove(std::chrono::milliseconds patience, Traceless traceless) override;

  bool exists() const { return !directories_.empty(); }
  bool is_in(const Hierarchy& hierarchy) const;
  void let_bear() { can_bear_ = true; }

 private:
  /// 0 or errno.
  int make_or_open(JobDirectory& directory, const CgroupLimits& limits);
  const JobDirectory* find(Controller controller) const;
  const JobDirectory* unified() const;
  void require(const CgroupLimits& limits) const;
  /// A v1 hierarchy whose processes are the job's: one answers for all.
  const JobDirectory* witness() const;
  bool limit_was_reached(const JobDirectory& memory, const CgroupCounters& counters) const;
  void fold_peaks(Usage& usage);
  CgroupCounters read_files(ControlFiles (JobDirectory::*files)() const) const;

  /// What read() tells of them.
  void note_traces(const Usage& usage);

  std::shared_ptr<TreeDirectories> tree_;
  std::string name_;  ///< each directory may have another
  Kind kind_;         ///< the limits of a leftover are not known
  Age age_;
  bool can_bear_ = false;
  JobTraces traces_;
  mutable std::vector<JobDirectory> directories_;
  Usage peaks_;                                     // only the sampled ones
  std::shared_ptr<const OomCounts> ancestor_ooms_;  ///< when this was made; null: unknown
  OomEvents oom_events_;                            ///< v1: of its own cgroup
};

/// The controllers that `limits` needs.
ControllerSet controllers_of(const CgroupLimits& limits);

}  // namespace berth
