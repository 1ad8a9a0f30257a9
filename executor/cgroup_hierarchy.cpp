#include "executor/cgroup_hierarchy.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <ctime>
#include <limits>

#include "executor/cgroup_files.h"
#include "executor/os/syscall.h"

namespace berth {
namespace {

/// "/a/b" as a path relative to an open mount.
const char* relative(const std::string& path) {
  return path.size() > 1 ? path.c_str() + 1 : ".";
}

void sleep_for(std::chrono::microseconds duration) {
  const timespec request{duration.count() / 1'000'000, duration.count() % 1'000'000 * 1000};
  ::nanosleep(&request, nullptr);
}

/// Removes the cgroups inside `parent`/`name`: a job that was given a cgroup file system may have made some.
void remove_children(int parent, const char* name) noexcept {
  const int fd = try_open_at(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  DIR* directory = fd < 0 ? nullptr : ::fdopendir(fd);
  if (directory == nullptr) {
    if (fd >= 0) {
      ::close(fd);
    }
    return;
  }
  while (const dirent* entry = ::readdir(directory)) {
    if (entry->d_type == DT_DIR && entry->d_name[0] != '.') {
      remove_children(fd, entry->d_name);
      ::unlinkat(fd, entry->d_name, AT_REMOVEDIR);
    }
  }
  ::closedir(directory);
}

/// fsopen … fsmount of a v1 hierarchy; -1 and errno. `failed` names the step.
// glibc 2.36 has these calls, but its <sys/mount.h> clashes with <linux/mount.h>.
int mount_hierarchy(std::string_view names, const char*& failed) {
  failed = "fsopen";
  const UniqueFd context{static_cast<int>(::syscall(SYS_fsopen, "cgroup", FSOPEN_CLOEXEC))};
  if (!context) {
    return -1;
  }
  failed = "fsconfig";
  while (!names.empty()) {
    const std::string name(names.substr(0, names.find(',')));
    names.remove_prefix(std::min(names.size(), name.size() + 1));
    if (::syscall(SYS_fsconfig, context.get(), FSCONFIG_SET_FLAG, name.c_str(), nullptr, 0) != 0) {
      return -1;
    }
  }
  failed = "creation";
  if (::syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
    return -1;
  }
  failed = "fsmount";
  return static_cast<int>(::syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC,
                                    MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
}

/// The controller's line of /proc/cgroups.
std::optional<KernelController> kernel_controller(std::string_view name) {
  char buffer[kControlFileBytes];
  for (KernelController& line : parse_kernel_controllers(read_control(AT_FDCWD, "/proc/cgroups", buffer))) {
    if (line.name == name) {
      return std::move(line);
    }
  }
  return std::nullopt;
}

/// The kernel dissolves a hierarchy at its last unmount only if no cgroup is left in it, and a removed one is
/// left for an RCU grace period or two. A hierarchy that was not dissolved keeps its controller, mounted
/// nowhere and missing from cgroup v2, until someone mounts and unmounts it again: so wait.
void wait_until_dissolvable(const Hierarchy& hierarchy) {
  if (!hierarchy.own || ::faccessat(hierarchy.own.get(), kBerthDirectory, F_OK, 0) == 0) {
    return;  // another berth is in it
  }
  for (std::size_t i = 0; i < kControllerCount; ++i) {
    if (!hierarchy.controllers.contains(static_cast<Controller>(i))) {
      continue;
    }
    const char* name = to_string(static_cast<Controller>(i));
    constexpr int kPatienceMs = 2000;  // usually some 30; a busy machine's grace periods are longer
    for (int waited = 0; waited < kPatienceMs; waited += 2) {
      const auto line = kernel_controller(name);
      if (!line || line->hierarchy == 0 || line->cgroups <= 1) {
        return;
      }
      sleep_for(std::chrono::milliseconds(2));
    }
    return;
  }
}

}  // namespace

Hierarchy::~Hierarchy() {
  if (mount) {
    wait_until_dissolvable(*this);
  }
}

std::vector<std::unique_ptr<Hierarchy>> open_own_cgroups(const CgroupMachine& machine) {
  std::vector<std::unique_ptr<Hierarchy>> hierarchies;
  const auto add = [&](const ControllerMount& where) -> Hierarchy* {
    for (const auto& known : hierarchies) {
      if (known->mount_point == where.mount_point) {
        return known.get();
      }
    }
    auto hierarchy = std::make_unique<Hierarchy>();
    hierarchy->version = where.version;
    hierarchy->mount_point = where.mount_point;
    hierarchy->own_path = where.own_path;
    const std::string own = where.mount_point + "/" + relative(where.own_path);
    hierarchy->own.reset(try_open_at(AT_FDCWD, own.c_str(), O_RDONLY | O_DIRECTORY));
    if (!hierarchy->own) {
      return nullptr;
    }
    hierarchies.push_back(std::move(hierarchy));
    return hierarchies.back().get();
  };
  if (machine.unified.version == 2) {
    add(machine.unified);  // also when bare: it gives cgroup.kill, populated and PSI
  }
  for (std::size_t i = 0; i < kControllerCount; ++i) {
    const ControllerMount& where = machine.controllers[i];
    if (where.version == 0 || where.mount_point.empty()) {
      continue;
    }
    if (Hierarchy* hierarchy = add(where)) {
      hierarchy->controllers.insert(static_cast<Controller>(i));
    }
  }
  return hierarchies;
}

std::unique_ptr<Hierarchy> mount_detached(const ControllerMount& where, Controller controller) {
  auto hierarchy = std::make_unique<Hierarchy>();
  hierarchy->version = 1;
  hierarchy->controllers.insert(controller);
  hierarchy->mount_point = std::string("(berth's own ") + to_string(controller) + " mount)";
  hierarchy->own_path = where.own_path.empty() ? "/" : where.own_path;
  // A hierarchy that exists must be named with all its controllers.
  const std::string_view names =
      where.hierarchy.empty() ? to_string(controller) : std::string_view(where.hierarchy);
  const char* failed = "";
  // EBUSY while the cgroups of a hierarchy that was just dissolved go away.
  constexpr int kPatienceMs = 500;
  for (int waited = 0; !hierarchy->mount && waited < kPatienceMs; waited += 5) {
    hierarchy->mount.reset(mount_hierarchy(names, failed));
    if (hierarchy->mount || errno != EBUSY) {
      break;
    }
    sleep_for(std::chrono::milliseconds(5));
    errno = EBUSY;
  }
  if (hierarchy->mount) {
    failed = "opening";
    hierarchy->own.reset(
        try_open_at(hierarchy->mount.get(), relative(hierarchy->own_path), O_RDONLY | O_DIRECTORY));
  }
  if (!hierarchy->own) {
    throw CgroupError(errno, std::string(failed) + " of a " + to_string(controller) + " cgroup hierarchy",
                      "");
  }
  return hierarchy;
}

void JobDirectory::write(const char* file, std::string_view value, const std::string& job) const {
  if (const int error_number = try_write(file, value)) {
    throw_cgroup_error(*hierarchy, job, file, value, error_number);
  }
}

int JobDirectory::try_write(const char* file, std::string_view value) const noexcept {
  return write_at(fd.get(), file, value);
}

bool JobDirectory::has(const char* file) const noexcept {
  return ::faccessat(fd.get(), file, F_OK, 0) == 0;
}

ControlFiles JobDirectory::files() const {
  ControlFiles files(fd.get());
  files.kept = &kept;
  return files;
}

ControlFiles JobDirectory::kept_files() const {
  ControlFiles files = this->files();
  files.keeps_more = true;
  return files;
}

std::string_view read_control(const ControlFiles& files, const char* file, std::span<char> buffer) noexcept {
  int fd = -1;
  for (std::size_t index = 0; files.kept != nullptr && fd < 0 && index < files.kept->size(); ++index) {
    const auto& [name, open] = (*files.kept)[index];
    fd = std::strcmp(name, file) == 0 ? open.get() : -1;
  }
  UniqueFd opened;
  if (fd < 0) {
    fd = try_open_at(files.directory, file, O_RDONLY);
    opened.reset(fd);
  }
  if (fd < 0) {
    return {};
  }
  if (opened && files.keeps_more) {
    files.kept->emplace_back(file, std::move(opened));
  }
  const ssize_t count = retry_eintr([&] { return ::pread(fd, buffer.data(), buffer.size(), 0); });
  return count <= 0 ? std::string_view{} : std::string_view(buffer.data(), static_cast<std::size_t>(count));
}

std::optional<std::uint64_t> read_number(const ControlFiles& files, const char* file) noexcept {
  char buffer[64];
  return parse_number(read_control(files, file, buffer));
}

std::vector<pid_t> read_processes(int directory) {
  const UniqueFd fd{try_open_at(directory, "cgroup.procs", O_RDONLY)};
  std::string text;
  char buffer[4096];
  while (fd) {
    const ssize_t count = retry_eintr([&] { return ::read(fd.get(), buffer, sizeof buffer); });
    if (count <= 0) {
      break;
    }
    text.append(buffer, static_cast<std::size_t>(count));
  }
  return parse_pids(text);
}

std::set<std::string> child_cgroups(int parent) {
  std::set<std::string> names;
  const int fd = try_open_at(parent, ".", O_RDONLY | O_DIRECTORY);
  DIR* directory = fd < 0 ? nullptr : ::fdopendir(fd);
  if (directory == nullptr) {
    const UniqueFd unused{fd};
    return names;
  }
  while (const dirent* entry = ::readdir(directory)) {
    if (entry->d_type == DT_DIR && entry->d_name[0] != '.') {
      names.insert(entry->d_name);
    }
  }
  ::closedir(directory);
  return names;
}

nlink_t count_children(int directory) noexcept {
  constexpr nlink_t kNameAndDot = 2;  // each child's ".." is one link more
  struct stat status {};
  return ::fstat(directory, &status) == 0 && status.st_nlink >= kNameAndDot
             ? status.st_nlink - kNameAndDot
             : std::numeric_limits<nlink_t>::max();
}

bool remove_cgroup(int parent, const char* name, std::chrono::milliseconds patience) noexcept {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point deadline = Clock::now() + patience;
  std::chrono::microseconds pause{1000};
  while (::unlinkat(parent, name, AT_REMOVEDIR) != 0) {
    // ENODEV: the parent was removed meanwhile.
    if (errno == ENOENT || errno == ENODEV) {
      return true;
    }
    if (errno != EBUSY && errno != ENOTEMPTY && errno != EINTR) {
      return false;
    }
    const auto left = std::chrono::duration_cast<std::chrono::microseconds>(deadline - Clock::now());
    if (left.count() <= 0) {
      return false;
    }
    remove_children(parent, name);
    sleep_for(std::min(pause, left));
    pause = std::min<std::chrono::microseconds>(pause * 2, std::chrono::milliseconds(64));
  }
  return true;
}

void throw_cgroup_error(const Hierarchy& hierarchy, std::string_view job, const char* file,
                        std::string_view value, int error_number) {
  std::string path = hierarchy.mount_point + hierarchy.tree_path;
  for (const std::string_view part : {job, std::string_view(file)}) {
    if (!part.empty()) {
      path.append("/").append(part);
    }
  }
  throw CgroupError(error_number, std::move(path), std::string(value));
}

NumberText::NumberText(std::uint64_t number) {
  size_ = static_cast<std::size_t>(std::to_chars(text_, text_ + sizeof text_, number).ptr - text_);
}

}  // namespace berth
