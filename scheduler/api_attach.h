// POST /v1/jobs/36/attach: a client's connection becomes a stream to the job itself, at once or when it
// starts.
//
// On the event loop alone.
#pragma once

#include "scheduler/api_server.h"
#include "scheduler/daemon.h"

namespace berth {

struct AttachRequest {
  JobId job = 0;
  unsigned after_attempt = 0;  ///< to an attempt after this one, which the client has seen
  bool wait = true;            ///< until it starts
};

/// Answers with 101 and gives the connection to the job's runner; with 200 and how the job ended, when no
/// further attempt comes. Throws ApiError and InputError.
void attach_to_job(Daemon& daemon, const ApiRequest& request, const AttachRequest& asked, const Actor& actor,
                   const ApiRespond& respond);

}  // namespace berth
