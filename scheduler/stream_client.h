// StreamClient: berth's own standard streams and signals at one end of a stream of frames, a command beside a
// job at the other. For berth exec.
#pragma once

#include <optional>
#include <string>

namespace berth {

struct StreamClientOptions {
  bool input = true;      ///< pass standard input on
  bool terminal = false;  ///< the other end is a terminal: raw mode, window changes
};

struct StreamEnd {
  int exit_status = 125;
  std::string message;  ///< why, when the command did not end by itself
};

/// Owns `socket`, which has given `received` already. Returns at the command's end. SIGINT, SIGTERM, SIGHUP,
/// SIGQUIT, SIGUSR1 and SIGUSR2 are passed on; a second one of the first four kills the command, a third ends
/// the client at once. Throws std::runtime_error when the stream breaks.
StreamEnd run_stream(int socket, const std::string& received, const StreamClientOptions& options);

}  // namespace berth
