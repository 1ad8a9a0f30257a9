// CpuLocks: which CPUs of this machine are whose, among all the berths on it.
//
// Each berthd and each `berth run` has a SlotPool of its own; this is what keeps them from leasing one CPU
// twice. One file, /run/berth/cpus (of a user who is not root: $XDG_RUNTIME_DIR/berth/cpus), whose bytes
// nobody writes: they are locked (fcntl(2), open file description locks), so what a process had is free again
// when it dies, however that happens. Root's berths and those of other users do not see each other.
//
//   byte kLeased + CPU   a scheduler, berth run or berthd, has leased it to a job
//   byte kOccupied + CPU a berth-runner has a job on it; held beside its berthd's lock, and longer than a
//                        berthd that is killed
//   byte kLine + 2^16 x time + CPU
//                        a scheduler waits since then for jobs on this CPU, among others; time is
//                        CLOCK_MONOTONIC in units of 10 us
//
// Those who wait start in the order in which they began to. A berth that has jobs running does not wait in
// line, but leaves its CPUs to those who do (scheduler/slot_pool.h).
//
// Single-threaded. Throws std::system_error when the kernel refuses what cannot be refused (ENOLCK).
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "schemas/cpu_set.h"

namespace berth {

class CpuLocks {
 public:
  /// This user's on this machine. Nothing, and `problem` says why, where there is no place for the file.
  static std::unique_ptr<CpuLocks> of_this_machine(std::string& problem);
  /// Makes the file if it is missing. Throws std::system_error.
  explicit CpuLocks(const std::string& path);
  CpuLocks(const CpuLocks&) = delete;
  CpuLocks& operator=(const CpuLocks&) = delete;
  ~CpuLocks();

  /// Which of these others have.
  CpuSet taken(const CpuSet& among) const;
  /// All of them, or none and false when another has one of them by now.
  bool lease(const CpuSet& cpus);
  /// Those of them that nobody has.
  void lease_what_is_free(const CpuSet& cpus);
  /// As lease(), of CPUs that a runner's job occupies, which a daemon takes over.
  void adopt(const CpuSet& cpus);
  void give_back(const CpuSet& cpus);

  /// A runner's job begins on these, or has ended. False when another runner has one of them.
  bool occupy(const CpuSet& cpus);
  void vacate(const CpuSet& cpus);

  /// Gets in line for jobs on some of these, unless it is there already.
  void wait_for(const CpuSet& cpus);
  void stop_waiting();
  /// Whether somebody who came before this one waits for any of these.
  bool is_behind(const CpuSet& cpus) const;

 private:
  int file_;
  CpuSet wanted_;
  std::optional<long> place_;  // of CPU 0, in the line
};

}  // namespace berth
