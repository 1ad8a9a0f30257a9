#include "executor/network_namespace.h"

#include <fcntl.h>
#include <sched.h>

#include <cstdlib>
#include <string>

namespace berth {
namespace {

constexpr const char* kOwnNamespace = "/proc/thread-self/ns/net";

UniqueFd open_own() {
  return open_at(AT_FDCWD, kOwnNamespace, O_RDONLY);
}

}  // namespace

NetworkNamespace::Visit::Visit(const NetworkNamespace& there) : back_(open_own()) {
  check(::setns(there.descriptor(), CLONE_NEWNET), "setns", "network namespace");
}

NetworkNamespace::Visit::~Visit() {
  if (::setns(back_.get(), CLONE_NEWNET) != 0) {
    std::abort();
  }
}

NetworkNamespace NetworkNamespace::current() {
  return NetworkNamespace(open_own());
}

NetworkNamespace NetworkNamespace::create() {
  const NetworkNamespace here = current();
  const Visit visit(here);  // the way back
  check(::unshare(CLONE_NEWNET), "unshare", "network namespace");
  return NetworkNamespace(open_own());
}

NetworkNamespace NetworkNamespace::of_process(pid_t pid) {
  return NetworkNamespace(open_at(AT_FDCWD, "/proc/" + std::to_string(pid) + "/ns/net", O_RDONLY));
}

}  // namespace berth
