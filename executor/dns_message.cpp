#include "executor/dns_message.h"

#include <algorithm>
#include <set>

namespace berth {
namespace {

constexpr std::size_t kHeader = 12;
constexpr std::uint16_t kClassIn = 1;
constexpr std::uint16_t kTypeCname = 5;
constexpr std::uint16_t kTypeOptions = 41;  // EDNS, RFC 6891
constexpr std::uint16_t kReplyBit = 0x8000;
constexpr std::uint16_t kOpcodeMask = 0x7800;
constexpr std::uint16_t kRecursionDesired = 0x0100;
constexpr std::uint16_t kRecursionAvailable = 0x0080;
constexpr std::uint16_t kAuthenticData = 0x0020;
constexpr std::uint16_t kCheckingDisabled = 0x0010;
constexpr std::uint32_t kLongestTtl = 0x7FFF'FFFF;  // more is to be read as 0, RFC 2181, section 8
/// Records may come in any order, and each pass over them finds one CNAME at least; a chain that needs more
/// passes is no host's.
constexpr int kMostPasses = 16;
/// A name has 255 bytes at most, so no more labels than that; each pointer must lead backwards.
constexpr int kMaximumLabels = 128;

std::uint16_t read_u16(std::string_view message, std::size_t at) {
  return static_cast<std::uint16_t>(static_cast<unsigned char>(message[at]) << 8U |
                                    static_cast<unsigned char>(message[at + 1]));
}
std::uint32_t read_u32(std::string_view message, std::size_t at) {
  return std::uint32_t{read_u16(message, at)} << 16U | read_u16(message, at + 2);
}
void write_u16(std::string& message, unsigned value) {
  message += static_cast<char>(value >> 8U);
  message += static_cast<char>(value & 0xFFU);
}

/// In lower case; what would be taken for the end of a label is written as RFC 1035, section 5.1, has it.
void append_character(std::string& name, char c) {
  if (c == '.' || c == '\\') {
    name += c == '.' ? "\\046" : "\\092";
  } else {
    name += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
}

/// A question's name has nothing before it that a pointer could lead to.
enum class Compression { allowed, refused };

/// Reads a name at `at` and moves behind it; nothing when it is malformed.
std::optional<std::string> read_name(std::string_view message, std::size_t& at,
                                     Compression compression = Compression::allowed) {
  std::string name;
  std::size_t position = at;
  bool jumped = false;
  for (int labels = 0; labels < kMaximumLabels; ++labels) {
    if (position >= message.size()) {
      return std::nullopt;
    }
    const auto size = static_cast<unsigned char>(message[position]);
    if ((size & 0xC0U) == 0xC0U) {  // compression, RFC 1035, section 4.1.4
      if (position + 1 >= message.size() || compression == Compression::refused) {
        return std::nullopt;
      }
      const std::size_t target = read_u16(message, position) & 0x3FFFU;
      if (!jumped) {
        at = position + 2;
      }
      jumped = true;
      if (target >= position) {
        return std::nullopt;
      }
      position = target;
      continue;
    }
    if ((size & 0xC0U) != 0) {
      return std::nullopt;
    }
    if (size == 0) {
      if (!jumped) {
        at = position + 1;
      }
      return name;
    }
    if (position + 1 + size > message.size() || name.size() + size > 255) {
      return std::nullopt;
    }
    name += name.empty() ? "" : ".";
    for (const char c : message.substr(position + 1, size)) {
      append_character(name, c);
    }
    position += 1U + size;
  }
  return std::nullopt;
}

struct Record {
  std::string owner;
  std::uint16_t type = 0;  ///< 0 for another class than IN
  std::uint16_t raw_type = 0;
  std::uint16_t record_class = 0;
  std::uint32_t ttl = 0;
  std::size_t data = 0;
  std::size_t size = 0;
};

std::optional<Record> read_record(std::string_view message, std::size_t& at) {
  Record record;
  std::optional<std::string> owner = read_name(message, at);
  if (!owner || at + 10 > message.size()) {
    return std::nullopt;
  }
  record.owner = std::move(*owner);
  record.raw_type = read_u16(message, at);
  record.record_class = read_u16(message, at + 2);
  record.ttl = read_u32(message, at + 4);
  record.size = read_u16(message, at + 8);
  record.data = at + 10;
  at = record.data + record.size;
  if (at > message.size()) {
    return std::nullopt;
  }
  record.type = record.record_class == kClassIn ? record.raw_type : std::uint16_t{0};
  return record;
}

}  // namespace

std::optional<DnsQuestion> parse_dns_query(std::string_view message) {
  if (message.size() < kHeader || (read_u16(message, 2) & (kReplyBit | kOpcodeMask)) != 0 ||
      read_u16(message, 4) != 1) {
    return std::nullopt;
  }
  DnsQuestion question;
  question.id = read_u16(message, 0);
  std::size_t at = kHeader;
  std::optional<std::string> name = read_name(message, at, Compression::refused);
  if (!name || at + 4 > message.size() || read_u16(message, at + 2) != kClassIn) {
    return std::nullopt;
  }
  question.name = std::move(*name);
  question.type = read_u16(message, at);
  question.end = at + 4;
  return question;
}

std::string bare_query(std::string_view query, const DnsQuestion& question) {
  std::optional<Record> options;
  std::size_t at = question.end;
  for (unsigned count = 0U + read_u16(query, 6) + read_u16(query, 8) + read_u16(query, 10); count > 0;
       --count) {
    std::optional<Record> record = read_record(query, at);
    if (!record) {
      break;
    }
    if (record->raw_type == kTypeOptions && record->owner.empty()) {
      options = std::move(record);
      break;
    }
  }
  std::string bare;
  write_u16(bare, question.id);
  write_u16(bare, read_u16(query, 2) & (kRecursionDesired | kAuthenticData | kCheckingDisabled));
  write_u16(bare, 1);
  write_u16(bare, 0);
  write_u16(bare, 0);
  write_u16(bare, options ? 1 : 0);
  bare += query.substr(kHeader, question.end - kHeader);
  if (options) {
    bare += '\0';  // the root's name
    write_u16(bare, kTypeOptions);
    write_u16(bare, options->record_class);   // how large a datagram may be
    write_u16(bare, 0);                       // version 0
    write_u16(bare, options->ttl & 0x8000U);  // whether DNSSEC's records are wanted
    write_u16(bare, 0);
  }
  return bare;
}

bool is_reply_to(std::string_view reply, std::string_view query, std::uint16_t id) {
  const std::optional<DnsQuestion> asked = parse_dns_query(query);
  if (!asked || reply.size() < asked->end || read_u16(reply, 0) != id ||
      (read_u16(reply, 2) & kReplyBit) == 0) {
    return false;
  }
  // Servers repeat the question byte by byte, letter case included.
  return reply.substr(kHeader, asked->end - kHeader) == query.substr(kHeader, asked->end - kHeader);
}

void set_dns_id(std::string& message, std::uint16_t id) {
  message.at(0) = static_cast<char>(id >> 8U);
  message.at(1) = static_cast<char>(id & 0xFFU);
}

std::vector<DnsAddress> dns_addresses(std::string_view reply) {
  std::vector<DnsAddress> addresses;
  std::size_t at = kHeader;
  if (reply.size() < kHeader || read_u16(reply, 4) != 1) {
    return addresses;
  }
  const std::optional<std::string> asked = read_name(reply, at, Compression::refused);
  at += 4;
  if (!asked || at > reply.size()) {
    return addresses;
  }
  std::vector<Record> records;
  for (unsigned count = read_u16(reply, 6); count > 0; --count) {
    std::optional<Record> record = read_record(reply, at);
    if (!record) {
      break;
    }
    records.push_back(std::move(*record));
  }
  std::set<std::string> names{*asked};
  bool grown = true;
  for (int pass = 0; grown && pass < kMostPasses; ++pass) {
    grown = false;
    for (const Record& record : records) {
      std::size_t data = record.data;
      if (record.type == kTypeCname && names.contains(record.owner)) {
        const std::optional<std::string> target = read_name(reply, data);
        grown = (target && names.insert(*target).second) || grown;
      }
    }
  }
  for (const Record& record : records) {
    const bool v6 = record.type == kDnsTypeAaaa;
    if ((v6 || record.type == kDnsTypeA) && record.size == (v6 ? 16U : 4U) && names.contains(record.owner)) {
      DnsAddress found;
      found.address.is_v6 = v6;
      std::transform(reply.begin() + static_cast<std::ptrdiff_t>(record.data),
                     reply.begin() + static_cast<std::ptrdiff_t>(record.data + record.size),
                     found.address.bytes.begin(), [](char c) { return static_cast<std::uint8_t>(c); });
      found.ttl = record.ttl <= kLongestTtl ? record.ttl : 0;
      addresses.push_back(found);
    }
  }
  return addresses;
}

std::string make_dns_reply(std::string_view query, const DnsQuestion& question, DnsCode code,
                           const std::vector<IpAddress>& addresses, std::uint32_t ttl) {
  std::string reply;
  write_u16(reply, question.id);
  const unsigned asked = read_u16(query, 2) & kRecursionDesired;
  write_u16(reply, kReplyBit | asked | kRecursionAvailable | static_cast<unsigned>(code));
  std::vector<IpAddress> answers;
  std::copy_if(
      addresses.begin(), addresses.end(), std::back_inserter(answers),
      [&](const IpAddress& address) { return question.type == (address.is_v6 ? kDnsTypeAaaa : kDnsTypeA); });
  write_u16(reply, 1);
  write_u16(reply, static_cast<unsigned>(answers.size()));
  write_u16(reply, 0);
  write_u16(reply, 0);
  reply += query.substr(kHeader, question.end - kHeader);
  for (const IpAddress& address : answers) {
    write_u16(reply, 0xC000U | kHeader);  // the question's name
    write_u16(reply, question.type);
    write_u16(reply, kClassIn);
    write_u16(reply, ttl >> 16U);
    write_u16(reply, ttl & 0xFFFFU);
    write_u16(reply, address.size());
    for (unsigned index = 0; index < address.size(); ++index) {
      reply += static_cast<char>(address.bytes.at(index));
    }
  }
  return reply;
}

bool dns_name_matches(std::string_view pattern, std::string_view name) {
  if (!pattern.starts_with("*.")) {
    return pattern == name;
  }
  pattern.remove_prefix(1);
  return name.size() > pattern.size() && name.ends_with(pattern);
}

}  // namespace berth
