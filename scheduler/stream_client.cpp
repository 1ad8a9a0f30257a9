#include "scheduler/stream_client.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "executor/os/syscall.h"
#include "scheduler/job_output.h"
#include "scheduler/stream_frame.h"
#include "scheduler/terminal.h"

namespace berth {
namespace {

constexpr std::size_t kMostUnsent = std::size_t{128} * 1024;
constexpr std::size_t kPiece = std::size_t{32} * 1024;
constexpr std::array kEnding{SIGINT, SIGTERM, SIGHUP, SIGQUIT};

/// Signals as a descriptor while this lives. One that was ignored when berth started (nohup) stays so.
class WatchedSignals {
 public:
  explicit WatchedSignals(bool terminal) {
    sigemptyset(&set_);
    for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2}) {
      struct sigaction action {};
      if (::sigaction(number, nullptr, &action) == 0 && action.sa_handler != SIG_IGN) {
        sigaddset(&set_, number);
      }
    }
    ::sigprocmask(SIG_BLOCK, &set_, &before_);
    descriptor_.reset(check(::signalfd(-1, &set_, SFD_CLOEXEC | SFD_NONBLOCK), "signalfd"));
    if (terminal) {
      add_terminal();
    }
  }
  ~WatchedSignals() { ::sigprocmask(SIG_SETMASK, &before_, nullptr); }
  WatchedSignals(const WatchedSignals&) = delete;
  WatchedSignals& operator=(const WatchedSignals&) = delete;

  void add_terminal() {
    sigaddset(&set_, SIGWINCH);
    sigaddset(&set_, SIGTSTP);
    ::sigprocmask(SIG_BLOCK, &set_, nullptr);
    check(::signalfd(descriptor_.get(), &set_, 0), "signalfd");
  }
  int descriptor() const { return descriptor_.get(); }
  std::optional<int> next() {
    signalfd_siginfo info{};
    const ssize_t count = retry_eintr([&] { return ::read(descriptor_.get(), &info, sizeof info); });
    return count == sizeof info ? std::optional(static_cast<int>(info.ssi_signo)) : std::nullopt;
  }

 private:
  sigset_t set_{};
  sigset_t before_{};
  UniqueFd descriptor_;
};

/// A reader of our output went away, as in `… | head -1`.
struct ReaderGone {};

class StreamClient {
 public:
  StreamClient(int socket, const std::string& received, const StreamClientOptions& options)
      : socket_(socket),
        options_(options),
        signals_(options.terminal),
        reading_input_(options.input && !options.attach) {
    reader_.append(received);
    if (options_.terminal) {
      raw_.emplace();
    }
    if (!options_.input && !options_.terminal && !options_.attach) {
      send(StreamFrame::Kind::input, {});
    }
    ::fcntl(socket_.get(), F_SETFL, ::fcntl(socket_.get(), F_GETFL) | O_NONBLOCK);
  }

  StreamEnd run() {
    take_frames();
    while (!end_ || (is_stuck() && !left_)) {
      const bool wants_socket = !is_stuck() || !unsent_.empty();
      std::array<pollfd, 5> ready{
          {{wants_socket ? socket_.get() : -1, 0, 0},
           {signals_.descriptor(), POLLIN, 0},
           {reading_input_ && unsent_.size() < kMostUnsent ? STDIN_FILENO : -1, POLLIN, 0},
           {output_.has_pending() ? STDOUT_FILENO : -1, POLLOUT, 0},
           {error_.has_pending() ? STDERR_FILENO : -1, POLLOUT, 0}}};
      ready[0].events = static_cast<short>((is_stuck() ? 0 : POLLIN) | (unsent_.empty() ? 0 : POLLOUT));
      if (::poll(ready.data(), ready.size(), -1) < 0 && errno != EINTR) {
        throw std::system_error(errno, std::generic_category(), "poll");
      }
      if (ready[1].revents != 0) {
        take_signals();
      }
      if (ready[2].revents != 0) {
        read_input();
      }
      flush();
      write_on();
      if (!end_ && !is_stuck() && (ready[0].revents & ~POLLOUT) != 0) {
        receive();
      }
    }
    return *end_;
  }

 private:
  void send(StreamFrame::Kind kind, std::string_view payload) {
    if (is_heard_) {
      unsent_ += to_frame(kind, payload);
    }
  }

  /// The other end takes nothing any more. Input is left to who reads it next; the keys that leave a job are
  /// still looked for.
  void stop_sending() {
    is_heard_ = false;
    unsent_.clear();
    reading_input_ = reading_input_ && options_.attach && raw_->is_terminal();
  }

  void flush() {
    while (!unsent_.empty()) {
      const ssize_t count = ::send(socket_.get(), unsent_.data(), unsent_.size(), MSG_NOSIGNAL);
      if (count < 0) {
        if (errno != EINTR && errno != EAGAIN) {
          stop_sending();  // its last words may still be there to be read
        }
        return;
      }
      unsent_.erase(0, static_cast<std::size_t>(count));
    }
  }

  void receive() {
    std::array<char, kPiece> buffer{};
    const ssize_t count = retry_eintr([&] { return ::read(socket_.get(), buffer.data(), buffer.size()); });
    if (count < 0 && errno == EAGAIN) {
      return;
    }
    if (count <= 0 && attempt_ > 0) {
      end_ = StreamEnd{125, "the job's runner went away", attempt_};
      return;
    }
    if (count <= 0) {
      throw std::runtime_error(options_.attach ? "the job's runner does not take it; try again"
                                               : "the job's runner went away; the command ends with its job");
    }
    reader_.append({buffer.data(), static_cast<std::size_t>(count)});
    take_frames();
  }

  void take_frames() {
    while (const std::optional<StreamFrame> frame = reader_.next()) {
      if (frame->kind == StreamFrame::Kind::output || frame->kind == StreamFrame::Kind::error) {
        (frame->kind == StreamFrame::Kind::output ? output_ : error_).write(frame->payload);
        write_on();
      } else if (frame->kind == StreamFrame::Kind::end) {
        const auto value = nlohmann::json::parse(frame->payload);
        end_ = StreamEnd{value.at("exit_status"), value.at("message"), attempt_};
        stop_sending();
      } else if (frame->kind == StreamFrame::Kind::attached) {
        const auto value = nlohmann::json::parse(frame->payload);
        attempt_ = value.at("attempt");
        if (value.at("terminal") && options_.input) {
          join_terminal();
        }
      }
    }
  }

  /// What our readers have not taken: nothing is received meanwhile, but signals are.
  bool is_stuck() const { return output_.has_pending() || error_.has_pending(); }

  void write_on() {
    for (OutputTarget* target : {&output_, &error_}) {
      target->flush_some();
      if (target->has_failed()) {
        throw std::runtime_error("its output is not written");
      }
      if (target->is_closed()) {
        throw ReaderGone();
      }
    }
  }

  /// The job has a terminal: ours stands in for it. Where we have none what comes is typed.
  void join_terminal() {
    options_.terminal = true;
    raw_.emplace();
    signals_.add_terminal();
    reading_input_ = true;
  }

  void leave(int exit_status) {
    end_ = StreamEnd{exit_status, "", attempt_, true};
    left_ = true;
  }

  void read_input() {
    std::array<char, kPiece> buffer{};
    const ssize_t count = ::read(STDIN_FILENO, buffer.data(), buffer.size());
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) {
      return;
    }
    if (count <= 0) {
      reading_input_ = false;
      if (!options_.attach) {
        send(StreamFrame::Kind::input,
             options_.terminal ? std::string_view(&kEndOfInput, 1) : std::string_view());
      }
      return;
    }
    const std::string_view typed(buffer.data(), static_cast<std::size_t>(count));
    if (!options_.attach || !raw_->is_terminal()) {
      send(StreamFrame::Kind::input, typed);
      return;
    }
    if (const std::string keys = options_.attach->pass(typed); !keys.empty()) {
      send(StreamFrame::Kind::input, keys);
    }
    if (options_.attach->found()) {
      leave(0);
    }
  }

  void take_signals() {
    while (const std::optional<int> number = signals_.next()) {
      if (*number == SIGTSTP) {
        raw_->restore();
        ::raise(SIGSTOP);
        raw_->enter();
      }
      if (*number != SIGTSTP && *number != SIGWINCH) {
        pass_signal(*number);
      } else if (const auto window = terminal_window()) {
        send(StreamFrame::Kind::window, window_payload(*window));
      }
    }
  }

  void pass_signal(int number) {
    const bool is_ending = std::find(kEnding.begin(), kEnding.end(), number) != kEnding.end();
    if (!is_heard_) {
      if (is_ending) {
        leave(128 + number);
      }
      return;
    }
    if (options_.attach) {
      options_.pass_signals ? send(StreamFrame::Kind::signal, std::string(1, static_cast<char>(number)))
                            : leave(128 + number);
      return;
    }
    if (is_ending && ++asked_to_end_ == 3) {
      end_ = StreamEnd{128 + number, "it is left to itself"};
      left_ = true;
      return;
    }
    send(StreamFrame::Kind::signal, std::string(1, static_cast<char>(asked_to_end_ == 2 ? SIGKILL : number)));
  }

  UniqueFd socket_;
  StreamClientOptions options_;
  std::optional<RawTerminal> raw_;
  WatchedSignals signals_;
  StreamFrameReader reader_;
  std::string unsent_;
  bool reading_input_;
  bool is_heard_ = true;
  unsigned asked_to_end_ = 0;
  unsigned attempt_ = 0;
  OutputTarget output_{STDOUT_FILENO, "standard output"};
  OutputTarget error_{STDERR_FILENO, "standard error"};
  std::optional<StreamEnd> end_;
  bool left_ = false;  ///< what is not written then stays so
};

}  // namespace

StreamEnd run_stream(int socket, const std::string& received, const StreamClientOptions& options) {
  const auto before = ::signal(SIGPIPE, SIG_IGN);
  try {
    StreamEnd end = StreamClient(socket, received, options).run();
    ::signal(SIGPIPE, before);
    return end;
  } catch (const ReaderGone&) {  // the terminal is as it was
    ::signal(SIGPIPE, before);
    ::raise(SIGPIPE);
    throw std::runtime_error("the reader of its output went away");
  }
}

}  // namespace berth
