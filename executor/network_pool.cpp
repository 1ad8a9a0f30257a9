#include "executor/network_pool.h"

#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "executor/connection_counter.h"
#include "executor/descriptor_loop.h"
#include "executor/dns_forwarder.h"
#include "executor/executor.h"
#include "executor/learned_addresses.h"
#include "executor/netlink.h"
#include "executor/network_messages.h"
#include "executor/network_namespace.h"
#include "executor/network_rules.h"
#include "executor/nft_tables.h"
#include "executor/os/syscall.h"
#include "executor/port_relay.h"

namespace berth {
namespace {

/// Addresses that are made known to the rules and the private bridge at a time.
constexpr std::uint32_t kChunk = 64;
/// Interface indexes, chosen by us so that nothing has to be looked up.
constexpr int kJobDevice = 2;
constexpr int kPrivateBridge = 11;
constexpr int kFirstSharedBridge = 1000;
constexpr int kFirstPort = 1'000'000;
constexpr const char* kJobDeviceName = "eth0";
constexpr const char* kPrivateBridgeName = "private";

/// Half the descriptors that this process may have, at two each.
std::size_t most_relayed_clients() {
  return descriptor_limit().rlim_cur / 4;
}

}  // namespace

class NetworkPool::Implementation {
 public:
  Implementation(std::string name, const NetworkSettings& settings)
      : name_(std::move(name)),
        settings_(settings),
        router_(NetworkNamespace::create()),
        host_links_(NETLINK_ROUTE),
        host_filter_(NETLINK_NETFILTER),
        router_links_(router_.inside([] { return NetlinkSocket(NETLINK_ROUTE); })),
        router_filter_(router_.inside([] { return NetlinkSocket(NETLINK_NETFILTER); })),
        router_tables_(router_.inside([] { return NftTables(); })) {
    prepare_router();
    make_uplink();
    host_tables_.run(host_rules(block_));
    router_tables_.run(router_rules(block_, settings_.connections));
    connections_.emplace(loop_, router_.inside([] { return NetlinkSocket(NETLINK_NETFILTER); }));
    names_.emplace(loop_, router_.inside([&] { return open_dns_sockets(in_use(AddressBlock::kGateway)); }));
  }

  ~Implementation() {
    // The kernel would remove it, some time after the router's namespace is gone.
    try {
      NetlinkBatch batch;
      remove_link(batch, uplink_, block_.name());
      host_links_.commit(batch);
    } catch (const std::exception&) {
      // Whoever removed it before us did no harm.
    }
  }

  class Endpoint;
  std::unique_ptr<NetworkEndpoint> attach(pid_t pid, const std::string& shared_name, uid_t owner);
  DescriptorLoop& loop() { return loop_; }

 private:
  struct Network {
    int bridge = 0;
    std::string name;
    std::set<Endpoint*> members;
  };
  using NetworkKey = std::pair<uid_t, std::string>;

  void prepare_router();
  void make_uplink();
  bool try_block(unsigned number, const std::vector<Cidr>& routed);
  void add_uplink_addresses();
  /// Addresses of an index: both, or without IPv6 the one.
  std::vector<IpAddress> in_use(std::uint32_t index) const {
    return v6_ ? std::vector{block_.v4_at(index), block_.v6_at(index)} : std::vector{block_.v4_at(index)};
  }
  std::uint32_t take_index();
  void make_known(std::uint32_t last);
  void forget_connections();
  Network& network_of(const NetworkKey& key);
  void leave(const NetworkKey& key, Endpoint* endpoint);

  std::string name_;
  NetworkSettings settings_;
  NetworkNamespace router_;
  NetlinkSocket host_links_;
  NetlinkSocket host_filter_;
  NetlinkSocket router_links_;
  NetlinkSocket router_filter_;
  NftTables host_tables_;
  NftTables router_tables_;
  AddressBlock block_;
  int uplink_ = 0;         ///< index of the host's end
  int router_uplink_ = 0;  ///< of the router's
  bool v6_ = true;         ///< the host has IPv6 at all
  bool v6_out_ = false;
  std::set<std::uint32_t> used_;
  std::set<std::uint32_t> known_to_connections_;  ///< had by a job since connections were last forgotten
  std::map<std::uint32_t, std::uint64_t> denied_before_;  ///< by index: what earlier jobs had counted
  std::uint32_t next_ = AddressBlock::kFirstJob;
  std::uint32_t known_ = AddressBlock::kFirstJob;  ///< indexes below are known to rules and bridge
  DescriptorLoop loop_;
  std::optional<ConnectionCounter> connections_;
  std::optional<DnsForwarder> names_;
  RelayedClients relayed_{most_relayed_clients(), 0};
  std::map<NetworkKey, Network> networks_;
  int last_bridge_ = kFirstSharedBridge;
};

void NetworkPool::Implementation::prepare_router() {
  router_.inside([&] {
    write_setting("ipv4/ip_forward", "1");
    write_setting("ipv4/conf/all/send_redirects", "0");
    write_setting("ipv4/conf/default/send_redirects", "0");
    write_setting("ipv4/conf/all/rp_filter", "0");
    write_setting("ipv4/conf/default/rp_filter", "0");
    try_setting("ipv6/conf/all/forwarding", "1");
    try_setting("ipv6/conf/default/accept_dad", "0");
    // Where bridged packets pass the IP hooks too, they would pass them twice (br_netfilter).
    try_setting("bridge/bridge-nf-call-iptables", "0");
    try_setting("bridge/bridge-nf-call-ip6tables", "0");
    try_setting("bridge/bridge-nf-call-arptables", "0");
  });
}

bool NetworkPool::Implementation::try_block(unsigned number, const std::vector<Cidr>& routed) {
  block_ = block_of(settings_.pool_v4, settings_.pool_v6, number);
  if (std::any_of(routed.begin(), routed.end(), [&](const Cidr& range) {
        return range.overlaps(block_.v4) || range.overlaps(block_.v6);
      })) {
    return false;
  }
  NetlinkBatch batch;
  add_veth(batch, {block_.name(), 0, mac_of(AddressBlock::kHost)}, 0,
           {kUplinkInRouter, 0, mac_of(AddressBlock::kRouter)}, router_.descriptor());
  batch.put_text(IFLA_IFALIAS, "berth " + name_);
  try {
    host_links_.commit(batch);
  } catch (const std::system_error& error) {
    if (error.code().value() == EEXIST) {
      return false;  // another berth was quicker
    }
    throw;
  }
  return true;
}

void NetworkPool::Implementation::make_uplink() {
  const std::vector<Cidr> routed = routed_ranges(host_links_);
  const unsigned count = block_count(settings_.pool_v4);
  // Starting where the last berth probably did not: its addresses rest.
  const unsigned start = static_cast<unsigned>(::getpid()) % count;
  for (unsigned step = 0; step < count; ++step) {
    if (try_block((start + step) % count, routed)) {
      uplink_ = static_cast<int>(::if_nametoindex(block_.name().c_str()));
      router_uplink_ = static_cast<int>(router_.inside([] { return ::if_nametoindex(kUplinkInRouter); }));
      add_uplink_addresses();
      return;
    }
  }
  throw LaunchError("network", EADDRINUSE,
                    "network: no free block of addresses in " + settings_.pool_v4.to_text() +
                        ": other berths have them, or the host has routes there; give another pool with "
                        "--network-pool");
}

void NetworkPool::Implementation::add_uplink_addresses() {
  const IpAddress host4 = block_.v4_at(AddressBlock::kHost);
  const IpAddress router4 = block_.v4_at(AddressBlock::kRouter);
  const IpAddress host6 = block_.v6_at(AddressBlock::kHost);
  const IpAddress router6 = block_.v6_at(AddressBlock::kRouter);
  const std::string name = block_.name();
  NetlinkBatch host;
  set_up(host, uplink_, "uplink");
  add_address(host, uplink_, host4, router4);
  // Without a link-local address there is nobody to ask for a neighbour (ndisc_send_ns() in
  // net/ipv6/ndisc.c).
  add_neighbour(host, uplink_, router4, mac_of(AddressBlock::kRouter));
  add_route(host, {block_.v4, router4, host4, uplink_, false});
  host_links_.commit(host);
  write_setting("ipv4/conf/" + name + "/forwarding", "1");
  try {
    NetlinkBatch host_v6;
    add_address(host_v6, uplink_, host6, router6);
    add_neighbour(host_v6, uplink_, router6, mac_of(AddressBlock::kRouter));
    add_route(host_v6, {block_.v6, router6, std::nullopt, uplink_, true});
    host_links_.commit(host_v6);
  } catch (const std::system_error&) {
    v6_ = false;  // switched off on this host
  }
  // Linux 6.17 forwards IPv6 from one device; before, only when all do, which is the administrator's to say.
  try_setting("ipv6/conf/" + name + "/force_forwarding", "1");
  v6_out_ = v6_ && (setting_is("ipv6/conf/" + name + "/force_forwarding", '1') ||
                    setting_is("ipv6/conf/all/forwarding", '1'));
  NetlinkBatch router;
  set_up(router, kLoopback, "loopback");
  set_up(router, router_uplink_, "uplink");
  add_address(router, router_uplink_, router4, host4);
  add_neighbour(router, router_uplink_, host4, mac_of(AddressBlock::kHost));
  add_route(router, {std::nullopt, host4, std::nullopt, router_uplink_, false});
  if (v6_) {
    add_address(router, router_uplink_, router6, host6);
    add_neighbour(router, router_uplink_, host6, mac_of(AddressBlock::kHost));
  }
  if (v6_out_) {
    add_route(router, {std::nullopt, host6, std::nullopt, router_uplink_, true});
  }
  add_bridge(router, kPrivateBridge, kPrivateBridgeName);
  const IpAddress gateway4 = block_.v4_at(AddressBlock::kGateway);
  const IpAddress gateway6 = block_.v6_at(AddressBlock::kGateway);
  add_address(router, kLoopback, gateway4, gateway4);
  add_route(router, {block_.v4, std::nullopt, gateway4, kPrivateBridge, false});
  if (v6_) {
    add_address(router, kLoopback, gateway6, gateway6);
    add_route(router, {block_.v6, std::nullopt, gateway6, kPrivateBridge, true});
  }
  router_links_.commit(router);
  // Ports of bridges need no addresses of their own.
  router_.inside([] { try_setting("ipv6/conf/default/disable_ipv6", "1"); });
}

/// The one that was used longest ago.
std::uint32_t NetworkPool::Implementation::take_index() {
  const std::uint32_t end = block_.end();
  for (std::uint32_t tries = AddressBlock::kFirstJob; tries < end; ++tries) {
    const std::uint32_t index = next_;
    if (index + 1 < end) {
      next_ = index + 1;
    } else {
      next_ = AddressBlock::kFirstJob;
    }
    if (!used_.contains(index)) {
      if (!known_to_connections_.insert(index).second) {
        forget_connections();
        known_to_connections_ = used_;
        known_to_connections_.insert(index);
      }
      make_known(index + 1);
      used_.insert(index);
      return index;
    }
  }
  throw LaunchError("network", EADDRNOTAVAIL,
                    "network: all addresses of " + block_.v4.to_text() +
                        " are in use; run fewer jobs at once, or give a larger pool with --network-pool");
}

/// Before addresses are given out again: what their last jobs had open is not an opening for the next.
void NetworkPool::Implementation::forget_connections() {
  delete_connections(router_filter_, [&](const IpAddress& address) {
    const std::uint32_t index = block_.index_of(address);
    return index >= AddressBlock::kFirstJob && !used_.contains(index);
  });
}

void NetworkPool::Implementation::make_known(std::uint32_t last) {
  while (known_ < last) {
    const std::uint32_t end = std::min(known_ + kChunk, block_.end());
    router_tables_.run(source_elements(block_, known_, end));
    NetlinkBatch batch;
    for (std::uint32_t index = known_; index < end; ++index) {
      for (const IpAddress& address : in_use(index)) {
        add_neighbour(batch, kPrivateBridge, address, mac_of(index));
      }
    }
    router_links_.commit(batch);
    known_ = end;
  }
}

NetworkPool::Implementation::Network& NetworkPool::Implementation::network_of(const NetworkKey& key) {
  const auto [entry, is_new] = networks_.try_emplace(key);
  Network& network = entry->second;
  if (is_new) {
    try {
      network.bridge = ++last_bridge_;
      network.name = "net" + std::to_string(network.bridge);
      NetlinkBatch batch;
      add_bridge(batch, network.bridge, network.name);
      router_links_.commit(batch);
      router_.inside([&] { try_setting("ipv6/conf/" + network.name + "/disable_ipv6", "0"); });
      router_tables_.run(std::string("add element inet ") + kRouterTable + " shared { \"" + network.name +
                         "\" . \"" + network.name + "\" }\n");
    } catch (...) {
      networks_.erase(entry);
      throw;
    }
  }
  return network;
}

class NetworkPool::Implementation::Endpoint final : public NetworkEndpoint, public DnsClient {
 public:
  Endpoint(Implementation& pool, pid_t pid, const std::string& shared_name, uid_t owner)
      : pool_(pool), index_(pool.take_index()) {
    try {
      if (!shared_name.empty()) {
        key_.emplace(owner, shared_name);
        Network& network = pool_.network_of(*key_);
        network.members.insert(this);
        bridge_ = network.bridge;
      }
      connect(pid);
      pool_.connections_->add(index_, v4(), v6());
    } catch (...) {
      release();
      throw;
    }
  }
  ~Endpoint() override {
    pool_.names_->remove(v4());
    pool_.names_->remove(v6());
    pool_.connections_->remove(index_, v4(), v6());
    try {
      const std::string commands = applied_ ? remove_policy_commands(pool_.block_, index_, spec_.egress) : "";
      if (!commands.empty()) {
        pool_.router_tables_.run(commands);
      }
    } catch (const std::exception&) {
      // The rules of an address that nobody has; they go with the router.
    }
    release();
  }

  void apply(const NetworkSpec& network, const std::string& hostname) override;
  std::string hosts_file(const NetworkSpec& network, const std::string& hostname) const override {
    return berth::hosts_file(hostname, pool_.in_use(index_), network);
  }
  std::string resolver_file(const NetworkSpec& network) const override {
    return berth::resolver_file(pool_.block_.v4_at(AddressBlock::kGateway), network);
  }
  const std::vector<PublishedPort>& published() const override { return published_; }
  void read(Usage& usage) override;

  const NetworkSpec& network() const override { return spec_; }
  std::vector<IpAddress> find_job(const std::string& name) const override;
  void learn(std::size_t rule, const std::vector<DnsAddress>& addresses) override;
  void count_refused() override { ++refused_queries_; }

 private:
  IpAddress v4() const { return pool_.block_.v4_at(index_); }
  IpAddress v6() const { return pool_.block_.v6_at(index_); }
  /// The router's end of its veth pair.
  int port() const { return kFirstPort + static_cast<int>(index_); }
  void connect(pid_t pid);
  /// Throws LaunchError when the bridge has no port left.
  void commit_port(NetlinkBatch& batch);
  void release();

  Implementation& pool_;
  std::uint32_t index_;
  int bridge_ = kPrivateBridge;
  std::optional<NetworkKey> key_;
  std::optional<NetlinkSocket> inside_;  ///< until the job starts; it keeps the job's namespace
  std::string hostname_;
  NetworkSpec spec_;
  bool applied_ = false;
  LearnedAddresses learned_;
  std::optional<PortRelay> relay_;
  std::uint64_t refused_queries_ = 0;
  std::vector<PublishedPort> published_;
};

void NetworkPool::Implementation::Endpoint::commit_port(NetlinkBatch& batch) {
  try {
    pool_.router_links_.commit(batch);
  } catch (const std::system_error& error) {
    if (error.code().value() != EXFULL) {
      throw;
    }
    throw LaunchError(
        "network", EXFULL,
        "this berth has as many jobs in one network as a bridge has ports (1,023): run it again "
        "when some of them have ended, or have berthd start more runners");
  }
}

void NetworkPool::Implementation::Endpoint::connect(pid_t pid) {
  const NetworkNamespace job = NetworkNamespace::of_process(pid);
  inside_.emplace(job.inside([] {
    // All ports are the job's own, and it has no capability that would let it bind the lower ones.
    write_setting("ipv4/ip_unprivileged_port_start", "0");
    try_setting("ipv4/ping_group_range", "0 2147483647");  // ping(8) likewise
    return NetlinkSocket(NETLINK_ROUTE);
  }));
  const AddressBlock& block = pool_.block_;
  NetlinkBatch router;
  add_veth(router, {port_name(index_), port(), std::nullopt}, bridge_,
           {kJobDeviceName, kJobDevice, mac_of(index_)}, job.descriptor());
  add_port_rules(router, port(), mac_of(index_));
  if (key_) {
    for (const IpAddress& own : pool_.in_use(index_)) {
      const IpAddress gateway =
          own.is_v6 ? block.v6_at(AddressBlock::kGateway) : block.v4_at(AddressBlock::kGateway);
      add_neighbour(router, bridge_, own, mac_of(index_));
      add_route(router, {Cidr{own, own.size() * 8}, std::nullopt, gateway, bridge_, own.is_v6});
    }
  }
  commit_port(router);

  NetlinkBatch inside;
  set_up(inside, kJobDevice, kJobDeviceName, IFF_NOARP);
  for (const IpAddress& own : pool_.in_use(index_)) {
    const IpAddress gateway =
        own.is_v6 ? block.v6_at(AddressBlock::kGateway) : block.v4_at(AddressBlock::kGateway);
    add_address(inside, kJobDevice, own, own);
    add_neighbour(inside, kJobDevice, gateway, mac_of(0));
    add_route(inside, {std::nullopt, gateway, std::nullopt, kJobDevice, own.is_v6});
  }
  inside_->commit(inside);
}

void NetworkPool::Implementation::Endpoint::apply(const NetworkSpec& network, const std::string& hostname) {
  hostname_ = lower_case(hostname);
  spec_ = network;
  const std::string commands =
      policy_commands(pool_.block_, index_, spec_.egress) + named_hosts_commands(index_, spec_);
  if (!commands.empty()) {
    pool_.router_tables_.run(commands);
  }
  learned_.begin(spec_);
  applied_ = true;
  if (network.rate_in) {
    NetlinkBatch batch;
    add_token_bucket(batch, port(), *network.rate_in);
    pool_.router_links_.commit(batch);
  }
  if (network.rate_out) {
    NetlinkBatch batch;
    add_token_bucket(batch, kJobDevice, *network.rate_out);
    inside_->commit(batch);
  }
  if (!network.publish.empty()) {
    relay_.emplace(pool_.loop_, pool_.router_, pool_.in_use(index_), pool_.relayed_);
    for (const PublishedPort& port : network.publish) {
      published_.push_back(relay_->publish(port));
    }
  }
  pool_.names_->add(v4(), *this);
  pool_.names_->add(v6(), *this);
  inside_.reset();
}

std::vector<IpAddress> NetworkPool::Implementation::Endpoint::find_job(const std::string& name) const {
  std::vector<IpAddress> addresses;
  if (key_) {
    for (const Endpoint* member : pool_.networks_.at(*key_).members) {
      if (member->applied_ && member->hostname_ == name) {
        for (const IpAddress& address : pool_.in_use(member->index_)) {
          addresses.push_back(address);
        }
      }
    }
  }
  return addresses;
}

void NetworkPool::Implementation::Endpoint::learn(std::size_t rule,
                                                  const std::vector<DnsAddress>& addresses) {
  const auto now = std::chrono::steady_clock::now();
  const std::vector<DnsAddress> closed = learned_.to_open(rule, addresses, now);
  if (closed.empty()) {
    return;
  }
  try {
    pool_.router_tables_.run(learned_address_commands(index_, rule, closed));
    learned_.note(rule, closed, now);
  } catch (const LaunchError&) {
    // The set is full: the address stays closed, which the job sees.
  }
}

void NetworkPool::Implementation::Endpoint::read(Usage& usage) {
  std::uint64_t denied = 0;
  for (const IpAddress& address : {v4(), v6()}) {
    denied += denied_packets(pool_.router_filter_, kRouterTable, address);
    denied += denied_packets(pool_.host_filter_, pool_.block_.name(), address);
  }
  const std::uint64_t before = std::exchange(pool_.denied_before_[index_], denied);
  usage.network_denied_packets = denied - std::min(before, denied) + refused_queries_;
  usage.network_connections_peak = pool_.connections_->peak(index_);
}

void NetworkPool::Implementation::Endpoint::release() {
  if (key_) {
    try {
      NetlinkBatch batch;
      for (const IpAddress& address : pool_.in_use(index_)) {
        remove_neighbour(batch, bridge_, address);
        add_route(batch,
                  {Cidr{address, address.size() * 8}, std::nullopt, std::nullopt, bridge_, address.is_v6},
                  RTM_DELROUTE, ESRCH);
      }
      pool_.router_links_.commit(batch);
    } catch (const std::exception&) {
      // Not made yet, or gone with the bridge.
    }
    pool_.leave(*key_, this);
  }
  pool_.used_.erase(index_);
}

void NetworkPool::Implementation::leave(const NetworkKey& key, Endpoint* endpoint) {
  const auto entry = networks_.find(key);
  if (entry == networks_.end()) {
    return;
  }
  entry->second.members.erase(endpoint);
  if (!entry->second.members.empty()) {
    return;
  }
  try {
    const Network& network = entry->second;
    router_tables_.run(std::string("delete element inet ") + kRouterTable + " shared { \"" + network.name +
                       "\" . \"" + network.name + "\" }\n");
    NetlinkBatch batch;
    remove_link(batch, network.bridge, network.name);
    router_links_.commit(batch);
  } catch (const std::exception&) {
    // It goes with the router.
  }
  networks_.erase(entry);
}

std::unique_ptr<NetworkEndpoint> NetworkPool::Implementation::attach(pid_t pid,
                                                                     const std::string& shared_name,
                                                                     uid_t owner) {
  return std::make_unique<Endpoint>(*this, pid, shared_name, owner);
}

NetworkPool::NetworkPool(std::string name, const NetworkSettings& settings)
    : implementation_(std::make_unique<Implementation>(std::move(name), settings)) {}
NetworkPool::~NetworkPool() = default;

std::unique_ptr<NetworkEndpoint> NetworkPool::attach(pid_t pid, const std::string& shared_name, uid_t owner) {
  return implementation_->attach(pid, shared_name, owner);
}
int NetworkPool::event_descriptor() const {
  return implementation_->loop().descriptor();
}
void NetworkPool::dispatch() {
  implementation_->loop().dispatch();
}

}  // namespace berth
