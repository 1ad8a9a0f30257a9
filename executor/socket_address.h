// IpAddress and port as sockaddr_in and sockaddr_in6 (ip(7), ipv6(7)), and back.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <compare>
#include <cstdint>

#include "schemas/ip_address.h"

namespace berth {

union SocketAddressStorage {
  sockaddr any;
  sockaddr_in v4;
  sockaddr_in6 v6;
};

struct SocketAddress {
  SocketAddressStorage storage{};
  socklen_t size = sizeof(SocketAddressStorage);  ///< as accept(2) and recvfrom(2) take it

  SocketAddress() = default;
  SocketAddress(const IpAddress& address, std::uint16_t port);
  IpAddress address() const;
  std::uint16_t port() const;
};

/// Address of `socket`'s own end.
SocketAddress own_address(int socket);

}  // namespace berth
