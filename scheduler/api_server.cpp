#include "scheduler/api_server.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <cerrno>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>
#include <unordered_map>

#include "scheduler/log.h"
#include "scheduler/socket_place.h"
#include "schemas/terminal_text.h"

namespace berth {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using Local = asio::local::stream_protocol;
using Stream = beast::basic_stream<Local>;
using ErrorCode = boost::system::error_code;

/// A connection that says nothing for this long is closed, as is one that does not take an answer.
constexpr std::chrono::seconds kClientPatience{300};
constexpr std::size_t kLargestHeader = std::size_t{32} * 1024;
/// A user may save up the requests of so many seconds.
constexpr double kBurstSeconds = 10;
/// Larger requests are taken few at a time of one user, so that connections times api.body is not what one
/// user can fill the memory with.
constexpr std::uint64_t kLargeBody = std::uint64_t{1} << 20U;
/// How much of a body is read at once.
constexpr std::uint64_t kBodyPiece = std::uint64_t{64} << 10U;
/// Of a header, or of a line between the chunks of a body and after them, which is parsed when it is whole.
constexpr std::size_t kMostUnparsed = std::size_t{256} << 10U;
constexpr unsigned kLargeBodiesAtOnce = 4;
/// Of answers that one user has asked for and does not read, so much is kept before further ones are refused.
constexpr std::size_t kMostUnread = std::size_t{128} << 20U;

/// Connections beyond the limit that are read from until they end, and for how long at most.
constexpr unsigned kMostRefused = 64;
constexpr std::chrono::seconds kRefusedPatience{2};

#ifdef SO_PASSRIGHTS
constexpr int kPassRights = SO_PASSRIGHTS;
#else
constexpr int kPassRights = 83;  // unix(7): since Linux 6.16
#endif

/// Whoever sends descriptors to the connections of `socket` gets EPERM, also when a runner has taken them
/// over. Nobody takes them here, so that the kernel would close them in recv(2), on the event loop, and some
/// files take long to close. An older kernel does not know the option.
void refuse_descriptors(int socket) {
  constexpr int kNo = 0;
  if (::setsockopt(socket, SOL_SOCKET, kPassRights, &kNo, sizeof kNo) != 0 && errno != ENOPROTOOPT) {
    throw std::system_error(errno, std::generic_category(), "SO_PASSRIGHTS of the API's socket");
  }
}

std::string decode(std::string_view text) {
  std::string out;
  for (std::size_t index = 0; index < text.size(); ++index) {
    const auto digit = [&](std::size_t at) {
      const char c = at < text.size() ? text[at] : ' ';
      return c >= '0' && c <= '9'   ? c - '0'
             : c >= 'a' && c <= 'f' ? c - 'a' + 10
             : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                    : -1;
    };
    if (text[index] == '%' && digit(index + 1) >= 0 && digit(index + 2) >= 0) {
      out += static_cast<char>(digit(index + 1) * 16 + digit(index + 2));
      index += 2;
    } else {
      out += text[index] == '+' ? ' ' : text[index];
    }
  }
  return out;
}

std::string_view take_until(std::string_view& rest, char separator) {
  const std::size_t end = rest.find(separator);
  const std::string_view part = rest.substr(0, end);
  rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  return part;
}

/// Of "http://host/path" what follows the host (RFC 9112, section 3.2.2).
std::string_view without_authority(std::string_view target) {
  for (const std::string_view scheme : {"http://", "https://"}) {
    const std::string_view begin = target.substr(0, scheme.size());
    if (beast::iequals({begin.data(), begin.size()}, {scheme.data(), scheme.size()})) {
      target.remove_prefix(scheme.size());
      target.remove_prefix(std::min(target.find_first_of("/?"), target.size()));
    }
  }
  return target;
}

void take_target(std::string_view target, ApiRequest& request) {
  target = without_authority(target);
  std::string_view path = take_until(target, '?');
  while (!path.empty()) {
    const std::string_view segment = take_until(path, '/');
    if (!segment.empty()) {
      request.path.push_back(decode(segment));
    }
  }
  while (!target.empty()) {
    std::string_view pair = take_until(target, '&');
    const std::string name = decode(take_until(pair, '='));
    request.query[name] = decode(pair);
  }
}

/// Requests of one user: as many a second as allowed, saved up for some seconds (token bucket).
struct UserTraffic {
  unsigned connections = 0;
  unsigned large_bodies = 0;
  std::size_t unread = 0;  ///< bytes of answers that are being written
  double tokens = 0;
  std::chrono::steady_clock::time_point refilled{};
};

}  // namespace

ApiResponse api_failure(unsigned status, const std::string& message) {
  ApiResponse response;
  response.status = status;
  response.body = printable_json(nlohmann::json{{"error", message}}) + "\n";
  return response;
}

class ApiServer::Implementation : public std::enable_shared_from_this<ApiServer::Implementation> {
 public:
  Implementation(asio::io_context& loop, std::string path, const DaemonConfig::Api& limits,
                 ApiHandler handler)
      : limits_(limits), path_(std::move(path)), handler_(std::move(handler)), acceptor_(loop), retry_(loop) {
    clear_socket_place(path_);
    acceptor_.open();
    ::fcntl(acceptor_.native_handle(), F_SETFD, FD_CLOEXEC);
    refuse_descriptors(acceptor_.native_handle());
    acceptor_.bind(Local::endpoint(path_));
    bound_.emplace(path_);
    if (::chmod(path_.c_str(), 0666) != 0) {  // who may do what is decided by SO_PEERCRED
      throw std::system_error(errno, std::generic_category(), "chmod " + path_);
    }
    acceptor_.listen();
  }

  void accept();
  void close() {
    ErrorCode ignored;
    acceptor_.close(ignored);
    bound_->remove();
    handler_ = {};
  }

  /// False when the user or everybody together has too many. Root gets in however many others are there.
  bool may_enter(uid_t user, int descriptor) {
    const bool is_full = connections_ >= limits_.connections || descriptor >= first_reserved_;
    return (user == 0 || !is_full) && traffic_[user].connections < limits_.connections_per_user;
  }
  void enter(uid_t user) {
    ++traffic_[user].connections;
    ++connections_;
  }
  void leave(uid_t user) {
    --connections_;
    --traffic_[user].connections;
  }
  bool enter_large_body(uid_t user) {
    unsigned& taken = traffic_[user].large_bodies;
    if (taken >= kLargeBodiesAtOnce) {
      return false;
    }
    ++taken;
    return true;
  }
  void leave_large_body(uid_t user) { --traffic_[user].large_bodies; }
  std::size_t& unread(uid_t user) { return traffic_[user].unread; }
  bool allow_request(uid_t user) {
    UserTraffic& traffic = traffic_[user];
    const auto now = std::chrono::steady_clock::now();
    const double rate = limits_.requests_per_second;
    const double passed = std::chrono::duration<double>(now - traffic.refilled).count();
    traffic.tokens = std::min(rate * kBurstSeconds, traffic.tokens + passed * rate);
    traffic.refilled = now;
    if (traffic.tokens < 1) {
      return false;
    }
    traffic.tokens -= 1;
    return true;
  }

  DaemonConfig::Api limits_;
  const std::string path_;
  ApiHandler handler_;

 private:
  Local::acceptor acceptor_;
  std::optional<BoundSocket> bound_;
  asio::steady_timer retry_;
  /// As the lowest free number is taken, one from here on says that so many are open. Each connection may
  /// open a file besides; a quarter is left for root's, runners and the database.
  const int first_reserved_ = static_cast<int>(::sysconf(_SC_OPEN_MAX) / 8 * 3);
  bool accepts_ = true;  ///< else the log has it that it does not
  unsigned connections_ = 0;
  std::unordered_map<uid_t, UserTraffic> traffic_;
  std::shared_ptr<unsigned> refused_ = std::make_shared<unsigned>(0);  ///< that are still read from
};

namespace {

/// One connection: request after request.
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(Local::socket socket, Peer peer, std::shared_ptr<ApiServer::Implementation> server)
      : stream_(std::move(socket)), peer_(peer), server_(std::move(server)) {
    server_->enter(peer_.user_id);
  }
  ~Session() {
    leave_large_body();
    server_->leave(peer_.user_id);
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void read() {
    parser_.emplace();
    parser_->body_limit(server_->limits_.body);
    parser_->header_limit(kLargestHeader);
    keep_alive_ = false;  // until a request says otherwise
    is_head_ = false;
    stream_.expires_after(kClientPatience);
    http::async_read_header(
        stream_, buffer_, *parser_,
        [self = shared_from_this()](const ErrorCode& error, std::size_t) { self->take_header(error); });
  }

 private:
  void take_header(const ErrorCode& error) {
    if (error) {
      refuse_unread(error);
      return;
    }
    version_ = parser_->get().version();
    is_head_ = parser_->get().method() == http::verb::head;
    if (version_ >= 11 && parser_->get().count(http::field::host) != 1) {
      respond(api_failure(400, "a request of HTTP/1.1 has one header \"Host\", with any value"));
      return;
    }
    const bool is_large = parser_->chunked() || parser_->content_length().value_or(0) > kLargeBody;
    if (is_large && !has_large_body_) {
      has_large_body_ = server_->enter_large_body(peer_.user_id);
      if (!has_large_body_) {
        respond(
            api_failure(503, "you have other requests larger than 1M under way; send this one after them"));
        return;
      }
    }
    if (beast::iequals(parser_->get()[http::field::expect], "100-continue")) {
      constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
      (void)!::send(stream_.socket().native_handle(), kContinue.data(), kContinue.size(),
                    MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    // Beast reads as much at once as the buffer has room for, which after a header is some hundred bytes.
    buffer_.reserve(std::max<std::size_t>(
        buffer_.capacity(),
        std::min<std::uint64_t>(parser_->content_length().value_or(kBodyPiece), kBodyPiece)));
    http::async_read(
        stream_, buffer_, *parser_,
        [self = shared_from_this()](const ErrorCode& failed, std::size_t) { self->take(failed); });
  }

  /// What could not be read as a request gets an answer where it is the client's fault.
  void refuse_unread(const ErrorCode& error) {
    if (error == http::error::body_limit) {
      respond(api_failure(413, "the request is larger than api.body allows; split it"));
    } else if (error == http::error::header_limit || error == http::error::buffer_overflow) {
      respond(api_failure(
          431, "the header of the request is larger than 32K, or a line between its chunks than 256K"));
    } else if (error == http::error::end_of_stream || error == http::error::partial_message ||
               error.category() != make_error_code(http::error::bad_method).category()) {
      shut();  // the client has gone, or says nothing more
    } else {
      respond(api_failure(400, "this is no HTTP/1.1 request: " + error.message()));
    }
  }

  void take(const ErrorCode& error) {
    if (error) {
      refuse_unread(error);
      return;
    }
    if (buffer_.capacity() >= kBodyPiece) {
      buffer_.shrink_to_fit();  // not for as long as the connection lasts
    }
    http::request<http::string_body> request = parser_->release();
    keep_alive_ = request.keep_alive();
    stream_.expires_never();
    if (!server_->allow_request(peer_.user_id)) {
      respond(api_failure(429, "you ask more often than api.requests_per_second allows; wait a second"));
      return;
    }
    if (server_->unread(peer_.user_id) > kMostUnread) {
      respond(api_failure(429, "read the answers to your other requests first: they fill the memory"));
      return;
    }
    ApiRequest asked;
    // A HEAD is answered as its GET would be, without what follows the header (RFC 9110, section 9.3.2).
    asked.method = is_head_ ? "GET" : std::string(request.method_string());
    const std::string_view target(request.target().data(), request.target().size());
    if (decode(target).find('\0') != std::string::npos) {
      respond(api_failure(400, "the target of the request holds a NUL (%00), which is part of no name"));
      return;
    }
    take_target(target, asked);
    asked.body = std::move(request.body());
    asked.peer = peer_;
    const auto upgrade = request[http::field::upgrade];
    asked.upgrade = std::string(upgrade.data(), upgrade.size());
    std::transform(asked.upgrade.begin(), asked.upgrade.end(), asked.upgrade.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    asked.interest = interest_ = std::make_shared<Interest>();
    answered_ = false;
    if (!server_->handler_) {
      return;
    }
    server_->handler_(std::move(asked), [self = shared_from_this()](ApiResponse response) {
      self->respond(std::move(response));
    });
    if (!answered_) {
      watch();
    }
  }

  void leave_large_body() {
    if (has_large_body_) {
      server_->leave_large_body(peer_.user_id);
      has_large_body_ = false;
    }
  }

  /// While an answer or a stream takes its time: is the client still there? Only a closed socket says that it
  /// is not; one whose sending half has been shut still reads, and what it sends ahead is read later.
  void watch() {
    if (watches_) {
      return;
    }
    watches_ = true;
    stream_.socket().async_wait(
        Local::socket::wait_error, [self = shared_from_this()](const ErrorCode& error) {
          pollfd look{self->stream_.socket().native_handle(), 0, 0};
          if (!error && ::poll(&look, 1, 0) == 1 && (look.revents & (POLLHUP | POLLERR)) != 0) {
            if (self->interest_) {
              self->interest_->lose();
            }
            self->shut();
          }
        });
  }

  void respond(ApiResponse response) {
    answered_ = true;
    if (interest_ && interest_->is_lost()) {
      return;
    }
    if (response.stream) {
      begin_stream(std::move(response));
      return;
    }
    if (response.take_over) {
      hand_over(response);
      return;
    }
    auto answer = std::make_shared<http::response<http::string_body>>(
        static_cast<http::status>(response.status), version_);
    const std::size_t size = response.body.size();
    if (response.status != 204) {
      answer->set(http::field::content_type, response.type);
      answer->content_length(size);
    }
    if (!response.allow.empty()) {
      answer->set(http::field::allow, response.allow);
    }
    if (!is_head_) {
      answer->body() = std::move(response.body);
    }
    answer->keep_alive(keep_alive_);
    server_->unread(peer_.user_id) += size;
    stream_.expires_after(kClientPatience);
    http::async_write(stream_, *answer,
                      [self = shared_from_this(), answer, size](const ErrorCode& error, std::size_t) {
                        self->server_->unread(self->peer_.user_id) -= size;
                        self->leave_large_body();
                        if (!error && self->keep_alive_) {
                          self->read();
                        } else {
                          self->shut();
                        }
                      });
  }

  void hand_over(const ApiResponse& response) {
    if (buffer_.size() > 0) {
      respond(api_failure(400, "wait for the answer \"101\" before you go on"));
      return;
    }
    // Written at once, as who takes the connection may have to have it before something else happens. So
    // short an answer finds room; a client that has left none by not reading is not waited for.
    const std::string header =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + response.type + "\r\n\r\n";
    const int socket = stream_.socket().native_handle();
    ErrorCode failed;
    if (::send(socket, header.data(), header.size(), MSG_NOSIGNAL | MSG_DONTWAIT) !=
        static_cast<ssize_t>(header.size())) {
      shut();
    } else if (const int descriptor = stream_.release_socket().release(failed); !failed) {
      response.take_over(descriptor);
    }
  }

  void begin_stream(ApiResponse response) {
    source_ = std::move(response.stream);
    using Header = http::response<http::empty_body>;
    auto header = std::make_shared<Header>(static_cast<http::status>(response.status), version_);
    header->set(http::field::content_type, response.type);
    header->keep_alive(false);
    header->chunked(is_chunked());
    if (response.after) {
      header->set("Berth-After", std::to_string(*response.after));
    }
    auto serializer = std::make_shared<http::response_serializer<http::empty_body>>(*header);
    http::async_write_header(
        stream_, *serializer,
        [self = shared_from_this(), header, serializer](const ErrorCode& error, std::size_t) {
          if (error || self->is_head_) {
            self->interest_->lose();
            self->source_.reset();
            self->shut();
          } else {
            self->next_piece();
          }
        });
    watch();
  }

  /// HTTP/1.0 knows no chunks: there the end of the connection is the end.
  bool is_chunked() const { return version_ >= 11; }

  void next_piece() {
    source_->next([self = shared_from_this()](std::string piece) {
      if (self->interest_->is_lost()) {
        self->break_stream();
        return;
      }
      if (piece.empty()) {
        self->source_->is_broken() ? self->break_stream() : self->end_stream();
        return;
      }
      const auto held = std::make_shared<std::string>(std::move(piece));
      const auto written = [self, held](const ErrorCode& error, std::size_t) {
        if (error) {
          self->interest_->lose();
          self->break_stream();
        } else {
          self->next_piece();
        }
      };
      if (self->is_chunked()) {
        const std::string_view extensions = self->source_->extensions();
        asio::async_write(
            self->stream_,
            http::make_chunk(asio::buffer(*held), beast::string_view(extensions.data(), extensions.size())),
            written);
      } else {
        asio::async_write(self->stream_, asio::buffer(*held), written);
      }
    });
  }

  void break_stream() {
    source_.reset();
    shut();
  }

  void end_stream() {
    source_.reset();
    if (!is_chunked()) {
      shut();
      return;
    }
    asio::async_write(stream_, http::make_chunk_last(),
                      [self = shared_from_this()](const ErrorCode&, std::size_t) { self->shut(); });
  }

  void shut() {
    ErrorCode ignored;
    stream_.socket().shutdown(Local::socket::shutdown_both, ignored);
    stream_.close();
  }

  Stream stream_;
  Peer peer_;
  std::shared_ptr<ApiServer::Implementation> server_;
  beast::flat_buffer buffer_{kMostUnparsed};
  std::optional<http::request_parser<http::string_body>> parser_;
  std::shared_ptr<Interest> interest_;
  std::shared_ptr<ApiStream> source_;
  unsigned version_ = 11;
  bool keep_alive_ = false;
  bool answered_ = false;
  bool is_head_ = false;
  bool has_large_body_ = false;
  bool watches_ = false;
};

/// One connection too many: it is told so, and read until the client closes, as one that finds the connection
/// closed while it still sends may never read the answer.
class Refused : public std::enable_shared_from_this<Refused> {
 public:
  Refused(Local::socket socket, std::shared_ptr<unsigned> count)
      : stream_(std::move(socket)), count_(std::move(count)) {
    ++*count_;
    stream_.expires_after(kRefusedPatience);
  }
  ~Refused() { --*count_; }
  Refused(const Refused&) = delete;
  Refused& operator=(const Refused&) = delete;

  void read() {
    stream_.async_read_some(asio::buffer(ignored_),
                            [self = shared_from_this()](const ErrorCode& error, std::size_t) {
                              if (!error) {
                                self->read();
                              }
                            });
  }

 private:
  Stream stream_;
  std::shared_ptr<unsigned> count_;
  std::array<char, 4096> ignored_{};
};

void refuse_connection(Local::socket socket, const std::shared_ptr<unsigned>& refused) {
  const std::string body = api_failure(503,
                                       "there are as many connections as api.connections or berthd's "
                                       "descriptors (LimitNOFILE=) allow, or of yours as "
                                       "api.connections_per_user does; close one")
                               .body;
  const std::string answer =
      "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\nConnection: close\r\n\r\n" + body;
  (void)!::send(socket.native_handle(), answer.data(), answer.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  ErrorCode ignored;
  socket.shutdown(Local::socket::shutdown_send, ignored);
  if (*refused < kMostRefused) {
    std::make_shared<Refused>(std::move(socket), refused)->read();
  }
}

std::optional<Peer> peer_of(int socket) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return std::nullopt;
  }
  return Peer{credentials.uid, credentials.gid};
}

}  // namespace

void ApiServer::Implementation::accept() {
  acceptor_.async_accept([self = shared_from_this()](const ErrorCode& error, Local::socket socket) {
    if (error == asio::error::operation_aborted || !self->acceptor_.is_open()) {
      return;
    }
    if (error) {
      // Out of descriptors: wait for some to come back instead of asking at once.
      if (std::exchange(self->accepts_, false)) {
        log_error("cannot accept connections for now: " + error.message());
      }
      self->retry_.expires_after(std::chrono::milliseconds(100));
      self->retry_.async_wait([self](const ErrorCode&) { self->accept(); });
      return;
    }
    self->accepts_ = true;
    self->accept();  // first: what goes wrong with one connection keeps nobody out
    ::fcntl(socket.native_handle(), F_SETFD, FD_CLOEXEC);
    if (const std::optional<Peer> peer = peer_of(socket.native_handle());
        peer && self->may_enter(peer->user_id, socket.native_handle())) {
      std::make_shared<Session>(std::move(socket), *peer, self)->read();
    } else {
      refuse_connection(std::move(socket), self->refused_);
    }
  });
}

ApiServer::ApiServer(asio::io_context& loop, const std::string& path, const DaemonConfig::Api& limits,
                     ApiHandler handler)
    : implementation_(std::make_shared<Implementation>(loop, path, limits, std::move(handler))) {
  implementation_->accept();
}

ApiServer::~ApiServer() {
  implementation_->close();
}

void ApiServer::set_limits(const DaemonConfig::Api& limits) {
  implementation_->limits_ = limits;
}

}  // namespace berth
