#include "executor/nft_tables.h"

#include <cerrno>

#include "executor/executor.h"

namespace berth {

NftTables::NftTables() : context_(nft_ctx_new(NFT_CTX_DEFAULT)) {
  if (!context_) {
    throw LaunchError("nftables", ENOMEM, "nftables: no memory for a context");
  }
  nft_ctx_buffer_output(context_.get());
  nft_ctx_buffer_error(context_.get());
  // Names of ports, users and hosts are never looked up: only numbers are given.
  nft_ctx_output_set_flags(context_.get(), NFT_CTX_OUTPUT_NUMERIC_ALL);
}

void NftTables::run(const std::string& commands) {
  if (nft_run_cmd_from_buffer(context_.get(), commands.c_str()) != 0) {
    const int error_number = errno != 0 ? errno : EIO;
    std::string message = nft_ctx_get_error_buffer(context_.get());
    message = message.substr(0, message.find('\n'));
    throw LaunchError(
        "nftables", error_number,
        "nftables refused berth's rules: " + message + "; see berth doctor for what this kernel offers");
  }
  nft_ctx_get_error_buffer(context_.get());
}

}  // namespace berth
