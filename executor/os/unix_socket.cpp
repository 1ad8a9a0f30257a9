#include "executor/os/unix_socket.h"

#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "executor/os/syscall.h"

namespace berth {

sockaddr_un unix_address(const std::string& path) {
  sockaddr_un address{};
  if (path.size() >= sizeof address.sun_path) {
    throw_system_error(ENAMETOOLONG, "socket", path + " (choose a directory with a shorter name)");
  }
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

UniqueFd bind_private(const std::string& path, int type) {
  const sockaddr_un address = unix_address(path);
  UniqueFd socket{check(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), "socket", path)};
  const mode_t mask = ::umask(0177);
  const int bound = ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const int error_number = errno;
  ::umask(mask);
  if (bound != 0) {
    throw_system_error(error_number, "bind", path);
  }
  return socket;
}

}  // namespace berth
