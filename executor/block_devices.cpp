#include "executor/block_devices.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "executor/os/syscall.h"

namespace berth {
namespace {

bool is_empty_directory(const std::string& path) {
  DIR* directory = ::opendir(path.c_str());
  if (directory == nullptr) {
    return true;
  }
  bool empty = true;
  while (const dirent* entry = ::readdir(directory)) {
    empty = empty && entry->d_name[0] == '.';
  }
  ::closedir(directory);
  return empty;
}

bool is_memory_or_loop(std::string_view name) {
  return name.starts_with("loop") || name.starts_with("ram") || name.starts_with("zram");
}

bool examine(const std::string& device) {
  if (device == "(unknown)") {  // a path of an NVMe multipath disk, which counts too, and other inner devices
    return false;
  }
  const std::string link = "/sys/dev/block/" + device;
  char target[512];
  const ssize_t length = ::readlink(link.c_str(), target, sizeof target);
  if (length <= 0) {
    return true;
  }
  std::string_view name(target, static_cast<std::size_t>(length));
  name.remove_prefix(name.rfind('/') + 1);
  return !is_memory_or_loop(name) && is_empty_directory(link + "/slaves");
}

}  // namespace

std::vector<std::string> disks() {
  std::vector<std::string> found;
  DIR* directory = ::opendir("/sys/block");
  if (directory == nullptr) {
    return found;
  }
  while (const dirent* entry = ::readdir(directory)) {
    if (entry->d_name[0] == '.' || is_memory_or_loop(entry->d_name)) {
      continue;
    }
    const std::string path = std::string(entry->d_name) + "/dev";
    const UniqueFd fd{try_open_at(::dirfd(directory), path.c_str(), O_RDONLY)};
    char buffer[32];
    const ssize_t count = fd ? ::read(fd.get(), buffer, sizeof buffer) : 0;
    if (count > 1 && counts_as_disk({buffer, static_cast<std::size_t>(count) - 1})) {
      found.emplace_back(buffer, static_cast<std::size_t>(count) - 1);
    }
  }
  ::closedir(directory);
  return found;
}

bool counts_as_disk(std::string_view device) {
  static std::map<std::string, bool, std::less<>> answers;
  auto known = answers.find(device);
  if (known == answers.end()) {
    std::string name(device);
    const bool answer = examine(name);
    known = answers.emplace(std::move(name), answer).first;
  }
  return known->second;
}

}  // namespace berth
