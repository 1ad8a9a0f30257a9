// LauncherProcess: the small, single-threaded helper that makes sandboxes.
//
// Forked once, before this process grows and before it has threads. It stands in a mount namespace of its
// own, pivoted into a prepared read-only tree (the template), so that a sandbox is one clone(2) that copies
// few mounts. Each sandbox's init is a child of *this* process (CLONE_PARENT), which alone waits for it.
// Not thread-safe. When this process dies the launcher sees end-of-file and exits.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include "executor/executor.h"
#include "executor/os/message.h"
#include "executor/os/unique_fd.h"

namespace berth {

/// One sandbox to make. Its init finds `channel` as its channel to the executor.
struct SpawnRequest {
  std::uint64_t token = 0;  ///< comes back in Spawned
  std::string uid_map;      ///< user_namespaces(7) format
  std::string gid_map;
  bool deny_setgroups = false;
  bool host_network = false;  ///< no network namespace of its own
  int channel = -1;           ///< borrowed until spawn() returns
  int cgroup = -1;            ///< v2 directory to be born in, or -1; borrowed likewise
};

struct Spawned {
  std::uint64_t token = 0;
  int error_number = 0;  ///< 0: pid and pidfd are valid
  std::string step;      ///< of a failure
  pid_t pid = 0;
  UniqueFd pidfd;
};

class LauncherProcess {
 public:
  enum class View {
    template_root,  ///< privileged: pivoted into the template
    host_tree,      ///< in a user namespace of its own: sandboxes open their mounts' sources themselves
  };

  /// Forks. Set-up goes on in the background; its failure is told by the first receive(). `open_files` is the
  /// limit that jobs inherit.
  explicit LauncherProcess(const rlimit& open_files);
  ~LauncherProcess();
  LauncherProcess(const LauncherProcess&) = delete;
  LauncherProcess& operator=(const LauncherProcess&) = delete;

  View view() const { return view_; }
  /// Waits while the launcher has as many requests as the socket holds; what it answers meanwhile is kept for
  /// receive(). Throws LaunchError when the launcher is gone.
  void spawn(const SpawnRequest& request);
  /// Readable when the launcher has answered; has_received() tells of answers that were read before.
  int descriptor() const { return socket_.get(); }
  bool has_received() const { return !received_.empty(); }
  /// The next result, or nothing when there is none yet (`block` false). Throws LaunchError when the launcher
  /// could not be set up, or is gone.
  std::optional<Spawned> receive(bool block = false);
  /// Whether it is gone; what it answered before is still to be received.
  bool has_ended() const;
  /// Waits for the launcher's set-up; throws LaunchError when it failed.
  void wait_until_ready();
  /// Lets it go: nothing more may be asked of it. Destruction, which waits for its end, then waits less.
  void dismiss();

 private:
  void reap();
  [[noreturn]] void fail_lost();
  /// Until there is room for a request, or the launcher is gone.
  void await_room();
  std::optional<Spawned> read_answer(MessageWait wait);

  View view_;
  UniqueFd socket_;
  std::deque<Spawned> received_;
  pid_t pid_ = -1;
  int status_ = 0;  ///< of waitpid(2), when it was reaped
  bool ready_ = false;
  std::optional<LaunchError> setup_failure_;  ///< told again to whoever asks
};

/// True when this process holds CAP_SYS_ADMIN and the like over the machine, not only in a user namespace.
bool is_privileged();

}  // namespace berth
