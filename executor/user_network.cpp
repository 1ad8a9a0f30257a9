#include "executor/user_network.h"

#include <linux/netlink.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include "executor/connection_counter.h"
#include "executor/dns_forwarder.h"
#include "executor/executor.h"
#include "executor/learned_addresses.h"
#include "executor/namespace_errand.h"
#include "executor/network_messages.h"
#include "executor/network_rules.h"
#include "executor/nft_tables.h"
#include "executor/pasta_process.h"
#include "executor/port_relay.h"

namespace berth {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kPastaPatience{10};  // for pasta, which needs 20 ms
constexpr const char* kDevice = "eth0";
constexpr const char* kTunDevice = "/dev/net/tun";
// Every such job has the same addresses, as nobody but pasta sees them.
constexpr std::uint32_t kGatewayIndex = 1;
constexpr std::uint32_t kJobIndex = 2;
constexpr std::uint32_t kResolverIndex = 5;  // not in the link's range
constexpr const char* kLinkPrefix = "30";

AddressBlock addresses() {
  return block_of(*Cidr::parse(kDefaultPoolV4), *Cidr::parse(kDefaultPoolV6), 0);
}

[[noreturn]] void refuse(const std::string& key, int error_number, const std::string& text) {
  throw LaunchError(key, error_number, key + ": " + text);
}

/// Of the job's namespace, opened in it.
enum OpenedInside : std::size_t { kLinks, kFilter, kEvents, kDatagrams, kStreams, kOpened };

/// In the job's namespaces, before the job: lo with the resolver's address, the rules, and the sockets that
/// berth needs of it.
std::vector<UniqueFd> prepare(const std::string& rules, const IpAddress& resolver) {
  // All ports are the job's own, and it has no capability that would let it bind the lower ones.
  write_setting("ipv4/ip_unprivileged_port_start", "0");
  const std::string group =
      std::to_string(::getegid());  // ping(8) likewise; there is no other in its namespace
  try_setting("ipv4/ping_group_range", (group + " " + group).c_str());
  UniqueFd links;
  {
    NetlinkSocket socket(NETLINK_ROUTE);
    NetlinkBatch batch;
    set_up(batch, kLoopback, "loopback");
    add_address(batch, kLoopback, resolver, resolver);
    socket.commit(batch);
    links = socket.release();
  }
  NftTables().run(rules);
  std::vector<UniqueFd> opened;
  opened.push_back(std::move(links));
  opened.push_back(NetlinkSocket(NETLINK_NETFILTER).release());
  opened.push_back(NetlinkSocket(NETLINK_NETFILTER).release());
  for (UniqueFd& socket : open_dns_sockets({resolver})) {
    opened.push_back(std::move(socket));
  }
  return opened;
}

std::string port_specification(const PublishedPort& port) {
  return (port.address ? port.address->to_text() + "/" : "") + std::to_string(port.host_port) + ":" +
         std::to_string(port.port);
}

}  // namespace

class UserNetwork::Endpoint final : public NetworkEndpoint, public DnsClient {
 public:
  Endpoint(UserNetwork& networks, pid_t pid) : networks_(networks), pid_(pid), block_(addresses()) {}

  void apply(const NetworkSpec& network, const std::string& hostname) override;
  std::string hosts_file(const NetworkSpec& network, const std::string& hostname) const override {
    return berth::hosts_file(hostname, {v4()}, network);
  }
  std::string resolver_file(const NetworkSpec& network) const override {
    return berth::resolver_file(resolver(), network);
  }
  const std::vector<PublishedPort>& published() const override { return published_; }
  void read(Usage& usage) override;

  const NetworkSpec& network() const override { return spec_; }
  std::vector<IpAddress> find_job(const std::string&) const override { return {}; }
  void learn(std::size_t rule, const std::vector<DnsAddress>& found) override;
  void count_refused() override { ++refused_queries_; }

 private:
  IpAddress v4() const { return block_.v4_at(kJobIndex); }
  IpAddress v6() const { return block_.v6_at(kJobIndex); }
  IpAddress resolver() const { return block_.v4_at(kResolverIndex); }
  std::vector<std::string> pasta_arguments() const;
  void start_pasta(NetlinkSocket& links);

  UserNetwork& networks_;
  pid_t pid_;
  AddressBlock block_;
  NetworkSpec spec_;
  std::vector<PublishedPort> published_;
  bool has_v4_ = false;
  bool has_v6_ = false;
  std::uint64_t refused_queries_ = 0;
  LearnedAddresses learned_;
  std::optional<NetlinkSocket> filter_;
  std::optional<ConnectionCounter> connections_;
  std::optional<DnsForwarder> names_;
  std::optional<PastaProcess> pasta_;
};

void UserNetwork::Endpoint::apply(const NetworkSpec& network, const std::string&) {
  spec_ = network;
  has_v4_ = has_default_route(networks_.host_links_, false);
  has_v6_ = has_default_route(networks_.host_links_, true);
  if (!has_v4_ && !has_v6_) {
    refuse("isolation.network", ENETUNREACH, "the host has no default route that pasta could use");
  }
  for (const PublishedPort& port : network.publish) {
    published_.push_back(PortRelay::find_free(port));
  }
  const std::string rules = user_rules(kJobIndex, network.egress, own_addresses(networks_.host_links_)) +
                            named_hosts_commands(kJobIndex, network);
  Descriptors opened = run_in_network_of(pid_, [&] { return prepare(rules, resolver()); });
  if (opened.size() != kOpened) {
    refuse("isolation.network", EPROTO, "the job's network could not be prepared");
  }
  NetlinkSocket links(opened.take(kLinks));
  filter_.emplace(opened.take(kFilter));
  connections_.emplace(networks_.loop_, NetlinkSocket(opened.take(kEvents)));
  connections_->add(kJobIndex, v4(), v6());
  std::vector<UniqueFd> sockets;
  sockets.push_back(opened.take(kDatagrams));
  sockets.push_back(opened.take(kStreams));
  learned_.begin(network);
  names_.emplace(networks_.loop_, std::move(sockets));
  // A query comes from whichever of its addresses the job has bound; there is nobody else.
  for (const IpAddress& own : {resolver(), v4(), *IpAddress::parse("127.0.0.1")}) {
    names_->add(own, *this);
  }
  start_pasta(links);
  if (network.rate_out) {
    NetlinkBatch batch;
    add_token_bucket(batch, find_link(links, kDevice), *network.rate_out);
    links.commit(batch);
  }
}

std::vector<std::string> UserNetwork::Endpoint::pasta_arguments() const {
  // --no-map-gw: the gateway's address would otherwise lead to the host's loopback. -T and -U: likewise ports
  // of the job's own loopback.
  std::vector<std::string> words{"--foreground", "--quiet",   "--config-net", "--ns-ifname", kDevice,
                                 "--no-map-gw",  "--no-dhcp", "--no-dhcpv6",  "--no-ra",     "--tcp-ns",
                                 "none",         "--udp-ns",  "none"};
  if (has_v4_) {
    words.insert(words.end(), {"--address", v4().to_text(), "--netmask", kLinkPrefix, "--gateway",
                               block_.v4_at(kGatewayIndex).to_text()});
  } else {
    words.emplace_back("--ipv6-only");
  }
  if (has_v6_) {
    words.insert(words.end(),
                 {"--address", v6().to_text(), "--gateway", block_.v6_at(kGatewayIndex).to_text()});
  } else {
    words.emplace_back("--ipv4-only");
  }
  if (spec_.rate_out) {
    words.insert(words.end(), {"--mtu", "1500"});  // a packet of 64 KiB is too much for an even rate
  }
  for (const NetworkProtocol protocol : {NetworkProtocol::tcp, NetworkProtocol::udp}) {
    const char* option = protocol == NetworkProtocol::tcp ? "--tcp-ports" : "--udp-ports";
    bool any = false;
    for (const PublishedPort& port : published_) {
      if (port.protocol == protocol) {
        words.insert(words.end(), {option, port_specification(port)});
        any = true;
      }
    }
    if (!any) {
      words.insert(words.end(), {option, "none"});
    }
  }
  words.push_back(std::to_string(pid_));
  return words;
}

/// Until its device has its routes, which is the last that it makes.
void UserNetwork::Endpoint::start_pasta(NetlinkSocket& links) {
  pasta_.emplace(PastaProcess::find_program(), pasta_arguments());
  const Clock::time_point deadline = Clock::now() + kPastaPatience;
  while ((has_v4_ && !has_default_route(links, false)) || (has_v6_ && !has_default_route(links, true))) {
    if (pasta_->has_ended()) {
      refuse("isolation.network", ECONNREFUSED, "pasta cannot connect the job: " + pasta_->last_words());
    }
    if (Clock::now() > deadline) {
      refuse("isolation.network", ETIMEDOUT,
             "pasta did not connect the job within 10 s: " + pasta_->last_words());
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void UserNetwork::Endpoint::learn(std::size_t rule, const std::vector<DnsAddress>& found) {
  const Clock::time_point now = Clock::now();
  const std::vector<DnsAddress> closed = learned_.to_open(rule, found, now);
  if (closed.empty()) {
    return;
  }
  const std::string commands = learned_address_commands(kJobIndex, rule, closed);
  try {
    run_in_network_of(pid_, [&] {
      NftTables().run(commands);
      return std::vector<UniqueFd>{};
    });
    learned_.note(rule, closed, now);
  } catch (const std::exception&) {
    // The job is gone, or the set is full: the address stays closed, which the job sees.
  }
}

void UserNetwork::Endpoint::read(Usage& usage) {
  if (!filter_) {
    return;
  }
  std::uint64_t denied = refused_queries_;
  for (const IpAddress& address : {v4(), v6(), resolver()}) {
    denied += denied_packets(*filter_, kRouterTable, address);
  }
  usage.network_denied_packets = denied;
  usage.network_connections_peak = connections_->peak(kJobIndex);
}

UserNetwork::UserNetwork() : host_links_(NETLINK_ROUTE) {}

std::unique_ptr<NetworkEndpoint> UserNetwork::attach(pid_t pid, const std::string&, uid_t) {
  return std::make_unique<Endpoint>(*this, pid);
}

void UserNetwork::check_supported(const NetworkSpec& network) {
  if (network.mode == NetworkMode::shared) {
    refuse(
        "isolation.network", EPERM,
        "\"" + network_mode_text(network) +
            "\" needs root: without, each job is connected alone; run berth as root or through sudo, or use "
            "\"private\"");
  }
  if (network.rate_in) {
    refuse("isolation.rate", EPERM,
           "\"in\" needs root: pasta has no limit for what comes in; run berth as root or through sudo, or "
           "leave it out");
  }
  if (PastaProcess::find_program().empty()) {
    refuse("isolation.network", ENOENT,
           "\"private\" needs root, or pasta: run berth as root or through sudo, install pasta (Debian's "
           "package passt), or use \"loopback\"");
  }
  if (::access(kTunDevice, R_OK | W_OK) != 0) {
    const int error_number = errno;
    refuse("isolation.network", error_number,
           std::string("\"private\" without root needs ") + kTunDevice + ": " +
               std::generic_category().message(error_number) +
               "; the administrator makes it everybody's with chmod 0666, as Debian has it");
  }
}

}  // namespace berth
