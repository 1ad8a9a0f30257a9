// GET /metrics: how many jobs wait, run and have ended, what of the pool is free, and berthd's own process,
// for a monitoring system. No job, user or name is on it, so everybody may read it.
//
// On the event loop.
#pragma once

#include "scheduler/api_server.h"
#include "scheduler/daemon.h"

namespace berth {

ApiResponse metrics_response(Daemon& daemon);

}  // namespace berth
