// Network: what is there, and what can be reached.
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>

#include "payload.h"

namespace payload {
namespace {

sockaddr_in address_of(const char* host, int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  inet_pton(AF_INET, host, &address.sin_addr);
  return address;
}

int interfaces(const Arguments&) {
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  struct if_nameindex* all = if_nameindex();
  for (const struct if_nameindex* one = all; one != nullptr && one->if_index != 0; ++one) {
    ifreq request{};
    std::strncpy(request.ifr_name, one->if_name, IFNAMSIZ - 1);
    const bool known = ioctl(fd, SIOCGIFFLAGS, &request) == 0;
    std::printf("%s %s\n", one->if_name, known && (request.ifr_flags & IFF_UP) != 0 ? "up" : "down");
  }
  return 0;
}

int connect_to(const Arguments& arguments) {
  const auto address = address_of(arguments.at(0).c_str(), static_cast<int>(number(arguments, 1, 1)));
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  print_result("connect", connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)));
  return 0;
}

int connect_abstract(const Arguments& arguments) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path + 1, arguments.at(0).c_str(), sizeof(address.sun_path) - 2);
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + arguments[0].size());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  print_result("connect_abstract", connect(fd, reinterpret_cast<const sockaddr*>(&address), size));
  return 0;
}

// A server and its client in one process, over the loopback device.
int loopback(const Arguments& arguments) {
  auto address = address_of("127.0.0.1", static_cast<int>(number(arguments, 0, 4711)));
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  const int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (bind(server, generic, sizeof(address)) != 0 || listen(server, 1) != 0) {
    print_result("loopback", -1);
    return 1;
  }
  const int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  print_result("loopback", connect(client, generic, sizeof(address)));
  sleep_seconds(number(arguments, 1, 0));
  return 0;
}

int raw_socket(const Arguments&) {
  print_result("raw", socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP));
  print_result("packet", socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
  return 0;
}

}  // namespace

Commands network_commands() {
  return {{"interfaces", "every link, up or down", interfaces},
          {"connect", "ADDRESS PORT: probe", connect_to},
          {"connect_abstract", "NAME: probe of an abstract Unix socket", connect_abstract},
          {"loopback", "PORT [SECONDS]: serve and connect on 127.0.0.1: probe", loopback},
          {"raw_socket", "probe", raw_socket}};
}

}  // namespace payload
