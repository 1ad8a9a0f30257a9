// PortRelay: the published ports of one job.
//
// Listens on the host and carries what comes to the job and back, bytes of TCP connections and datagrams of
// UDP. A relay and not address translation: it works from the host itself, over 127.0.0.1 and ::1, and where
// no device of the host forwards, and a port that is taken is refused by the kernel as for any server. What
// it costs: the job sees its gateway as the other end. Single-threaded, in a DescriptorLoop.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "executor/descriptor_loop.h"
#include "executor/network_namespace.h"
#include "executor/stream_listeners.h"
#include "schemas/network_spec.h"

namespace berth {

/// Connections and exchanges of datagrams that all jobs' published ports have open, and may have; of two
/// descriptors each at most.
struct RelayedClients {
  std::size_t most = 0;
  std::size_t now = 0;
};

class PortRelay {
 public:
  /// Connects from `router` to the job, whose addresses these are. All that it refers to outlives it.
  PortRelay(DescriptorLoop& loop, const NetworkNamespace& router, std::vector<IpAddress> job,
            RelayedClients& all);
  ~PortRelay();
  PortRelay(const PortRelay&) = delete;
  PortRelay& operator=(const PortRelay&) = delete;

  /// Whether it is to be had now, with the port of the host that would be taken for 0; for somebody else to
  /// publish. Throws as publish() does.
  static PublishedPort find_free(const PublishedPort& port);
  /// Returns it with the port of the host that was taken for 0. Throws LaunchError when it is not to be had.
  PublishedPort publish(const PublishedPort& port);

 private:
  struct Listener {
    UniqueFd socket;
    PublishedPort port;
    bool v6 = false;
  };
  class Connection;
  struct Session;

  static std::vector<Listener> open_sockets(const PublishedPort& port);
  /// The same, for a free port with several tries.
  static std::vector<Listener> open_listeners(const PublishedPort& port);
  std::vector<char>& buffer();
  bool has_room() const;
  void take_client(const Listener& listener, UniqueFd client);
  void end_connection(std::uint64_t number);
  void receive_datagrams(const Listener& listener);
  /// Empty when it cannot be had.
  UniqueFd open_in_router(int family, int type);
  UniqueFd connect_to_job(int type, std::uint16_t port, const IpAddress& address);
  void make_room_for_session();

  DescriptorLoop& loop_;
  const NetworkNamespace& router_;
  std::vector<IpAddress> job_;
  RelayedClients& all_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::map<std::uint64_t, std::unique_ptr<Connection>> connections_;
  std::map<std::string, std::unique_ptr<Session>> sessions_;  ///< by listener and client
  std::uint64_t last_connection_ = 0;
  std::vector<char> buffer_;  ///< for what passes in one step; empty until there is a client
  StreamListeners clients_;   ///< of TCP; goes before the sockets
};

}  // namespace berth
