#include "scheduler/api_client.h"

#include <poll.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>

#include "scheduler/api_server.h"
#include "scheduler/stream_request.h"

namespace berth {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using Local = asio::local::stream_protocol;
using ErrorCode = boost::system::error_code;

std::string encode(std::string_view text) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '_' || c == '.' || c == '~' || c == '/' || c == ',';
    if (plain) {
      out += c;
    } else {
      out += {'%', kHex[byte >> 4U], kHex[byte & 15U]};
    }
  }
  return out;
}

std::string target_of(const std::string& path, const QueryWords& query) {
  std::string target = path;
  char separator = '?';
  for (const auto& [name, value] : query) {
    target += separator + encode(name) + '=' + encode(value);
    separator = '&';
  }
  return target;
}

ApiRefusal refusal_of(unsigned status, const std::string& body) {
  const auto value = nlohmann::json::parse(body, nullptr, false);
  if (!value.is_object() || !value.contains("error") || !value["error"].is_string()) {
    return {status, body};
  }
  std::vector<InputFault> faults;
  for (const auto& fault : value.value("faults", nlohmann::json::array())) {
    faults.push_back({fault.at("file"), fault.at("pointer"), fault.at("message")});
  }
  return {status, value["error"], std::move(faults)};
}

[[noreturn]] void fail_late(const std::string& socket) {
  throw NotAnswered("berthd at " + socket + " has not answered in time");
}

/// False when nothing has come by then.
bool is_readable_by(int descriptor, std::chrono::steady_clock::time_point instant) {
  using std::chrono::milliseconds;
  pollfd awaited{descriptor, POLLIN, 0};
  for (;;) {
    const auto left = std::chrono::ceil<milliseconds>(instant - std::chrono::steady_clock::now());
    constexpr milliseconds kHour = std::chrono::hours(1);
    const auto patience = std::clamp<milliseconds>(left, milliseconds(0), kHour);
    const int found = ::poll(&awaited, 1, static_cast<int>(patience.count()));
    if (found > 0 || (found < 0 && errno != EINTR)) {
      return true;  // reading tells what it is
    }
    if (left <= milliseconds(0)) {
      return false;
    }
  }
}

}  // namespace

class ApiClient::Connection {
 public:
  explicit Connection(const std::string& path) : socket(loop) {
    ErrorCode error;
    socket.connect(Local::endpoint(path), error);
    if (error) {
      throw NoDaemon("no berthd answers at " + path + " (" + error.message() +
                     "): start it, or name its socket with --socket; berth run needs none");
    }
  }
  asio::io_context loop{1};
  Local::socket socket;
  boost::beast::flat_buffer buffer;
};

ApiClient::ApiClient(std::string socket) : socket_(std::move(socket)) {}
ApiClient::~ApiClient() = default;

ApiClient::Connection& ApiClient::connect() {
  if (!connection_) {
    connection_ = std::make_unique<Connection>(socket_);
  }
  return *connection_;
}

std::string ApiClient::request(std::string_view method, const std::string& path, const QueryWords& query,
                               const std::string& body) {
  if (answer_by_ && *answer_by_ <= std::chrono::steady_clock::now()) {
    fail_late(socket_);
  }
  Connection& connection = connect();
  http::request<http::string_body> request{http::string_to_verb({method.data(), method.size()}),
                                           target_of(path, query), 11};
  request.set(http::field::host, "berth");
  request.body() = body;
  request.prepare_payload();
  http::response_parser<http::string_body> parser;
  parser.body_limit(std::numeric_limits<std::uint64_t>::max());
  ErrorCode error;
  http::write(connection.socket, request, error);
  if (answer_by_ && !error && !is_readable_by(connection.socket.native_handle(), *answer_by_)) {
    connection_.reset();
    fail_late(socket_);
  }
  http::read(connection.socket, connection.buffer, parser, error);
  if (error && !parser.is_done()) {  // a refusal that came before all was sent is done, and told
    connection_.reset();
    fail_gone(error.message());
  }
  const http::response<http::string_body> response = parser.release();
  if (!response.keep_alive()) {
    connection_.reset();
  }
  if (response.result_int() >= 400) {
    throw refusal_of(response.result_int(), response.body());
  }
  return response.body();
}

void ApiClient::fail_gone(const std::string& reason) const {
  throw DaemonGone("berthd at " + socket_ + " went away while it was asked (" + reason +
                   "); look at berth queue before asking again");
}

ApiClient::Upgraded ApiClient::upgrade(const std::string& path, const QueryWords& query,
                                       const std::string& body, const std::function<void()>& delayed) {
  Connection connection(socket_);
  http::request<http::string_body> request{http::verb::post, target_of(path, query), 11};
  request.set(http::field::host, "berth");
  request.set(http::field::connection, "Upgrade");
  request.set(http::field::upgrade, kStreamProtocol);
  request.body() = body;
  request.prepare_payload();
  ErrorCode error;
  http::write(connection.socket, request, error);
  pollfd answer{connection.socket.native_handle(), POLLIN, 0};
  if (delayed && ::poll(&answer, 1, static_cast<int>(kDelay.count())) == 0) {
    delayed();
  }
  http::response_parser<http::string_body> parser;
  http::read_header(connection.socket, connection.buffer, parser, error);
  if (!error && parser.get().result() != http::status::switching_protocols) {
    http::read(connection.socket, connection.buffer, parser, error);
  }
  if (error && !parser.is_done()) {
    fail_gone(error.message());
  }
  if (parser.get().result() != http::status::switching_protocols) {
    if (parser.get().result_int() >= 400) {
      throw refusal_of(parser.get().result_int(), parser.get().body());
    }
    return {-1, parser.get().body()};
  }
  const auto rest = connection.buffer.data();
  std::string received(static_cast<const char*>(rest.data()), rest.size());
  return {connection.socket.release(), std::move(received)};
}

void ApiClient::stream(const std::string& path, const QueryWords& query,
                       const std::function<bool(std::string_view)>& take,
                       const std::function<void(const std::string&)>& begins_after,
                       const std::function<void()>& begins_anew) {
  Connection connection(socket_);
  http::request<http::empty_body> request{http::verb::get, target_of(path, query), 11};
  request.set(http::field::host, "berth");
  ErrorCode sent;
  http::write(connection.socket, request, sent);
  http::response_parser<http::buffer_body> parser;
  parser.body_limit(std::numeric_limits<std::uint64_t>::max());
  auto look_at_chunk = [&](std::uint64_t, boost::beast::string_view extensions, ErrorCode&) {
    if (begins_anew && std::string_view(extensions.data(), extensions.size()) == kBeginsAnew) {
      begins_anew();
    }
  };
  parser.on_chunk_header(look_at_chunk);  // kept by reference
  http::read_header(connection.socket, connection.buffer, parser, sent);
  if (sent) {
    throw DaemonGone("berthd at " + socket_ + " went away: " + sent.message());
  }
  if (const auto after = parser.get().find("Berth-After"); begins_after && after != parser.get().end()) {
    begins_after(std::string(after->value()));
  }
  std::array<char, 65536> piece{};
  std::string refusal;
  while (!parser.is_done()) {
    parser.get().body().data = piece.data();
    parser.get().body().size = piece.size();
    ErrorCode error;
    http::read_some(connection.socket, connection.buffer, parser, error);  // what has come, not a whole piece
    if (error && error != http::error::need_buffer) {
      throw DaemonGone("berthd at " + socket_ + " went away: " + error.message());
    }
    const std::string_view text(piece.data(), piece.size() - parser.get().body().size);
    if (parser.get().result_int() >= 400) {
      refusal += text;
    } else if (!text.empty() && !take(text)) {
      return;
    }
  }
  if (parser.get().result_int() >= 400) {
    throw refusal_of(parser.get().result_int(), refusal);
  }
}

std::string daemon_socket(const CommandLine& line) {
  if (const auto given = line.value("socket")) {
    return *given;
  }
  const char* named = std::getenv("BERTH_SOCKET");
  return named != nullptr && *named != '\0' ? named : "/run/berth/berthd.sock";
}

}  // namespace berth
