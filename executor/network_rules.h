// The addresses of a berth's networks and the nftables rules around them, as text; pure, see network_pool.h
// for the objects in the kernel and docs/network.md for the picture.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "executor/dns_message.h"
#include "schemas/network_spec.h"

namespace berth {

/// One berth's share of the pool: a range of IPv4 and one of IPv6 addresses. The first few are berth's own,
/// the others the jobs', by index.
struct AddressBlock {
  Cidr v4;
  Cidr v6;  ///< a /64

  static constexpr std::uint32_t kHost = 1;     ///< the host's end of the uplink
  static constexpr std::uint32_t kRouter = 2;   ///< the router's end
  static constexpr std::uint32_t kGateway = 3;  ///< what jobs have as gateway and name server
  static constexpr std::uint32_t kFirstJob = 16;

  /// One after the last index of a job: the range's last address is its broadcast address.
  std::uint32_t end() const { return (1U << (32 - v4.prefix)) - 1; }
  IpAddress v4_at(std::uint32_t index) const { return IpAddress::v4(v4.address.to_v4() + index); }
  IpAddress v6_at(std::uint32_t index) const;
  /// The index that has this address; 0 when it is none of the block's.
  std::uint32_t index_of(const IpAddress& address) const;
  /// Of the host's end of the uplink, and of the nftables tables: "berthc61210" for 198.18.16.0. No two
  /// blocks of any pools have one name, so that who makes the link has the block.
  std::string name() const;
};

/// How many blocks a pool has, and one of them. A block has at most 4096 addresses.
unsigned block_count(const Cidr& pool);
AddressBlock block_of(const Cidr& pool_v4, const Cidr& pool_v6, unsigned number);

using MacAddress = std::array<std::uint8_t, 6>;
/// Locally administered; index 0 is the bridges'.
MacAddress mac_of(std::uint32_t index);
std::string mac_text(const MacAddress& mac);
/// The router's end of a job's veth pair: "j17".
std::string port_name(std::uint32_t index);

constexpr const char* kRouterTable = "berth";
constexpr const char* kUplinkInRouter = "uplink";

/// The host's side: NAT, nothing from jobs to the host itself, nothing from elsewhere to jobs. The tables
/// belong to the socket that makes them.
std::string host_rules(const AddressBlock& block);
/// The router's side: who may send with which address, how many connections each may have (0: any number),
/// the default policy, and the sets that jobs are put in.
std::string router_rules(const AddressBlock& block, std::uint32_t connections);
/// Lets the ports of jobs `first` up to, not including, `last` send with their own addresses.
std::string source_elements(const AddressBlock& block, std::uint32_t first, std::uint32_t last);

/// What turns the default policy into this job's; empty for the default.
std::string policy_commands(const AddressBlock& block, std::uint32_t index, const Egress& egress);
/// What the job's own /etc/hosts calls by a name that a rule allows, and the rule's number.
struct NamedHost {
  std::size_t rule = 0;
  IpAddress address;
};
std::vector<NamedHost> named_hosts(const NetworkSpec& network);
/// Opens them: nobody will ask for them.
std::string named_hosts_commands(std::uint32_t index, const NetworkSpec& network);
/// Takes it back.
std::string remove_policy_commands(const AddressBlock& block, std::uint32_t index, const Egress& egress);
/// How long an address is to be open whose time to live is `ttl` seconds: long enough to use it.
std::chrono::seconds time_to_use(std::uint32_t ttl);
/// For how long it is opened then: longer, so that whoever asks again and again does not have it opened each
/// time.
std::chrono::seconds opening_time(std::uint32_t ttl);
/// Lets a job reach the addresses that one of its rules' names has, each for its opening_time().
std::string learned_address_commands(std::uint32_t index, std::size_t rule,
                                     const std::vector<DnsAddress>& found);

/// Whether a rule that names a host opens this address when the name leads to it: public ones, or those of
/// the rule's range. Whoever answers for a name could otherwise lead the job into the networks around the
/// host.
bool name_may_lead_to(const EgressRule& rule, const IpAddress& address);

/// All rules of a job without root, in its own network namespace: its policy, and nothing to the host, whose
/// addresses are these.
std::string user_rules(std::uint32_t index, const Egress& egress, const std::vector<IpAddress>& host);

/// A name as it is compared: ASCII letters only.
std::string lower_case(std::string text);

/// /etc/hosts of a job.
std::string hosts_file(const std::string& hostname, const std::vector<IpAddress>& addresses,
                       const NetworkSpec& network);
/// /etc/resolv.conf.
std::string resolver_file(const IpAddress& gateway, const NetworkSpec& network);

}  // namespace berth
