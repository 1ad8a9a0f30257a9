// DNS messages from jobs and from name servers: no crash, and a reply of berth's own always answers its
// query.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "executor/dns_message.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace berth;
  const std::string_view message(reinterpret_cast<const char*>(data), size);
  dns_addresses(message);
  const std::optional<DnsQuestion> question = parse_dns_query(message);
  if (!question) {
    return 0;
  }
  const std::string reply =
      make_dns_reply(message, *question, DnsCode::no_error,
                     {*IpAddress::parse("192.0.2.1"), *IpAddress::parse("2001:db8::1")}, 1);
  const bool has_type = question->type == kDnsTypeA || question->type == kDnsTypeAaaa;
  if (!is_reply_to(reply, message, question->id) || dns_addresses(reply).size() != (has_type ? 1U : 0U)) {
    std::abort();
  }
  return 0;
}
