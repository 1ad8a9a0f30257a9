// What is asked of the kernel about links, addresses, routes, neighbours, queueing disciplines and counters,
// as requests of a NetlinkBatch (rtnetlink(7), nfnetlink), and settings below /proc/sys/net.
//
// Each function adds to a batch, which the caller commits on a socket of the namespace that it is about.
#pragma once

#include <linux/rtnetlink.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "executor/netlink.h"
#include "executor/network_rules.h"
#include "schemas/quantities.h"

namespace berth {

/// The index of "lo" in every network namespace.
constexpr int kLoopback = 1;

/// Up, and with no addresses that the kernel makes up itself. With IFF_NOARP among the flags it asks for no
/// neighbours and joins no groups for its addresses: what the job sends is counted.
void set_up(NetlinkBatch& batch, int index, const char* what, unsigned flags = 0);
void add_address(NetlinkBatch& batch, int index, const IpAddress& own, const IpAddress& peer);

struct Route {
  std::optional<Cidr> to;  ///< absent: default
  std::optional<IpAddress> gateway;
  std::optional<IpAddress> source;
  int device = 0;
  bool v6 = false;
};

void add_route(NetlinkBatch& batch, const Route& route, std::uint16_t type = RTM_NEWROUTE, int ignored = 0);
void add_neighbour(NetlinkBatch& batch, int device, const IpAddress& address, const MacAddress& mac);
void remove_neighbour(NetlinkBatch& batch, int device, const IpAddress& address);
void add_bridge(NetlinkBatch& batch, int index, const std::string& name);
void remove_link(NetlinkBatch& batch, int index, const std::string& name);

struct VethEnd {
  std::string name;
  int index = 0;  ///< 0: the kernel's choice, of both ends
  std::optional<MacAddress> mac;
};
/// `near` in the socket's namespace, up; `far`, down, in `far_namespace`.
void add_veth(NetlinkBatch& batch, const VethEnd& near, int master, const VethEnd& far, int far_namespace);
/// The port of a bridge gets what is for `mac` and nothing else; nobody else's port gets that. It learns no
/// other addresses.
void add_port_rules(NetlinkBatch& batch, int port, const MacAddress& mac);
/// tc-tbf(8): `rate` bytes per second leave the device.
void add_token_bucket(NetlinkBatch& batch, int device, Bytes rate);

/// Ranges that the socket's namespace has routes to, beside the default route.
std::vector<Cidr> routed_ranges(NetlinkSocket& socket);
bool has_default_route(NetlinkSocket& socket, bool v6);
/// Index of a device; 0 when there is none. Throws when the kernel says otherwise.
int find_link(NetlinkSocket& socket, const std::string& name);
/// Its own addresses, the loopback's included.
std::vector<IpAddress> own_addresses(NetlinkSocket& socket);
/// Packets that were counted in a dynamic set's element for `address`.
std::uint64_t denied_packets(NetlinkSocket& socket, const std::string& table, const IpAddress& address);

/// Takes those out of the connection tracking whose beginning or end `is_stale`.
void delete_connections(NetlinkSocket& socket, const std::function<bool(const IpAddress&)>& is_stale);

/// Below /proc/sys/net, of the calling thread's network namespace. Throws LaunchError.
void write_setting(const std::string& path, const char* value);
void try_setting(const std::string& path, const char* value);
bool setting_is(const std::string& path, char value);

}  // namespace berth
