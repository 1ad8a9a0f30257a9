#include "schemas/network_settings.h"

#include <algorithm>
#include <optional>
#include <stdexcept>

namespace berth {
namespace {

// A smaller range has too few addresses for jobs that follow each other, and 0.0.0.0/0 is everybody's.
constexpr unsigned kSmallestV4 = 24;
constexpr unsigned kLargestV4 = 8;
// RFC 4193, section 3: the global id of a unique local range ends at bit 48; the subnets below it are ours.
constexpr unsigned kPrefixV6 = 48;
constexpr std::uint8_t kLocallyAssigned = 0xFD;

bool is_pool(const Cidr& range) {
  return range.address.is_v6 ? range.prefix == kPrefixV6 && range.address.bytes[0] == kLocallyAssigned
                             : range.prefix >= kLargestV4 && range.prefix <= kSmallestV4;
}

}  // namespace

NetworkSettings NetworkSettings::of_user(std::uint32_t user_id) const {
  NetworkSettings settings = *this;
  settings.allow_privileged_ports = allow_privileged_ports || user_id == 0;
  return settings;
}

std::string NetworkSettings::pool_text() const {
  return pool_v4.to_text() + "," + pool_v6.to_text();
}

void parse_network_pool(std::string_view text, NetworkSettings& settings) {
  NetworkSettings changed = settings;
  bool has_v4 = false;
  bool has_v6 = false;
  while (true) {
    const std::size_t comma = std::min(text.find(','), text.size());
    const std::optional<Cidr> range = Cidr::parse(text.substr(0, comma));
    if (!range || !is_pool(*range)) {
      throw std::invalid_argument(
          "is not an IPv4 range of /8 to /24, an IPv6 range of /48 in fd00::/8, or both with a comma (use "
          "198.18.0.0/15,fd62:6572:7468::/48)");
    }
    bool& has = range->address.is_v6 ? has_v6 : has_v4;
    if (has) {
      throw std::invalid_argument("has two ranges of one family; give one IPv4 and one IPv6 range at most");
    }
    has = true;
    (range->address.is_v6 ? changed.pool_v6 : changed.pool_v4) = *range;
    if (comma == text.size()) {
      break;
    }
    text.remove_prefix(comma + 1);
  }
  settings = changed;
}

}  // namespace berth
