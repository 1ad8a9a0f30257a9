#include "scheduler/socket_place.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace berth {
namespace {

/// 0, or errno of connect(2).
int try_to_connect(const std::string& path) {
  const int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (socket < 0) {
    throw std::system_error(errno, std::generic_category(), "socket");
  }
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  const int result = ::connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const int error_number = result < 0 ? errno : 0;
  ::close(socket);
  return error_number;
}

}  // namespace

void clear_socket_place(const std::string& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) < 0) {
    return;  // what else may be wrong with it, bind(2) tells
  }
  if (!S_ISSOCK(status.st_mode)) {
    throw std::runtime_error(path + ": is not a socket, and is not removed: move it away, or set socket");
  }
  switch (const int error_number = try_to_connect(path)) {
    case ECONNREFUSED:
      ::unlink(path.c_str());
      break;
    case ENOENT:
      break;
    case 0:
    case EAGAIN:  // as many wait as may
      throw std::runtime_error(path + ": another berthd serves there; stop that one, or set socket");
    default:
      throw std::runtime_error(path + ": is a socket of something else (" +
                               std::generic_category().message(error_number) +
                               "), and is not removed: move it away, or set socket");
  }
}

BoundSocket::BoundSocket(std::string path) : path_(std::move(path)) {
  struct stat status {};
  if (::lstat(path_.c_str(), &status) == 0) {
    device_ = status.st_dev;
    inode_ = status.st_ino;
  }
}

void BoundSocket::remove() const {
  struct stat status {};
  if (::lstat(path_.c_str(), &status) == 0 && status.st_dev == device_ && status.st_ino == inode_) {
    ::unlink(path_.c_str());
  }
}

}  // namespace berth
