// LearnedAddresses: what the names of one job's egress rules have opened for it, and until when; so that an
// answer with addresses that are open, as nearly every answer is, changes no rules. Pure, no locks.
#pragma once

#include <chrono>
#include <cstddef>
#include <map>
#include <utility>
#include <vector>

#include "executor/dns_message.h"
#include "schemas/network_spec.h"

namespace berth {

class LearnedAddresses {
 public:
  using Time = std::chrono::steady_clock::time_point;

  /// Forgets all; what the job's own /etc/hosts calls by a name of a rule is open for good.
  void begin(const NetworkSpec& network);
  /// Those of `found` that rule number `rule` does not have open for all of their time to live: they are to
  /// be opened (learned_address_commands()), and then noted.
  std::vector<DnsAddress> to_open(std::size_t rule, const std::vector<DnsAddress>& found, Time now) const;
  /// `opened` were, not before `now`.
  void note(std::size_t rule, const std::vector<DnsAddress>& opened, Time now);

 private:
  using Key = std::pair<std::size_t, IpAddress>;  // number of the rule

  std::map<Key, Time> open_until_;
  std::size_t prune_at_ = 0;  ///< as many are looked through for those that are over
};

}  // namespace berth
