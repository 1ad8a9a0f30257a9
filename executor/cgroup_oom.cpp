#include "executor/cgroup_oom.h"

#include <fcntl.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "executor/cgroup_files.h"
#include "executor/cgroup_job.h"
#include "executor/os/syscall.h"

namespace berth {
namespace {

std::int64_t own_ooms_v2(int directory) {
  char buffer[kControlFileBytes];
  return static_cast<std::int64_t>(
      parse_keyed(read_control(directory, "memory.events.local", buffer), "oom").value_or(0));
}

std::string parent_path(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == 0 || slash == std::string::npos ? "/" : path.substr(0, slash);
}

/// The tree's directory and those above it, up to the mount's root.
std::vector<UniqueFd> ancestors(const Hierarchy& hierarchy) {
  std::vector<UniqueFd> found;
  std::string path = hierarchy.tree_path;
  found.emplace_back(try_open_at(hierarchy.tree.get(), ".", O_PATH | O_DIRECTORY));
  while (found.back() && path != "/") {
    const int above = try_open_at(found.back().get(), "..", O_PATH | O_DIRECTORY);
    found.emplace_back(above);
    path = parent_path(path);
  }
  return found;
}

}  // namespace

OomEvents::OomEvents(int directory) : events_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  const UniqueFd control{try_open_at(directory, "memory.oom_control", O_RDONLY)};
  char line[32];
  const int size = std::snprintf(line, sizeof line, "%d %d", events_.get(), control.get());
  if (write_at(directory, "cgroup.event_control", {line, static_cast<std::size_t>(size)}) != 0) {
    events_.reset();
  }
}

std::int64_t OomEvents::total() {
  eventfd_t more = 0;
  if (events_ && ::eventfd_read(events_.get(), &more) == 0) {
    total_ += static_cast<std::int64_t>(more);
  }
  return total_;
}

void watch_ancestors(Hierarchy& hierarchy) {
  if (hierarchy.version == 1) {
    for (const UniqueFd& ancestor : ancestors(hierarchy)) {
      hierarchy.oom_events.emplace_back(ancestor.get());
    }
  }
}

void count_ancestor_ooms(Hierarchy& hierarchy) {
  OomCounts counts;
  if (hierarchy.version == 2) {
    for (const UniqueFd& ancestor : ancestors(hierarchy)) {
      counts.push_back(own_ooms_v2(ancestor.get()));
    }
  } else {
    std::vector<OomEvents>& events = hierarchy.oom_events;
    if (!std::all_of(events.begin(), events.end(), [](const OomEvents& one) { return one.are_counted(); })) {
      return;
    }
    for (OomEvents& one : events) {
      counts.push_back(one.total());
    }
    for (std::size_t i = 0; i + 1 < counts.size(); ++i) {
      counts[i] -= counts[i + 1];  // what it heard from above
    }
  }
  if (!hierarchy.ancestor_ooms || *hierarchy.ancestor_ooms != counts) {
    hierarchy.ancestor_ooms = std::make_shared<const OomCounts>(std::move(counts));
  }
}

std::string OpenJobCgroup::limiting_cgroup() {
  const JobDirectory* memory = find(Controller::memory);
  if (memory == nullptr) {
    return "/";
  }
  Hierarchy& hierarchy = *memory->hierarchy;
  count_ancestor_ooms(hierarchy);  // a job keeps what it began with: one limit may kill several
  if (!ancestor_ooms_ || (hierarchy.version == 1 && !oom_events_.are_counted())) {
    return {};
  }
  const OomCounts& before = *ancestor_ooms_;
  const OomCounts& now = *hierarchy.ancestor_ooms;
  const auto sum = [](const OomCounts& counts) {
    return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  };
  const std::int64_t own =
      hierarchy.version == 1 ? oom_events_.total() - (sum(now) - sum(before)) : own_ooms_v2(memory->fd.get());
  if (own > 0) {
    return hierarchy.tree_path + "/" + memory->name;
  }
  std::string path = hierarchy.tree_path;
  for (std::size_t i = 0; i < std::min(now.size(), before.size()); ++i) {
    if (now[i] > before[i]) {
      return path;
    }
    path = parent_path(path);
  }
  return "/";
}

}  // namespace berth
