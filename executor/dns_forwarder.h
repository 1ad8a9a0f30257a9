// DnsForwarder: the name server that jobs see at their gateway.
//
// It answers for the jobs of a shared network itself and passes other queries on to the job's name servers
// from the host's side, but only those that the job's egress policy lets it ask: an answer to any other would
// be a way out, and so would the question. Before it hands out the addresses of a name that a rule allows, it
// has them let through. It keeps no cache. Single-threaded, in a DescriptorLoop.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "executor/descriptor_loop.h"
#include "executor/dns_message.h"
#include "executor/stream_listeners.h"
#include "schemas/network_spec.h"

namespace berth {

/// One job, as the forwarder sees it.
class DnsClient {
 public:
  virtual ~DnsClient() = default;
  virtual const NetworkSpec& network() const = 0;
  /// Addresses of the jobs of its shared network that are called so; nothing when there is none.
  virtual std::vector<IpAddress> find_job(const std::string& name) const = 0;
  /// Lets the job reach the addresses through rule number `rule` of its policy.
  virtual void learn(std::size_t rule, const std::vector<DnsAddress>& addresses) = 0;
  virtual void count_refused() = 0;
};

class DnsForwarder {
 public:
  /// Answers on these sockets (open_dns_sockets()), in whichever namespace they are.
  DnsForwarder(DescriptorLoop& loop, std::vector<UniqueFd> sockets);
  ~DnsForwarder();
  DnsForwarder(const DnsForwarder&) = delete;
  DnsForwarder& operator=(const DnsForwarder&) = delete;

  /// Queries from this address are `client`'s, until remove().
  void add(const IpAddress& address, DnsClient& client) { clients_[address] = &client; }
  void remove(const IpAddress& address);

 private:
  struct Exchange;
  using Exchanges = std::map<std::uint64_t, std::unique_ptr<Exchange>>;

  bool has_room(const IpAddress& job) const;
  void receive_datagrams(int socket);
  void take_client(UniqueFd client, const SocketAddress& from);
  void await_query(Exchange& exchange);
  void read_stream(std::uint64_t number);
  void handle_query(Exchange& exchange);
  /// False when the exchange is over.
  bool ask_next_server(Exchange& exchange);
  void receive_reply(std::uint64_t number);
  void let_through(const Exchange& exchange, const std::string& reply);
  void send_reply(Exchange& exchange, std::string reply);
  void write_stream(std::uint64_t number);
  void finish(std::uint64_t number);
  void expire();
  std::vector<IpAddress> servers_of(const NetworkSpec& network);

  DescriptorLoop& loop_;
  std::vector<UniqueFd> sockets_;
  std::vector<int> datagram_sockets_;  ///< of these
  StreamListeners streams_;            ///< at the others
  SecondTimer timer_;
  std::map<IpAddress, DnsClient*> clients_;
  Exchanges exchanges_;
  std::uint64_t last_exchange_ = 0;
  std::vector<IpAddress> host_servers_;
  std::chrono::steady_clock::time_point host_servers_at_{};
};

/// Bound to port 53 of the addresses in the calling thread's network namespace: datagrams and streams. Throws
/// std::system_error.
std::vector<UniqueFd> open_dns_sockets(const std::vector<IpAddress>& addresses);

/// The addresses of a resolv.conf(5).
std::vector<IpAddress> parse_name_servers(std::string_view text);

}  // namespace berth
