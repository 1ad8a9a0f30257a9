#include "store/store_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "store/store_error.h"

namespace berth {

namespace {

/// 0 or errno. `sync` is fsync or fdatasync.
int sync_and_close(int descriptor, int (*sync)(int)) {
  const int error_number = sync(descriptor) < 0 ? errno : 0;
  ::close(descriptor);
  return error_number;
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
