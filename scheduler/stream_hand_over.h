// StreamHandOver: gives a client's connection to the runner of a job (scheduler/stream_request.h). On
// berthd's event loop; never waits.
#pragma once

#include <string>

#include "scheduler/stream_request.h"

namespace berth {

class StreamHandOver {
 public:
  /// Reaches the runner of that name, so that the client can still be refused. Throws ApiError.
  StreamHandOver(const std::string& folder, const std::string& runner);
  ~StreamHandOver();
  StreamHandOver(const StreamHandOver&) = delete;
  StreamHandOver& operator=(const StreamHandOver&) = delete;

  /// Owns `client`, and closes it here. When the runner does not take it, the client is told.
  void give(const StreamRequest& request, int client);

 private:
  int socket_ = -1;
};

}  // namespace berth
