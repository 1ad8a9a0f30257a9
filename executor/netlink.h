// NetlinkSocket and NetlinkBatch: requests to the kernel over netlink(7), through libmnl.
//
// A socket belongs to the network namespace in which it was opened, whatever namespace its owner is in later.
// Single-threaded. A request that the kernel refuses throws std::system_error naming what was asked for.
#pragma once

#include <libmnl/libmnl.h>
#include <linux/netlink.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "executor/os/unique_fd.h"
#include "schemas/ip_address.h"

namespace berth {

/// The attributes of a message behind the family's header of `header_size` bytes, and those within another.
std::vector<const nlattr*> attributes_of(const nlmsghdr* message, std::size_t header_size);
std::vector<const nlattr*> nested_attributes(const nlattr* parent);
/// The first of this type; null when there is none.
const nlattr* find_attribute(const std::vector<const nlattr*>& attributes, std::uint16_t type);

/// Requests that are sent in one system call and carried out in order. Each is acknowledged.
class NetlinkBatch {
 public:
  /// Starts a request; what is put next belongs to it. `what` names it in errors. `ignored` is an errno
  /// that is no failure.
  void begin(std::uint16_t type, std::uint16_t flags, std::string what, int ignored = 0);
  /// The family's own header (ifinfomsg, nfgenmsg …).
  template <typename Header>
  Header* header() {
    return static_cast<Header*>(extra_header(sizeof(Header)));
  }
  void put(std::uint16_t type, const void* data, std::size_t size);
  void put_u8(std::uint16_t type, std::uint8_t value) { put(type, &value, sizeof value); }
  void put_u32(std::uint16_t type, std::uint32_t value) { put(type, &value, sizeof value); }
  void put_text(std::uint16_t type, const std::string& text) { put(type, text.c_str(), text.size() + 1); }
  void put_address(std::uint16_t type, const IpAddress& address) {
    put(type, address.bytes.data(), address.size());
  }
  /// Attributes within an attribute, until end_nest() with the value returned.
  std::size_t begin_nest(std::uint16_t type);
  void end_nest(std::size_t nest);
  /// A header within an attribute (VETH_INFO_PEER carries an ifinfomsg).
  void* extra_header(std::size_t size);

  bool empty() const { return requests_.empty(); }

 private:
  friend class NetlinkSocket;
  struct Request {
    std::size_t offset;
    std::string what;
    int ignored;
  };
  nlmsghdr* current();
  void grow(std::size_t size);

  std::vector<char> bytes_;
  std::vector<Request> requests_;
};

class NetlinkSocket {
 public:
  /// In the calling thread's network namespace. `protocol`: NETLINK_ROUTE or NETLINK_NETFILTER.
  explicit NetlinkSocket(int protocol);
  /// One that was opened and bound elsewhere.
  explicit NetlinkSocket(UniqueFd socket) : socket_(std::move(socket)) {}

  /// To hand it over; nothing else may follow.
  UniqueFd release() { return std::move(socket_); }
  int descriptor() const { return socket_.get(); }
  /// Joins a multicast group (NFNLGRP_CONNTRACK_NEW …) and makes room for bursts.
  void join(unsigned group);

  /// Sends and waits for every acknowledgement.
  void commit(NetlinkBatch& batch);
  /// Sends one dump or get request and hands over each answer. False: the object is not there (ENOENT).
  bool query(NetlinkBatch& batch, const std::function<void(const nlmsghdr*)>& take);
  /// What arrived on a joined group, without waiting. False when messages were lost (ENOBUFS).
  bool receive_events(const std::function<void(const nlmsghdr*)>& take);

 private:
  UniqueFd socket_;
  std::uint32_t sequence_ = 0;
};

}  // namespace berth
