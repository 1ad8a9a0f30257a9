// StreamListeners: listening sockets of a DescriptorLoop. While there is no descriptor for another client,
// clients wait in the sockets' queues for a second at a time: left watched, they would wake the loop without
// end (accept(2), EMFILE).
//
// Single-threaded.
#pragma once

#include <functional>
#include <vector>

#include "executor/descriptor_loop.h"
#include "executor/socket_address.h"

namespace berth {

/// Whether an errno says that a descriptor, or the memory for a socket, could not be had.
bool is_shortage(int error_number);

class StreamListeners {
 public:
  using Handler = std::function<void(UniqueFd client, const SocketAddress& from)>;

  explicit StreamListeners(DescriptorLoop& loop);
  ~StreamListeners();
  StreamListeners(const StreamListeners&) = delete;
  StreamListeners& operator=(const StreamListeners&) = delete;

  /// `socket` listens and does not block; it is borrowed as long as this lives. Clients do not block either.
  void watch(int socket, Handler handler);
  /// Lets all clients wait for a second: also for a handler that lacks what it needs besides.
  void pause();

 private:
  void accept(int socket, const Handler& handler);
  void set_events(std::uint32_t events);

  DescriptorLoop& loop_;
  std::vector<int> sockets_;
  SecondTimer paused_;
};

}  // namespace berth
