#include "scheduler/api_server.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>
#include <unordered_map>

#include "scheduler/log.h"

namespace berth {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using Local = asio::local::stream_protocol;
using Stream = beast::basic_stream<Local>;
using ErrorCode = boost::system::error_code;

/// A connection that says nothing for this long is closed, as is one that does not take an answer.
constexpr std::chrono::seconds kPatience{300};
constexpr std::size_t kLargestHeader = std::size_t{32} * 1024;
/// A user may save up the requests of so many seconds.
constexpr double kBurstSeconds = 10;

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

void take_target(std::string_view target, ApiRequest& request) {
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
  double tokens = 0;
  std::chrono::steady_clock::time_point refilled{};
};

}  // namespace

ApiResponse api_failure(unsigned status, const std::string& message) {
  ApiResponse response;
  response.status = status;
  response.body =
      nlohmann::json{{"error", message}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) +
      "\n";
  return response;
}

class ApiServer::Implementation : public std::enable_shared_from_this<ApiServer::Implementation> {
 public:
  Implementation(asio::io_context& loop, std::string path, const DaemonConfig::Api& limits,
                 ApiHandler handler)
      : limits_(limits), path_(std::move(path)), handler_(std::move(handler)), acceptor_(loop), retry_(loop) {
    ::unlink(path_.c_str());
    acceptor_.open();
    ::fcntl(acceptor_.native_handle(), F_SETFD, FD_CLOEXEC);
    acceptor_.bind(Local::endpoint(path_));
    if (::chmod(path_.c_str(), 0666) != 0) {  // who may do what is decided by SO_PEERCRED
      throw std::system_error(errno, std::generic_category(), "chmod " + path_);
    }
    acceptor_.listen();
  }

  void accept();
  void close() {
    ErrorCode ignored;
    acceptor_.close(ignored);
    ::unlink(path_.c_str());
    handler_ = {};
  }

  /// False when the user or everybody together has too many.
  bool enter(uid_t user) {
    if (connections_ >= limits_.connections || traffic_[user].connections >= limits_.connections_per_user) {
      return false;
    }
    ++connections_;
    ++traffic_[user].connections;
    return true;
  }
  void leave(uid_t user) {
    --connections_;
    --traffic_[user].connections;
  }
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
  asio::steady_timer retry_;
  unsigned connections_ = 0;
  std::unordered_map<uid_t, UserTraffic> traffic_;
};

namespace {

/// One connection: request after request.
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(Local::socket socket, Peer peer, std::shared_ptr<ApiServer::Implementation> server)
      : stream_(std::move(socket)), peer_(peer), server_(std::move(server)) {}
  ~Session() { server_->leave(peer_.user_id); }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void read() {
    parser_.emplace();
    parser_->body_limit(server_->limits_.body);
    parser_->header_limit(kLargestHeader);
    stream_.expires_after(kPatience);
    http::async_read(stream_, buffer_, *parser_,
                     [self = shared_from_this()](const ErrorCode& error, std::size_t) { self->take(error); });
  }

 private:
  void take(const ErrorCode& error) {
    if (error == http::error::body_limit) {
      keep_alive_ = false;
      respond(api_failure(413, "the request is larger than api.body allows; split it"));
      return;
    }
    if (error) {
      return;  // the end, or nothing that could be answered
    }
    http::request<http::string_body> request = parser_->release();
    keep_alive_ = request.keep_alive();
    version_ = request.version();
    stream_.expires_never();
    if (!server_->allow_request(peer_.user_id)) {
      respond(api_failure(429, "you ask more often than api.requests_per_second allows; wait a second"));
      return;
    }
    ApiRequest asked;
    asked.method = std::string(request.method_string());
    const auto target = request.target();
    take_target({target.data(), target.size()}, asked);
    asked.body = std::move(request.body());
    asked.peer = peer_;
    const auto upgrade = request[http::field::upgrade];
    asked.upgrade = std::string(upgrade.data(), upgrade.size());
    asked.interest = interest_ = std::make_shared<Interest>();
    answered_ = false;
    if (!server_->handler_) {
      return;
    }
    server_->handler_(std::move(asked), [self = shared_from_this()](ApiResponse response) {
      self->respond(std::move(response));
    });
    if (!answered_ && buffer_.size() == 0) {
      watch();
    }
  }

  /// While an answer takes its time: does the client still wait?
  void watch() {
    stream_.socket().async_wait(
        Local::socket::wait_read, [self = shared_from_this()](const ErrorCode& error) {
          char byte = 0;
          if (!error && !self->answered_ &&
              ::recv(self->stream_.socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
            self->interest_->lose();
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
    answer->set(http::field::content_type, response.type);
    answer->keep_alive(keep_alive_);
    answer->body() = std::move(response.body);
    answer->prepare_payload();
    stream_.expires_after(kPatience);
    http::async_write(stream_, *answer,
                      [self = shared_from_this(), answer](const ErrorCode& error, std::size_t) {
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
    header->chunked(true);
    auto serializer = std::make_shared<http::response_serializer<http::empty_body>>(*header);
    http::async_write_header(
        stream_, *serializer,
        [self = shared_from_this(), header, serializer](const ErrorCode& error, std::size_t) {
          if (!error) {
            self->next_piece();
          }
        });
    watch_stream();
  }

  /// The end of a stream's reader is noticed even while there is nothing to tell it.
  void watch_stream() {
    stream_.socket().async_wait(Local::socket::wait_read,
                                [self = shared_from_this()](const ErrorCode& error) {
                                  if (!error && self->interest_) {
                                    self->interest_->lose();
                                    self->shut();
                                  }
                                });
  }

  void next_piece() {
    source_->next([self = shared_from_this()](std::string piece) {
      if (self->interest_->is_lost()) {
        self->source_.reset();
        return;
      }
      if (piece.empty()) {
        asio::async_write(self->stream_, http::make_chunk_last(), [self](const ErrorCode&, std::size_t) {
          self->source_.reset();
          self->shut();
        });
        return;
      }
      const auto held = std::make_shared<std::string>(std::move(piece));
      asio::async_write(self->stream_, http::make_chunk(asio::buffer(*held)),
                        [self, held](const ErrorCode& error, std::size_t) {
                          if (error) {
                            self->interest_->lose();
                            self->source_.reset();
                          } else {
                            self->next_piece();
                          }
                        });
    });
  }

  void shut() {
    ErrorCode ignored;
    stream_.socket().shutdown(Local::socket::shutdown_both, ignored);
    stream_.close();
  }

  Stream stream_;
  Peer peer_;
  std::shared_ptr<ApiServer::Implementation> server_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  std::shared_ptr<Interest> interest_;
  std::shared_ptr<ApiStream> source_;
  unsigned version_ = 11;
  bool keep_alive_ = false;
  bool answered_ = false;
};

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
      log_error("cannot accept a connection: " + error.message());
      self->retry_.expires_after(std::chrono::milliseconds(100));
      self->retry_.async_wait([self](const ErrorCode&) { self->accept(); });
      return;
    }
    ::fcntl(socket.native_handle(), F_SETFD, FD_CLOEXEC);
    if (const std::optional<Peer> peer = peer_of(socket.native_handle());
        peer && self->enter(peer->user_id)) {
      std::make_shared<Session>(std::move(socket), *peer, self)->read();
    } else {
      constexpr std::string_view kRefusal =
          "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 72\r\n"
          "Connection: close\r\n\r\n"
          "{\"error\":\"you have more connections open than api.connections allows\"}\n ";
      (void)!::send(socket.native_handle(), kRefusal.data(), kRefusal.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    self->accept();
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
