// One packet with descriptors over a SOCK_SEQPACKET socket (unix(7), SCM_RIGHTS). Descriptors arrive
// close-on-exec and are owned by the Descriptors that received them.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <vector>

#include "executor/os/unique_fd.h"

namespace berth {

class Descriptors {
 public:
  bool empty() const { return owned_.empty(); }
  std::size_t size() const { return owned_.size(); }
  /// -1 when there is none at `index`.
  int at(std::size_t index) const { return index < owned_.size() ? owned_[index].get() : -1; }
  UniqueFd take(std::size_t index) { return std::move(owned_.at(index)); }
  void add(int fd) { owned_.emplace_back(fd); }

 private:
  std::vector<UniqueFd> owned_;
};

enum class MessageWait { block, poll };

/// Returns 0 or errno (EAGAIN with `poll`, when there is no room). Never raises SIGPIPE.
int send_message(int socket, const void* data, std::size_t size, std::span<const int> descriptors,
                 MessageWait wait = MessageWait::block) noexcept;

/// Size of the packet; 0 at end of file; -1 with errno.
ssize_t receive_message(int socket, void* data, std::size_t size, Descriptors& descriptors, MessageWait wait);

}  // namespace berth
