// StreamClient: berth's own standard streams and signals at one end of a stream of frames, a command beside a
// job, or the job itself, at the other. For berth exec and berth attach.
#pragma once

#include <optional>
#include <string>

#include "scheduler/detach_keys.h"

namespace berth {

struct StreamClientOptions {
  bool input = true;      ///< pass standard input on
  bool terminal = false;  ///< the other end is a terminal: raw mode, window changes
  /// The other end is a job, which says itself whether it has a terminal, and which goes on without us: the
  /// keys that leave it, where standard input is a terminal.
  std::optional<DetachKeys> attach = std::nullopt;
  bool pass_signals = true;  ///< attach: to the job; else a signal leaves it
};

struct StreamEnd {
  int exit_status = 125;
  std::string message;  ///< why, when the command did not end by itself
  // Of a job:
  unsigned attempt = 0;   ///< that was attached to; 0: none
  bool detached = false;  ///< it goes on
};

/// Owns `socket`, which has given `received` already. Returns at the command's end. SIGINT, SIGTERM, SIGHUP,
/// SIGQUIT, SIGUSR1 and SIGUSR2 are passed on; a second one of the first four kills the command, a third ends
/// the client at once; a job gets them as they are, or they leave it. After the end, while output is unread,
/// one of the first four ends the client. Throws std::runtime_error when the stream breaks; that of a job
/// then returns, with exit status 125.
StreamEnd run_stream(int socket, const std::string& received, const StreamClientOptions& options);

}  // namespace berth
