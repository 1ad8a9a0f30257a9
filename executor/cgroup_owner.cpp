#include "executor/cgroup_owner.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <exception>
#include <filesystem>
#include <optional>
#include <string_view>

namespace berth {
namespace {

/// "MOUNTS ROOT FOLDER PATH": the mount namespace, the root directory in it, the device of the file's folder.
constexpr const char* kOwnerAttribute = "user.berth.database";

std::optional<struct stat> look_at(const std::string& path) {
  struct stat status {};
  // Nothing is mounted for a look at another berth's file.
  return ::fstatat(AT_FDCWD, path.c_str(), &status, AT_NO_AUTOMOUNT) == 0 ? std::optional(status)
                                                                          : std::nullopt;
}

/// Where this process looks paths up; empty when that cannot be told.
std::string lookup_place() {
  const std::optional<struct stat> mounts = look_at("/proc/self/ns/mnt");
  const std::optional<struct stat> root = look_at("/");
  return mounts && root ? std::to_string(mounts->st_ino) + " " + std::to_string(root->st_dev) + ":" +
                              std::to_string(root->st_ino)
                        : std::string();
}

/// The next word, without the space behind it.
std::string take_word(std::string_view& text) {
  const std::size_t end = std::min(text.find(' '), text.size());
  const std::string word(text.substr(0, end));
  text.remove_prefix(std::min(end + 1, text.size()));
  return word;
}

/// The device of the nearest folder above that is there.
std::optional<dev_t> device_above(const std::string& path) {
  std::filesystem::path folder = std::filesystem::path(path).parent_path();
  while (true) {
    if (const std::optional<struct stat> status = look_at(folder.string())) {
      return status->st_dev;
    }
    if (errno != ENOENT || folder == folder.parent_path()) {
      return std::nullopt;
    }
    folder = folder.parent_path();
  }
}

}  // namespace

void set_owner_file(int tree_directory, const std::string& file) noexcept try {
  const std::string path = std::filesystem::canonical(file).string();
  const std::optional<dev_t> device = device_above(path);
  const std::string place = lookup_place();
  if (device && !place.empty()) {
    const std::string value = place + " " + std::to_string(*device) + " " + path;
    (void)!::fsetxattr(tree_directory, kOwnerAttribute, value.data(), value.size(), 0);
  }
} catch (const std::exception&) {
  return;  // then nobody knows, as in cgroup v1
}

LeftoverOwner owner_of(int tree_directory, const std::string& own) noexcept try {
  std::array<char, PATH_MAX + 256> value{};
  const ssize_t size = ::fgetxattr(tree_directory, kOwnerAttribute, value.data(), value.size());
  const std::string place = lookup_place();
  std::string_view text(value.data(), size > 0 ? static_cast<std::size_t>(size) : 0);
  if (place.empty() || !text.starts_with(place + " ")) {
    return LeftoverOwner::unknown;
  }
  text.remove_prefix(place.size() + 1);
  const std::string device = take_word(text);
  const std::string path(text);
  if (const std::optional<struct stat> there = look_at(path)) {
    const std::optional<struct stat> asking = look_at(own);
    const bool is_own = asking && asking->st_dev == there->st_dev && asking->st_ino == there->st_ino;
    return is_own ? LeftoverOwner::own : LeftoverOwner::other;
  }
  if (errno != ENOENT) {
    return LeftoverOwner::unknown;
  }
  // Another file system, or none, where its own was: it may only be unmounted.
  const std::optional<dev_t> above = device_above(path);
  return above && std::to_string(*above) == device ? LeftoverOwner::gone : LeftoverOwner::unknown;
} catch (const std::exception&) {
  return LeftoverOwner::unknown;
}

}  // namespace berth
