#include "executor/socket_address.h"

#include <arpa/inet.h>

#include <cstring>

#include "executor/os/syscall.h"

namespace berth {

SocketAddress::SocketAddress(const IpAddress& address, std::uint16_t port) {
  if (address.is_v6) {
    storage.v6 = {};
    storage.v6.sin6_family = AF_INET6;
    storage.v6.sin6_port = htons(port);
    std::memcpy(&storage.v6.sin6_addr, address.bytes.data(), 16);
    size = sizeof storage.v6;
  } else {
    storage.v4 = {};
    storage.v4.sin_family = AF_INET;
    storage.v4.sin_port = htons(port);
    std::memcpy(&storage.v4.sin_addr, address.bytes.data(), 4);
    size = sizeof storage.v4;
  }
}

IpAddress SocketAddress::address() const {
  IpAddress result;
  result.is_v6 = storage.any.sa_family == AF_INET6;
  if (result.is_v6) {
    std::memcpy(result.bytes.data(), &storage.v6.sin6_addr, 16);
  } else {
    std::memcpy(result.bytes.data(), &storage.v4.sin_addr, 4);
  }
  return result;
}

std::uint16_t SocketAddress::port() const {
  return ntohs(storage.any.sa_family == AF_INET6 ? storage.v6.sin6_port : storage.v4.sin_port);
}

SocketAddress own_address(int socket) {
  SocketAddress address;
  check(::getsockname(socket, &address.storage.any, &address.size), "getsockname");
  return address;
}

}  // namespace berth
