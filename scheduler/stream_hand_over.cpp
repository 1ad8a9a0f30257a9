#include "scheduler/stream_hand_over.h"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>

#include "executor/os/message.h"
#include "executor/os/unix_socket.h"
#include "scheduler/daemon.h"
#include "scheduler/log.h"

namespace berth {
namespace {

constexpr int kRoom = 4 * static_cast<int>(kLargestStreamRequest);

}  // namespace

StreamHandOver::StreamHandOver(const std::string& folder, const std::string& runner) {
  const sockaddr_un address = unix_address(streams_socket_of(folder, runner));
  socket_ = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ::setsockopt(socket_, SOL_SOCKET, SO_SNDBUFFORCE, &kRoom, sizeof kRoom);
  if (::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    const std::string why = std::generic_category().message(errno);
    ::close(socket_);
    throw ApiError(503, "the job's runner takes no streams (" + why +
                            "): it was started by an older berthd, or has just died");
  }
}

StreamHandOver::~StreamHandOver() {
  ::close(socket_);
}

void StreamHandOver::give(const StreamRequest& request, int client) {
  const std::string text = to_json_text(request);
  const std::array<int, 1> descriptors{client};
  const int error_number = send_message(socket_, text.data(), text.size(), descriptors, MessageWait::poll);
  if (error_number != 0) {
    log_error("runner: a connection cannot be handed over: " + std::generic_category().message(error_number));
    const std::string end =
        to_frame(StreamFrame::Kind::end,
                 R"({"exit_status": 125, "message": "the job's runner is busy or gone; try again"})");
    (void)!::send(client, end.data(), end.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  ::close(client);
}

}  // namespace berth
