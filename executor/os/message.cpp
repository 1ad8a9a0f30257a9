#include "executor/os/message.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "executor/os/syscall.h"

namespace berth {
namespace {

constexpr std::size_t kMaximumDescriptors = 128;

}  // namespace

int send_message(int socket, const void* data, std::size_t size, std::span<const int> descriptors,
                 MessageWait wait) noexcept {
  if (descriptors.size() > kMaximumDescriptors) {
    return E2BIG;
  }
  iovec part{const_cast<void*>(data), size};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMaximumDescriptors)> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
  }
  const int flags = MSG_NOSIGNAL | (wait == MessageWait::poll ? MSG_DONTWAIT : 0);
  return retry_eintr([&] { return ::sendmsg(socket, &message, flags); }) < 0 ? errno : 0;
}

ssize_t receive_message(int socket, void* data, std::size_t size, Descriptors& descriptors,
                        MessageWait wait) {
  iovec part{data, size};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMaximumDescriptors)> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const int flags = MSG_CMSG_CLOEXEC | (wait == MessageWait::poll ? MSG_DONTWAIT : 0);
  const ssize_t count = retry_eintr([&] { return ::recvmsg(socket, &message, flags); });
  if (count < 0) {
    return count;
  }
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
      continue;
    }
    const std::size_t received = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t index = 0; index < received; ++index) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(header) + index * sizeof(int), sizeof fd);
      descriptors.add(fd);
    }
  }
  return count;
}

}  // namespace berth
