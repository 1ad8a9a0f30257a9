// Recovery: closes what berths that died (kill -9, power cut) left open in the database.
//
// Run at the start of every command that writes. Jobs of a berth that still lives are left alone. A job of a
// dead one ends NODE_FAIL with whatever its cgroup still tells, its processes and cgroups are removed.
// Several recoveries at once are safe: JobStore::finish() takes only the first final record of an attempt, so
// each has exactly one; at worst the loser read the counters that the winner then lacks.
//
// Who lives is decided by boot id, pid and start time, as seen in /proc. All commands that use one database
// must therefore run on one machine and see each other's processes: not over NFS, nor from two containers
// with pid namespaces of their own. With databases of their own they may: cgroups of another pid namespace's
// berths are left alone.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "schemas/leftover_owner.h"
#include "store/job_store.h"

namespace berth {

/// This process. Throws std::system_error when /proc cannot be read.
Supervisor this_supervisor();
/// `boot_id`, pid and start time to a Supervisor with the cgroup name that belongs to it,
/// "run-PID-STARTTIME", and "-INODE" of its pid namespace where that is not the machine's.
Supervisor make_supervisor(const std::string& boot_id, std::int64_t pid, std::uint64_t start_time);
/// The supervisor of this boot that a cgroup name of that form belongs to; nothing when its pid has no
/// meaning in this process's pid namespace.
std::optional<Supervisor> supervisor_of_cgroup(const std::string& cgroup, const std::string& proc = "/proc");
/// False when the machine was restarted since, the process is gone or a zombie, or its pid is another's now.
/// True when that cannot be found out.
/// `proc` is a parameter for tests.
bool supervisor_alive(const Supervisor& supervisor, const std::string& proc = "/proc");
/// True when the machine was not restarted since: only then can something of it be left.
bool of_this_boot(const Supervisor& supervisor, const std::string& proc = "/proc");

/// When the machine was started, by the clock that shows `now`.
Timestamp boot_instant(Timestamp now);
/// The latest instant at which an attempt of a dead supervisor can have ended: now, or when the machine was
/// started again (`same_boot` is false), but not before its `start`.
Timestamp latest_end(bool same_boot, const std::optional<Timestamp>& start, Timestamp now);

/// What recovery needs from the world. collect and remove may be empty, and are called for supervisors of
/// this boot alone: no cgroup outlives one, and its name could be another's by now.
struct RecoveryActions {
  std::function<bool(const Supervisor&)> is_alive = [](const Supervisor& who) {
    return supervisor_alive(who);
  };
  std::function<bool(const Supervisor&)> is_of_this_boot = [](const Supervisor& who) {
    return of_this_boot(who);
  };
  /// Ends the attempt's processes, reads its counters, removes its cgroup; nothing when there was none.
  std::function<std::optional<Usage>(const Supervisor&, JobId, unsigned attempt)> collect;
  /// Names of all berths' cgroups that are there now: a berth killed between its last record and its clean-up
  /// has no open attempt to be found by.
  std::function<std::vector<std::string>()> list;
  /// Whose a cgroup of `list` is, as far as it tells; may be empty.
  std::function<LeftoverOwner(const std::string& cgroup)> owner;
  /// Removes a cgroup of `list` whose berth is dead and not in this database, unless it holds jobs: those
  /// may belong to another database, whose next command collects them.
  std::function<void(const std::string& cgroup)> remove_empty;
  /// Removes the dead supervisor's cgroup; called once, after the last collect. Must not mind its absence.
  std::function<void(const Supervisor&)> remove;
  /// Likewise, without waiting, for one whose database is gone: what stays is there for all that come later.
  std::function<void(const Supervisor&)> remove_unclaimed;
};

struct RecoveryReport {
  std::vector<JobId> node_failed;     ///< closed by this recovery, oldest first
  std::vector<std::string> problems;  ///< leftovers that could not be read or removed, for a warning
};

/// Throws StoreError when the database cannot be read or written. Failures of collect and remove are
/// reported, not thrown: a cgroup that will not go must not keep the record from being written.
RecoveryReport recover(JobStore& store, const RecoveryActions& actions, Timestamp now);

}  // namespace berth
