#include "executor/namespace_errand.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>
#include <string>

#include "executor/executor.h"
#include "executor/os/syscall.h"

namespace berth {
namespace {

struct Result {
  int error_number;
  bool failed;
  std::array<char, 32> stage;
  std::array<char, 512> message;
};

void tell_failure(Result& result, int error_number, const std::string& stage, const std::string& message) {
  result.failed = true;
  result.error_number = error_number;
  stage.copy(result.stage.data(), result.stage.size() - 1);
  message.copy(result.message.data(), result.message.size() - 1);
}

[[noreturn]] void run_child(pid_t pid, int socket, const std::function<std::vector<UniqueFd>()>& errand) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  // It needs no other of berth's, and libnftables a low number (nft_tables.h).
  ::close_range(STDERR_FILENO + 1, static_cast<unsigned>(socket - 1), 0);
  ::close_range(static_cast<unsigned>(socket + 1), ~0U, 0);
  Result result{};
  std::vector<UniqueFd> made;
  try {
    const std::string folder = "/proc/" + std::to_string(pid) + "/ns/";
    const UniqueFd user = open_at(AT_FDCWD, folder + "user", O_RDONLY);
    const UniqueFd network = open_at(AT_FDCWD, folder + "net", O_RDONLY);
    check(::setns(user.get(), CLONE_NEWUSER), "setns", "user namespace");
    check(::setns(network.get(), CLONE_NEWNET), "setns", "network namespace");
    made = errand();
  } catch (const LaunchError& error) {
    tell_failure(result, error.error_number(), error.stage(), error.what());
  } catch (const std::system_error& error) {
    tell_failure(result, error.code().value(), "network", error.what());
  } catch (const std::exception& error) {
    tell_failure(result, 0, "network", error.what());
  }
  std::vector<int> descriptors;
  descriptors.reserve(made.size());
  for (const UniqueFd& one : made) {
    descriptors.push_back(one.get());
  }
  send_message(socket, &result, sizeof result, descriptors);
  ::_exit(0);
}

}  // namespace

Descriptors run_in_network_of(pid_t pid, const std::function<std::vector<UniqueFd>()>& errand) {
  FdPair pair = make_socket_pair();
  const pid_t child = check(::fork(), "fork", "network namespace");
  if (child == 0) {
    run_child(pid, pair.second.get(), errand);
  }
  pair.second.reset();
  Result result{};
  Descriptors descriptors;
  const ssize_t size =
      receive_message(pair.first.get(), &result, sizeof result, descriptors, MessageWait::block);
  retry_eintr([&] { return ::waitpid(child, nullptr, 0); });
  if (size != sizeof result) {
    throw LaunchError("network", ECHILD, "network: the process that was to prepare the job's network died");
  }
  if (result.failed) {
    throw LaunchError(result.stage.data(), result.error_number, result.message.data());
  }
  return descriptors;
}

}  // namespace berth
