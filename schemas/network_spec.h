// NetworkSpec: the network that a user asks for, isolation.network and what goes with it.
//
// One that came out of schemas/job_file.h is valid; docs/network.md explains every part to users.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "schemas/ip_address.h"
#include "schemas/quantities.h"

namespace berth {

enum class NetworkMode {
  none,      ///< not even loopback is up
  loopback,  ///< nothing but a loopback of its own
  isolated,  ///< "private": an address of its own, NAT out, egress policy
  shared,    ///< "shared:NAME": that, and the jobs of the same user that name the same network
  host,      ///< the host's own: only where the administrator allows it
};

enum class NetworkProtocol { any, tcp, udp, icmp };

struct PortRange {
  std::uint16_t first = 0;
  std::uint16_t last = 0;
  auto operator<=>(const PortRange&) const = default;
};

/// One thing that a job may reach: a range, a host name, or all public addresses.
struct EgressRule {
  /// With a host as well: where the host's addresses may be; without, they have to be public.
  std::optional<Cidr> range;
  std::string host;  ///< lower case; "*.example.org" stands for every name below example.org
  NetworkProtocol protocol = NetworkProtocol::any;
  std::vector<PortRange> ports;  ///< of TCP and UDP; empty: all
  /// Neither range nor host: every public address.
  bool is_public() const { return !range && host.empty(); }
  bool operator==(const EgressRule&) const = default;
};

enum class EgressMode {
  public_addresses,  ///< the default: what is on the internet, nothing private, link-local or of the host
  deny,
  allow,  ///< all but the host itself and other jobs
  rules,  ///< what a rule names and nothing else
};

struct Egress {
  EgressMode mode = EgressMode::public_addresses;
  std::vector<EgressRule> rules;
  bool operator==(const Egress&) const = default;
};

/// A port of the host that leads to one of the job: "[ADDRESS:]HOST_PORT:PORT[/tcp|udp]".
struct PublishedPort {
  std::optional<IpAddress> address;  ///< absent: every address of the host, IPv4 and IPv6
  std::uint16_t host_port = 0;       ///< 0: a free one
  std::uint16_t port = 0;
  NetworkProtocol protocol = NetworkProtocol::tcp;
  std::string to_text() const;
  bool operator==(const PublishedPort&) const = default;
};

struct NetworkSpec {
  NetworkMode mode = NetworkMode::loopback;
  std::string shared_name;  ///< of NetworkMode::shared
  Egress egress;
  std::vector<PublishedPort> publish;
  std::vector<IpAddress> dns_servers;  ///< empty: the host's
  std::vector<std::string> dns_search;
  std::map<std::string, IpAddress> hosts;  ///< further lines of /etc/hosts
  std::optional<Bytes> rate_in;            ///< bytes per second towards the job
  std::optional<Bytes> rate_out;
  /// Whether the job has a device beside loopback.
  bool is_connected() const { return mode == NetworkMode::isolated || mode == NetworkMode::shared; }
  bool operator==(const NetworkSpec&) const = default;
};

/// "private", "shared:db" …
std::string network_mode_text(const NetworkSpec& network);

/// What a rule's short form says: "10.0.0.0/8:5432/tcp", "[fd00::/8]:443", "*.example.org:80,443",
/// "db.internal@10.0.0.0/8:5432", "public".
/// Throws std::invalid_argument whose what() completes the sentence `"…" …`; the same for the ports.
EgressRule parse_egress_rule(std::string_view text);
std::vector<PortRange> parse_port_list(std::string_view text);
PublishedPort parse_published_port(std::string_view text);
std::string egress_rule_text(const EgressRule& rule);
/// "127.0.0.1:40123->80/tcp", with "*" for every address.
std::string published_text(const PublishedPort& port);

/// "web-1": what may follow "shared:".
bool is_network_name(std::string_view name);
/// A host name as RFC 1123 has them, below 254 characters; with a "*." in front when `wildcard`.
bool is_domain_name(std::string_view name, bool wildcard);

}  // namespace berth
