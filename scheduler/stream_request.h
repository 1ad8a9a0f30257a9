// StreamRequest: what a client asks for when its connection is to become a stream: a further command beside a
// running job, or the job itself. berthd hands the connection over to the job's runner with it.
//
//   client ── POST /v1/jobs/36/exec, Upgrade ──► berthd ── StreamRequest + the connection ──► runner
//
// Hand-over: one packet on the runner's socket "<cgroup>.streams" (SOCK_SEQPACKET), JSON with one descriptor.
// From then on the runner alone talks to the client, so that a stream outlives berthd as its job does.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "scheduler/runner_protocol.h"
#include "scheduler/stream_frame.h"

namespace berth {

struct StreamRequest {
  AttemptId id;
  bool attach = false;                             ///< to the job; of the rest only `terminal` counts
  std::vector<std::string> argv;                   ///< never empty, but to attach
  std::map<std::string, std::string> environment;  ///< over the job's
  std::string current_working_directory;           ///< absolute; empty: the job's
  std::optional<TerminalWindow> terminal;          ///< the command's, or that of the client who attaches
};

/// What the HTTP connection is upgraded to.
inline constexpr const char* kStreamProtocol = "berth-stream";

/// Room for arguments and environment in one packet.
inline constexpr std::size_t kLargestStreamRequest = std::size_t{128} * 1024;

/// A client's body: argv, environment, current_working_directory, terminal{rows, columns}. Throws InputError
/// with every fault.
StreamRequest parse_stream_request(std::string_view body);
/// A client's body that attaches: terminal{rows, columns} at most. Throws InputError with every fault.
StreamRequest parse_attach_request(std::string_view body);

std::string to_json_text(const StreamRequest& request);
/// What to_json_text() made. Throws std::exception.
StreamRequest parse_handed_over(std::string_view text);

/// Where a runner takes connections over: beside its socket "<cgroup>.sock".
std::string streams_socket_of(const std::string& folder, const std::string& cgroup);

}  // namespace berth
