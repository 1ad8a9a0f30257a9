// DNS messages (RFC 1035), as far as a forwarder has to understand them. Pure; every length is checked, the
// bytes come from jobs and from name servers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "schemas/ip_address.h"

namespace berth {

enum class DnsCode : std::uint8_t {
  no_error = 0,
  format_error = 1,
  server_failure = 2,
  no_name = 3,
  refused = 5
};

constexpr std::uint16_t kDnsTypeA = 1;
constexpr std::uint16_t kDnsTypeAaaa = 28;

/// The one question of a query.
struct DnsQuestion {
  std::uint16_t id = 0;
  std::string name;  ///< lower case, without the last dot; a dot within a label is "\046"
  std::uint16_t type = 0;
  std::size_t end = 0;  ///< of the question, from the message's beginning
};

/// A standard query with one question of class IN; nothing for anything else.
std::optional<DnsQuestion> parse_dns_query(std::string_view message);
/// The same query with nothing but its question, and whether it takes long answers and DNSSEC's: whatever
/// else it carried would be a way out for a job that may ask for a name.
std::string bare_query(std::string_view query, const DnsQuestion& question);
/// Whether `reply` answers `query`, which was sent with `id`.
bool is_reply_to(std::string_view reply, std::string_view query, std::uint16_t id);
void set_dns_id(std::string& message, std::uint16_t id);

struct DnsAddress {
  IpAddress address;
  std::uint32_t ttl = 0;  ///< seconds
};
/// The addresses of the asked name in a reply, through its chain of CNAMEs.
std::vector<DnsAddress> dns_addresses(std::string_view reply);

/// A reply of our own to a query with this question; with `addresses` of the asked type as its answer.
std::string make_dns_reply(std::string_view query, const DnsQuestion& question, DnsCode code,
                           const std::vector<IpAddress>& addresses, std::uint32_t ttl);

/// Whether "*.example.org" or "example.org" stands for `name`; both in lower case.
bool dns_name_matches(std::string_view pattern, std::string_view name);

}  // namespace berth
