#include "scheduler/cpu_locks.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <limits>
#include <system_error>
#include <vector>

#include "scheduler/runtime_folder.h"

namespace berth {
namespace {

constexpr long kCpus = CpuSet::kMaximumCpu + 1L;
constexpr long kLeased = 0;
constexpr long kOccupied = kCpus;
constexpr long kLine = 2 * kCpus;
constexpr long kEnd = std::numeric_limits<long>::max();

/// Bytes begin to end - 1.
struct flock lock_of(short type, long begin, long end) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = begin;
  lock.l_len = end - begin;
  return lock;
}

/// False when another has a lock there.
bool set_lock(int file, short type, long begin, long end) {
  struct flock lock = lock_of(type, begin, end);
  if (::fcntl(file, F_OFD_SETLK, &lock) == 0) {
    return true;
  }
  if (errno == EAGAIN || errno == EACCES) {
    return false;
  }
  throw std::system_error(errno, std::generic_category(), "the CPUs of berths on this machine: fcntl");
}

/// Fails at most for want of the kernel's memory: then it lasts as long as this process.
void unlock(int file, long begin, long end) noexcept {
  struct flock lock = lock_of(F_UNLCK, begin, end);
  (void)::fcntl(file, F_OFD_SETLK, &lock);
}

struct Range {
  long begin = 0;
  long end = 0;
};

/// A lock that another has there.
std::optional<Range> find_lock(int file, long begin, long end) {
  struct flock lock = lock_of(F_WRLCK, begin, end);
  if (::fcntl(file, F_OFD_GETLK, &lock) != 0) {
    throw std::system_error(errno, std::generic_category(), "the CPUs of berths on this machine: fcntl");
  }
  if (lock.l_type == F_UNLCK) {
    return std::nullopt;
  }
  return Range{lock.l_start, lock.l_len == 0 ? kEnd : lock.l_start + lock.l_len};
}

/// All of them. The kernel does not tell the first one first: what lies before it is looked at again.
std::vector<Range> find_locks(int file, long begin, long end) {
  std::vector<Range> found;
  std::vector<Range> unseen{{begin, end}};
  while (!unseen.empty()) {
    const Range part = unseen.back();
    unseen.pop_back();
    const std::optional<Range> lock =
        part.begin < part.end ? find_lock(file, part.begin, part.end) : std::nullopt;
    if (lock) {
      found.push_back(*lock);
      unseen.push_back({part.begin, lock->begin});
      unseen.push_back({lock->end, part.end});
    }
  }
  return found;
}

/// Neighbouring CPUs are one lock.
std::vector<Range> ranges_of(const CpuSet& cpus) {
  std::vector<Range> ranges;
  for (const long cpu : cpus.members()) {
    if (!ranges.empty() && ranges.back().end == cpu) {
      ++ranges.back().end;
    } else {
      ranges.push_back({cpu, cpu + 1});
    }
  }
  return ranges;
}

/// All of them from `base` on, or none.
bool lock_all(int file, long base, const CpuSet& cpus) {
  const std::vector<Range> ranges = ranges_of(cpus);
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    if (!set_lock(file, F_WRLCK, base + ranges[i].begin, base + ranges[i].end)) {
      for (std::size_t done = 0; done < i; ++done) {
        unlock(file, base + ranges[done].begin, base + ranges[done].end);
      }
      return false;
    }
  }
  return true;
}

void unlock_all(int file, long base, const CpuSet& cpus) {
  for (const Range& range : ranges_of(cpus)) {
    unlock(file, base + range.begin, base + range.end);
  }
}

/// As in the line: 22 years of them fit.
long now() {
  using Unit = std::chrono::duration<long, std::ratio<1, 100'000>>;
  return std::chrono::duration_cast<Unit>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

std::unique_ptr<CpuLocks> CpuLocks::of_this_machine(std::string& problem) {
  const std::string folder = runtime_folder();
  if (!make_runtime_folder(folder)) {
    problem =
        folder.empty() ? "XDG_RUNTIME_DIR is not set" : folder + " is not a folder of this user's alone";
    return nullptr;
  }
  try {
    return std::make_unique<CpuLocks>(folder + "/cpus");
  } catch (const std::system_error& error) {
    problem = error.what();
    return nullptr;
  }
}

CpuLocks::CpuLocks(const std::string& path)
    : file_(::open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600)) {
  if (file_ < 0) {
    throw std::system_error(errno, std::generic_category(), path);
  }
}

CpuLocks::~CpuLocks() {
  ::close(file_);
}

CpuSet CpuLocks::taken(const CpuSet& among) const {
  CpuSet found;
  for (const Range& range : ranges_of(among)) {
    for (const long base : {kLeased, kOccupied}) {
      for (const Range& lock : find_locks(file_, base + range.begin, base + range.end)) {
        const long first = std::max(lock.begin - base, range.begin);
        const long last = std::min(lock.end - base, range.end) - 1;
        found = found | CpuSet::range(static_cast<unsigned>(first), static_cast<unsigned>(last));
      }
    }
  }
  return found;
}

bool CpuLocks::lease(const CpuSet& cpus) {
  if (!lock_all(file_, kLeased, cpus)) {
    return false;
  }
  for (const Range& range : ranges_of(cpus)) {
    if (find_lock(file_, kOccupied + range.begin, kOccupied + range.end)) {
      give_back(cpus);
      return false;
    }
  }
  return true;
}

void CpuLocks::lease_what_is_free(const CpuSet& cpus) {
  for (const unsigned cpu : cpus.members()) {
    lease({cpu});
  }
}

void CpuLocks::adopt(const CpuSet& cpus) {
  // Fails at most while another tries: what the runner holds is enough then.
  (void)lock_all(file_, kLeased, cpus);
}

void CpuLocks::give_back(const CpuSet& cpus) {
  unlock_all(file_, kLeased, cpus);
}

bool CpuLocks::occupy(const CpuSet& cpus) {
  return lock_all(file_, kOccupied, cpus);
}

void CpuLocks::vacate(const CpuSet& cpus) {
  unlock_all(file_, kOccupied, cpus);
}

void CpuLocks::wait_for(const CpuSet& cpus) {
  if (place_) {
    return;
  }
  wanted_ = cpus;
  for (long since = now();; ++since) {  // two at one time: in any order
    const long place = kLine + since * kCpus;
    if (lock_all(file_, place, wanted_)) {
      place_ = place;
      return;
    }
  }
}

void CpuLocks::stop_waiting() {
  if (place_) {
    unlock_all(file_, *place_, wanted_);
    place_.reset();
  }
}

bool CpuLocks::is_behind(const CpuSet& cpus) const {
  const std::vector<Range> before = find_locks(file_, kLine, place_.value_or(kEnd));
  return std::any_of(before.begin(), before.end(), [&](const Range& lock) {
    const long first = lock.begin % kCpus;  // kLine is a multiple of kCpus
    const long last = std::min(first + (lock.end - lock.begin), kCpus) - 1;
    return CpuSet::range(static_cast<unsigned>(first), static_cast<unsigned>(last)).intersects(cpus);
  });
}

}  // namespace berth
