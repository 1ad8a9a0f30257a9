// ApiServer: HTTP/1.1 over a Unix socket (Boost.Beast): connections, limits, streams. What is answered is
// scheduler/api.h's.
//
// On the event loop alone. A client that reads slowly holds up nobody: of a stream one piece is in memory,
// and the next is asked for when it has been written. Callers are known by SO_PEERCRED (unix(7)).
#pragma once

#include <sys/types.h>

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "schemas/daemon_config.h"

namespace berth {

struct Peer {
  uid_t user_id = 0;
  gid_t group_id = 0;
};

/// Tells the work behind a request that nobody waits for its answer any more.
class Interest {
 public:
  bool is_lost() const { return lost_; }
  void when_lost(std::function<void()> callback) { callback_ = std::move(callback); }
  void lose() {
    lost_ = true;
    if (const std::function<void()> callback = std::exchange(callback_, {})) {
      callback();
    }
  }

 private:
  bool lost_ = false;
  std::function<void()> callback_;
};

struct ApiRequest {
  std::string method;
  std::vector<std::string> path;  ///< decoded segments: {"v1", "jobs", "36"}
  std::map<std::string, std::string> query;
  std::string body;
  Peer peer;
  std::shared_ptr<Interest> interest;
  /// What the client wants the connection to become (RFC 9110, section 7.8), in lower case; empty: nothing.
  std::string upgrade;
};

/// Of a chunk (RFC 9112, section 7.1.1): what follows is no longer at the offset that was asked for, but at
/// the beginning of a file that was truncated.
inline constexpr std::string_view kBeginsAnew = ";begins-anew";

/// A body whose end is not known yet.
class ApiStream {
 public:
  virtual ~ApiStream() = default;
  /// Calls `give` once, now or later, with the next piece; an empty one is the end.
  virtual void next(std::function<void(std::string)> give) = 0;
  /// Asked when the end has been given: the rest could not be read. The connection is closed without the last
  /// chunk then (RFC 9112, 8), so that nobody takes what came for all.
  virtual bool is_broken() const { return false; }
  /// Asked once for each piece, when it has been given: kBeginsAnew, or nothing.
  virtual std::string_view extensions() { return {}; }
};

struct ApiResponse {
  unsigned status = 200;
  std::string body;
  std::string type = "application/json";
  std::string allow;                  ///< the methods that this path has, where another was asked for
  std::shared_ptr<ApiStream> stream;  ///< in place of the body
  /// Of a stream of events: the number after which it begins, for the header Berth-After.
  std::optional<std::int64_t> after;
  /// In place of both: "101 Switching Protocols" is answered, then this gets the connection's descriptor,
  /// which it owns, before respond() returns.
  std::function<void(int descriptor)> take_over;
};

using ApiRespond = std::function<void(ApiResponse)>;
using ApiHandler = std::function<void(ApiRequest, ApiRespond)>;

/// {"error":"…"} and a line break.
ApiResponse api_failure(unsigned status, const std::string& message);

class ApiServer {
 public:
  /// Takes the socket's place (a dead berthd's is removed, nothing else) and accepts. Throws
  /// std::runtime_error.
  ApiServer(boost::asio::io_context& loop, const std::string& path, const DaemonConfig::Api& limits,
            ApiHandler handler);
  ~ApiServer();
  ApiServer(const ApiServer&) = delete;
  ApiServer& operator=(const ApiServer&) = delete;

  void set_limits(const DaemonConfig::Api& limits);

  class Implementation;

 private:
  std::shared_ptr<Implementation> implementation_;
};

}  // namespace berth
