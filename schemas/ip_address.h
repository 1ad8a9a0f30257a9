// IpAddress and Cidr: internet addresses and ranges as users write them, and back.
//
// Pure values; safe from any thread. Parsing takes what inet_pton(3) takes, in the whole string.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace berth {

struct IpAddress {
  bool is_v6 = false;
  std::array<std::uint8_t, 16> bytes{};  ///< network order; the first four of an IPv4 address

  unsigned size() const { return is_v6 ? 16 : 4; }
  std::string to_text() const;
  static std::optional<IpAddress> parse(std::string_view text);
  static IpAddress v4(std::uint32_t host_order);
  std::uint32_t to_v4() const;  ///< host order; of an IPv4 address only

  auto operator<=>(const IpAddress&) const = default;
};

/// A range of addresses: those that agree with `address` in the first `prefix` bits. The others are zero.
struct Cidr {
  IpAddress address;
  unsigned prefix = 0;

  bool contains(const IpAddress& other) const;
  bool overlaps(const Cidr& other) const;
  std::string to_text() const;
  /// "10.0.0.0/8", "fd00::/8", or one address. Bits after the prefix must be zero.
  static std::optional<Cidr> parse(std::string_view text);

  auto operator<=>(const Cidr&) const = default;
};

}  // namespace berth
