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
  /// Of the calling thread's network namespace.
  NftTables();
  /// Throws LaunchError("nftables") with what libnftables says.
  void run(const std::string& commands);

 private:
  struct Free {
    void operator()(nft_ctx* context) const { nft_ctx_free(context); }
  };
  std::unique_ptr<nft_ctx, Free> context_;
};

}  // namespace berth
