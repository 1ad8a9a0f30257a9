// Whose memory limit it was: JobCgroup::limiting_cgroup().
#include <fcntl.h>
#include <sys/stat.h>

#include "executor/cgroup_files.h"
#include "executor/cgroup_job.h"
#include "executor/cgroup_v1.h"
#include "executor/os/syscall.h"

namespace berth {
namespace {

/// v2 counts in memory.events.local the OOMs of this cgroup's own limit. v1 has only the number of charges
/// that hit the limit, of memory and of memory+swap.
std::uint64_t own_hits(int directory, int version) {
  char buffer[kControlFileBytes];
  if (version == 2) {
    return parse_keyed(read_control(directory, "memory.events.local", buffer), "oom").value_or(0);
  }
  return v1_memory_hits(directory).value_or(0);
}

bool was_hit(int directory, int version, std::uint64_t hits_before) {
  const std::uint64_t hits = own_hits(directory, version);
  return hits > hits_before || (version == 1 && hits == 0 && v1_memory_limit_reached(directory));
}

std::string parent_path(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == 0 || slash == std::string::npos ? "/" : path.substr(0, slash);
}

struct Ancestor {
  std::string path;
  UniqueFd fd;
};

/// From the tree's directory up to the mount's root.
std::vector<Ancestor> ancestors(const Hierarchy& hierarchy) {
  std::vector<Ancestor> found;
  std::string path = hierarchy.tree_path;
  UniqueFd fd{try_open_at(hierarchy.tree.get(), ".", O_PATH | O_DIRECTORY)};
  while (fd && path != "/") {
    UniqueFd above{try_open_at(fd.get(), "..", O_PATH | O_DIRECTORY)};
    const std::string above_path = parent_path(path);
    found.push_back({std::move(path), std::move(fd)});
    path = above_path;
    fd = std::move(above);
  }
  return found;
}

}  // namespace

void note_ancestor_hits(Hierarchy& hierarchy) {
  std::vector<std::uint64_t> hits;
  for (const Ancestor& ancestor : ancestors(hierarchy)) {
    hits.push_back(own_hits(ancestor.fd.get(), hierarchy.version));
  }
  hierarchy.ancestor_hits = std::make_shared<const std::vector<std::uint64_t>>(std::move(hits));
}

std::string OpenJobCgroup::limiting_cgroup() {
  const JobDirectory* memory = find(Controller::memory);
  if (memory == nullptr) {
    return "/";
  }
  Hierarchy& hierarchy = *memory->hierarchy;
  if (was_hit(memory->fd.get(), hierarchy.version, 0)) {
    return hierarchy.tree_path + "/" + memory->name;
  }
  std::string limiting = "/";
  const std::vector<Ancestor> above = ancestors(hierarchy);
  for (std::size_t i = 0; ancestor_hits_ && i < above.size() && i < ancestor_hits_->size(); ++i) {
    if (was_hit(above[i].fd.get(), hierarchy.version, (*ancestor_hits_)[i])) {
      limiting = above[i].path;
      break;
    }
  }
  // For the jobs to come. Those that live now keep what they began with: one hit may kill several of them.
  note_ancestor_hits(hierarchy);
  return limiting;
}

}  // namespace berth
