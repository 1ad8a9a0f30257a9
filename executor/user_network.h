// UserNetwork: private networks of the jobs of a berth without root, through pasta(1) of Debian's package
// passt.
//
//   host                                   the job's network namespace
//   sockets of pasta ═══ tap ═══ eth0 198.18.0.2 ── nftables: egress policy, counters
//   berth: DNS forwarder ──────── sockets on 198.18.0.5 (lo)
//
// Whoever made a user namespace has every capability over the network namespaces below it
// (user_namespaces(7)), and the job in it has none: the policy stands in the job's own namespace and the job
// cannot touch it. pasta is a child of this process and dies with it; the rest goes with the job's namespace.
//
// Single-threaded. Failures throw LaunchError.
#pragma once

#include <memory>

#include "executor/descriptor_loop.h"
#include "executor/netlink.h"
#include "executor/network_pool.h"

namespace berth {

class UserNetwork final : public JobNetworks {
 public:
  UserNetwork();

  /// Throws LaunchError for what cannot be had without root, or without pasta, with the remedy.
  static void check_supported(const NetworkSpec& network);

  /// Nothing happens before apply(), which knows the ports that pasta must be started with; it waits for
  /// pasta to be ready, some 20 ms.
  std::unique_ptr<NetworkEndpoint> attach(pid_t pid, const std::string& shared_name, uid_t owner) override;
  int event_descriptor() const override { return loop_.descriptor(); }
  void dispatch() override { loop_.dispatch(); }

 private:
  class Endpoint;

  DescriptorLoop loop_;
  NetlinkSocket host_links_;
};

}  // namespace berth
