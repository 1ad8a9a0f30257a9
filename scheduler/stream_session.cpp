#include "scheduler/stream_session.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "executor/os/syscall.h"

namespace berth {
namespace {

/// What waits for a slow reader before the other side is read no further.
constexpr std::size_t kAhead = std::size_t{256} * 1024;
constexpr std::size_t kPiece = std::size_t{32} * 1024;
/// What waits for a slow client of a job, whose output cannot be held up for it.
constexpr std::size_t kBehind = std::size_t{1} << 20U;
/// What waits for all the streams of a user together, in either direction.
constexpr std::size_t kOfUser = std::size_t{16} << 20U;
/// A pipe holds 64 KiB; one that others go on writing to has no end.
constexpr int kDrainedPieces = 16;

}  // namespace

StreamSession::StreamSession(DescriptorLoop& loop, UniqueFd client, unsigned& of_user, Requests requests)
    : loop_(loop), requests_(std::move(requests)), client_(std::move(client)), of_user_(of_user) {
  ::fcntl(client_.get(), F_SETFL, ::fcntl(client_.get(), F_GETFL) | O_NONBLOCK);
  update();
  ++of_user_;
}

StreamSession::~StreamSession() {
  abandon();
}

void StreamSession::connect(UniqueFd input, UniqueFd output, UniqueFd error) {
  input_.fd = std::move(input);
  output_.fd = std::move(output);
  error_.fd = std::move(error);
  update();
}

void StreamSession::ignore_input() {
  input_ended_ = true;
  to_command_.clear();
  update();
}

void StreamSession::tell(StreamFrame::Kind kind, std::string_view payload) {
  if (!client_ || ending_) {
    return;
  }
  if (to_client_.size() >= share_of(kBehind)) {
    missed_ += payload.size();
    return;
  }
  tell_what_was_missed();
  to_client_ += to_frame(kind, payload);
  update();
}

void StreamSession::tell_what_was_missed() {
  if (missed_ > 0) {
    to_client_ +=
        to_frame(StreamFrame::Kind::error,
                 "\r\nberth: " + std::to_string(missed_) +
                     " bytes are left out here, as they were not read in time; berth logs has them\r\n");
    missed_ = 0;
  }
}

/// Of what waits: `most`, or less when its user has many streams.
std::size_t StreamSession::share_of(std::size_t most) const {
  return std::min(most, kOfUser / std::max(of_user_, 1U));
}

void StreamSession::set_interest(Channel& channel, std::uint32_t events,
                                 void (StreamSession::*handler)(std::uint32_t)) {
  if (!channel.fd || channel.interest == events) {
    return;
  }
  // Without interest it is not watched at all: a hang-up would be told again and again.
  if (channel.interest == 0) {
    loop_.watch(channel.fd.get(), events, [this, handler](std::uint32_t ready) { (this->*handler)(ready); });
  } else if (events == 0) {
    loop_.forget(channel.fd.get());
  } else {
    loop_.change(channel.fd.get(), events);
  }
  channel.interest = events;
}

void StreamSession::update() {
  if (!client_) {
    return;
  }
  const std::uint32_t reading = to_command_.size() < share_of(kAhead) ? std::uint32_t{EPOLLIN} : 0U;
  const std::uint32_t wanted = reading | EPOLLRDHUP | (to_client_.empty() ? 0U : std::uint32_t{EPOLLOUT});
  if (client_interest_ == 0) {
    loop_.watch(client_.get(), wanted, [this](std::uint32_t ready) { handle_client(ready); });
  } else if (client_interest_ != wanted) {
    loop_.change(client_.get(), wanted);
  }
  client_interest_ = wanted;
  set_interest(input_, to_command_.empty() ? 0U : std::uint32_t{EPOLLOUT}, &StreamSession::handle_input);
  const std::uint32_t more = to_client_.size() < share_of(kAhead) ? std::uint32_t{EPOLLIN} : 0U;
  set_interest(output_, more, &StreamSession::handle_output);
  set_interest(error_, more, &StreamSession::handle_error);
}

/// Forgotten before it is closed: a duplicate would keep the registration alive (epoll(7)).
void StreamSession::close(Channel& channel) {
  if (channel.fd && channel.interest != 0) {
    loop_.forget(channel.fd.get());
  }
  channel.fd.reset();
  channel.interest = 0;
}

void StreamSession::abandon() {
  if (client_) {
    loop_.forget(client_.get());
    client_.reset();
    --of_user_;
  }
  close(input_);
  close(output_);
  close(error_);
}

void StreamSession::handle_client(std::uint32_t events) {
  if ((events & EPOLLIN) != 0) {
    std::array<char, kPiece> buffer{};
    const ssize_t count = retry_eintr([&] { return ::read(client_.get(), buffer.data(), buffer.size()); });
    if (count > 0) {
      try {
        reader_.append({buffer.data(), static_cast<std::size_t>(count)});
        while (const std::optional<StreamFrame> frame = reader_.next()) {
          take(*frame);
        }
      } catch (const std::runtime_error&) {
        events |= EPOLLERR;  // it speaks another language
      }
    } else if (count == 0 || errno != EAGAIN) {
      events |= EPOLLERR;
    }
  } else if ((events & EPOLLRDHUP) != 0) {
    events |= EPOLLERR;
  }
  if ((events & (EPOLLERR | EPOLLHUP)) != 0) {
    abandon();
    return;
  }
  if ((events & EPOLLOUT) != 0) {
    write_client();
  }
  update();
}

void StreamSession::take(const StreamFrame& frame) {
  switch (frame.kind) {
    case StreamFrame::Kind::input:
      if (frame.payload.empty()) {
        input_ended_ = true;
      } else if (!input_ended_ && !ending_) {
        to_command_ += frame.payload;
      }
      if (to_command_.empty() && input_ended_) {
        close(input_);
      }
      break;
    case StreamFrame::Kind::window:
      if (const std::optional<TerminalWindow> window = parse_window(frame.payload)) {
        requests_.window(*window);
      }
      break;
    case StreamFrame::Kind::signal:
      if (frame.payload.size() == 1) {
        requests_.signal(static_cast<unsigned char>(frame.payload[0]));
      }
      break;
    default:
      break;
  }
}

void StreamSession::handle_input(std::uint32_t events) {
  const ssize_t count =
      retry_eintr([&] { return ::write(input_.fd.get(), to_command_.data(), to_command_.size()); });
  if (count > 0) {
    to_command_.erase(0, static_cast<std::size_t>(count));
  } else if ((count < 0 && errno != EAGAIN) || (events & EPOLLERR) != 0) {
    to_command_.clear();  // it reads no more
    input_ended_ = true;
  }
  if (to_command_.empty() && input_ended_) {
    close(input_);
  }
  update();
}

/// False at the end.
bool StreamSession::read_from(Channel& channel, StreamFrame::Kind kind) {
  std::array<char, kPiece> buffer{};
  const ssize_t count = retry_eintr([&] { return ::read(channel.fd.get(), buffer.data(), buffer.size()); });
  if (count > 0) {
    to_client_ += to_frame(kind, {buffer.data(), static_cast<std::size_t>(count)});
    return true;
  }
  return count < 0 && errno == EAGAIN;
}

void StreamSession::handle_output(std::uint32_t) {
  if (!read_from(output_, StreamFrame::Kind::output)) {
    close(output_);
  }
  update();
}

void StreamSession::handle_error(std::uint32_t) {
  if (!read_from(error_, StreamFrame::Kind::error)) {
    close(error_);
  }
  update();
}

void StreamSession::drain(Channel& channel, StreamFrame::Kind kind) {
  for (int piece = 0; piece < kDrainedPieces && channel.fd; ++piece) {
    const std::size_t before = to_client_.size();
    if (!read_from(channel, kind) || to_client_.size() == before) {
      break;
    }
  }
  close(channel);
}

void StreamSession::write_client() {
  const ssize_t count =
      retry_eintr([&] { return ::send(client_.get(), to_client_.data(), to_client_.size(), MSG_NOSIGNAL); });
  if (count > 0) {
    to_client_.erase(0, static_cast<std::size_t>(count));
  } else if (count < 0 && errno != EAGAIN) {
    abandon();
    return;
  }
  if (ending_ && to_client_.empty()) {
    abandon();
  }
}

void StreamSession::end(int exit_status, const std::string& message) {
  if (!client_ || ending_) {
    return;
  }
  drain(output_, StreamFrame::Kind::output);
  drain(error_, StreamFrame::Kind::error);
  close(input_);
  to_command_.clear();
  tell_what_was_missed();
  const nlohmann::json end{{"exit_status", exit_status}, {"message", message}};
  to_client_ +=
      to_frame(StreamFrame::Kind::end, end.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  ending_ = true;
  write_client();
  update();
}

}  // namespace berth
