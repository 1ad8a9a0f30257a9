#include "executor/network_messages.h"

#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/pkt_sched.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "executor/executor.h"
#include "executor/os/syscall.h"

namespace berth {
namespace {

constexpr std::uint16_t kCreate = NLM_F_CREATE | NLM_F_EXCL;
constexpr std::uint32_t kMtu = 1500;

std::uint8_t family_of(const IpAddress& address) {
  return address.is_v6 ? AF_INET6 : AF_INET;
}

void add_link_header(NetlinkBatch& batch, int index, unsigned flags) {
  auto* header = batch.header<ifinfomsg>();
  header->ifi_index = index;
  header->ifi_flags = flags;
  header->ifi_change = flags;
}

}  // namespace

void set_up(NetlinkBatch& batch, int index, const char* what, unsigned flags) {
  batch.begin(RTM_NEWLINK, 0, what);
  add_link_header(batch, index, 0);
  const std::size_t families = batch.begin_nest(IFLA_AF_SPEC);
  const std::size_t inet6 = batch.begin_nest(AF_INET6);
  batch.put_u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
  batch.end_nest(inet6);
  batch.end_nest(families);
  // A request of its own: within one, the kernel sets flags before it looks at the families (do_setlink() in
  // net/core/rtnetlink.c), and the device would have its link-local address already.
  batch.begin(RTM_NEWLINK, 0, what);
  add_link_header(batch, index, IFF_UP | flags);
}

void add_address(NetlinkBatch& batch, int index, const IpAddress& own, const IpAddress& peer) {
  batch.begin(RTM_NEWADDR, kCreate, "address " + own.to_text());
  auto* header = batch.header<ifaddrmsg>();
  header->ifa_family = family_of(own);
  header->ifa_prefixlen = static_cast<std::uint8_t>(own.size() * 8);
  header->ifa_flags = own.is_v6 ? IFA_F_NODAD : 0;
  header->ifa_index = static_cast<std::uint32_t>(index);
  batch.put_address(IFA_LOCAL, own);
  batch.put_address(IFA_ADDRESS, peer);
}

void add_route(NetlinkBatch& batch, const Route& route, std::uint16_t type, int ignored) {
  batch.begin(type, type == RTM_NEWROUTE ? kCreate : std::uint16_t{0},
              "route to " + (route.to ? route.to->to_text() : "everywhere"), ignored);
  auto* header = batch.header<rtmsg>();
  header->rtm_family = route.v6 ? AF_INET6 : AF_INET;
  header->rtm_dst_len = route.to ? static_cast<std::uint8_t>(route.to->prefix) : 0;
  header->rtm_table = RT_TABLE_MAIN;
  header->rtm_protocol = RTPROT_STATIC;
  header->rtm_scope = route.gateway || route.v6 ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
  header->rtm_type = RTN_UNICAST;
  header->rtm_flags = route.gateway ? RTNH_F_ONLINK : 0U;
  if (route.to) {
    batch.put_address(RTA_DST, route.to->address);
  }
  if (route.gateway) {
    batch.put_address(RTA_GATEWAY, *route.gateway);
  }
  if (route.source) {
    batch.put_address(RTA_PREFSRC, *route.source);
  }
  batch.put_u32(RTA_OIF, static_cast<std::uint32_t>(route.device));
}

void add_neighbour(NetlinkBatch& batch, int device, const IpAddress& address, const MacAddress& mac) {
  batch.begin(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, "neighbour " + address.to_text());
  auto* header = batch.header<ndmsg>();
  header->ndm_family = family_of(address);
  header->ndm_ifindex = device;
  header->ndm_state = NUD_PERMANENT;
  batch.put_address(NDA_DST, address);
  batch.put(NDA_LLADDR, mac.data(), mac.size());
}

void remove_neighbour(NetlinkBatch& batch, int device, const IpAddress& address) {
  batch.begin(RTM_DELNEIGH, 0, "neighbour " + address.to_text(), ENOENT);
  auto* header = batch.header<ndmsg>();
  header->ndm_family = family_of(address);
  header->ndm_ifindex = device;
  batch.put_address(NDA_DST, address);
}

void add_bridge(NetlinkBatch& batch, int index, const std::string& name) {
  batch.begin(RTM_NEWLINK, kCreate, "bridge " + name);
  add_link_header(batch, index, IFF_UP);
  batch.put_text(IFLA_IFNAME, name);
  const MacAddress mac = mac_of(0);
  batch.put(IFLA_ADDRESS, mac.data(), mac.size());
  const std::size_t information = batch.begin_nest(IFLA_LINKINFO);
  batch.put_text(IFLA_INFO_KIND, "bridge");
  const std::size_t data = batch.begin_nest(IFLA_INFO_DATA);
  batch.put_u32(IFLA_BR_FORWARD_DELAY, 0);
  batch.put_u8(IFLA_BR_MCAST_SNOOPING, 0);
  batch.end_nest(data);
  batch.end_nest(information);
}

void remove_link(NetlinkBatch& batch, int index, const std::string& name) {
  batch.begin(RTM_DELLINK, 0, "link " + name, ENODEV);
  add_link_header(batch, index, 0);
}

void add_veth(NetlinkBatch& batch, const VethEnd& near, int master, const VethEnd& far, int far_namespace) {
  const auto put_end = [&](const VethEnd& end) {
    batch.put_text(IFLA_IFNAME, end.name);
    batch.put_u32(IFLA_MTU, kMtu);
    if (end.mac) {
      batch.put(IFLA_ADDRESS, end.mac->data(), end.mac->size());
    }
  };
  batch.begin(RTM_NEWLINK, kCreate, "veth pair " + near.name);
  add_link_header(batch, near.index, IFF_UP);
  put_end(near);
  if (master != 0) {
    batch.put_u32(IFLA_MASTER, static_cast<std::uint32_t>(master));
  }
  const std::size_t information = batch.begin_nest(IFLA_LINKINFO);
  batch.put_text(IFLA_INFO_KIND, "veth");
  const std::size_t data = batch.begin_nest(IFLA_INFO_DATA);
  const std::size_t peer = batch.begin_nest(VETH_INFO_PEER);
  static_cast<ifinfomsg*>(batch.extra_header(sizeof(ifinfomsg)))->ifi_index = far.index;
  put_end(far);
  batch.put_u32(IFLA_NET_NS_FD, static_cast<std::uint32_t>(far_namespace));
  batch.end_nest(peer);
  batch.end_nest(data);
  batch.end_nest(information);
}

void add_port_rules(NetlinkBatch& batch, int port, const MacAddress& mac) {
  // A third of what RTM_NEWLINK takes for it.
  batch.begin(RTM_SETLINK, 0, "bridge port of " + mac_text(mac));
  auto* link = batch.header<ifinfomsg>();
  link->ifi_family = AF_BRIDGE;
  link->ifi_index = port;
  const std::size_t ways = batch.begin_nest(IFLA_PROTINFO);
  for (const std::uint16_t way :
       {IFLA_BRPORT_LEARNING, IFLA_BRPORT_UNICAST_FLOOD, IFLA_BRPORT_MCAST_FLOOD, IFLA_BRPORT_BCAST_FLOOD}) {
    batch.put_u8(way, 0);
  }
  batch.end_nest(ways);
  batch.begin(RTM_NEWNEIGH, kCreate, "bridge port of " + mac_text(mac));
  auto* header = batch.header<ndmsg>();
  header->ndm_family = AF_BRIDGE;
  header->ndm_ifindex = port;
  header->ndm_flags = NTF_MASTER;
  header->ndm_state = NUD_NOARP;  // with NUD_PERMANENT the address would be the bridge's own
  batch.put(NDA_LLADDR, mac.data(), mac.size());
}

void add_token_bucket(NetlinkBatch& batch, int device, Bytes rate) {
  // Large enough for one segmentation-offloaded packet, or two timer ticks of a fast link.
  const auto burst = static_cast<std::uint32_t>(std::clamp<Bytes>(rate / 100, 66'000, 64U << 20U));
  // What may wait: a quarter of a second, and not less than a burst.
  const auto limit = static_cast<std::uint32_t>(burst + std::clamp<Bytes>(rate / 4, 66'000, 64U << 20U));
  batch.begin(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, "rate limit");
  auto* header = batch.header<tcmsg>();
  header->tcm_ifindex = device;
  header->tcm_parent = TC_H_ROOT;
  header->tcm_handle = 1U << 16U;
  batch.put_text(TCA_KIND, "tbf");
  const std::size_t options = batch.begin_nest(TCA_OPTIONS);
  tc_tbf_qopt parameters{};
  parameters.limit = limit;
  parameters.rate.rate = static_cast<std::uint32_t>(std::min<Bytes>(rate, UINT32_MAX));
  parameters.rate.linklayer = TC_LINKLAYER_ETHERNET;
  batch.put(TCA_TBF_PARMS, &parameters, sizeof parameters);
  batch.put_u32(TCA_TBF_BURST, burst);
  if (rate > UINT32_MAX) {
    batch.put(TCA_TBF_RATE64, &rate, sizeof rate);
  }
  batch.end_nest(options);
}

void write_setting(const std::string& path, const char* value) {
  const int error_number = write_at(AT_FDCWD, ("/proc/sys/net/" + path).c_str(), value);
  if (error_number != 0) {
    throw LaunchError("network", error_number,
                      "/proc/sys/net/" + path + ": " + std::generic_category().message(error_number));
  }
}
void try_setting(const std::string& path, const char* value) {
  write_at(AT_FDCWD, ("/proc/sys/net/" + path).c_str(), value);
}
bool setting_is(const std::string& path, char value) {
  const UniqueFd file{try_open_at(AT_FDCWD, ("/proc/sys/net/" + path).c_str(), O_RDONLY)};
  char first = 0;
  return file && ::read(file.get(), &first, 1) == 1 && first == value;
}

namespace {

/// Hands over each unicast route of a family: how many bits its destination has, and the destination, if any.
void visit_routes(NetlinkSocket& socket, std::uint8_t family,
                  const std::function<void(unsigned prefix, const nlattr* destination)>& take) {
  NetlinkBatch batch;
  batch.begin(RTM_GETROUTE, NLM_F_DUMP, "routes");
  batch.header<rtmsg>()->rtm_family = family;
  socket.query(batch, [&](const nlmsghdr* message) {
    const auto* route = static_cast<const rtmsg*>(mnl_nlmsg_get_payload(message));
    if (message->nlmsg_type == RTM_NEWROUTE) {
      take(route->rtm_type == RTN_UNICAST || route->rtm_dst_len > 0 ? route->rtm_dst_len : 1U,
           find_attribute(attributes_of(message, sizeof(rtmsg)), RTA_DST));
    }
  });
}

IpAddress address_in(const nlattr* attribute, bool v6) {
  IpAddress address;
  address.is_v6 = v6;
  std::memcpy(address.bytes.data(), mnl_attr_get_payload(attribute),
              std::min<std::size_t>(mnl_attr_get_payload_len(attribute), address.size()));
  return address;
}

}  // namespace

std::vector<Cidr> routed_ranges(NetlinkSocket& socket) {
  std::vector<Cidr> ranges;
  for (const bool v6 : {false, true}) {
    visit_routes(socket, v6 ? AF_INET6 : AF_INET, [&](unsigned prefix, const nlattr* destination) {
      if (prefix > 0 && destination != nullptr) {
        ranges.push_back({address_in(destination, v6), prefix});
      }
    });
  }
  return ranges;
}

bool has_default_route(NetlinkSocket& socket, bool v6) {
  bool found = false;
  visit_routes(socket, v6 ? AF_INET6 : AF_INET,
               [&](unsigned prefix, const nlattr*) { found = found || prefix == 0; });
  return found;
}

std::vector<IpAddress> own_addresses(NetlinkSocket& socket) {
  std::vector<IpAddress> addresses;
  NetlinkBatch batch;
  batch.begin(RTM_GETADDR, NLM_F_DUMP, "addresses");
  batch.header<ifaddrmsg>();
  socket.query(batch, [&](const nlmsghdr* message) {
    const auto* header = static_cast<const ifaddrmsg*>(mnl_nlmsg_get_payload(message));
    const std::vector<const nlattr*> attributes = attributes_of(message, sizeof(ifaddrmsg));
    const nlattr* local = find_attribute(attributes, IFA_LOCAL);  // absent for IPv6 and its own peer
    local = local != nullptr ? local : find_attribute(attributes, IFA_ADDRESS);
    if (local != nullptr) {
      addresses.push_back(address_in(local, header->ifa_family == AF_INET6));
    }
  });
  return addresses;
}

int find_link(NetlinkSocket& socket, const std::string& name) {
  NetlinkBatch batch;
  batch.begin(RTM_GETLINK, 0, "link " + name);
  batch.header<ifinfomsg>();
  batch.put_text(IFLA_IFNAME, name);
  int index = 0;
  socket.query(batch, [&](const nlmsghdr* message) {
    index = static_cast<const ifinfomsg*>(mnl_nlmsg_get_payload(message))->ifi_index;
  });
  return index;
}

namespace {

/// Where a tracked connection comes from and where it was sent to.
std::vector<IpAddress> ends_of(const nlattr* tuple) {
  std::vector<IpAddress> ends;
  const nlattr* ip = tuple != nullptr ? find_attribute(nested_attributes(tuple), CTA_TUPLE_IP) : nullptr;
  if (ip != nullptr) {
    for (const nlattr* part : nested_attributes(ip)) {
      const std::uint16_t type = mnl_attr_get_type(part);
      ends.push_back(address_in(part, type == CTA_IP_V6_SRC || type == CTA_IP_V6_DST));
    }
  }
  return ends;
}

}  // namespace

void delete_connections(NetlinkSocket& socket, const std::function<bool(const IpAddress&)>& is_stale) {
  constexpr std::size_t kAtOnce = 64;
  std::vector<std::pair<std::uint8_t, std::string>> found;  // family and tuple
  NetlinkBatch get;
  get.begin(NFNL_SUBSYS_CTNETLINK << 8U | IPCTNL_MSG_CT_GET, NLM_F_DUMP, "connection tracking");
  get.header<nfgenmsg>()->nfgen_family = AF_UNSPEC;
  socket.query(get, [&](const nlmsghdr* message) {
    const nlattr* tuple = find_attribute(attributes_of(message, sizeof(nfgenmsg)), CTA_TUPLE_ORIG);
    const std::vector<IpAddress> ends = ends_of(tuple);
    if (std::any_of(ends.begin(), ends.end(), is_stale)) {
      found.emplace_back(static_cast<const nfgenmsg*>(mnl_nlmsg_get_payload(message))->nfgen_family,
                         std::string(static_cast<const char*>(mnl_attr_get_payload(tuple)),
                                     mnl_attr_get_payload_len(tuple)));
    }
  });
  for (std::size_t first = 0; first < found.size(); first += kAtOnce) {
    NetlinkBatch batch;
    for (std::size_t index = first; index < std::min(first + kAtOnce, found.size()); ++index) {
      const auto& [family, tuple] = found[index];
      batch.begin(NFNL_SUBSYS_CTNETLINK << 8U | IPCTNL_MSG_CT_DELETE, 0, "connection tracking", ENOENT);
      batch.header<nfgenmsg>()->nfgen_family = family;
      batch.put(CTA_TUPLE_ORIG | NLA_F_NESTED, tuple.data(), tuple.size());
    }
    socket.commit(batch);
  }
}

std::uint64_t denied_packets(NetlinkSocket& socket, const std::string& table, const IpAddress& address) {
  const std::string set = address.is_v6 ? "denied6" : "denied4";
  const auto put_element = [&](NetlinkBatch& batch) {
    batch.put_text(NFTA_SET_ELEM_LIST_TABLE, table);
    batch.put_text(NFTA_SET_ELEM_LIST_SET, set);
    const std::size_t elements = batch.begin_nest(NFTA_SET_ELEM_LIST_ELEMENTS);
    const std::size_t element = batch.begin_nest(NFTA_LIST_ELEM);
    const std::size_t key = batch.begin_nest(NFTA_SET_ELEM_KEY);
    batch.put_address(NFTA_DATA_VALUE, address);
    batch.end_nest(key);
    batch.end_nest(element);
    batch.end_nest(elements);
  };
  NetlinkBatch get;
  get.begin(NFNL_SUBSYS_NFTABLES << 8U | NFT_MSG_GETSETELEM, 0, "denied packets");
  get.header<nfgenmsg>()->nfgen_family = NFPROTO_INET;
  put_element(get);
  std::uint64_t packets = 0;
  // NEWSETELEM { ELEMENTS { LIST_ELEM { EXPR { NAME "counter", DATA { BYTES, PACKETS } } } } }
  socket.query(get, [&](const nlmsghdr* message) {
    const nlattr* part =
        find_attribute(attributes_of(message, sizeof(nfgenmsg)), NFTA_SET_ELEM_LIST_ELEMENTS);
    for (const std::uint16_t type : {std::uint16_t{NFTA_LIST_ELEM}, std::uint16_t{NFTA_SET_ELEM_EXPR},
                                     std::uint16_t{NFTA_EXPR_DATA}, std::uint16_t{NFTA_COUNTER_PACKETS}}) {
      part = part != nullptr ? find_attribute(nested_attributes(part), type) : nullptr;
    }
    if (part != nullptr && mnl_attr_get_payload_len(part) >= sizeof packets) {
      std::memcpy(&packets, mnl_attr_get_payload(part), sizeof packets);
      packets = be64toh(packets);
    }
  });
  return packets;
}

}  // namespace berth
