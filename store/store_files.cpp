#include "store/store_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "store/store_error.h"

namespace berth {

namespace {

/// 0 or errno. `sync` is fsync or fdatasync.
int sync_and_close(int descriptor, int (*sync)(int)) {
  const int error_number = sync(descriptor) < 0 ? errno : 0;
  ::close(descriptor);
  return error_number;
}

/// 0 or errno.
int write_all(int descriptor, std::string_view content) {
  while (!content.empty()) {
    const ssize_t count = ::write(descriptor, content.data(), content.size());
    if (count < 0 && errno != EINTR) {
      return errno;
    }
    content.remove_prefix(static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
  }
  return 0;
}

}  // namespace

void sync_folder(const std::string& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) {
    throw_store_error(folder, "cannot open the folder", errno);
  }
  const int error_number = sync_and_close(descriptor, ::fsync);
  if (error_number != 0 && error_number != EINVAL) {  // EINVAL: a file system without fsync for folders
    throw_store_error(folder, "cannot write the folder to disk", error_number);
  }
}

void create_private_file(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (descriptor >= 0) {
    ::close(descriptor);
  } else if (errno != EEXIST) {
    throw_store_error(path, "cannot create the database", errno);
  }
}

bool create_at_once(const std::string& path, std::string_view content) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  const int descriptor = ::open(folder.c_str(), O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
  if (descriptor < 0) {
    return false;
  }
  int error_number = write_all(descriptor, content);
  if (error_number == 0 && ::fdatasync(descriptor) < 0) {
    error_number = errno;
  }
  // By its descriptor alone only root may (linkat(2), AT_EMPTY_PATH).
  const std::string unnamed = "/proc/self/fd/" + std::to_string(descriptor);
  const bool is_there = error_number == 0 && (::linkat(AT_FDCWD, unnamed.c_str(), AT_FDCWD, path.c_str(),
                                                       AT_SYMLINK_FOLLOW) == 0 ||
                                              errno == EEXIST);
  ::close(descriptor);
  if (error_number != 0) {
    throw_store_error(path, "cannot create the database", error_number);
  }
  return is_there;
}

void rename_file(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) < 0) {
    throw_store_error(to, "cannot be given to " + from + " as its name", errno);
  }
}

/// Taken and given back: what statvfs(2) tells knows of no quotas.
void require_room(const std::string& folder, std::int64_t bytes) {
  const int descriptor = ::open(folder.c_str(), O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
  if (descriptor < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
    return;
  }
  if (descriptor < 0) {
    throw_store_error(folder, "cannot create a file", errno);
  }
  const int error_number = ::posix_fallocate(descriptor, 0, bytes);
  ::close(descriptor);
  if (error_number != 0) {
    throw_store_error(folder, "has no " + std::to_string(bytes >> 20) + " MiB left", error_number);
  }
}

void sync_file(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  const int error_number = descriptor < 0 ? errno : sync_and_close(descriptor, ::fdatasync);
  if (error_number != 0) {
    throw_store_error(path, "cannot write the file to disk", error_number);
  }
}

}  // namespace berth
