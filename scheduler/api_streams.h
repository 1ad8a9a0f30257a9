// The two bodies whose end is not known: a job's output, and events. Both are read piece by piece, as the
// client takes them; with `follow` they go on until the job is over, or for ever.
#pragma once

#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <optional>

#include "scheduler/api_server.h"
#include "scheduler/daemon.h"

namespace berth {

class Api;

/// The file is opened as the actor. One that is truncated while it is followed, or is shorter than `offset`
/// then, is given from its beginning, with the extension kBeginsAnew. Throws ApiError when it cannot be
/// opened, or is not there yet and nobody follows.
std::shared_ptr<ApiStream> make_output_stream(boost::asio::io_context& loop, Daemon& daemon,
                                              const StoredJob& job, const Actor& actor, bool standard_error,
                                              std::uint64_t offset, bool follow, Interest& interest);

/// Runs something on the reading thread, then something on the event loop.
using ReadThen =
    std::function<void(const std::function<void(QueueStore&)>&, std::function<void(bool is_read)>)>;

/// Events after a sequence number, one JSON object a line; only of one user's jobs when given.
std::shared_ptr<ApiStream> make_event_stream(Api& api, ReadThen read, std::optional<unsigned> user_id,
                                             std::int64_t after, bool follow, Interest& interest);

}  // namespace berth
