// StreamSession: one client's connection beside one command (berth exec) or at a job (berth attach), in the
// runner.
//
// Copies between the client's frames and the command's pipes or terminal, never more than some hundred KiB
// ahead, so that a slow client holds up its own command and nothing else. What a job writes is told to it; a
// client that is too slow for that misses some, and is told how much. The more streams a user has, the less
// is kept for each. Single-threaded, on a DescriptorLoop; never blocks.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "executor/descriptor_loop.h"
#include "executor/os/unique_fd.h"
#include "scheduler/stream_frame.h"

namespace berth {

class StreamSession {
 public:
  /// What the client asks for beside its input.
  struct Requests {
    std::function<void(int signal_number)> signal;
    std::function<void(TerminalWindow window)> window;
  };

  /// `loop` and `of_user` outlive it: how many streams its user has in this runner, this one too until its
  /// client is gone.
  StreamSession(DescriptorLoop& loop, UniqueFd client, unsigned& of_user, Requests requests);
  ~StreamSession();
  StreamSession(const StreamSession&) = delete;
  StreamSession& operator=(const StreamSession&) = delete;

  /// Non-blocking descriptors: where the client's input goes, and where output and error are read from; an
  /// empty one is none. Of a terminal, two descriptors of its master.
  void connect(UniqueFd input, UniqueFd output, UniqueFd error);
  /// There is nothing that would read the client's input.
  void ignore_input();
  /// Passes on what somebody else has read; leaves it out when the client is too far behind.
  void tell(StreamFrame::Kind kind, std::string_view payload);
  /// The command is over: passes on what is left, then `exit_status` and `message`, then closes.
  void end(int exit_status, const std::string& message);

  /// The client is gone, or has got everything. To be asked after DescriptorLoop::dispatch().
  bool is_finished() const { return !client_; }

 private:
  struct Channel {
    UniqueFd fd;
    std::uint32_t interest = 0;
  };

  std::size_t share_of(std::size_t most) const;
  void set_interest(Channel& channel, std::uint32_t events, void (StreamSession::*handler)(std::uint32_t));
  void update();
  void close(Channel& channel);
  void abandon();
  void handle_client(std::uint32_t events);
  void handle_input(std::uint32_t events);
  void handle_output(std::uint32_t events);
  void handle_error(std::uint32_t events);
  void take(const StreamFrame& frame);
  bool read_from(Channel& channel, StreamFrame::Kind kind);
  void drain(Channel& channel, StreamFrame::Kind kind);
  void write_client();
  void tell_what_was_missed();

  DescriptorLoop& loop_;
  Requests requests_;
  UniqueFd client_;
  unsigned& of_user_;
  std::uint32_t client_interest_ = 0;
  Channel input_, output_, error_;
  StreamFrameReader reader_;
  std::string to_client_;
  std::string to_command_;
  std::size_t missed_ = 0;  ///< bytes that the client was too slow for, since it was told last
  bool input_ended_ = false;
  bool ending_ = false;
};

}  // namespace berth
