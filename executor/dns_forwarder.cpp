#include "executor/dns_forwarder.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "executor/network_rules.h"
#include "executor/os/syscall.h"
#include "executor/socket_address.h"

namespace berth {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint16_t kPort = 53;
constexpr std::size_t kMaximumMessage = 65535;
constexpr std::chrono::seconds kServerPatience{3};  // for one server; glibc waits 5 s for us
constexpr std::chrono::seconds kStreamLife{10};
constexpr std::chrono::seconds kServersFresh{5};
constexpr std::size_t kMostExchanges = 1024;
constexpr std::size_t kMostOfOneJob = 128;
constexpr std::size_t kAlwaysOfOneJob = 8;   // also while others have the most that there may be
constexpr std::size_t kMostAddresses = 128;  // of one answer that are let through
constexpr std::uint32_t kJobNameTtl = 1;     // a job may end at any time
constexpr int kQueryBuffer = 4 << 20;        // bytes: a burst of each of many jobs (network_rules.cpp)

std::uint16_t random_id() {
  std::uint16_t id = 0;
  (void)!::getrandom(&id, sizeof id, 0);
  return id;
}

/// With the two bytes of length that a message has on a stream (RFC 1035, section 4.2.2).
std::string framed(const std::string& message) {
  std::string result{static_cast<char>(message.size() >> 8U), static_cast<char>(message.size() & 0xFFU)};
  return result + message;
}

/// The message at the front of a stream's bytes, when all of it is there.
std::optional<std::string> unframed(const std::string& bytes) {
  if (bytes.size() < 2) {
    return std::nullopt;
  }
  const std::size_t size =
      std::size_t{static_cast<unsigned char>(bytes[0])} << 8U | static_cast<unsigned char>(bytes[1]);
  return bytes.size() >= 2 + size ? std::optional(bytes.substr(2, size)) : std::nullopt;
}

/// What a read of a stream brought; false at its end.
bool read_more(int fd, std::string& bytes) {
  std::array<char, 4096> buffer{};
  while (true) {
    const ssize_t size = retry_eintr([&] { return ::recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT); });
    if (size < 0) {
      return errno == EAGAIN;
    }
    if (size == 0 || bytes.size() > kMaximumMessage + 2) {
      return false;
    }
    bytes.append(buffer.data(), static_cast<std::size_t>(size));
  }
}

}  // namespace

/// One query on its way.
struct DnsForwarder::Exchange {
  std::uint64_t number = 0;
  IpAddress job;
  std::string query;
  DnsQuestion question;
  // Where it came from: a datagram socket of ours and the address there, or a stream.
  int socket = -1;
  SocketAddress from;
  UniqueFd stream;
  std::string stream_in;
  std::string stream_out;
  // Where it is asked.
  std::vector<IpAddress> servers;
  UniqueFd upstream;
  std::string upstream_in;
  std::uint16_t upstream_id = 0;
  Clock::time_point deadline;
  bool is_stream() const { return static_cast<bool>(stream); }
};

std::vector<UniqueFd> open_dns_sockets(const std::vector<IpAddress>& addresses) {
  std::vector<UniqueFd> sockets;
  for (const IpAddress& address : addresses) {
    for (const int type : {SOCK_DGRAM, SOCK_STREAM}) {
      const int family = address.is_v6 ? AF_INET6 : AF_INET;
      UniqueFd socket{check(::socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), "socket", "DNS")};
      const SocketAddress local(address, kPort);
      check(::bind(socket.get(), &local.storage.any, local.size), "bind", "DNS " + address.to_text());
      if (type == SOCK_STREAM) {
        check(::listen(socket.get(), 64), "listen", "DNS");
      } else {
        ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUFFORCE, &kQueryBuffer, sizeof kQueryBuffer);
      }
      sockets.push_back(std::move(socket));
    }
  }
  return sockets;
}

DnsForwarder::DnsForwarder(DescriptorLoop& loop, std::vector<UniqueFd> sockets)
    : loop_(loop), sockets_(std::move(sockets)), streams_(loop) {
  for (const UniqueFd& socket : sockets_) {
    const int fd = socket.get();
    int type = 0;
    socklen_t size = sizeof type;
    check(::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size), "getsockopt", "DNS");
    if (type == SOCK_STREAM) {
      streams_.watch(
          fd, [this](UniqueFd client, const SocketAddress& from) { take_client(std::move(client), from); });
    } else {
      datagram_sockets_.push_back(fd);
      loop_.watch(fd, EPOLLIN, [this, fd](std::uint32_t) { receive_datagrams(fd); });
    }
  }
  loop_.watch(timer_.descriptor(), EPOLLIN, [this](std::uint32_t) { expire(); });
}

DnsForwarder::~DnsForwarder() {
  while (!exchanges_.empty()) {
    finish(exchanges_.begin()->first);
  }
  for (const int socket : datagram_sockets_) {
    loop_.forget(socket);
  }
  loop_.forget(timer_.descriptor());
}

void DnsForwarder::remove(const IpAddress& address) {
  clients_.erase(address);
  std::vector<std::uint64_t> over;
  for (const auto& [number, exchange] : exchanges_) {
    if (exchange->job == address) {
      over.push_back(number);
    }
  }
  for (const std::uint64_t number : over) {
    finish(number);
  }
}

/// No job keeps others from asking.
bool DnsForwarder::has_room(const IpAddress& job) const {
  const auto of_job = static_cast<std::size_t>(std::count_if(
      exchanges_.begin(), exchanges_.end(), [&](const auto& entry) { return entry.second->job == job; }));
  return of_job < (exchanges_.size() < kMostExchanges ? kMostOfOneJob : kAlwaysOfOneJob);
}

void DnsForwarder::receive_datagrams(int socket) {
  std::array<char, 4096> buffer{};
  for (int turn = 0; turn < kMostDatagramsPerTurn; ++turn) {
    auto exchange = std::make_unique<Exchange>();
    const ssize_t size = retry_eintr([&] {
      return ::recvfrom(socket, buffer.data(), buffer.size(), MSG_DONTWAIT, &exchange->from.storage.any,
                        &exchange->from.size);
    });
    if (size < 0) {
      return;
    }
    exchange->job = exchange->from.address();
    if (!has_room(exchange->job)) {
      continue;  // it will ask again
    }
    exchange->socket = socket;
    exchange->query.assign(buffer.data(), static_cast<std::size_t>(size));
    exchange->number = ++last_exchange_;
    Exchange& entry = *exchange;
    exchanges_.emplace(entry.number, std::move(exchange));
    handle_query(entry);
  }
}

void DnsForwarder::take_client(UniqueFd client, const SocketAddress& from) {
  auto exchange = std::make_unique<Exchange>();
  exchange->stream = std::move(client);
  exchange->from = from;
  exchange->job = from.address();
  if (!has_room(exchange->job)) {
    return;
  }
  exchange->number = ++last_exchange_;
  Exchange& entry = *exchange;
  exchanges_.emplace(entry.number, std::move(exchange));
  await_query(entry);
  timer_.run(true);
}

/// A connection may carry several queries (RFC 7766), which are answered one after the other.
void DnsForwarder::await_query(Exchange& exchange) {
  exchange.deadline = Clock::now() + kStreamLife;
  const std::uint32_t events =
      unframed(exchange.stream_in) ? EPOLLIN | EPOLLOUT : EPOLLIN;  // now, if it is there
  loop_.watch(exchange.stream.get(), events,
              [this, number = exchange.number](std::uint32_t) { read_stream(number); });
}

void DnsForwarder::read_stream(std::uint64_t number) {
  Exchange& exchange = *exchanges_.at(number);
  const bool open = read_more(exchange.stream.get(), exchange.stream_in);
  std::optional<std::string> query = unframed(exchange.stream_in);
  if (query) {
    exchange.stream_in.erase(0, 2 + query->size());
    exchange.query = std::move(*query);
    // A connection that broke would be reported for ever; whoever writes the answer will see.
    loop_.forget(exchange.stream.get());
    handle_query(exchange);
  } else if (!open) {
    finish(number);
  }
}

void DnsForwarder::handle_query(Exchange& exchange) {
  const auto client = clients_.find(exchange.job);
  const std::optional<DnsQuestion> question = parse_dns_query(exchange.query);
  if (client == clients_.end() || !question) {
    finish(exchange.number);
    return;
  }
  exchange.question = *question;
  exchange.query = bare_query(exchange.query, *question);
  const auto answer = [&](DnsCode code, const std::vector<IpAddress>& addresses) {
    send_reply(exchange, make_dns_reply(exchange.query, *question, code, addresses, kJobNameTtl));
  };
  const std::vector<IpAddress> job = client->second->find_job(question->name);
  if (!job.empty()) {
    answer(DnsCode::no_error, job);
    return;
  }
  const NetworkSpec& network = client->second->network();
  const Egress& egress = network.egress;
  const bool allowed =
      egress.mode == EgressMode::public_addresses || egress.mode == EgressMode::allow ||
      (egress.mode == EgressMode::rules &&
       std::any_of(egress.rules.begin(), egress.rules.end(), [&](const EgressRule& rule) {
         return rule.is_public() || (!rule.host.empty() && dns_name_matches(rule.host, question->name));
       }));
  if (!allowed) {
    client->second->count_refused();
    // Not "refused", at which resolvers give up the domains that they have still to search (resolv.conf(5)).
    answer(DnsCode::no_name, {});
    return;
  }
  exchange.servers = servers_of(network);
  std::reverse(exchange.servers.begin(), exchange.servers.end());  // taken from the back
  if (ask_next_server(exchange)) {
    timer_.run(true);
  }
}

bool DnsForwarder::ask_next_server(Exchange& exchange) {
  if (exchange.upstream) {
    loop_.forget(exchange.upstream.get());
    exchange.upstream.reset();
  }
  while (!exchange.servers.empty()) {
    const IpAddress server = exchange.servers.back();
    exchange.servers.pop_back();
    const int type = exchange.is_stream() ? SOCK_STREAM : SOCK_DGRAM;
    UniqueFd socket{::socket(server.is_v6 ? AF_INET6 : AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    const SocketAddress remote(server, kPort);
    if (!socket || (::connect(socket.get(), &remote.storage.any, remote.size) != 0 && errno != EINPROGRESS)) {
      continue;
    }
    exchange.upstream_id = random_id();
    std::string query = exchange.query;
    set_dns_id(query, exchange.upstream_id);
    if (!exchange.is_stream() && ::send(socket.get(), query.data(), query.size(), MSG_NOSIGNAL) < 0) {
      continue;
    }
    exchange.upstream = std::move(socket);
    exchange.upstream_in.clear();
    exchange.deadline = Clock::now() + kServerPatience;
    const std::uint64_t number = exchange.number;
    const std::uint32_t events = exchange.is_stream() ? EPOLLIN | EPOLLOUT : EPOLLIN;
    loop_.watch(exchange.upstream.get(), events, [this, number, query](std::uint32_t ready) {
      Exchange& current = *exchanges_.at(number);
      if ((ready & EPOLLOUT) != 0) {  // connected; a query fits into any send buffer
        const std::string frame = framed(query);
        loop_.change(current.upstream.get(), EPOLLIN);
        (void)!::send(current.upstream.get(), frame.data(), frame.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      }
      if ((ready & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0) {
        receive_reply(number);
      }
    });
    return true;
  }
  send_reply(exchange,
             make_dns_reply(exchange.query, exchange.question, DnsCode::server_failure, {}, kJobNameTtl));
  return false;
}

void DnsForwarder::receive_reply(std::uint64_t number) {
  Exchange& exchange = *exchanges_.at(number);
  std::string reply;
  if (exchange.is_stream()) {
    const bool open = read_more(exchange.upstream.get(), exchange.upstream_in);
    std::optional<std::string> message = unframed(exchange.upstream_in);
    if (!message) {
      if (!open) {
        ask_next_server(exchange);
      }
      return;
    }
    reply = std::move(*message);
  } else {
    std::array<char, 65536> buffer{};
    const ssize_t size = retry_eintr(
        [&] { return ::recv(exchange.upstream.get(), buffer.data(), buffer.size(), MSG_DONTWAIT); });
    if (size < 0) {
      if (errno != EAGAIN) {
        ask_next_server(exchange);  // nobody listens there
      }
      return;
    }
    reply.assign(buffer.data(), static_cast<std::size_t>(size));
  }
  if (!is_reply_to(reply, exchange.query, exchange.upstream_id)) {
    if (exchange.is_stream()) {
      ask_next_server(exchange);
    }
    return;  // a datagram is forged, or late
  }
  let_through(exchange, reply);
  set_dns_id(reply, exchange.question.id);
  send_reply(exchange, std::move(reply));
}

/// The addresses that an answer gives to names that the job's rules allow.
void DnsForwarder::let_through(const Exchange& exchange, const std::string& reply) {
  const auto client = clients_.find(exchange.job);
  if (client == clients_.end()) {
    return;
  }
  const std::vector<EgressRule>& rules = client->second->network().egress.rules;
  std::optional<std::vector<DnsAddress>> answered;
  for (std::size_t number = 0; number < rules.size(); ++number) {
    const EgressRule& rule = rules[number];
    if (rule.host.empty() || !dns_name_matches(rule.host, exchange.question.name)) {
      continue;
    }
    if (!answered) {
      answered = dns_addresses(reply);
      answered->resize(std::min(answered->size(), kMostAddresses));
    }
    std::vector<DnsAddress> addresses;
    std::copy_if(answered->begin(), answered->end(), std::back_inserter(addresses),
                 [&](const DnsAddress& found) { return name_may_lead_to(rule, found.address); });
    if (!addresses.empty()) {
      client->second->learn(number, addresses);
    }
  }
}

void DnsForwarder::send_reply(Exchange& exchange, std::string reply) {
  if (!exchange.is_stream()) {
    (void)!::sendto(exchange.socket, reply.data(), reply.size(), MSG_DONTWAIT | MSG_NOSIGNAL,
                    &exchange.from.storage.any, exchange.from.size);
    finish(exchange.number);
    return;
  }
  if (exchange.upstream) {
    loop_.forget(exchange.upstream.get());
    exchange.upstream.reset();
  }
  exchange.deadline = Clock::now() + kStreamLife;
  exchange.stream_out = framed(reply);
  write_stream(exchange.number);
}

void DnsForwarder::write_stream(std::uint64_t number) {
  Exchange& exchange = *exchanges_.at(number);
  const ssize_t size = retry_eintr([&] {
    return ::send(exchange.stream.get(), exchange.stream_out.data(), exchange.stream_out.size(),
                  MSG_DONTWAIT | MSG_NOSIGNAL);
  });
  if (size > 0) {
    exchange.stream_out.erase(0, static_cast<std::size_t>(size));
  }
  if (size < 0 && errno != EAGAIN) {
    finish(number);
    return;
  }
  loop_.forget(exchange.stream.get());
  if (exchange.stream_out.empty()) {
    await_query(exchange);
    return;
  }
  loop_.watch(exchange.stream.get(), EPOLLOUT, [this, number](std::uint32_t) { write_stream(number); });
}

void DnsForwarder::finish(std::uint64_t number) {
  const auto found = exchanges_.find(number);
  for (const UniqueFd* fd : {&found->second->stream, &found->second->upstream}) {
    if (*fd) {
      loop_.forget(fd->get());
    }
  }
  exchanges_.erase(found);
  timer_.run(!exchanges_.empty());
}

void DnsForwarder::expire() {
  timer_.acknowledge();
  const Clock::time_point now = Clock::now();
  std::vector<std::uint64_t> late;
  for (const auto& [number, exchange] : exchanges_) {
    if (exchange->deadline <= now) {
      late.push_back(number);
    }
  }
  for (const std::uint64_t number : late) {
    Exchange& exchange = *exchanges_.at(number);
    if (exchange.upstream) {
      ask_next_server(exchange);
    } else {
      finish(number);
    }
  }
}

std::vector<IpAddress> DnsForwarder::servers_of(const NetworkSpec& network) {
  if (!network.dns_servers.empty()) {
    return network.dns_servers;
  }
  const Clock::time_point now = Clock::now();
  if (host_servers_.empty() || now - host_servers_at_ > kServersFresh) {
    host_servers_at_ = now;
    try {
      host_servers_ = parse_name_servers(read_file_at(AT_FDCWD, "/etc/resolv.conf"));
    } catch (const std::system_error&) {
      host_servers_ = parse_name_servers("");
    }
  }
  return host_servers_;
}

std::vector<IpAddress> parse_name_servers(std::string_view text) {
  std::vector<IpAddress> servers;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    constexpr std::string_view kWord = "nameserver";
    const std::size_t first = line.find_first_not_of(" \t");
    line.remove_prefix(std::min(first, line.size()));
    if (!line.starts_with(kWord)) {
      continue;
    }
    line.remove_prefix(kWord.size());
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    const std::optional<IpAddress> address = IpAddress::parse(line.substr(0, line.find_first_of(" \t\r#;")));
    if (address) {
      servers.push_back(*address);
    }
  }
  if (servers.empty()) {
    servers.push_back(*IpAddress::parse("127.0.0.1"));  // resolv.conf(5)
  }
  return servers;
}

}  // namespace berth
