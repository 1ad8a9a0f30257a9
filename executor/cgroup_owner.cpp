#include "executor/cgroup_owner.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <optional>
#include <string_view>

namespace berth {
namespace {

/// "NAMESPACE ROOT MOUNT PATH": the mount namespace, the root directory in it, the mount that the file is on.
constexpr const char* kOwnerAttribute = "user.berth.database";

std::optional<struct stat> look_at(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 ? std::optional(status) : std::nullopt;
}

/// What a look at may wait for a server, or mount something: nobody looks there for another berth's file.
bool is_local(const std::string& path) {
  struct statfs status {};
  constexpr std::array<std::int64_t, 8> kElsewhere = {NFS_SUPER_MAGIC,  SMB_SUPER_MAGIC,  CIFS_SUPER_MAGIC,
                                                      SMB2_SUPER_MAGIC, FUSE_SUPER_MAGIC, AUTOFS_SUPER_MAGIC,
                                                      V9FS_MAGIC,       CEPH_SUPER_MAGIC};
  return ::statfs(path.c_str(), &status) == 0 &&
         std::find(kElsewhere.begin(), kElsewhere.end(), status.f_type) == kElsewhere.end();
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
  std::string word(text.substr(0, end));
  text.remove_prefix(std::min(end + 1, text.size()));
  return word;
}

/// The mount of the nearest folder above that is there.
std::optional<std::uint64_t> mount_above(const std::string& path) {
  std::filesystem::path folder = std::filesystem::path(path).parent_path();
  while (true) {
    struct statx status {};
    if (::statx(AT_FDCWD, folder.c_str(), AT_NO_AUTOMOUNT, STATX_MNT_ID, &status) == 0) {
      return (status.stx_mask & STATX_MNT_ID) != 0 ? std::optional(status.stx_mnt_id) : std::nullopt;
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
  const std::optional<std::uint64_t> mount = mount_above(path);
  const std::string place = lookup_place();
  if (mount && !place.empty() && is_local(path)) {
    const std::string value = place + " " + std::to_string(*mount) + " " + path;
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
  struct stat tree {};
  const bool is_ours = ::fstat(tree_directory, &tree) == 0 && tree.st_uid == ::geteuid();
  if (!is_ours || place.empty() || !text.starts_with(place + " ")) {
    return LeftoverOwner::unknown;
  }
  text.remove_prefix(place.size() + 1);
  const std::string mount = take_word(text);
  const std::string path(text);
  if (const std::optional<struct stat> there = look_at(path)) {
    const std::optional<struct stat> asking = look_at(own);
    const bool is_own = asking && asking->st_dev == there->st_dev && asking->st_ino == there->st_ino;
    return is_own ? LeftoverOwner::own : LeftoverOwner::other;
  }
  if (errno != ENOENT) {
    return LeftoverOwner::unknown;
  }
  // Another mount, or none, where its own was: it may only be unmounted.
  const std::optional<std::uint64_t> above = mount_above(path);
  return above && std::to_string(*above) == mount ? LeftoverOwner::gone : LeftoverOwner::unknown;
} catch (const std::exception&) {
  return LeftoverOwner::unknown;
}

}  // namespace berth
