#include "executor/connection_counter.h"

#include <arpa/inet.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>

#include <cstring>
#include <system_error>

namespace berth {
namespace {

std::optional<IpAddress> address_of(const nlattr* attribute, bool v6) {
  IpAddress address;
  address.is_v6 = v6;
  if (attribute == nullptr || mnl_attr_get_payload_len(attribute) != address.size()) {
    return std::nullopt;
  }
  std::memcpy(address.bytes.data(), mnl_attr_get_payload(attribute), address.size());
  return address;
}

/// Closed connections stay in the table for a while (TIME_WAIT); they are over for our purpose.
bool is_closed(const std::vector<const nlattr*>& attributes) {
  const nlattr* part = find_attribute(attributes, CTA_PROTOINFO);
  for (const std::uint16_t type :
       {std::uint16_t{CTA_PROTOINFO_TCP}, std::uint16_t{CTA_PROTOINFO_TCP_STATE}}) {
    part = part != nullptr ? find_attribute(nested_attributes(part), type) : nullptr;
  }
  if (part == nullptr) {
    return false;
  }
  const std::uint8_t state = mnl_attr_get_u8(part);
  return state == TCP_CONNTRACK_TIME_WAIT || state == TCP_CONNTRACK_CLOSE || state == TCP_CONNTRACK_LAST_ACK;
}

}  // namespace

ConnectionCounter::ConnectionCounter(DescriptorLoop& loop, NetlinkSocket socket)
    : loop_(loop), socket_(std::move(socket)) {
  try {
    for (const unsigned group :
         {NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_UPDATE, NFNLGRP_CONNTRACK_DESTROY}) {
      socket_->join(group);
    }
    loop_.watch(socket_->descriptor(), EPOLLIN, [this](std::uint32_t) { read_events(); });
  } catch (const std::system_error&) {
    socket_.reset();  // a kernel without such events: absent in the record
  }
}

ConnectionCounter::~ConnectionCounter() {
  if (socket_) {
    loop_.forget(socket_->descriptor());
  }
}

void ConnectionCounter::add(std::uint32_t job, const IpAddress& v4, const IpAddress& v6) {
  read_events();  // what is about an earlier job of these addresses
  addresses_[v4] = job;
  addresses_[v6] = job;
  jobs_[job] = {};
}

void ConnectionCounter::remove(std::uint32_t job, const IpAddress& v4, const IpAddress& v6) {
  addresses_.erase(v4);
  addresses_.erase(v6);
  jobs_.erase(job);
}

std::optional<std::uint64_t> ConnectionCounter::peak(std::uint32_t job) {
  read_events();
  const auto found = jobs_.find(job);
  return socket_ && complete_ && found != jobs_.end() ? std::optional(found->second.peak) : std::nullopt;
}

void ConnectionCounter::read_events() {
  if (socket_ && !socket_->receive_events([this](const nlmsghdr* message) { handle(message); })) {
    complete_ = false;
  }
}

void ConnectionCounter::handle(const nlmsghdr* message) {
  const std::vector<const nlattr*> attributes = attributes_of(message, sizeof(nfgenmsg));
  const nlattr* id = find_attribute(attributes, CTA_ID);
  const nlattr* tuple = find_attribute(attributes, CTA_TUPLE_ORIG);
  const nlattr* ip = tuple != nullptr ? find_attribute(nested_attributes(tuple), CTA_TUPLE_IP) : nullptr;
  if (id == nullptr || ip == nullptr) {
    return;
  }
  const std::vector<const nlattr*> parts = nested_attributes(ip);
  const bool v6 = find_attribute(parts, CTA_IP_V6_SRC) != nullptr;
  const bool over = (message->nlmsg_type & 0xFFU) == IPCTNL_MSG_CT_DELETE || is_closed(attributes);
  for (const int end : {v6 ? CTA_IP_V6_SRC : CTA_IP_V4_SRC, v6 ? CTA_IP_V6_DST : CTA_IP_V4_DST}) {
    const std::optional<IpAddress> address =
        address_of(find_attribute(parts, static_cast<std::uint16_t>(end)), v6);
    const auto owner = address ? addresses_.find(*address) : addresses_.end();
    if (owner == addresses_.end()) {
      continue;
    }
    Job& job = jobs_[owner->second];
    if (over) {
      job.open.erase(mnl_attr_get_u32(id));
    } else if ((message->nlmsg_flags & NLM_F_CREATE) != 0) {  // new, not an update
      job.open.insert(mnl_attr_get_u32(id));
      job.peak = std::max<std::uint64_t>(job.peak, job.open.size());
    }
  }
}

}  // namespace berth
