#include "scheduler/terminal_bridge.h"

#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>

#include "executor/os/syscall.h"

namespace berth {
namespace {

constexpr std::size_t kMostTypedAhead = std::size_t{64} * 1024;

}  // namespace

TerminalBridge::TerminalBridge() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGWINCH);
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  signals_.reset(check(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), "signalfd"));
}

void TerminalBridge::open(UniqueFd master) {
  master_ = std::move(master);
  raw_.emplace();
}

void TerminalBridge::close() {
  raw_.reset();
  master_.reset();
}

void TerminalBridge::add_descriptors(std::vector<pollfd>& descriptors) const {
  descriptors.push_back({signals_.get(), POLLIN, 0});
  if (master_ && reading_ && unsent_.size() < kMostTypedAhead) {
    descriptors.push_back({STDIN_FILENO, POLLIN, 0});
  }
  if (master_ && !unsent_.empty()) {
    descriptors.push_back({master_.get(), POLLOUT, 0});
  }
}

void TerminalBridge::handle() {
  signalfd_siginfo info{};
  bool changed = false;
  while (::read(signals_.get(), &info, sizeof info) == sizeof info) {
    changed = true;
  }
  if (!master_) {
    return;
  }
  if (changed) {
    const TerminalWindow now = window();
    const winsize size{now.rows, now.columns, 0, 0};
    ::ioctl(master_.get(), TIOCSWINSZ, &size);  // the kernel tells the job by SIGWINCH
  }
  read_keys();
  write_keys();
}

void TerminalBridge::read_keys() {
  pollfd input{STDIN_FILENO, POLLIN, 0};
  if (!reading_ || unsent_.size() >= kMostTypedAhead || ::poll(&input, 1, 0) <= 0) {
    return;
  }
  std::array<char, 4096> keys{};
  const ssize_t count = ::read(STDIN_FILENO, keys.data(), keys.size());
  if (count > 0) {
    unsent_.append(keys.data(), static_cast<std::size_t>(count));
  } else if (count == 0 || (errno != EINTR && errno != EAGAIN)) {
    reading_ = false;
    unsent_ += kEndOfInput;
  }
}

void TerminalBridge::write_keys() {
  while (!unsent_.empty()) {
    const ssize_t count = retry_eintr([&] { return ::write(master_.get(), unsent_.data(), unsent_.size()); });
    if (count < 0 && errno != EAGAIN) {
      unsent_.clear();  // nobody is there to read
    }
    if (count <= 0) {
      return;
    }
    unsent_.erase(0, static_cast<std::size_t>(count));
  }
}

}  // namespace berth
