// OwnCpus: keeps this process off the CPUs of jobs while there are others.
//
// A supervisor that wakes up on a job's CPU takes time from the job, and when the job ends the two wait for
// each other. Changes the affinity of this thread only, sched_setaffinity(2); never widens what it found at
// the beginning. Failures are ignored: it is a courtesy. Single-threaded.
#pragma once

#include <map>

#include "schemas/cpu_set.h"

namespace berth {

class OwnCpus {
 public:
  OwnCpus();

  /// A job has these CPUs from now on; as often as lease() was called with them, release() gives them back.
  void lease(const CpuSet& cpus);
  void release(const CpuSet& cpus);

 private:
  void settle() const;

  CpuSet initial_;
  std::map<unsigned, unsigned> jobs_;  // by CPU; no zeros
};

}  // namespace berth
