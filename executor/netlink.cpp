#include "executor/netlink.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "executor/os/syscall.h"

namespace berth {
namespace {

/// Larger than any message that the kernel sends (MNL_SOCKET_BUFFER_SIZE is 8 KiB; dumps use up to 32).
constexpr std::size_t kReceiveBuffer = std::size_t{32} * 1024;
constexpr int kEventBuffer = 4 * 1024 * 1024;

std::size_t aligned(std::size_t size) {
  return (size + NLMSG_ALIGNTO - 1) & ~std::size_t{NLMSG_ALIGNTO - 1};
}

/// errno of an acknowledgement or error message.
int error_of(const nlmsghdr* message) {
  const auto* error = static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(message));
  return error->error < 0 ? -error->error : error->error;
}

}  // namespace

std::vector<const nlattr*> attributes_of(const nlmsghdr* message, std::size_t header_size) {
  std::vector<const nlattr*> found;
  mnl_attr_parse(
      message, static_cast<unsigned>(header_size),
      [](const nlattr* attribute, void* list) {
        static_cast<std::vector<const nlattr*>*>(list)->push_back(attribute);
        return MNL_CB_OK;
      },
      &found);
  return found;
}

std::vector<const nlattr*> nested_attributes(const nlattr* parent) {
  std::vector<const nlattr*> found;
  mnl_attr_parse_nested(
      parent,
      [](const nlattr* attribute, void* list) {
        static_cast<std::vector<const nlattr*>*>(list)->push_back(attribute);
        return MNL_CB_OK;
      },
      &found);
  return found;
}

const nlattr* find_attribute(const std::vector<const nlattr*>& attributes, std::uint16_t type) {
  for (const nlattr* attribute : attributes) {
    if (mnl_attr_get_type(attribute) == type) {
      return attribute;
    }
  }
  return nullptr;
}

nlmsghdr* NetlinkBatch::current() {
  return reinterpret_cast<nlmsghdr*>(bytes_.data() + requests_.back().offset);
}

void NetlinkBatch::grow(std::size_t size) {
  bytes_.resize(bytes_.size() + aligned(size));
  current()->nlmsg_len = static_cast<std::uint32_t>(bytes_.size() - requests_.back().offset);
}

void NetlinkBatch::begin(std::uint16_t type, std::uint16_t flags, std::string what, int ignored) {
  requests_.push_back({bytes_.size(), std::move(what), ignored});
  grow(sizeof(nlmsghdr));
  nlmsghdr* message = current();
  message->nlmsg_type = type;
  message->nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | flags);
}

void* NetlinkBatch::extra_header(std::size_t size) {
  const std::size_t offset = bytes_.size();
  grow(size);
  return bytes_.data() + offset;
}

void NetlinkBatch::put(std::uint16_t type, const void* data, std::size_t size) {
  const std::size_t offset = bytes_.size();
  grow(sizeof(nlattr) + size);
  auto* attribute = reinterpret_cast<nlattr*>(bytes_.data() + offset);
  attribute->nla_type = type;
  attribute->nla_len = static_cast<std::uint16_t>(sizeof(nlattr) + size);
  if (size > 0) {
    std::memcpy(bytes_.data() + offset + sizeof(nlattr), data, size);
  }
}

std::size_t NetlinkBatch::begin_nest(std::uint16_t type) {
  const std::size_t offset = bytes_.size();
  put(static_cast<std::uint16_t>(type | NLA_F_NESTED), nullptr, 0);
  return offset;
}

void NetlinkBatch::end_nest(std::size_t nest) {
  reinterpret_cast<nlattr*>(bytes_.data() + nest)->nla_len = static_cast<std::uint16_t>(bytes_.size() - nest);
}

NetlinkSocket::NetlinkSocket(int protocol)
    : socket_(check(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol), "socket", "netlink")) {
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  check(::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), "bind",
        "netlink");
}

void NetlinkSocket::join(unsigned group) {
  check(::setsockopt(socket_.get(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group), "setsockopt",
        "netlink group");
  ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &kEventBuffer, sizeof kEventBuffer);
}

void NetlinkSocket::commit(NetlinkBatch& batch) {
  if (batch.empty()) {
    return;
  }
  const std::uint32_t first = sequence_ + 1;
  for (const NetlinkBatch::Request& request : batch.requests_) {
    auto* message = reinterpret_cast<nlmsghdr*>(batch.bytes_.data() + request.offset);
    message->nlmsg_flags |= NLM_F_ACK;
    message->nlmsg_seq = ++sequence_;
  }
  check(retry_eintr([&] { return ::send(socket_.get(), batch.bytes_.data(), batch.bytes_.size(), 0); }),
        "netlink", batch.requests_.front().what);
  std::size_t open = batch.requests_.size();
  int failure = 0;
  std::string failed;
  alignas(nlmsghdr) std::array<char, kReceiveBuffer> buffer{};
  while (open > 0) {
    const ssize_t size =
        check(retry_eintr([&] { return ::recv(socket_.get(), buffer.data(), buffer.size(), 0); }), "netlink",
              batch.requests_.front().what);
    int left = static_cast<int>(size);
    for (const auto* message = reinterpret_cast<const nlmsghdr*>(buffer.data()); mnl_nlmsg_ok(message, left);
         message = mnl_nlmsg_next(message, &left)) {
      if (message->nlmsg_type != NLMSG_ERROR || message->nlmsg_seq < first ||
          message->nlmsg_seq - first >= batch.requests_.size()) {
        continue;
      }
      --open;
      const NetlinkBatch::Request& request = batch.requests_[message->nlmsg_seq - first];
      const int error_number = error_of(message);
      if (error_number != 0 && error_number != request.ignored && failure == 0) {
        failure = error_number;
        failed = request.what;
      }
    }
  }
  if (failure != 0) {
    throw_system_error(failure, "netlink", failed);
  }
}

bool NetlinkSocket::query(NetlinkBatch& batch, const std::function<void(const nlmsghdr*)>& take) {
  const NetlinkBatch::Request& request = batch.requests_.front();
  auto* asked = reinterpret_cast<nlmsghdr*>(batch.bytes_.data());
  const bool is_dump = (asked->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
  asked->nlmsg_flags |= is_dump ? 0 : NLM_F_ACK;
  asked->nlmsg_seq = ++sequence_;
  check(retry_eintr([&] { return ::send(socket_.get(), batch.bytes_.data(), batch.bytes_.size(), 0); }),
        "netlink", request.what);
  alignas(nlmsghdr) std::array<char, kReceiveBuffer> buffer{};
  while (true) {
    const ssize_t size =
        check(retry_eintr([&] { return ::recv(socket_.get(), buffer.data(), buffer.size(), 0); }), "netlink",
              request.what);
    int left = static_cast<int>(size);
    for (const auto* message = reinterpret_cast<const nlmsghdr*>(buffer.data()); mnl_nlmsg_ok(message, left);
         message = mnl_nlmsg_next(message, &left)) {
      if (message->nlmsg_seq != sequence_) {
        continue;
      }
      if (message->nlmsg_type == NLMSG_DONE) {
        return true;
      }
      if (message->nlmsg_type == NLMSG_ERROR) {
        const int error_number = error_of(message);
        if (error_number == 0 || error_number == ENOENT) {
          return error_number == 0;
        }
        throw_system_error(error_number, "netlink", request.what);
      }
      take(message);
    }
  }
}

bool NetlinkSocket::receive_events(const std::function<void(const nlmsghdr*)>& take) {
  alignas(nlmsghdr) std::array<char, kReceiveBuffer> buffer{};
  while (true) {
    const ssize_t size =
        retry_eintr([&] { return ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT); });
    if (size < 0) {
      return errno != ENOBUFS;
    }
    int left = static_cast<int>(size);
    for (const auto* message = reinterpret_cast<const nlmsghdr*>(buffer.data()); mnl_nlmsg_ok(message, left);
         message = mnl_nlmsg_next(message, &left)) {
      take(message);
    }
  }
}

}  // namespace berth
