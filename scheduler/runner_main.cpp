// berth-runner: holds berthd's jobs, in a process of its own that survives berthd. Started by berthd alone:
//
//   berth-runner SOCKET-FOLDER SPOOL-FOLDER ARMED DESCRIPTORS
//
// Prints the path of its socket on standard output and leaves its caller: a session of its own, no descriptor
// kept but standard error.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "executor/os/syscall.h"
#include "scheduler/log.h"
#include "scheduler/recovery.h"
#include "scheduler/runner.h"

namespace {

/// Leaves the caller's session and process group, and lets the caller wait until `ready` is closed.
void detach() {
  const berth::FdPair ready = berth::make_pipe();
  if (berth::check(::fork(), "fork") > 0) {
    char path[4096];
    const ssize_t count = berth::retry_eintr([&] {
      ::close(ready.second.get());
      return ::read(ready.first.get(), path, sizeof path);
    });
    const bool ok = count > 0 && berth::write_all(STDOUT_FILENO, path, static_cast<std::size_t>(count));
    ::_exit(ok ? 0 : 1);
  }
  ::setsid();
  berth::check(::dup2(ready.second.get(), STDOUT_FILENO), "dup2");
}

int run(char** arguments) {
  // berthd's own sockets are none of ours (close_range(2)).
  ::syscall(SYS_close_range, 3u, ~0u, 0u);
  berth::check(::chdir("/"), "chdir", "/");
  detach();
  for (const int number : {SIGHUP, SIGINT, SIGPIPE, SIGXFSZ}) {
    ::signal(number, SIG_IGN);
  }
  if (arguments[4] != nullptr) {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = std::min<rlim_t>(std::strtoull(arguments[4], nullptr, 10), limit.rlim_max);
    ::setrlimit(RLIMIT_NOFILE, &limit);  // what jobs inherit; the runner raises its own
  }
  berth::Runner runner(
      {arguments[1], arguments[2], static_cast<unsigned>(std::strtoul(arguments[3], nullptr, 10))},
      berth::this_supervisor());
  const std::string& path = runner.socket_path();
  if (!berth::write_all(STDOUT_FILENO, path.data(), path.size())) {
    return 1;  // it took too long: berthd waits no more
  }
  const berth::UniqueFd null = berth::open_at(AT_FDCWD, "/dev/null", O_RDWR);
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO}) {
    berth::check(::dup2(null.get(), descriptor), "dup2");
  }
  runner.run();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  berth::occupy_standard_streams();
  if (argc != 4 && argc != 5) {  // a berthd from before an upgrade gives no limit
    std::fputs("berth-runner is started by berthd; users run berth\n", stderr);
    return 2;
  }
  try {
    return run(argv);
  } catch (const std::exception& error) {
    berth::log_error(std::string("berth-runner: ") + error.what());
    return 1;
  }
}
