#include "executor/learned_addresses.h"

#include <algorithm>
#include <iterator>

#include "executor/network_rules.h"

namespace berth {

void LearnedAddresses::begin(const NetworkSpec& network) {
  open_until_.clear();
  for (const NamedHost& host : named_hosts(network)) {
    open_until_[{host.rule, host.address}] = Time::max();
  }
}

std::vector<DnsAddress> LearnedAddresses::to_open(std::size_t rule, const std::vector<DnsAddress>& found,
                                                  Time now) const {
  std::vector<DnsAddress> result;
  std::copy_if(found.begin(), found.end(), std::back_inserter(result), [&](const DnsAddress& one) {
    const auto open = open_until_.find({rule, one.address});
    return open == open_until_.end() || open->second < now + time_to_use(one.ttl);
  });
  return result;
}

void LearnedAddresses::note(std::size_t rule, const std::vector<DnsAddress>& opened, Time now) {
  constexpr std::size_t kFewest = 1024;
  for (const DnsAddress& one : opened) {
    open_until_[{rule, one.address}] = now + opening_time(one.ttl);
  }
  if (open_until_.size() >= prune_at_) {
    std::erase_if(open_until_, [&](const auto& entry) { return entry.second <= now; });
    prune_at_ = std::max(kFewest, 2 * open_until_.size());
  }
}

}  // namespace berth
