// NetworkSettings: what the administrator says about the networks of all jobs: "network" in berthd.json, and
// the option --network-pool of berth run. Values; safe from any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "schemas/ip_address.h"

namespace berth {

/// Ranges that nothing else of the host uses, out of which each berth takes a block: 198.18.0.0/15 is set
/// aside for devices between networks (RFC 2544) and not routed; the other is a unique local one (RFC 4193).
inline constexpr const char* kDefaultPoolV4 = "198.18.0.0/15";
inline constexpr const char* kDefaultPoolV6 = "fd62:6572:7468::/48";

/// The host tracks the connections of jobs in the table of its own: 262,144 by default, fewer on small
/// machines (nf_conntrack_max, Documentation/networking/nf_conntrack-sysctl.rst).
inline constexpr std::uint32_t kDefaultConnections = 16'384;

struct NetworkSettings {
  /// Jobs may ask for "host", the host's own network.
  bool allow_host = false;
  /// They may publish ports of the host that the kernel keeps for root (ip_unprivileged_port_start).
  bool allow_privileged_ports = false;
  Cidr pool_v4 = *Cidr::parse(kDefaultPoolV4);  ///< of /8 to /24
  Cidr pool_v6 = *Cidr::parse(kDefaultPoolV6);  ///< of /48, in fd00::/8
  /// That each job may have at once, of each IP version, as connection tracking counts them; 0: no limit.
  std::uint32_t connections = kDefaultConnections;
  /// What holds for the jobs of this user: root may publish every port.
  NetworkSettings of_user(std::uint32_t user_id) const;
  /// "198.18.0.0/15,fd62:6572:7468::/48"
  std::string pool_text() const;
  bool operator==(const NetworkSettings&) const = default;
};

/// Takes the ranges of a comma-separated list, at most one of each family, and leaves the other as it is.
/// Throws std::invalid_argument whose what() completes the sentence `"…" …`.
void parse_network_pool(std::string_view text, NetworkSettings& settings);

}  // namespace berth
