// ApiClient: requests to berthd from the command line. Synchronous; one connection, opened at the first
// request.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "scheduler/command_line.h"
#include "schemas/input_error.h"

namespace berth {

/// berthd refused: what() is its sentence, `faults` what it is made of where jobs are faulty.
class ApiRefusal : public std::runtime_error {
 public:
  ApiRefusal(unsigned status, const std::string& message, std::vector<InputFault> faults = {})
      : std::runtime_error(message), status_(status), faults_(std::move(faults)) {}
  unsigned status() const { return status_; }
  const std::vector<InputFault>& faults() const { return faults_; }

 private:
  unsigned status_;
  std::vector<InputFault> faults_;
};

/// There is no berthd at the socket.
class NoDaemon : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// berthd went away while it was asked, or answered.
class DaemonGone : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// No answer came by the time that ApiClient::answer_by() set.
class NotAnswered : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

using QueryWords = std::multimap<std::string, std::string>;

class ApiClient {
 public:
  explicit ApiClient(std::string socket);
  ~ApiClient();
  ApiClient(const ApiClient&) = delete;
  ApiClient& operator=(const ApiClient&) = delete;

  /// The body of the answer. Throws ApiRefusal, NoDaemon, DaemonGone, NotAnswered.
  std::string request(std::string_view method, const std::string& path, const QueryWords& query = {},
                      const std::string& body = {});
  /// How long request() waits for the beginning of an answer, also when it is called again; at first for
  /// ever.
  void answer_by(std::chrono::steady_clock::time_point instant) { answer_by_ = instant; }
  /// Makes a connection of its own into a stream of frames (scheduler/stream_request.h): its descriptor,
  /// which the caller owns, and what has come through it already. Where berthd answers that there is nothing
  /// to become, -1 and the body of its answer. `delayed` is called once when no answer comes for kDelay.
  /// Throws as request().
  struct Upgraded {
    int descriptor = -1;
    std::string received;
  };
  static constexpr std::chrono::milliseconds kDelay{500};
  Upgraded upgrade(const std::string& path, const QueryWords& query, const std::string& body,
                   const std::function<void()>& delayed = {});
  /// Calls `take` with each piece of the body until its end or until `take` returns false, and before that
  /// `begins_after` with the header Berth-After where there is one. `begins_anew` is called before a piece
  /// that is the beginning of a file that was truncated.
  void stream(const std::string& path, const QueryWords& query,
              const std::function<bool(std::string_view)>& take,
              const std::function<void(const std::string&)>& begins_after = {},
              const std::function<void()>& begins_anew = {});

 private:
  class Connection;
  Connection& connect();
  [[noreturn]] void fail_gone(const std::string& reason) const;
  std::string socket_;
  std::unique_ptr<Connection> connection_;
  std::optional<std::chrono::steady_clock::time_point> answer_by_;
};

/// --socket, else $BERTH_SOCKET, else /run/berth/berthd.sock.
std::string daemon_socket(const CommandLine& line);

}  // namespace berth
