// The control files of cgroup v2, and who may have processes and controllers in that tree. Source:
// Documentation/admin-guide/cgroup-v2.rst; systemd's side of it: https://systemd.io/CGROUP_DELEGATION.
#pragma once

#include <array>
#include <span>
#include <string>
#include <vector>

#include "executor/cgroup_hierarchy.h"
#include "executor/device_program.h"

namespace berth {

/// Loaded device programs, one per set of rules: a load costs the verifier and the JIT, an attach does not.
class DevicePrograms {
 public:
  /// The program's descriptor, owned here; -1 and errno when the kernel refuses it.
  int get(const std::vector<DeviceRule>& rules);

 private:
  std::vector<std::pair<std::vector<bpf_insn>, UniqueFd>> loaded_;
};

/// Writes what `limits` names of the controllers that `directory` has. Throws CgroupError.
void apply_v2(const JobDirectory& directory, const CgroupLimits& limits, DevicePrograms& programs,
              const std::string& job);
/// Fills what the files tell; PSI and, for cpuacct, cpu.stat exist in a bare tree too.
void read_v2(const ControlFiles& files, const ControllerSet& has, std::span<char> buffer,
             CgroupCounters& counters);

using Reasons = std::array<std::string, kControllerCount>;

enum class OwnCgroup { may_change, leave_alone };

/// Makes every controller of `hierarchy` available below its open `berth` directory: enables it in
/// cgroup.subtree_control of own (when it may), of berth and of tree. Processes of ours that stand in the
/// way in own move to own/berth/daemon, but only if all processes there are ours and the cgroup was
/// delegated. What cannot be had is taken out of hierarchy.controllers, with the reason and the remedy.
void enable_controllers_v2(Hierarchy& hierarchy, OwnCgroup own, Reasons& reasons);
/// On a pure v2 machine: whether enable_controllers_v2 would find memory and pids out of reach, since this
/// process's cgroup is shared or not delegated.
bool lacks_delegation(const CgroupMachine& machine);

/// Takes back what enable_controllers_v2 changed above `tree`, as far as nobody else uses it by now.
void restore_own_v2(Hierarchy& hierarchy) noexcept;

/// Whether clone3(2) of this kernel, for this process, knows CLONE_INTO_CGROUP (Linux 5.7).
bool has_clone_into_cgroup() noexcept;

/// v2 has no rename: the job's name goes into an extended attribute, for the berth that finds it after this
/// one was killed. Without Linux 5.7 there is none, and that berth does not find it.
void set_name_v2(const JobDirectory& directory, const std::string& job) noexcept;
/// The directory in `tree` that has this attribute; empty when there is none.
std::string find_named_v2(int tree, const std::string& job);

}  // namespace berth
