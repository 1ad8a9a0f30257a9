#include "schemas/network_reader.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

namespace berth {
namespace {

constexpr std::size_t kMaximumRules = 256;
constexpr std::size_t kMaximumPublished = 64;
constexpr std::size_t kMaximumServers = 3;  // MAXNS, resolv.conf(5)
constexpr std::size_t kMaximumSearch = 6;   // likewise, before glibc 2.26
constexpr std::size_t kMaximumHosts = 256;
constexpr Bytes kSlowest = 1024;  // bytes per second; a packet of 1,500 bytes every second and a half
constexpr Bytes kFastest = 100'000'000'000;

bool has_at_most(const Field& field, std::size_t count, std::size_t limit, const char* what) {
  if (count > limit) {
    field.refuse_plainly("has " + std::to_string(count) + " " + what + ", more than the " +
                         std::to_string(limit) + " possible");
    return false;
  }
  return true;
}

// ---- egress ----

struct RuleReading {
  std::optional<std::string> cidr;
  std::optional<std::string> host;
  EgressRule rule;
};

void read_rule_ports(const Field& field, RuleReading& reading) {
  const auto elements = field.elements("an array of ports, e.g. [443, \"8000-8100\"]");
  if (!elements) {
    return;
  }
  for (const Field& element : *elements) {
    try {
      std::string text;
      if (element.value().is_number_unsigned()) {
        text = std::to_string(element.value().get<std::uint64_t>());
      } else if (const std::optional<std::string> word = element.word()) {
        text = *word;
      } else {
        continue;
      }
      for (const PortRange& range : parse_port_list(text)) {
        reading.rule.ports.push_back(range);
      }
    } catch (const std::invalid_argument& error) {
      element.refuse(error.what());
    }
  }
}

void read_rule_protocol(const Field& field, RuleReading& reading) {
  const std::optional<std::string> word = field.word();
  if (!word) {
    return;
  }
  if (*word == "tcp") {
    reading.rule.protocol = NetworkProtocol::tcp;
  } else if (*word == "udp") {
    reading.rule.protocol = NetworkProtocol::udp;
  } else if (*word == "icmp") {
    reading.rule.protocol = NetworkProtocol::icmp;
  } else if (*word != "any") {
    field.refuse("is not a protocol (use \"tcp\", \"udp\", \"icmp\" or \"any\")");
  }
}

constexpr Member<RuleReading> kRuleMembers[] = {
    {"cidr", [](const Field& field, RuleReading& reading) { reading.cidr = field.word(); }},
    {"host", [](const Field& field, RuleReading& reading) { reading.host = field.word(); }},
    {"protocol", read_rule_protocol},
    {"ports", read_rule_ports},
};

std::optional<EgressRule> read_rule_object(const Field& field) {
  const std::size_t faults_before = field.context().faults.size();
  RuleReading reading;
  read_members<RuleReading>(field, kRuleMembers, "/isolation/egress/*", reading);
  if (field.context().faults.size() != faults_before) {
    return std::nullopt;
  }
  if (!reading.cidr && !reading.host) {
    field.refuse_plainly("needs \"cidr\", \"host\" or both");
    return std::nullopt;
  }
  if (reading.cidr) {
    reading.rule.range = Cidr::parse(*reading.cidr);
    if (!reading.rule.range) {
      field.refuse_plainly(
          "has the cidr \"" + *reading.cidr +
          "\", which is no range (use 10.0.0.0/8, fd00::/8 or one address; no bits after the "
          "prefix)");
      return std::nullopt;
    }
  }
  if (reading.host) {
    std::optional<EgressRule> named;
    try {
      // The short form knows lower case, and addresses in place of names.
      named = is_domain_name(*reading.host, true) ? std::optional(parse_egress_rule(*reading.host))
                                                  : std::nullopt;
    } catch (const std::invalid_argument&) {
      named.reset();
    }
    if (!named || named->is_public() || (named->range && reading.cidr)) {
      field.refuse_plainly("has the host \"" + *reading.host +
                           "\", which is no host name (use example.org or *.example.org)");
      return std::nullopt;
    }
    reading.rule.host = named->host;
    reading.rule.range = named->range ? named->range : reading.rule.range;
  }
  if (reading.rule.protocol == NetworkProtocol::icmp && !reading.rule.ports.empty()) {
    field.refuse_plainly("gives ports of ICMP, which has none; remove \"ports\"");
    return std::nullopt;
  }
  return reading.rule;
}

void read_rule(const Field& field, NetworkSpec& network) {
  if (field.value().is_object()) {
    if (std::optional<EgressRule> rule = read_rule_object(field)) {
      network.egress.rules.push_back(std::move(*rule));
    }
    return;
  }
  if (const std::optional<std::string> text = field.word()) {
    try {
      network.egress.rules.push_back(parse_egress_rule(*text));
    } catch (const std::invalid_argument& error) {
      field.refuse(error.what());
    }
  }
}

// ---- DNS ----

void read_servers(const Field& field, NetworkSpec& network) {
  const auto elements = field.elements("an array of addresses");
  if (!elements || !has_at_most(field, elements->size(), kMaximumServers, "servers")) {
    return;
  }
  for (const Field& element : *elements) {
    const std::optional<std::string> text = element.word();
    const std::optional<IpAddress> address = text ? IpAddress::parse(*text) : std::nullopt;
    if (address) {
      network.dns_servers.push_back(*address);
    } else if (text) {
      element.refuse("is not an address (use 9.9.9.9 or 2620:fe::fe)");
    }
  }
}

void read_search(const Field& field, NetworkSpec& network) {
  const auto elements = field.elements("an array of domains");
  if (!elements || !has_at_most(field, elements->size(), kMaximumSearch, "domains")) {
    return;
  }
  for (const Field& element : *elements) {
    const std::optional<std::string> domain = element.word();
    if (domain && !is_domain_name(*domain, false)) {
      element.refuse("is not a domain (use example.org)");
    } else if (domain) {
      network.dns_search.push_back(*domain);
    }
  }
}

void read_hosts(const Field& field, NetworkSpec& network) {
  const auto members = field.members("an object such as {\"db.internal\": \"10.0.0.5\"}");
  if (!members || !has_at_most(field, members->size(), kMaximumHosts, "names")) {
    return;
  }
  for (const Field& member : *members) {
    const std::optional<std::string> text = member.word();
    const std::optional<IpAddress> address = text ? IpAddress::parse(*text) : std::nullopt;
    if (!is_domain_name(member.key(), false)) {
      member.refuse_plainly("\"" + member.key() + "\" is not a host name");
    } else if (address) {
      network.hosts[member.key()] = *address;
    } else if (text) {
      member.refuse("is not an address (use 10.0.0.5 or fd00::5)");
    }
  }
}

constexpr Member<NetworkSpec> kDnsMembers[] = {
    {"servers", read_servers}, {"search", read_search}, {"hosts", read_hosts}};

// ---- rate ----

std::optional<Bytes> read_one_rate(const Field& field) {
  const std::optional<Bytes> rate = field.size({});
  if (rate && (*rate < kSlowest || *rate > kFastest)) {
    field.refuse("is not a rate from 1K to 100GB (bytes per second)");
    return std::nullopt;
  }
  return rate;
}

constexpr Member<NetworkSpec> kRateMembers[] = {
    {"in", [](const Field& field, NetworkSpec& network) { network.rate_in = read_one_rate(field); }},
    {"out", [](const Field& field, NetworkSpec& network) { network.rate_out = read_one_rate(field); }},
};

}  // namespace

void read_network_mode(const Field& field, NetworkSpec& network) {
  const std::optional<std::string> mode = field.word();
  if (!mode) {
    return;
  }
  constexpr std::string_view kShared = "shared:";
  if (*mode == "none") {
    network.mode = NetworkMode::none;
  } else if (*mode == "loopback") {
    network.mode = NetworkMode::loopback;
  } else if (*mode == "private") {
    network.mode = NetworkMode::isolated;
  } else if (mode->starts_with(kShared)) {
    network.mode = NetworkMode::shared;
    network.shared_name = mode->substr(kShared.size());
    if (!is_network_name(network.shared_name)) {
      field.refuse(
          "does not name a network (use \"shared:NAME\": 63 letters, digits, \"-\", \"_\" and \".\" at "
          "most, a letter or digit first)");
    }
  } else if (*mode == "host") {
    network.mode = NetworkMode::host;
  } else {
    field.refuse(
        "is not a network mode (use \"private\", \"shared:NAME\", \"loopback\", \"none\" or \"host\")");
  }
}

void read_egress(const Field& field, NetworkSpec& network) {
  if (field.value().is_string()) {
    const std::optional<std::string> word = field.word();
    if (word == "public") {
      network.egress.mode = EgressMode::public_addresses;
    } else if (word == "deny") {
      network.egress.mode = EgressMode::deny;
    } else if (word == "allow") {
      network.egress.mode = EgressMode::allow;
    } else if (word) {
      field.refuse("is not an egress policy (use \"public\", \"deny\", \"allow\" or an array of rules)");
    }
    return;
  }
  const auto elements = field.elements("\"public\", \"deny\", \"allow\" or an array of rules");
  if (!elements || !has_at_most(field, elements->size(), kMaximumRules, "rules")) {
    return;
  }
  network.egress.mode = EgressMode::rules;
  for (const Field& element : *elements) {
    read_rule(element, network);
  }
}

void read_publish(const Field& field, NetworkSpec& network) {
  const auto elements = field.elements("an array such as [\"8080:80\"]");
  if (!elements || !has_at_most(field, elements->size(), kMaximumPublished, "ports")) {
    return;
  }
  std::set<std::string> seen;
  for (const Field& element : *elements) {
    const std::optional<std::string> text = element.word();
    if (!text) {
      continue;
    }
    try {
      const PublishedPort port = parse_published_port(*text);
      PublishedPort host_side = port;
      host_side.port = 0;
      if (port.host_port != 0 && !seen.insert(host_side.to_text()).second) {
        element.refuse("publishes a port of the host twice; remove one");
      } else {
        network.publish.push_back(port);
      }
    } catch (const std::invalid_argument& error) {
      element.refuse(error.what());
    }
  }
}

void read_dns(const Field& field, NetworkSpec& network) {
  read_members<NetworkSpec>(field, kDnsMembers, "/isolation/dns", network);
}

void read_rate(const Field& field, NetworkSpec& network) {
  read_members<NetworkSpec>(field, kRateMembers, "/isolation/rate", network);
}

void check_network(const Field& isolation, const NetworkSpec& network) {
  if (network.is_connected()) {
    return;
  }
  const auto needs_device = [&](bool given, const char* key) {
    if (given) {
      isolation.context().faults.push_back(
          {isolation.context().file, isolation.pointer() + "/" + key,
           "means nothing with the network \"" + network_mode_text(network) +
               "\"; make the network \"private\" or \"shared:NAME\", or remove it"});
    }
  };
  needs_device(network.egress != Egress{}, "egress");
  needs_device(!network.publish.empty(), "publish");
  needs_device(!network.dns_servers.empty() || !network.dns_search.empty() || !network.hosts.empty(), "dns");
  needs_device(network.rate_in || network.rate_out, "rate");
}

std::vector<ObjectFields> network_fields() {
  return {names_of<RuleReading>("/isolation/egress/*", kRuleMembers),
          names_of<NetworkSpec>("/isolation/dns", kDnsMembers),
          names_of<NetworkSpec>("/isolation/rate", kRateMembers)};
}

}  // namespace berth
