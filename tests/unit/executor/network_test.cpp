// What of the network is pure: rules of addresses and names, DNS messages, the nftables text.
#include <catch2/catch.hpp>
#include <string>

#include "executor/dns_forwarder.h"
#include "executor/dns_message.h"
#include "executor/learned_addresses.h"
#include "executor/network_rules.h"
#include "schemas/network_settings.h"

namespace berth {
namespace {

using namespace std::string_literals;

const std::string kQuery =
    "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"s
    "\x03WwW\x07"
    "example\x03org\x00\x00\x01\x00\x01"s;

std::string reply_with(const std::string& records, char count) {
  std::string reply = kQuery;
  reply[2] = '\x81';
  reply[3] = '\x80';
  reply[7] = count;
  return reply + records;
}

TEST_CASE("a query is read, in lower case, and malformed ones are not") {
  const auto question = parse_dns_query(kQuery);
  REQUIRE(question);
  CHECK(question->id == 0x1234);
  CHECK(question->name == "www.example.org");
  CHECK(question->type == kDnsTypeA);
  CHECK(question->end == kQuery.size());
  for (std::size_t size = 0; size < kQuery.size(); ++size) {
    CHECK_FALSE(parse_dns_query(kQuery.substr(0, size)));
  }
  std::string loop = kQuery;
  loop.replace(12, 2, "\xC0\x0C"s);  // a name that points to itself
  CHECK_FALSE(parse_dns_query(loop));
}

TEST_CASE("addresses are those of the asked name, through its aliases only") {
  const std::string alias =
      "\xC0\x0C\x00\x05\x00\x01\x00\x00\x00\x3C\x00\x04\x01"
      "a\xC0\x10"s;
  const std::string address =
      "\x01"
      "a\xC0\x10\x00\x01\x00\x01\x00\x00\x00\x1E\x00\x04\x08\x08\x08\x08"s;
  const std::string other =
      "\x01"
      "b\xC0\x10\x00\x01\x00\x01\x00\x00\x00\x1E\x00\x04\x0A\x00\x00\x01"s;
  const std::string reply = reply_with(alias + other + address, 3);
  const auto found = dns_addresses(reply);
  REQUIRE(found.size() == 1);
  CHECK(found[0].address.to_text() == "8.8.8.8");
  CHECK(found[0].ttl == 30);
  CHECK(is_reply_to(reply, kQuery, 0x1234));
  CHECK_FALSE(is_reply_to(reply, kQuery, 0x1235));
  CHECK_FALSE(is_reply_to(kQuery, kQuery, 0x1234));
  for (std::size_t size = 0; size < reply.size(); ++size) {
    dns_addresses(reply.substr(0, size));  // whatever it says, it ends
  }
}

TEST_CASE("a query is passed on with its question and nothing else") {
  const auto question = parse_dns_query(kQuery);
  CHECK(bare_query(kQuery, *question) == kQuery);
  const std::string options =
      "\x00\x00\x29\x10\x00\x00\x00\x80\x00\x00\x08"
      "\xFD\xE9\x00\x04"
      "leak"s;
  std::string query = kQuery;
  query[11] = '\x01';  // one additional record
  const std::string bare = bare_query(query + options + "more", *question);
  CHECK(bare == query + "\x00\x00\x29\x10\x00\x00\x00\x80\x00\x00\x00"s);
  query[9] = '\x01';  // and one authority, which the message lacks
  CHECK(bare_query(query, *question) == kQuery);
}

TEST_CASE("a dot within a label ends none") {
  std::string query = kQuery;
  query.replace(query.find("\x07"
                           "example\x03org"),
                12,
                "\x0B"
                "example.org");
  const auto question = parse_dns_query(query);
  REQUIRE(question);
  CHECK(question->name == "www.example\\046org");
  CHECK_FALSE(dns_name_matches("*.example.org", question->name));
}

TEST_CASE("a chain of aliases in the wrong order is followed for a while, and a time beyond reason is none") {
  const auto alias = [](char from, char to) {
    return "\x01"s + from + "\xC0\x10\x00\x05\x00\x01\x00\x00\x00\x3C\x00\x04\x01"s + to + "\xC0\x10"s;
  };
  for (const int length : {10, 24}) {
    std::string records = "\x01"s + static_cast<char>('A' + length) +
                          "\xC0\x10\x00\x01\x00\x01\xFF\xFF\xFF\xFF\x00\x04\x08\x08\x08\x08"s;
    for (int link = length; link > 0; --link) {
      records += alias(static_cast<char>('A' + link - 1), static_cast<char>('A' + link));
    }
    records += "\xC0\x0C\x00\x05\x00\x01\x00\x00\x00\x3C\x00\x04\x01\x41\xC0\x10"s;
    const auto found = dns_addresses(reply_with(records, static_cast<char>(length + 2)));
    CHECK(found.size() == (length == 10 ? 1U : 0U));
    CHECK((found.empty() || found[0].ttl == 0));
  }
}

TEST_CASE("a name leads to public addresses, or to its rule's range") {
  const auto leads = [](const char* rule, const char* address) {
    return name_may_lead_to(parse_egress_rule(rule), *IpAddress::parse(address));
  };
  for (const char* address : {"8.8.8.8", "2001:4860::8", "203.0.113.1", "64:ff9b::808:808"}) {
    INFO(address);
    CHECK(leads("a.test", address));
  }
  for (const char* address : {"169.254.169.254", "10.0.0.1", "127.0.0.1", "0.0.0.0", "198.18.0.17",
                              "224.0.0.1", "fd00::1", "fe80::1", "::1", "::ffff:10.0.0.1", "::10.0.0.1",
                              "64:ff9b::a9fe:a9fe", "64:ff9b::e000:1", "64:ff9b::c612:1", "2002:a00:1::1"}) {
    INFO(address);
    CHECK_FALSE(leads("*.test", address));
  }
  CHECK(leads("a.test@10.0.0.0/8", "10.1.2.3"));
  CHECK_FALSE(leads("a.test@10.0.0.0/8", "8.8.8.8"));
  CHECK(leads("a.test@[fd00::/8]:80", "fd00::1"));
}

TEST_CASE("names of the job's own hosts file are open from the start") {
  NetworkSpec network;
  network.egress = {EgressMode::rules, {parse_egress_rule("10.0.0.0/8"), parse_egress_rule("*.test:80")}};
  network.hosts = {{"DB.test", *IpAddress::parse("10.9.9.9")}, {"other", *IpAddress::parse("10.9.9.8")}};
  CHECK(named_hosts_commands(16, network) == "add element inet berth names16_1v4 { 10.9.9.9 }\n");
}

TEST_CASE("an address that is open long enough is not opened again") {
  NetworkSpec network;
  network.egress = {EgressMode::rules, {parse_egress_rule("*.example.org")}};
  network.hosts = {{"own.example.org", *IpAddress::parse("192.0.2.7")}};
  LearnedAddresses learned;
  learned.begin(network);
  const LearnedAddresses::Time now{std::chrono::hours(1)};
  const std::vector<DnsAddress> answer{{*IpAddress::parse("192.0.2.1"), 60},
                                       {*IpAddress::parse("192.0.2.7"), 60}};
  const std::vector<DnsAddress> opened = learned.to_open(0, answer, now);
  REQUIRE(opened.size() == 1);  // the other one is open for good, and is to stay so
  CHECK(opened[0].address == answer[0].address);
  learned.note(0, opened, now);
  CHECK(learned.to_open(0, answer, now + std::chrono::seconds(30)).empty());
  CHECK(learned.to_open(0, answer, now + std::chrono::seconds(31)).size() == 1);
  CHECK(learned.to_open(1, answer, now).size() == 2);
  const std::vector<DnsAddress> longer{{answer[0].address, 3600}};
  CHECK(learned.to_open(0, longer, now).size() == 1);
}

TEST_CASE("a reply of our own carries the addresses of the asked type") {
  const auto question = parse_dns_query(kQuery);
  const std::string reply =
      make_dns_reply(kQuery, *question, DnsCode::no_error,
                     {*IpAddress::parse("198.18.0.16"), *IpAddress::parse("fd00::10")}, 1);
  const auto found = dns_addresses(reply);
  REQUIRE(found.size() == 1);
  CHECK(found[0].address.to_text() == "198.18.0.16");
  CHECK(is_reply_to(reply, kQuery, 0x1234));
}

TEST_CASE("a wildcard stands for the names below its domain") {
  CHECK(dns_name_matches("example.org", "example.org"));
  CHECK_FALSE(dns_name_matches("example.org", "a.example.org"));
  CHECK(dns_name_matches("*.example.org", "a.b.example.org"));
  CHECK_FALSE(dns_name_matches("*.example.org", "example.org"));
  CHECK_FALSE(dns_name_matches("*.example.org", "badexample.org"));
}

TEST_CASE("resolv.conf gives its name servers, and localhost without any") {
  const auto servers =
      parse_name_servers("# nameserver 1.1.1.1\nsearch x\nnameserver\t9.9.9.9 # us\n nameserver ::1\n");
  REQUIRE(servers.size() == 2);
  CHECK(servers[0].to_text() == "9.9.9.9");
  CHECK(servers[1].to_text() == "::1");
  CHECK(parse_name_servers("").at(0).to_text() == "127.0.0.1");
}

TEST_CASE("blocks divide the pool without overlap") {
  const Cidr v4 = *Cidr::parse("198.18.0.0/15");
  const Cidr v6 = *Cidr::parse("fd62:6572:7468::/48");
  REQUIRE(block_count(v4) == 32);
  for (unsigned number = 0; number < 32; ++number) {
    const AddressBlock block = block_of(v4, v6, number);
    CHECK(v4.contains(block.v4.address));
    for (unsigned other = 0; other < number; ++other) {
      CHECK_FALSE(block.v4.overlaps(block_of(v4, v6, other).v4));
      CHECK_FALSE(block.v6.overlaps(block_of(v4, v6, other).v6));
    }
  }
  CHECK(block_count(*Cidr::parse("10.9.8.0/24")) == 1);
  CHECK(block_of(*Cidr::parse("10.9.8.0/24"), v6, 0).end() == 255);
  CHECK(block_of(v4, v6, 3).v6_at(17).to_text() == "fd62:6572:7468:1230::11");
  CHECK(block_of(v4, v6, 3).name() == "berthc61230");
  const AddressBlock block = block_of(v4, v6, 3);
  CHECK(block.index_of(block.v4_at(4000)) == 4000);
  CHECK(block.index_of(block.v6_at(4000)) == 4000);
  CHECK(block.index_of(block_of(v4, v6, 4).v4_at(17)) == 0);
  CHECK(block.index_of(*IpAddress::parse("8.8.8.8")) == 0);
}

TEST_CASE("rules and ports read back as they were written") {
  for (const char* text : {"10.1.0.0/16:5432/tcp", "[fd00::/8]:443", "example.org:80,443", "*.example.org",
                           "public:443", "192.0.2.7/32/icmp", "public", "example.org:8000-8100/udp",
                           "db.internal@10.1.0.0/16:5432/tcp", "*.internal@[fd00::/8]:443"}) {
    CHECK(egress_rule_text(parse_egress_rule(text)) == text);
    CHECK(parse_egress_rule(egress_rule_text(parse_egress_rule(text))) == parse_egress_rule(text));
  }
  CHECK(egress_rule_text(parse_egress_rule("192.0.2.7/icmp")) == "192.0.2.7/32/icmp");
  for (const char* text :
       {"", "10.0.0.1/8", "10.0.0.0/33", "exa mple", "1.2.3", "x:0", "x:70000", "x:9-8", "x:", "*", "*.",
        "10.0.0.0/8:80/icmp", "[::1", "a@b", "@10.0.0.0/8", "1.2.3@10.0.0.0/8", "a@", "a@public"}) {
    INFO(text);
    CHECK_THROWS_AS(parse_egress_rule(text), std::invalid_argument);
  }
  for (const char* text : {"8080:80/tcp", "127.0.0.1:0:80/tcp", "[::1]:5353:53/udp"}) {
    CHECK(parse_published_port(text).to_text() == text);
  }
  for (const char* text : {"80", ":80", "80:", "80:0", "::1:80:80", "1.2.3:80:80", "80:80/sctp", "x:80:80"}) {
    INFO(text);
    CHECK_THROWS_AS(parse_published_port(text), std::invalid_argument);
  }
}

TEST_CASE("a job's policy ends in denial, and is taken back whole") {
  const AddressBlock block = block_of(*Cidr::parse("198.18.0.0/15"), *Cidr::parse("fd62:6572:7468::/48"), 0);
  Egress egress{EgressMode::rules, {parse_egress_rule("10.0.0.0/8:80/tcp"), parse_egress_rule("a.test")}};
  const std::string text = policy_commands(block, 16, egress);
  CHECK(text.find("add rule inet berth job16 ip daddr 10.0.0.0/8 tcp dport { 80 } accept") !=
        std::string::npos);
  CHECK(text.find("add rule inet berth job16 goto denied") > text.rfind("accept"));
  CHECK(text.find("198.18.0.16 : goto job16") != std::string::npos);
  const std::string back = remove_policy_commands(block, 16, egress);
  CHECK(back.find("delete chain inet berth job16") != std::string::npos);
  CHECK(back.find("delete set inet berth names16_1v4") != std::string::npos);
  CHECK(policy_commands(block, 16, Egress{}).empty());
}

TEST_CASE("a pool is one range of a family, or one of each") {
  NetworkSettings settings;
  parse_network_pool("10.77.0.0/16", settings);
  CHECK(settings.pool_text() == "10.77.0.0/16,fd62:6572:7468::/48");
  parse_network_pool("fd00:1:2::/48,10.78.0.0/24", settings);
  CHECK(settings.pool_text() == "10.78.0.0/24,fd00:1:2::/48");
  for (const char* wrong :
       {"", ",", "10.0.0.0/7", "10.0.0.0/25", "10.0.0.1/24", "fd00::/64", "fc00::/48", "2001:db8::/48",
        "10.0.0.0/16,", "10.0.0.0/16,10.1.0.0/16", "fd00::/48,fd01::/48"}) {
    CAPTURE(wrong);
    NetworkSettings changed = settings;
    CHECK_THROWS_AS(parse_network_pool(wrong, changed), std::invalid_argument);
    CHECK(changed == settings);
  }
}

}  // namespace
}  // namespace berth
