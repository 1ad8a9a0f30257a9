#include "executor/network_rules.h"

#include <algorithm>
#include <cstdio>

namespace berth {
namespace {

constexpr unsigned kBlockPrefix = 20;

/// Not on the internet: RFC 6890's registry without its documentation ranges, multicast, and the pool's own.
/// 169.254.0.0/16 holds the clouds' metadata services.
constexpr const char* kPrivateV4 =
    "0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.0.0.0/24, "
    "192.168.0.0/16, 198.18.0.0/15, 224.0.0.0/4, 240.0.0.0/4";
/// Likewise, with what carries an IPv4 address of such a range in it (NAT64, RFC 6052; 6to4, RFC 3056;
/// Teredo, RFC 4380; the compatible ones of RFC 4291).
constexpr const char* kPrivateV6 =
    "::/96, ::ffff:0:0/96, 64:ff9b::/104, 64:ff9b::a00:0/104, 64:ff9b::6440:0/106, 64:ff9b::7f00:0/104, "
    "64:ff9b::a9fe:0/112, 64:ff9b::ac10:0/108, 64:ff9b::c000:0/120, 64:ff9b::c0a8:0/112, "
    "64:ff9b::c612:0/111, "
    "64:ff9b::e000:0/99, 64:ff9b:1::/48, 100::/64, 2001::/32, 2001:2::/48, 2001:10::/28, 2002::/16, "
    "5f00::/16, "
    "fc00::/7, fe80::/10, fec0::/10, ff00::/8";

/// The ranges of a list as nftables takes it.
std::vector<Cidr> parse_ranges(std::string_view list) {
  std::vector<Cidr> ranges;
  while (!list.empty()) {
    const std::size_t end = std::min(list.find(", "), list.size());
    ranges.push_back(Cidr::parse(list.substr(0, end)).value());
    list.remove_prefix(std::min(end + 2, list.size()));
  }
  return ranges;
}

std::string chain_of(std::uint32_t index) {
  return "job" + std::to_string(index);
}
std::string learned_set(std::uint32_t index, std::size_t rule, bool v6) {
  return "names" + std::to_string(index) + "_" + std::to_string(rule) + (v6 ? "v6" : "v4");
}

/// "element inet TABLE SET { ADDRESS", for what follows the address.
std::string set_element(const std::string& set, const std::string& address) {
  return std::string("element inet ") + kRouterTable + " " + set + " { " + address;
}

std::string ports_match(const EgressRule& rule) {
  std::string list;
  for (const PortRange& range : rule.ports) {
    list += (list.empty() ? "" : ", ") + std::to_string(range.first);
    list += range.last != range.first ? "-" + std::to_string(range.last) : "";
  }
  return "{ " + list + " }";
}

std::string protocol_match(const EgressRule& rule) {
  switch (rule.protocol) {
    case NetworkProtocol::tcp:
      return rule.ports.empty() ? "meta l4proto tcp " : "tcp dport " + ports_match(rule) + " ";
    case NetworkProtocol::udp:
      return rule.ports.empty() ? "meta l4proto udp " : "udp dport " + ports_match(rule) + " ";
    case NetworkProtocol::icmp:
      return "meta l4proto { icmp, ipv6-icmp } ";
    case NetworkProtocol::any:
      return rule.ports.empty() ? "" : "meta l4proto { tcp, udp } th dport " + ports_match(rule) + " ";
  }
  return "";
}

/// Sets of addresses, one for each IP version, that rules fill.
std::string dynamic_sets(const std::string& name) {
  return " set " + name + "4 { type ipv4_addr; size 65535; flags dynamic; }\n set " + name +
         "6 { type ipv6_addr; size 65535; flags dynamic; }\n";
}

/// Denial, counted by who is denied.
std::string denied_chain() {
  return dynamic_sets("denied") +
         " chain denied {\n"
         "  update @denied4 { ip saddr counter }\n"
         "  update @denied6 { ip6 saddr counter }\n"
         "  reject with icmpx admin-prohibited\n }\n";
}

/// What every policy is made of: denial and the default policy.
std::string policy_sets() {
  return denied_chain() + " set private4 { type ipv4_addr; flags interval; elements = { " +
         std::string(kPrivateV4) +
         " } }\n"
         " set private6 { type ipv6_addr; flags interval; elements = { " +
         std::string(kPrivateV6) +
         " } }\n"
         " chain public {\n"
         "  ip daddr @private4 goto denied\n"
         "  ip6 daddr @private6 goto denied\n"
         "  accept\n }\n";
}

/// Jobs share the tables of connection tracking, the router's and the host's. Asked with the first packet of
/// a connection, which is not confirmed yet: a flow without replies stays new, and to count is to walk over
/// all of the job's.
std::string connection_sets(std::uint32_t most) {
  const std::string over = " ct count over " + std::to_string(most) + " } goto denied\n";
  return dynamic_sets("connections") +
         " chain connections {\n"
         "  add @connections4 { ip saddr" +
         over + "  add @connections6 { ip6 saddr" + over + " }\n";
}

/// Jobs share the sockets of the name server: what it cannot answer in time would fill them, and keep others
/// from asking. More than a resolver asks; a burst is what the forwarder takes of one job at once.
std::string query_limit() {
  const std::string over = " limit rate over 2000/second burst 128 packets } drop\n";
  return dynamic_sets("queries") +
         " chain queries {\n"
         "  update @queries4 { ip saddr" +
         over + "  update @queries6 { ip6 saddr" + over + " }\n";
}

}  // namespace

IpAddress AddressBlock::v6_at(std::uint32_t index) const {
  IpAddress address = v6.address;
  for (std::size_t byte = 0; byte < 4; ++byte) {
    address.bytes.at(12 + byte) = static_cast<std::uint8_t>(index >> (24 - 8 * byte));
  }
  return address;
}

std::uint32_t AddressBlock::index_of(const IpAddress& address) const {
  if (!(address.is_v6 ? v6 : v4).contains(address)) {
    return 0;
  }
  if (!address.is_v6) {
    return address.to_v4() - v4.address.to_v4();
  }
  std::uint32_t index = 0;
  for (std::size_t byte = 12; byte < 16; ++byte) {
    index = index << 8U | address.bytes.at(byte);
  }
  return index;
}

std::string AddressBlock::name() const {
  std::array<char, 7> digits{};
  std::snprintf(digits.data(), digits.size(), "%06x", v4.address.to_v4() >> 8U);
  return std::string("berth") + digits.data();
}

unsigned block_count(const Cidr& pool) {
  return pool.prefix >= kBlockPrefix ? 1 : 1U << (kBlockPrefix - pool.prefix);
}

AddressBlock block_of(const Cidr& pool_v4, const Cidr& pool_v6, unsigned number) {
  AddressBlock block;
  block.v4.prefix = std::max(pool_v4.prefix, kBlockPrefix);
  block.v4.address = IpAddress::v4(pool_v4.address.to_v4() + (number << (32 - block.v4.prefix)));
  block.v6 = {pool_v6.address, 64};
  // The subnet has the number of the IPv4 block's first /24, which is another one for each block of a pool.
  block.v6.address.bytes[6] = block.v4.address.bytes[1];
  block.v6.address.bytes[7] = block.v4.address.bytes[2];
  return block;
}

MacAddress mac_of(std::uint32_t index) {
  return {0x02,
          0x62,
          0x74,
          static_cast<std::uint8_t>(index >> 16U),
          static_cast<std::uint8_t>(index >> 8U),
          static_cast<std::uint8_t>(index)};
}

std::string mac_text(const MacAddress& mac) {
  std::array<char, 18> text{};
  std::snprintf(text.data(), text.size(), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3],
                mac[4], mac[5]);
  return text.data();
}

std::string port_name(std::uint32_t index) {
  return "j" + std::to_string(index);
}

// Replies and their connection tracking end at the host's NAT; from there they must get to the router
// although the device they came in by does not forward (net.ipv4.conf.*.forwarding of devices that are not
// berth's stays what it is). "dup" sends a copy to the router as the host's own output, and the original is
// dropped.
std::string host_rules(const AddressBlock& block) {
  const std::string name = block.name();
  const std::string link = "\"" + name + "\"";
  const std::string v4 = block.v4.to_text();
  const std::string v6 = block.v6.to_text();
  const auto returning = [&](const std::string& family, const std::string& range, const IpAddress& router) {
    return "table " + family + " " + name + " {\n flags owner;\n chain returning {\n" +
           "  type filter hook prerouting priority -95; policy accept;\n" +  // after NAT's -100
           "  iifname != " + link + " " + family + " daddr " + range +
           " ct state established,related dup to " + router.to_text() + " device " + link + "\n" +
           "  iifname != " + link + " " + family + " daddr " + range + " drop\n }\n}\n";
  };
  return "table inet " + name + " {\n flags owner;\n" + denied_chain() +
         // Before the host's own translations lead them elsewhere: services of containers are behind its
         // addresses.
         " chain own_addresses {\n  type filter hook prerouting priority -150; policy accept;\n"
         "  iifname " +
         link +
         " fib daddr type { local, broadcast, anycast, multicast } goto denied\n }\n"
         " chain input {\n  type filter hook input priority -10; policy accept;\n"
         "  iifname " +
         link +
         " goto denied\n }\n"
         " chain forward {\n  type filter hook forward priority -10; policy accept;\n"
         "  iifname " +
         link +
         " oifname \"berth*\" goto denied\n }\n"
         " chain output {\n  type filter hook output priority -10; policy accept;\n"
         "  oifname " +
         link +
         " ct state { untracked, established, related } accept\n"
         "  oifname " +
         link +
         " reject with icmpx admin-prohibited\n }\n"
         " chain nat {\n  type nat hook postrouting priority 100; policy accept;\n"
         "  oifname != " +
         link + " ip saddr " + v4 +
         " masquerade\n"
         "  oifname != " +
         link + " ip6 saddr " + v6 + " masquerade\n }\n}\n" +
         returning("ip", v4, block.v4_at(AddressBlock::kRouter)) +
         returning("ip6", v6, block.v6_at(AddressBlock::kRouter));
}

std::string router_rules(const AddressBlock& block, std::uint32_t connections) {
  const std::string table = kRouterTable;
  const std::string gateways_v4 = block.v4_at(AddressBlock::kGateway).to_text();
  const std::string gateways_v6 = block.v6_at(AddressBlock::kGateway).to_text();
  const std::string limit = connections == 0 ? "" : "  ct state new ct status ! confirmed jump connections\n";
  return "table bridge " + table +
         " {\n"
         " set sources4 { type ifname . ether_addr . ipv4_addr; }\n"
         " set sources6 { type ifname . ether_addr . ipv6_addr; }\n"
         // Neighbours are static at both ends, so that ARP and neighbour discovery have nothing to say.
         " chain sources {\n  type filter hook prerouting priority -300; policy drop;\n"
         "  iifname . ether saddr . ip saddr @sources4 accept\n"
         "  icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, "
         "nd-redirect } drop\n"
         "  iifname . ether saddr . ip6 saddr @sources6 accept\n }\n"
         " chain ports {\n  type filter hook forward priority 0; policy drop;\n }\n"
         // Nor has the router to groups and everybody, which its bridges would hand to every port: what a job
         // receives is counted, and should be what it asked for.
         " chain own {\n  type filter hook output priority 0; policy accept;\n"
         "  ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 drop\n"
         // Nor redirects, after which a job would send to its neighbour and not to the router.
         "  icmpv6 type nd-redirect drop\n }\n}\n"
         "table inet " +
         table + " {\n" + policy_sets() + " set shared { type ifname . ifname; }\n" +
         (connections == 0 ? "" : connection_sets(connections)) + query_limit() +
         " map policies4 { type ipv4_addr : verdict; }\n"
         " map policies6 { type ipv6_addr : verdict; }\n"
         " chain forward {\n  type filter hook forward priority 0; policy drop;\n"
         "  ct state established,related accept\n"
         "  ct state invalid drop\n"
         "  iifname \"" +
         kUplinkInRouter + "\" drop\n" + limit +
         "  iifname . oifname @shared accept\n"
         "  oifname != \"" +
         kUplinkInRouter +
         "\" goto denied\n"
         "  ip saddr vmap @policies4\n"
         "  ip6 saddr vmap @policies6\n"
         "  goto public\n }\n"
         " chain input {\n  type filter hook input priority 0; policy drop;\n"
         "  iifname \"lo\" accept\n"
         "  udp dport 53 jump queries\n"
         "  tcp dport 53 tcp flags syn jump queries\n"
         "  ct state established,related accept\n"
         "  iifname \"" +
         kUplinkInRouter + "\" drop\n" + limit + "  ip daddr " + gateways_v4 +
         " meta l4proto { tcp, udp } th dport 53 accept\n"
         "  ip6 daddr " +
         gateways_v6 +
         " meta l4proto { tcp, udp } th dport 53 accept\n"
         "  goto denied\n }\n}\n";
}

std::string source_elements(const AddressBlock& block, std::uint32_t first, std::uint32_t last) {
  std::string v4;
  std::string v6;
  for (std::uint32_t index = first; index < last; ++index) {
    const std::string port =
        (v4.empty() ? "\"" : ", \"") + port_name(index) + "\" . " + mac_text(mac_of(index)) + " . ";
    v4 += port + block.v4_at(index).to_text();
    v6 += port + block.v6_at(index).to_text();
  }
  const std::string head = std::string("add element bridge ") + kRouterTable;
  return head + " sources4 { " + v4 + " }\n" + head + " sources6 { " + v6 + " }\n";
}

namespace {

/// A policy as a verdict, and the chain and sets that it needs.
struct PolicyText {
  std::string commands;
  std::string verdict;
};

/// The set of a rule that names hosts, and what accepts its addresses.
std::string learned_commands(const std::string& table, const std::string& rule_head, const std::string& set,
                             bool v6, const std::string& protocol) {
  return "add set " + table + set + " { type " + (v6 ? "ipv6_addr" : "ipv4_addr") +
         "; size 65535; flags timeout; }\n" + rule_head + (v6 ? "ip6" : "ip") + " daddr @" + set + " " +
         protocol + "accept\n";
}

/// One rule of a policy; its number makes the names of its sets.
std::string rule_commands(std::uint32_t index, std::size_t number, const EgressRule& rule,
                          const std::string& table) {
  const std::string head = "add rule " + table + chain_of(index) + " ";
  const std::string protocol = protocol_match(rule);
  if (rule.range && rule.host.empty()) {
    return head + (rule.range->address.is_v6 ? "ip6" : "ip") + " daddr " + rule.range->to_text() + " " +
           protocol + "accept\n";
  }
  if (rule.is_public()) {
    return head + "ip daddr != @private4 " + protocol + "accept\n" + head + "ip6 daddr != @private6 " +
           protocol + "accept\n";
  }
  return learned_commands(table, head, learned_set(index, number, false), false, protocol) +
         learned_commands(table, head, learned_set(index, number, true), true, protocol);
}

PolicyText policy_text(std::uint32_t index, const Egress& egress) {
  const std::string table = std::string("inet ") + kRouterTable + " ";
  const std::string chain = chain_of(index);
  std::string text;
  std::string verdict;
  switch (egress.mode) {
    case EgressMode::public_addresses:
      verdict = "goto public";
      break;
    case EgressMode::deny:
      verdict = "goto denied";
      break;
    case EgressMode::allow:
      verdict = "accept";
      break;
    case EgressMode::rules:
      verdict = "goto " + chain;
      text = "add chain " + table + chain + "\n";
      for (std::size_t number = 0; number < egress.rules.size(); ++number) {
        text += rule_commands(index, number, egress.rules[number], table);
      }
      text += "add rule " + table + chain + " goto denied\n";
      break;
  }
  return {text, verdict};
}

}  // namespace

std::string policy_commands(const AddressBlock& block, std::uint32_t index, const Egress& egress) {
  if (egress.mode == EgressMode::public_addresses) {
    return "";
  }
  const std::string table = std::string("inet ") + kRouterTable + " ";
  const PolicyText policy = policy_text(index, egress);
  return policy.commands + "add element " + table + "policies4 { " + block.v4_at(index).to_text() + " : " +
         policy.verdict + " }\n" + "add element " + table + "policies6 { " + block.v6_at(index).to_text() +
         " : " + policy.verdict + " }\n";
}

std::vector<NamedHost> named_hosts(const NetworkSpec& network) {
  std::vector<NamedHost> found;
  for (std::size_t number = 0; number < network.egress.rules.size(); ++number) {
    const std::string& host = network.egress.rules[number].host;
    for (const auto& [name, address] : network.hosts) {
      if (!host.empty() && dns_name_matches(host, lower_case(name))) {
        found.push_back({number, address});
      }
    }
  }
  return found;
}

std::string named_hosts_commands(std::uint32_t index, const NetworkSpec& network) {
  std::string commands;
  for (const NamedHost& host : named_hosts(network)) {
    commands += "add " +
                set_element(learned_set(index, host.rule, host.address.is_v6), host.address.to_text()) +
                " }\n";
  }
  return commands;
}

std::string user_rules(std::uint32_t index, const Egress& egress, const std::vector<IpAddress>& host) {
  const std::string table = kRouterTable;
  std::string host4;
  std::string host6;
  for (const IpAddress& address : host) {
    std::string& list = address.is_v6 ? host6 : host4;
    list += (list.empty() ? "" : ", ") + address.to_text();
  }
  const auto elements = [](const std::string& list) {
    return list.empty() ? std::string() : "elements = { " + list + " } ";
  };
  const PolicyText policy = policy_text(index, egress);
  return "table inet " + table + " {\n" + policy_sets() + " set host4 { type ipv4_addr; " + elements(host4) +
         "}\n set host6 { type ipv6_addr; " + elements(host6) +
         "}\n"
         " chain output {\n  type filter hook output priority 0; policy drop;\n"
         "  oifname \"lo\" accept\n"
         "  ct state established,related accept\n"
         // What the kernel itself says to its neighbours, and pasta keeps to itself.
         "  icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-report, "
         "mld2-listener-report, mld-listener-done } accept\n"
         "  ct state invalid drop\n"
         "  ip daddr @host4 goto denied\n"
         "  ip6 daddr @host6 goto denied\n }\n}\n" +
         policy.commands + "add rule inet " + table + " output " + policy.verdict + "\n";
}

std::string remove_policy_commands(const AddressBlock& block, std::uint32_t index, const Egress& egress) {
  if (egress.mode == EgressMode::public_addresses) {
    return "";
  }
  const std::string table = std::string("inet ") + kRouterTable + " ";
  std::string text = "delete element " + table + "policies4 { " + block.v4_at(index).to_text() + " }\n" +
                     "delete element " + table + "policies6 { " + block.v6_at(index).to_text() + " }\n";
  if (egress.mode == EgressMode::rules) {
    text += "flush chain " + table + chain_of(index) + "\ndelete chain " + table + chain_of(index) + "\n";
    for (std::size_t number = 0; number < egress.rules.size(); ++number) {
      if (!egress.rules[number].host.empty()) {
        text += "delete set " + table + learned_set(index, number, false) + "\n";
        text += "delete set " + table + learned_set(index, number, true) + "\n";
      }
    }
  }
  return text;
}

std::chrono::seconds time_to_use(std::uint32_t ttl) {
  constexpr std::uint32_t kShortest = 10;
  constexpr std::uint32_t kLongest = 24 * 60 * 60;
  return std::chrono::seconds(std::clamp(ttl, kShortest, kLongest));
}

std::chrono::seconds opening_time(std::uint32_t ttl) {
  return time_to_use(ttl) * 3 / 2;
}

std::string learned_address_commands(std::uint32_t index, std::size_t rule,
                                     const std::vector<DnsAddress>& found) {
  std::string commands;
  for (const DnsAddress& one : found) {
    // An element that is there keeps its old time: it goes first, in the same transaction.
    const std::string element =
        set_element(learned_set(index, rule, one.address.is_v6), one.address.to_text());
    const std::string timeout = " timeout " + std::to_string(opening_time(one.ttl).count()) + "s }\n";
    commands.append("add ").append(element).append(timeout);
    commands.append("delete ").append(element).append(" }\n");
    commands.append("add ").append(element).append(timeout);
  }
  return commands;
}

bool name_may_lead_to(const EgressRule& rule, const IpAddress& address) {
  if (rule.range) {
    return rule.range->contains(address);
  }
  static const std::vector<Cidr> kPrivate = [] {
    std::vector<Cidr> ranges = parse_ranges(kPrivateV4);
    const std::vector<Cidr> v6 = parse_ranges(kPrivateV6);
    ranges.insert(ranges.end(), v6.begin(), v6.end());
    return ranges;
  }();
  return std::none_of(kPrivate.begin(), kPrivate.end(),
                      [&](const Cidr& range) { return range.contains(address); });
}

std::string lower_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return text;
}

std::string hosts_file(const std::string& hostname, const std::vector<IpAddress>& addresses,
                       const NetworkSpec& network) {
  std::string text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
  for (const IpAddress& address : addresses) {
    text += address.to_text() + "\t" + hostname + "\n";
  }
  for (const auto& [name, address] : network.hosts) {
    text += address.to_text() + "\t" + name + "\n";
  }
  return text;
}

std::string resolver_file(const IpAddress& gateway, const NetworkSpec& network) {
  std::string text = "nameserver " + gateway.to_text() + "\n";
  for (std::size_t index = 0; index < network.dns_search.size(); ++index) {
    text += (index == 0 ? "search " : " ") + network.dns_search[index];
  }
  return text + (network.dns_search.empty() ? "" : "\n");
}

}  // namespace berth
