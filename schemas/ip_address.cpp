#include "schemas/ip_address.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>

namespace berth {
namespace {

bool same_prefix(const IpAddress& left, const IpAddress& right, unsigned bits) {
  for (unsigned bit = 0; bit < bits; ++bit) {
    const unsigned mask = 0x80U >> (bit % 8);
    if ((left.bytes.at(bit / 8) & mask) != (right.bytes.at(bit / 8) & mask)) {
      return false;
    }
  }
  return true;
}

}  // namespace

std::string IpAddress::to_text() const {
  std::array<char, INET6_ADDRSTRLEN> text{};
  ::inet_ntop(is_v6 ? AF_INET6 : AF_INET, bytes.data(), text.data(), text.size());
  return text.data();
}

std::optional<IpAddress> IpAddress::parse(std::string_view text) {
  const std::string terminated(text);
  IpAddress address;
  address.is_v6 = text.find(':') != std::string_view::npos;
  if (terminated.find('\0') != std::string::npos ||
      ::inet_pton(address.is_v6 ? AF_INET6 : AF_INET, terminated.c_str(), address.bytes.data()) != 1) {
    return std::nullopt;
  }
  return address;
}

IpAddress IpAddress::v4(std::uint32_t host_order) {
  IpAddress address;
  for (unsigned index = 0; index < 4; ++index) {
    address.bytes.at(index) = static_cast<std::uint8_t>(host_order >> (24 - 8 * index));
  }
  return address;
}

std::uint32_t IpAddress::to_v4() const {
  std::uint32_t number = 0;
  for (unsigned index = 0; index < 4; ++index) {
    number = number << 8U | bytes.at(index);
  }
  return number;
}

bool Cidr::contains(const IpAddress& other) const {
  return other.is_v6 == address.is_v6 && same_prefix(address, other, prefix);
}

bool Cidr::overlaps(const Cidr& other) const {
  return other.address.is_v6 == address.is_v6 &&
         same_prefix(address, other.address, std::min(prefix, other.prefix));
}

std::string Cidr::to_text() const {
  return address.to_text() + "/" + std::to_string(prefix);
}

std::optional<Cidr> Cidr::parse(std::string_view text) {
  const std::size_t slash = text.find('/');
  const std::optional<IpAddress> address = IpAddress::parse(text.substr(0, slash));
  if (!address) {
    return std::nullopt;
  }
  Cidr range{*address, address->size() * 8};
  if (slash != std::string_view::npos) {
    const std::string_view digits = text.substr(slash + 1);
    unsigned prefix = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), prefix);
    if (error != std::errc() || digits.empty() || end != digits.data() + digits.size() ||
        prefix > range.prefix) {
      return std::nullopt;
    }
    range.prefix = prefix;
  }
  for (unsigned bit = range.prefix; bit < address->size() * 8; ++bit) {
    if ((address->bytes.at(bit / 8) & (0x80U >> (bit % 8))) != 0) {
      return std::nullopt;
    }
  }
  return range;
}

}  // namespace berth
