#include "schemas/network_spec.h"

#include <algorithm>
#include <charconv>
#include <stdexcept>

#include "schemas/characters.h"

namespace berth {
namespace {

constexpr std::size_t kMaximumDnsName = 253;  // RFC 1035, section 2.3.4, as text
constexpr std::size_t kMaximumDnsLabel = 63;  // likewise
constexpr std::size_t kMaximumNetwork = 63;

std::uint16_t parse_port(std::string_view text, unsigned minimum) {
  unsigned number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (text.empty() || error != std::errc() || end != text.data() + text.size() || number < minimum ||
      number > 65535) {
    throw std::invalid_argument("has \"" + std::string(text) + "\" where a port from " +
                                std::to_string(minimum) + " to 65535 belongs");
  }
  return static_cast<std::uint16_t>(number);
}

/// Cuts "/tcp" off.
NetworkProtocol take_protocol(std::string_view& text, NetworkProtocol fallback, bool with_icmp) {
  const std::size_t slash = text.rfind('/');
  const std::string_view word = slash == std::string_view::npos ? "" : text.substr(slash + 1);
  NetworkProtocol protocol = fallback;
  if (word == "tcp") {
    protocol = NetworkProtocol::tcp;
  } else if (word == "udp") {
    protocol = NetworkProtocol::udp;
  } else if (word == "icmp" && with_icmp) {
    protocol = NetworkProtocol::icmp;
  } else {
    return fallback;  // no protocol: a prefix length, or nothing
  }
  text = text.substr(0, slash);
  return protocol;
}

const char* protocol_text(NetworkProtocol protocol) {
  switch (protocol) {
    case NetworkProtocol::tcp:
      return "/tcp";
    case NetworkProtocol::udp:
      return "/udp";
    case NetworkProtocol::icmp:
      return "/icmp";
    default:
      return "";
  }
}

/// An address may stand in brackets, and one of IPv6 before a port must.
struct AddressAndRest {
  std::string_view address;
  std::string_view rest;  ///< after the colon; empty when there is none
};
AddressAndRest split_address(std::string_view text) {
  if (text.starts_with('[')) {
    const std::size_t end = text.find(']');
    if (end == std::string_view::npos) {
      throw std::invalid_argument("lacks the \"]\" after its address");
    }
    std::string_view rest = text.substr(end + 1);
    if (!rest.empty() && (!rest.starts_with(':') || rest.size() == 1)) {
      throw std::invalid_argument("lacks \":\" and ports after the \"]\"");
    }
    rest.remove_prefix(rest.empty() ? 0 : 1);
    return {text.substr(1, end - 1), rest};
  }
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos || colon + 1 == text.size() ||
      text.find(':', colon + 1) != std::string_view::npos) {
    return {text, ""};  // none (the colon is then no part of a name), or an IPv6 address without brackets
  }
  return {text.substr(0, colon), text.substr(colon + 1)};
}

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return result;
}

}  // namespace

bool is_network_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaximumNetwork && is_letter_or_digit(name.front()) &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return is_letter_or_digit(c) || c == '-' || c == '_' || c == '.'; });
}

bool is_domain_name(std::string_view name, bool wildcard) {
  if (wildcard && name.starts_with("*.")) {
    name.remove_prefix(2);
  }
  if (name.empty() || name.size() > kMaximumDnsName) {
    return false;
  }
  while (true) {
    const std::size_t dot = name.find('.');
    const std::string_view label = name.substr(0, dot);
    // Underscores are not RFC 1123's, but are in use (_service._tcp).
    if (label.empty() || label.size() > kMaximumDnsLabel || label.front() == '-' || label.back() == '-' ||
        !std::all_of(label.begin(), label.end(),
                     [](char c) { return is_letter_or_digit(c) || c == '-' || c == '_'; })) {
      return false;
    }
    if (dot == std::string_view::npos) {
      return true;
    }
    name.remove_prefix(dot + 1);
  }
}

std::vector<PortRange> parse_port_list(std::string_view text) {
  std::vector<PortRange> ports;
  while (true) {
    const std::size_t comma = text.find(',');
    const std::string_view part = text.substr(0, comma);
    const std::size_t dash = part.find('-');
    PortRange range;
    range.first = parse_port(part.substr(0, dash), 1);
    range.last = dash == std::string_view::npos ? range.first : parse_port(part.substr(dash + 1), 1);
    if (range.last < range.first) {
      throw std::invalid_argument("has the port range " + std::string(part) + ", which is empty");
    }
    ports.push_back(range);
    if (comma == std::string_view::npos) {
      return ports;
    }
    text.remove_prefix(comma + 1);
  }
}

namespace {

/// A name that looks like an address is a mistake.
bool is_egress_host(std::string_view host) {
  return is_domain_name(host, true) &&
         !std::all_of(host.begin(), host.end(), [](char c) { return c == '.' || (c >= '0' && c <= '9'); });
}

}  // namespace

EgressRule parse_egress_rule(std::string_view text) {
  EgressRule rule;
  rule.protocol = take_protocol(text, NetworkProtocol::any, true);
  const std::size_t at = text.find('@');
  const bool has_both = at != std::string_view::npos;
  std::string_view host;
  if (has_both) {
    host = text.substr(0, at);
    text.remove_prefix(at + 1);
  }
  const AddressAndRest parts = split_address(text);
  if (!parts.rest.empty()) {
    rule.ports = parse_port_list(parts.rest);
  }
  rule.range = Cidr::parse(parts.address);
  const bool is_public = !has_both && parts.address == "public";
  if (!has_both && !rule.range && !is_public) {
    host = parts.address;
  }
  const bool needs_host = has_both || (!rule.range && !is_public);
  if ((has_both && !rule.range) || (needs_host && !is_egress_host(host))) {
    throw std::invalid_argument(
        "does not name what may be reached (use 10.1.0.0/16:5432, [fd00::/8]:443, example.org:80,443/tcp, "
        "*.example.org, db.internal@10.1.0.0/16 or public; a range has no bits after its prefix)");
  }
  rule.host = lower(host);
  if (rule.protocol == NetworkProtocol::icmp && !rule.ports.empty()) {
    throw std::invalid_argument("gives ports of ICMP, which has none");
  }
  return rule;
}

std::string egress_rule_text(const EgressRule& rule) {
  const bool has_ports = !rule.ports.empty();
  std::string text = rule.range ? rule.range->to_text() : rule.host.empty() ? "public" : rule.host;
  if (rule.range && rule.range->address.is_v6) {
    text = "[" + text + "]";
  }
  text = rule.range && !rule.host.empty() ? rule.host + "@" + text : text;
  for (std::size_t index = 0; has_ports && index < rule.ports.size(); ++index) {
    const PortRange& range = rule.ports[index];
    text += (index == 0 ? ":" : ",") + std::to_string(range.first);
    text += range.last != range.first ? "-" + std::to_string(range.last) : "";
  }
  return text + protocol_text(rule.protocol);
}

PublishedPort parse_published_port(std::string_view text) {
  constexpr const char* kForm =
      "is not a published port (use 8080:80, 127.0.0.1:8080:80/tcp, [::1]:5353:53/udp, or 0:80 for a free "
      "port)";
  PublishedPort port;
  port.protocol = take_protocol(text, NetworkProtocol::tcp, false);
  const std::size_t last = text.rfind(':');
  if (last == std::string_view::npos || last == 0) {
    throw std::invalid_argument(kForm);
  }
  port.port = parse_port(text.substr(last + 1), 1);
  std::string_view host = text.substr(0, last);
  const std::size_t colon = host.rfind(':');
  if (colon != std::string_view::npos) {
    std::string_view address = host.substr(0, colon);
    if (address.starts_with('[') && address.ends_with(']')) {
      address = address.substr(1, address.size() - 2);
    } else if (address.find(':') != std::string_view::npos) {
      throw std::invalid_argument(kForm);
    }
    port.address = IpAddress::parse(address);
    if (!port.address) {
      throw std::invalid_argument(kForm);
    }
    host.remove_prefix(colon + 1);
  }
  port.host_port = parse_port(host, 0);
  return port;
}

std::string PublishedPort::to_text() const {
  const std::string host = !address         ? ""
                           : address->is_v6 ? "[" + address->to_text() + "]:"
                                            : address->to_text() + ":";
  return host + std::to_string(host_port) + ":" + std::to_string(port) + protocol_text(protocol);
}

std::string published_text(const PublishedPort& port) {
  const std::string host = !port.address         ? "*"
                           : port.address->is_v6 ? "[" + port.address->to_text() + "]"
                                                 : port.address->to_text();
  return host + ":" + std::to_string(port.host_port) + "->" + std::to_string(port.port) +
         protocol_text(port.protocol);
}

std::string network_mode_text(const NetworkSpec& network) {
  switch (network.mode) {
    case NetworkMode::none:
      return "none";
    case NetworkMode::loopback:
      return "loopback";
    case NetworkMode::isolated:
      return "private";
    case NetworkMode::host:
      return "host";
    case NetworkMode::shared:
      return "shared:" + network.shared_name;
  }
  return "";
}

}  // namespace berth
