#include "executor/nft_tables.h"

#include <dlfcn.h>

#include <cerrno>

#include "executor/executor.h"

namespace berth {
namespace {

constexpr const char* kLibrary = "libnftables.so.1";

/// What berth needs of libnftables.
struct Library {
  decltype(&::nft_ctx_new) make;
  decltype(&::nft_ctx_free) free;
  decltype(&::nft_ctx_buffer_output) buffer_output;
  decltype(&::nft_ctx_buffer_error) buffer_error;
  decltype(&::nft_ctx_output_set_flags) set_output_flags;
  decltype(&::nft_ctx_get_error_buffer) error_text;
  decltype(&::nft_run_cmd_from_buffer) run;
};

Library load_library() {
  void* handle = ::dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  bool complete = handle != nullptr;
  const auto find = [&](auto& function, const char* name) {
    void* symbol = complete ? ::dlsym(handle, name) : nullptr;
    complete = symbol != nullptr;
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
  };
  Library library{};
  find(library.make, "nft_ctx_new");
  find(library.free, "nft_ctx_free");
  find(library.buffer_output, "nft_ctx_buffer_output");
  find(library.buffer_error, "nft_ctx_buffer_error");
  find(library.set_output_flags, "nft_ctx_output_set_flags");
  find(library.error_text, "nft_ctx_get_error_buffer");
  find(library.run, "nft_run_cmd_from_buffer");
  if (!complete) {
    const char* reason = ::dlerror();
    throw LaunchError("nftables", ENOENT,
                      std::string("nftables: ") + (reason != nullptr ? reason : kLibrary) +
                          "; install Debian's package libnftables1, or use --network loopback");
  }
  return library;
}

const Library& library() {
  static const Library kLoaded = load_library();
  return kLoaded;
}

}  // namespace

NftTables::NftTables() : context_(library().make(NFT_CTX_DEFAULT), library().free) {
  if (!context_) {
    throw LaunchError("nftables", ENOMEM, "nftables: no memory for a context");
  }
  library().buffer_output(context_.get());
  library().buffer_error(context_.get());
  // Names of ports, users and hosts are never looked up: only numbers are given.
  library().set_output_flags(context_.get(), NFT_CTX_OUTPUT_NUMERIC_ALL);
}

void NftTables::run(const std::string& commands) {
  if (library().run(context_.get(), commands.c_str()) != 0) {
    const int error_number = errno != 0 ? errno : EIO;
    std::string message = library().error_text(context_.get());
    message = message.substr(0, message.find('\n'));
    throw LaunchError(
        "nftables", error_number,
        "nftables refused berth's rules: " + message + "; see berth doctor for what this kernel offers");
  }
  library().error_text(context_.get());
}

}  // namespace berth
