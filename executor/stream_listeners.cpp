#include "executor/stream_listeners.h"

#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "executor/os/syscall.h"

namespace berth {

bool is_shortage(int error_number) {
  return error_number == EMFILE || error_number == ENFILE || error_number == ENOBUFS ||
         error_number == ENOMEM;
}

StreamListeners::StreamListeners(DescriptorLoop& loop) : loop_(loop) {
  loop_.watch(paused_.descriptor(), EPOLLIN, [this](std::uint32_t) {
    paused_.acknowledge();
    paused_.run(false);
    set_events(EPOLLIN);
  });
}

StreamListeners::~StreamListeners() {
  loop_.forget(paused_.descriptor());
  for (const int socket : sockets_) {
    loop_.forget(socket);
  }
}

void StreamListeners::watch(int socket, Handler handler) {
  loop_.watch(socket, EPOLLIN,
              [this, socket, handler = std::move(handler)](std::uint32_t) { accept(socket, handler); });
  sockets_.push_back(socket);
}

void StreamListeners::pause() {
  set_events(0);
  paused_.run(true);
}

void StreamListeners::accept(int socket, const Handler& handler) {
  SocketAddress from;
  UniqueFd client{retry_eintr(
      [&] { return ::accept4(socket, &from.storage.any, &from.size, SOCK_CLOEXEC | SOCK_NONBLOCK); })};
  if (client) {
    handler(std::move(client), from);
  } else if (is_shortage(errno)) {
    pause();
  }
}

void StreamListeners::set_events(std::uint32_t events) {
  for (const int socket : sockets_) {
    loop_.change(socket, events);
  }
}

}  // namespace berth
