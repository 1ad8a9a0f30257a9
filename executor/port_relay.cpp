#include "executor/port_relay.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "executor/executor.h"
#include "executor/os/syscall.h"
#include "executor/socket_address.h"

namespace berth {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kBacklog = 128;
constexpr std::size_t kBuffer = std::size_t{64} * 1024;
constexpr std::size_t kMostConnections = 4096;
constexpr std::size_t kMostSessions = 1024;
constexpr std::size_t kAlwaysOfOneJob = 32;  // connections and sessions, also while others have the most
constexpr std::chrono::seconds kSessionIdle{120};  // as nf_conntrack_udp_timeout_stream
constexpr int kFreePortTries = 32;
// A client that is gone without a word is found out within three minutes.
constexpr int kKeepAliveIdle = 120;  // seconds, as what follows
constexpr int kKeepAliveInterval = 15;
constexpr int kKeepAliveProbes = 4;

void keep_alive(int socket) {
  const int on = 1;
  ::setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPIDLE, &kKeepAliveIdle, sizeof kKeepAliveIdle);
  ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPINTVL, &kKeepAliveInterval, sizeof kKeepAliveInterval);
  ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPCNT, &kKeepAliveProbes, sizeof kKeepAliveProbes);
}

}  // namespace

// ---- TCP ----

/// Two sockets, and what is under way between them.
class PortRelay::Connection {
 public:
  Connection(PortRelay& relay, std::uint64_t number, UniqueFd client, std::uint16_t port, bool v6)
      : relay_(relay), number_(number), port_(port) {
    sides_[kClient].fd = std::move(client);
    addresses_ = relay.job_;
    // The client's family first; a server that listens on the other alone is found too.
    std::stable_partition(addresses_.begin(), addresses_.end(),
                          [&](const IpAddress& address) { return address.is_v6 == v6; });
  }
  ~Connection() {
    for (const Side& side : sides_) {
      if (side.watched) {
        relay_.loop_.forget(side.fd.get());
      }
    }
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// False when nobody in the job listens.
  bool connect() {
    unwatch(sides_[kJob]);
    while (next_address_ < addresses_.size()) {
      sides_[kJob].fd = relay_.connect_to_job(SOCK_STREAM, port_, addresses_[next_address_++]);
      if (sides_[kJob].fd) {
        connecting_ = true;
        watch(kJob, EPOLLOUT);
        return true;
      }
    }
    return false;
  }

 private:
  static constexpr std::size_t kClient = 0;
  static constexpr std::size_t kJob = 1;
  struct Side {
    UniqueFd fd;
    bool watched = false;
    bool ended = false;  ///< nothing more comes from it, which the other one knows
    bool full = false;   ///< it takes no more at present
  };

  void watch(std::size_t which, std::uint32_t events) {
    Side& side = sides_.at(which);
    if (side.watched) {
      relay_.loop_.change(side.fd.get(), events);
    } else {
      side.watched = true;
      relay_.loop_.watch(side.fd.get(), events, [this, which](std::uint32_t ready) { handle(which, ready); });
    }
  }
  void unwatch(Side& side) {
    if (side.watched) {
      relay_.loop_.forget(side.fd.get());
      side.watched = false;
    }
  }

  void handle(std::size_t which, std::uint32_t ready) {
    if (connecting_) {
      int error_number = 0;
      socklen_t size = sizeof error_number;
      ::getsockopt(sides_[kJob].fd.get(), SOL_SOCKET, SO_ERROR, &error_number, &size);
      if (error_number != 0) {
        if (!connect()) {
          close(true);
        }
        return;
      }
      connecting_ = false;
    } else if ((ready & EPOLLERR) != 0) {
      close(true);
      return;
    }
    (void)which;
    for (const std::size_t from : {kClient, kJob}) {
      if (!pump(sides_.at(from), sides_.at(1 - from))) {
        close(true);
        return;
      }
    }
    if (sides_[kClient].ended && sides_[kJob].ended) {
      close(false);
      return;
    }
    for (const std::size_t side : {kClient, kJob}) {
      const bool reads = !sides_.at(side).ended && !sides_.at(1 - side).full;
      const std::uint32_t events =
          (reads ? unsigned{EPOLLIN} : 0U) | (sides_.at(side).full ? unsigned{EPOLLOUT} : 0U);
      // One that has hung up would be reported for ever while the other side takes its time.
      events != 0 ? watch(side, events) : unwatch(sides_.at(side));
    }
  }

  /// What can be moved without waiting; the rest stays in the socket that it came by, where the kernel makes
  /// its sender wait. False when the connection is broken.
  bool pump(Side& from, Side& to) {
    std::vector<char>& buffer = relay_.buffer();
    to.full = false;
    for (int turn = 0; turn < 16 && !from.ended; ++turn) {
      const ssize_t size =
          retry_eintr([&] { return ::recv(from.fd.get(), buffer.data(), buffer.size(), MSG_PEEK); });
      if (size < 0) {
        return errno == EAGAIN;
      }
      if (size == 0) {
        from.ended = true;
        ::shutdown(to.fd.get(), SHUT_WR);
        return true;
      }
      const ssize_t sent = retry_eintr(
          [&] { return ::send(to.fd.get(), buffer.data(), static_cast<std::size_t>(size), MSG_NOSIGNAL); });
      if (sent < 0) {
        to.full = errno == EAGAIN;
        return to.full;
      }
      // tcp(7): with MSG_TRUNC they are dropped where they are.
      const ssize_t taken = retry_eintr(
          [&] { return ::recv(from.fd.get(), nullptr, static_cast<std::size_t>(sent), MSG_TRUNC); });
      if (taken != sent) {
        return false;
      }
    }
    return true;
  }

  /// Ends it; this is gone afterwards. `reset`: the client is told that it broke.
  void close(bool reset) {
    if (reset) {
      const linger now{1, 0};
      ::setsockopt(sides_[kClient].fd.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
    }
    relay_.end_connection(number_);
  }

  PortRelay& relay_;
  std::uint64_t number_;
  std::uint16_t port_;
  std::vector<IpAddress> addresses_;
  std::size_t next_address_ = 0;
  bool connecting_ = false;
  std::array<Side, 2> sides_;
};

// ---- UDP ----

namespace {

/// A datagram from a client, or to one: which of the host's addresses the client speaks to, as well, because
/// it takes an answer from there alone.
class Envelope {
 public:
  static void ask_for_address(int socket, bool v6) {
    const int on = 1;
    v6 ? ::setsockopt(socket, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on)
       : ::setsockopt(socket, IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
  }

  /// recv(2)
  ssize_t receive(int socket, std::vector<char>& buffer) {
    msghdr message = header(buffer.data(), buffer.size());
    message.msg_control = control_.data();
    message.msg_controllen = control_.size();
    const ssize_t size = retry_eintr([&] { return ::recvmsg(socket, &message, 0); });
    from_.size = message.msg_namelen;
    control_size_ = size >= 0 ? message.msg_controllen : 0;
    for (cmsghdr* part = size >= 0 ? CMSG_FIRSTHDR(&message) : nullptr; part != nullptr;
         part = CMSG_NXTHDR(&message, part)) {
      if (part->cmsg_level == IPPROTO_IP && part->cmsg_type == IP_PKTINFO) {
        auto* to = reinterpret_cast<in_pktinfo*>(CMSG_DATA(part));
        to->ipi_ifindex = 0;  // by whichever device leads there
      }
    }
    return size;
  }

  void answer(int socket, const char* data, std::size_t size) {
    msghdr message = header(const_cast<char*>(data), size);
    message.msg_control = control_size_ > 0 ? control_.data() : nullptr;
    message.msg_controllen = control_size_;
    (void)!::sendmsg(socket, &message, MSG_NOSIGNAL);
  }

  /// Tells this exchange from others.
  std::string key() const {
    return from_.address().to_text() + ' ' + std::to_string(from_.port()) + ' ' +
           std::string(control_.data(), control_size_);
  }

 private:
  msghdr header(char* data, std::size_t size) {
    content_ = {data, size};
    msghdr message{};
    message.msg_name = &from_.storage.any;
    message.msg_namelen = from_.size;
    message.msg_iov = &content_;
    message.msg_iovlen = 1;
    return message;
  }

  SocketAddress from_;
  iovec content_{};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(in6_pktinfo))> control_{};
  std::size_t control_size_ = 0;
};

}  // namespace

/// Datagrams of one client, and the job's answers to it.
struct PortRelay::Session {
  UniqueFd socket;
  Clock::time_point used;
  Envelope client;
};

// ---- both ----

namespace {

bool is_datagram(const PublishedPort& port) {
  return port.protocol == NetworkProtocol::udp;
}

}  // namespace

PortRelay::PortRelay(DescriptorLoop& loop, const NetworkNamespace& router, std::vector<IpAddress> job,
                     RelayedClients& all)
    : loop_(loop), router_(router), job_(std::move(job)), all_(all), clients_(loop) {}

PortRelay::~PortRelay() {
  all_.now -= connections_.size() + sessions_.size();
  connections_.clear();
  for (const auto& [client, session] : sessions_) {
    loop_.forget(session->socket.get());
  }
  for (const std::unique_ptr<Listener>& listener : listeners_) {
    if (is_datagram(listener->port)) {
      loop_.forget(listener->socket.get());
    }
  }
}

std::vector<char>& PortRelay::buffer() {
  buffer_.resize(kBuffer);
  return buffer_;
}

std::vector<PortRelay::Listener> PortRelay::open_sockets(const PublishedPort& port) {
  const int type = is_datagram(port) ? SOCK_DGRAM : SOCK_STREAM;
  std::vector<IpAddress> addresses;
  if (port.address) {
    addresses.push_back(*port.address);
  } else {
    addresses = {*IpAddress::parse("0.0.0.0"), *IpAddress::parse("::")};
  }
  std::vector<Listener> listeners;
  PublishedPort taken = port;
  for (const IpAddress& address : addresses) {
    const int family = address.is_v6 ? AF_INET6 : AF_INET;
    UniqueFd socket{::socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    if (!socket && errno == EAFNOSUPPORT && !port.address) {
      continue;  // a host without IPv6
    }
    check(socket.get(), "socket", port.to_text());
    const int on = 1;
    if (address.is_v6) {
      ::setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    }
    if (type == SOCK_DGRAM) {
      Envelope::ask_for_address(socket.get(), address.is_v6);
    }
    if (type == SOCK_STREAM) {  // not for UDP, where it would let two servers have one port (socket(7))
      ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    }
    const SocketAddress local(address, taken.host_port);
    if (::bind(socket.get(), &local.storage.any, local.size) != 0 ||
        (type == SOCK_STREAM && ::listen(socket.get(), kBacklog) != 0)) {
      const int error_number = errno;
      if (error_number == EADDRNOTAVAIL && !port.address && address.is_v6) {
        continue;  // IPv6 is switched off
      }
      throw LaunchError(
          "isolation.publish", error_number,
          "isolation.publish: " + port.to_text() + ": " + std::generic_category().message(error_number) +
              (error_number == EADDRINUSE ? "; choose another port of the host, or 0 for a free one" : ""));
    }
    taken.host_port = own_address(socket.get()).port();
    listeners.push_back({std::move(socket), taken, address.is_v6});
  }
  return listeners;
}

std::vector<PortRelay::Listener> PortRelay::open_listeners(const PublishedPort& port) {
  std::vector<Listener> opened;
  for (int tries = 1; opened.empty(); ++tries) {
    try {
      opened = open_sockets(port);
    } catch (const LaunchError& error) {
      // A free port of IPv4 may be taken in IPv6.
      if (port.host_port != 0 || error.error_number() != EADDRINUSE || tries == kFreePortTries) {
        throw;
      }
    }
  }
  return opened;
}

PublishedPort PortRelay::find_free(const PublishedPort& port) {
  return open_listeners(port).back().port;
}

PublishedPort PortRelay::publish(const PublishedPort& port) {
  for (Listener& entry : open_listeners(port)) {
    listeners_.push_back(std::make_unique<Listener>(std::move(entry)));
    const Listener& listener = *listeners_.back();
    const int socket = listener.socket.get();
    if (is_datagram(port)) {
      loop_.watch(socket, EPOLLIN, [this, &listener](std::uint32_t) { receive_datagrams(listener); });
    } else {
      clients_.watch(socket, [this, &listener](UniqueFd client, const SocketAddress&) {
        take_client(listener, std::move(client));
      });
    }
  }
  return listeners_.back()->port;
}

UniqueFd PortRelay::open_in_router(int family, int type) {
  int error_number = 0;
  try {
    UniqueFd socket{router_.inside([&] { return ::socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); })};
    if (socket) {
      return socket;
    }
    error_number = errno;
  } catch (const std::system_error& error) {  // the way back needs a descriptor too
    error_number = error.code().value();
  }
  if (is_shortage(error_number)) {
    clients_.pause();  // they would be turned away
  }
  return UniqueFd{};
}

UniqueFd PortRelay::connect_to_job(int type, std::uint16_t port, const IpAddress& address) {
  UniqueFd socket = open_in_router(address.is_v6 ? AF_INET6 : AF_INET, type);
  const SocketAddress remote(address, port);
  if (socket && ::connect(socket.get(), &remote.storage.any, remote.size) != 0 && errno != EINPROGRESS) {
    socket.reset();
  }
  return socket;
}

/// No job's clients keep those of others out, nor take the descriptors that jobs need to start.
bool PortRelay::has_room() const {
  return all_.now < all_.most || connections_.size() + sessions_.size() < kAlwaysOfOneJob;
}

void PortRelay::take_client(const Listener& listener, UniqueFd client) {
  if (connections_.size() >= kMostConnections || !has_room()) {
    return;
  }
  keep_alive(client.get());
  const std::uint64_t number = ++last_connection_;
  const auto [entry, is_new] = connections_.emplace(
      number,
      std::make_unique<Connection>(*this, number, std::move(client), listener.port.port, listener.v6));
  ++all_.now;
  if (!entry->second->connect()) {
    end_connection(number);
  }
}

void PortRelay::end_connection(std::uint64_t number) {
  all_.now -= connections_.erase(number);
}

void PortRelay::receive_datagrams(const Listener& listener) {
  for (int turn = 0; turn < kMostDatagramsPerTurn; ++turn) {
    Envelope client;
    const ssize_t size = client.receive(listener.socket.get(), buffer());
    if (size < 0) {
      return;
    }
    const std::string key = std::to_string(listener.socket.get()) + ' ' + client.key();
    auto found = sessions_.find(key);
    if (found == sessions_.end()) {
      make_room_for_session();
      auto session = std::make_unique<Session>();
      for (const IpAddress& address : job_) {
        if (!session->socket && address.is_v6 == listener.v6) {
          session->socket = connect_to_job(SOCK_DGRAM, listener.port.port, address);
        }
      }
      if (!session->socket) {
        continue;
      }
      session->client = client;
      const int job = session->socket.get();
      const int host = listener.socket.get();
      Session& entry = *session;
      loop_.watch(job, EPOLLIN, [this, job, host, &entry](std::uint32_t) {
        std::vector<char>& answer = buffer();
        for (int answers = 0; answers < kMostDatagramsPerTurn; ++answers) {
          const ssize_t got = retry_eintr([&] { return ::recv(job, answer.data(), answer.size(), 0); });
          if (got < 0) {
            return;
          }
          entry.used = Clock::now();
          entry.client.answer(host, answer.data(), static_cast<std::size_t>(got));
        }
      });
      found = sessions_.emplace(key, std::move(session)).first;
      ++all_.now;
    }
    found->second->used = Clock::now();
    (void)!::send(found->second->socket.get(), buffer_.data(), static_cast<std::size_t>(size), MSG_NOSIGNAL);
  }
}

/// Idle ones go, and of too many the one that was used longest ago: whoever invents clients keeps none out.
void PortRelay::make_room_for_session() {
  const Clock::time_point now = Clock::now();
  const auto oldest = std::min_element(sessions_.begin(), sessions_.end(), [](const auto& a, const auto& b) {
    return a.second->used < b.second->used;
  });
  const bool too_many = !sessions_.empty() && (sessions_.size() >= kMostSessions || !has_room());
  const Clock::time_point limit = too_many ? oldest->second->used : now - kSessionIdle;
  all_.now -= std::erase_if(sessions_, [&](const auto& entry) {
    const bool over = entry.second->used <= limit;
    if (over) {
      loop_.forget(entry.second->socket.get());
    }
    return over;
  });
}

}  // namespace berth
