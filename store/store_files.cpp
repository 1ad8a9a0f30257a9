#include "store/store_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "store/store_error.h"

namespace berth {

void sync_folder(const std::string& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) {
    throw_store_error(folder, "cannot open the folder", errno);
  }
  const int result = ::fsync(descriptor);
  const int error_number = errno;
  ::close(descriptor);
  if (result < 0 && error_number != EINVAL) {  // EINVAL: a file system without fsync for folders
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

void sync_file(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  const int result = descriptor < 0 ? -1 : ::fdatasync(descriptor);
  const int error_number = errno;
  if (descriptor >= 0) {
    ::close(descriptor);
  }
  if (result < 0) {
    throw_store_error(path, "cannot write the file to disk", error_number);
  }
}

}  // namespace berth
