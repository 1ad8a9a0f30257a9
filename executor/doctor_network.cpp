// What private and shared networks need of the kernel.
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "executor/doctor.h"
#include "executor/executor.h"
#include "executor/network_pool.h"
#include "executor/os/syscall.h"
#include "executor/user_network.h"

namespace berth {
namespace {

/// In a network namespace of the probe's own, everything that a berth makes for its first private job.
int try_network(bool attach) {
  if (::unshare(CLONE_NEWNET) != 0) {
    return errno;
  }
  try {
    const NetworkSettings settings;
    NetworkPool pool("doctor", settings);
    if (attach) {
      // A namespace further stands for the job's.
      if (::unshare(CLONE_NEWNET) != 0) {
        return errno;
      }
      const std::unique_ptr<NetworkEndpoint> endpoint = pool.attach(::getpid(), "doctor", 0);
      NetworkSpec network;
      network.egress.mode = EgressMode::rules;
      network.egress.rules.push_back(parse_egress_rule("example.org:443"));
      network.rate_in = network.rate_out = Bytes{1} << 20U;
      endpoint->apply(network, "doctor");
    }
    return 0;
  } catch (const LaunchError& error) {
    return error.error_number();
  } catch (const std::system_error& error) {
    return error.code().value();
  }
}

}  // namespace

Findings examine_network() {
  const std::string subject = "private networks";
  if (::geteuid() != 0) {
    NetworkSpec network;
    network.mode = NetworkMode::isolated;
    try {
      UserNetwork::check_supported(network);
      return {ok(subject, "without root through pasta; shared ones and incoming rates need root")};
    } catch (const LaunchError& error) {
      return {limited(subject, error.what(), "run berth as root or through sudo")};
    }
  }
  const std::string modules =
      "use a kernel with CONFIG_VETH, CONFIG_BRIDGE, CONFIG_NET_SCH_TBF, CONFIG_NF_TABLES (inet, bridge), "
      "CONFIG_NFT_CT, CONFIG_NFT_NAT, CONFIG_NFT_MASQ, CONFIG_NFT_REJECT_INET, CONFIG_NFT_FIB_INET, "
      "CONFIG_NFT_CONNLIMIT, CONFIG_NFT_LIMIT, CONFIG_NFT_DUP_IPV4 and _IPV6; or: "
      "modprobe -a veth bridge sch_tbf nf_tables nft_ct nft_nat nft_masq nft_reject_inet nft_fib_inet "
      "nft_connlimit nft_limit nft_dup_ipv4 "
      "nft_dup_ipv6";
  Findings findings;
  if (const int error_number = errno_in_child([] { return try_network(false); })) {
    findings.push_back(limited(
        subject, "the router cannot be made: " + std::generic_category().message(error_number), modules));
    return findings;
  }
  if (const int error_number = errno_in_child([] { return try_network(true); })) {
    findings.push_back(limited(
        subject, "a job's device cannot be made: " + std::generic_category().message(error_number), modules));
    return findings;
  }
  findings.push_back(ok(subject, "veth, bridges, nftables, NAT, connection tracking and rate limits work"));
  struct stat status {};
  if (::stat("/proc/sys/net/ipv6/conf/lo/force_forwarding", &status) == 0) {
    findings.push_back(ok("IPv6 out of private networks", "one device can forward (Linux 6.17)"));
  } else {
    findings.push_back(
        limited("IPv6 out of private networks", "this kernel forwards for all devices or none",
                "where the host may be an IPv6 router: sysctl net.ipv6.conf.all.forwarding=1"));
  }
  return findings;
}

}  // namespace berth
