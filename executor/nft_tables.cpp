#include "executor/nft_tables.h"

#include <dlfcn.h>
#include <sys/eventfd.h>
#include <sys/select.h>

#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include "executor/executor.h"
#include "executor/os/unique_fd.h"

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

UniqueFd open_any() {
  return UniqueFd{::eventfd(0, EFD_CLOEXEC)};
}

/// Opened only to be closed when a context is about to be made.
std::vector<UniqueFd>& kept_descriptors() {
  static std::vector<UniqueFd> kept;
  return kept;
}

/// A new context. Its socket has the lowest number that is free.
nft_ctx* make_context() {
  const Library& loaded = library();
  if (!kept_descriptors().empty()) {
    kept_descriptors().pop_back();
  }
  UniqueFd lowest = open_any();
  if (!lowest || lowest.get() >= FD_SETSIZE) {
    throw LaunchError("nftables", EMFILE,
                      "nftables: libnftables needs a descriptor below " + std::to_string(FD_SETSIZE) +
                          ", and berth has all of them open; run fewer jobs at once");
  }
  lowest.reset();
  nft_ctx* context = loaded.make(NFT_CTX_DEFAULT);
  if (context == nullptr) {
    throw LaunchError("nftables", ENOMEM, "nftables: no memory for a context");
  }
  return context;
}

}  // namespace

void NftTables::keep_descriptors() {
  constexpr std::size_t kContexts = 2;
  static bool done = false;
  if (!std::exchange(done, true)) {
    for (std::size_t number = 0; number < kContexts; ++number) {
      kept_descriptors().push_back(open_any());
    }
  }
}

NftTables::NftTables() : context_(make_context(), library().free) {
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
