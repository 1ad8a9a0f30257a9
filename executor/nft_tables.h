// NftTables: commands in nft(8)'s language, carried out through libnftables in one network namespace.
//
// Each run() is one transaction: all of it holds, or nothing. Tables with "flags owner" that it makes go when
// it is destroyed, and when this process dies. Single-threaded.
#pragma once

#include <nftables/libnftables.h>

#include <memory>
#include <string>

namespace berth {

class NftTables {
 public:
  /// Of the calling thread's network namespace. Throws LaunchError("nftables"), also where the library is not
  /// installed: it is loaded here, because it brings five others that a job without a network need not wait
  /// for.
  NftTables();
  /// Sees to it, once per process, that the first two contexts (a NetworkPool's) find a descriptor below 1024
  /// (FD_SETSIZE) however many are open by then: libnftables waits with select(2), which ends the whole
  /// process for a higher one. Without, such a context is refused.
  static void keep_descriptors();
  /// Throws LaunchError("nftables") with what libnftables says.
  void run(const std::string& commands);

 private:
  std::unique_ptr<nft_ctx, void (*)(nft_ctx*)> context_;
};

}  // namespace berth
