// ConnectionCounter: how many connections each job has at once, as the router's connection tracking tells
// (nf_conntrack, through its netlink events). Single-threaded, in a DescriptorLoop.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>

#include "executor/descriptor_loop.h"
#include "executor/netlink.h"

namespace berth {

class ConnectionCounter {
 public:
  /// `socket`: of NETLINK_NETFILTER, in the namespace whose connections count.
  ConnectionCounter(DescriptorLoop& loop, NetlinkSocket socket);
  ~ConnectionCounter();
  ConnectionCounter(const ConnectionCounter&) = delete;
  ConnectionCounter& operator=(const ConnectionCounter&) = delete;

  /// Counts connections from and to these addresses as one job's, until remove().
  void add(std::uint32_t job, const IpAddress& v4, const IpAddress& v6);
  void remove(std::uint32_t job, const IpAddress& v4, const IpAddress& v6);
  /// The most at once so far; absent when events were lost or the kernel sends none.
  std::optional<std::uint64_t> peak(std::uint32_t job);

 private:
  struct Job {
    std::set<std::uint32_t> open;  ///< by the kernel's id
    std::uint64_t peak = 0;
  };
  void read_events();
  void handle(const nlmsghdr* message);

  DescriptorLoop& loop_;
  std::optional<NetlinkSocket> socket_;
  std::map<IpAddress, std::uint32_t> addresses_;
  std::map<std::uint32_t, Job> jobs_;
  bool complete_ = true;
};

}  // namespace berth
