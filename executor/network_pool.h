// NetworkPool: the network that one berth gives its jobs, and NetworkEndpoint: one job's place in it.
//
//   host                         router (a network namespace of berth's)        job
//   eth0 ── NAT ── berthN ═════ uplink   forwarding, policy   bridge ── j17 ═════ eth0
//
// Everything between the host and the jobs (bridges, ports, rules, connection tracking) is in the router's
// namespace, which is only held by descriptors of this process: when it dies, even by SIGKILL, the kernel
// takes all of it away, the uplink with it, and the host's tables, which belong to a socket. What a berth has
// is therefore never mistaken for another's, and no global setting of the host is touched.
//
// Made when the first job asks for it. Single-threaded. Failures throw LaunchError or std::system_error.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "schemas/network_settings.h"
#include "schemas/network_spec.h"
#include "schemas/usage.h"

namespace berth {

/// A device of one job, with its addresses. Borrows the pool, which outlives it.
class NetworkEndpoint {
 public:
  virtual ~NetworkEndpoint() = default;
  /// Before the job may start: its policy, rates, published ports and name are in force when this returns.
  virtual void apply(const NetworkSpec& network, const std::string& hostname) = 0;
  /// The text of the job's /etc/hosts and /etc/resolv.conf.
  virtual std::string hosts_file(const NetworkSpec& network, const std::string& hostname) const = 0;
  virtual std::string resolver_file(const NetworkSpec& network) const = 0;
  /// With the ports of the host that were taken for 0.
  virtual const std::vector<PublishedPort>& published() const = 0;
  /// Denied packets and peak connections; its device's bytes are read by the sandbox.
  virtual void read(Usage& usage) = 0;
};

/// Whatever connects jobs: the pool, or UserNetwork (user_network.h) without root.
class JobNetworks {
 public:
  virtual ~JobNetworks() = default;
  /// Gives the network namespace of process `pid` a device. `shared_name` empty: on the private bridge; else
  /// on the bridge of the network that `owner` calls so.
  virtual std::unique_ptr<NetworkEndpoint> attach(pid_t pid, const std::string& shared_name, uid_t owner) = 0;
  /// Readable when dispatch() has work.
  virtual int event_descriptor() const = 0;
  /// Answers DNS queries, carries published ports, follows connections; does not block.
  virtual void dispatch() = 0;
};

class NetworkPool final : public JobNetworks {
 public:
  /// `name` is of this berth, put on the uplink as its alias.
  NetworkPool(std::string name, const NetworkSettings& settings);
  ~NetworkPool() override;
  NetworkPool(const NetworkPool&) = delete;
  NetworkPool& operator=(const NetworkPool&) = delete;

  std::unique_ptr<NetworkEndpoint> attach(pid_t pid, const std::string& shared_name, uid_t owner) override;
  int event_descriptor() const override;
  void dispatch() override;

 private:
  class Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace berth
