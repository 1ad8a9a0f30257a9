#include "executor/descriptor_loop.h"

#include <sys/timerfd.h>
#include <unistd.h>

#include <array>

#include "executor/os/syscall.h"

namespace berth {
namespace {

constexpr unsigned kDescriptorBits = 32;

std::uint64_t tag(int fd, std::uint64_t serial) {
  return serial << kDescriptorBits | static_cast<std::uint32_t>(fd);
}

}  // namespace

DescriptorLoop::DescriptorLoop() : epoll_(check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")) {}

void DescriptorLoop::watch(int fd, std::uint32_t events, Handler handler) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = tag(fd, ++last_serial_);
  check(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
  watches_[fd] = {last_serial_, std::make_shared<Handler>(std::move(handler))};
}

void DescriptorLoop::change(int fd, std::uint32_t events) {
  const auto found = watches_.find(fd);
  if (found != watches_.end()) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = tag(fd, found->second.serial);
    check(::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event), "epoll_ctl");
  }
}

void DescriptorLoop::forget(int fd) {
  if (watches_.erase(fd) > 0) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  }
}

void DescriptorLoop::dispatch() {
  std::array<epoll_event, 64> ready{};
  const int count = retry_eintr(
      [&] { return ::epoll_wait(epoll_.get(), ready.data(), static_cast<int>(ready.size()), 0); });
  for (int index = 0; index < count; ++index) {
    const epoll_event& event = ready[static_cast<std::size_t>(index)];
    const auto found = watches_.find(static_cast<int>(event.data.u64 & 0xFFFF'FFFFU));
    if (found != watches_.end() && found->second.serial == event.data.u64 >> kDescriptorBits) {
      const std::shared_ptr<Handler> handler = found->second.handler;  // may be forgotten meanwhile
      (*handler)(event.events);
    }
  }
}

SecondTimer::SecondTimer()
    : timer_(check(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), "timerfd_create")) {}

void SecondTimer::run(bool on) {
  if (on != running_) {
    running_ = on;
    const itimerspec setting{{on ? 1 : 0, 0}, {on ? 1 : 0, 0}};
    ::timerfd_settime(timer_.get(), 0, &setting, nullptr);
  }
}

void SecondTimer::acknowledge() {
  std::uint64_t expirations = 0;
  (void)!::read(timer_.get(), &expirations, sizeof expirations);
}

}  // namespace berth
