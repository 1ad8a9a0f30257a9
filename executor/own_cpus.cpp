#include "executor/own_cpus.h"

#include <sched.h>

#include <bit>
#include <vector>

namespace berth {
namespace {

/// Room for the CPUs of any kernel (NR_CPUS is at most 8,192).
constexpr std::size_t kMaskWords = 128;
constexpr std::size_t kWordBits = 64;
using Mask = std::vector<std::uint64_t>;

cpu_set_t* as_kernel_mask(Mask& mask) {
  return reinterpret_cast<cpu_set_t*>(mask.data());
}

CpuSet current_affinity() {
  Mask mask(kMaskWords);
  CpuSet cpus;
  if (::sched_getaffinity(0, mask.size() * sizeof mask[0], as_kernel_mask(mask)) != 0) {
    return cpus;
  }
  for (std::size_t word = 0; word < kMaskWords; ++word) {
    for (std::uint64_t rest = mask[word]; rest != 0; rest &= rest - 1) {
      cpus.insert(static_cast<unsigned>(word * kWordBits) + static_cast<unsigned>(std::countr_zero(rest)));
    }
  }
  return cpus;
}

void set_affinity(const CpuSet& cpus) {
  Mask mask(kMaskWords);
  for (const unsigned cpu : cpus.members()) {
    if (cpu < kMaskWords * kWordBits) {
      mask[cpu / kWordBits] |= std::uint64_t{1} << (cpu % kWordBits);
    }
  }
  ::sched_setaffinity(0, mask.size() * sizeof mask[0], as_kernel_mask(mask));
}

}  // namespace

OwnCpus::OwnCpus() : initial_(current_affinity()) {}

void OwnCpus::lease(const CpuSet& cpus) {
  for (const unsigned cpu : cpus.members()) {
    ++jobs_[cpu];
  }
  settle();
}

void OwnCpus::release(const CpuSet& cpus) {
  for (const unsigned cpu : cpus.members()) {
    const auto entry = jobs_.find(cpu);
    if (entry != jobs_.end() && --entry->second == 0) {
      jobs_.erase(entry);
    }
  }
}

/// The next job will likely have the CPUs of the last one: nothing changes before a job needs the CPUs that
/// we are on.
void OwnCpus::settle() const {
  CpuSet taken;
  for (const auto& [cpu, jobs] : jobs_) {
    taken.insert(cpu);
  }
  const CpuSet free = initial_ - taken;
  const CpuSet& wanted = free.empty() ? initial_ : free;
  const CpuSet current = current_affinity();
  if (!(current == wanted) && (free.empty() || current.intersects(taken))) {
    set_affinity(wanted);
  }
}

}  // namespace berth
