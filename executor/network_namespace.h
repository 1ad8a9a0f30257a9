// NetworkNamespace: one network_namespaces(7), held by a descriptor; it lives as long as anything refers to
// it.
//
// inside() lets the calling thread act in it for a moment: sockets that are opened there stay there. Threads
// other than the calling one are never affected (setns(2)).
#pragma once

#include <sys/types.h>

#include "executor/os/syscall.h"
#include "executor/os/unique_fd.h"

namespace berth {

class NetworkNamespace {
 public:
  static NetworkNamespace current();
  /// A new, empty one; the calling thread stays where it is.
  static NetworkNamespace create();
  /// The one that a process is in.
  static NetworkNamespace of_process(pid_t pid);

  int descriptor() const { return descriptor_.get(); }

  /// What `act` returns. Aborts when the way back is barred: going on in the wrong namespace would be worse.
  template <typename Action>
  auto inside(Action act) const {
    const Visit visit(*this);
    return act();
  }

 private:
  class Visit {
   public:
    explicit Visit(const NetworkNamespace& there);
    ~Visit();
    Visit(const Visit&) = delete;
    Visit& operator=(const Visit&) = delete;

   private:
    UniqueFd back_;
  };
  explicit NetworkNamespace(UniqueFd descriptor) : descriptor_(std::move(descriptor)) {}

  UniqueFd descriptor_;
};

}  // namespace berth
