// RunnerLink: berthd's connection to one berth-runner. RunnerLinks: all of them: found again after a restart,
// started when there are too few.
//
// On the event loop alone. A link that breaks means that the runner is dead, as a runner never closes it.
#pragma once

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "scheduler/runner_protocol.h"

namespace berth {

class RunnerLink : public std::enable_shared_from_this<RunnerLink> {
 public:
  using Socket = boost::asio::local::stream_protocol::socket;
  using Handler = std::function<void(const std::shared_ptr<RunnerLink>&, const RunnerMessage&)>;
  using Gone = std::function<void(const std::shared_ptr<RunnerLink>&)>;

  RunnerLink(Socket socket, RunnerMessage hello, FrameReader reader);

  const Supervisor& runner() const { return hello_.runner; }
  const RunnerMessage& hello() const { return hello_; }
  /// Begins to read. `gone` is called at most once, and nothing after it. A message for which `handler`
  /// throws std::bad_alloc is handled again, before those behind it.
  void start(Handler handler, Gone gone);
  void send(const RunnerMessage& message);
  bool is_open() const { return open_; }
  void close();

  std::size_t jobs = 0;   ///< that it holds now, for choosing the least busy one
  bool outdated = false;  ///< it runs another file than berthd would start now
  bool leaving = false;   ///< it ends its jobs, and is to be sent no more

 private:
  void go_on();
  void deliver();
  void read();
  void write();
  void fail();

  Socket socket_;
  boost::asio::steady_timer retry_;
  RunnerMessage hello_;
  FrameReader reader_;
  Handler handler_;
  Gone gone_;
  std::array<char, 65536> buffer_{};
  std::size_t unappended_ = 0;                ///< of buffer_, what reader_ has not got yet
  std::optional<RunnerMessage> undelivered_;  ///< that is being handled
  std::string unsent_;
  std::string sending_;
  bool open_ = true;
};

struct RunnerPaths {
  std::string program;
  std::string socket_folder;
  std::string spool_folder;
  std::string log_file;  ///< their standard error
  unsigned armed_ahead = 0;
  std::uint64_t descriptors = 0;  ///< soft limit of them that jobs begin with
};

struct FoundRunners {
  std::vector<std::shared_ptr<RunnerLink>> alive;
  std::vector<std::string> dead;    ///< names of their cgroups
  std::vector<std::string> killed;  ///< of those of the dead that lived and did not answer
};

/// Connects to every runner whose socket is in the folder; sockets of dead ones are removed. Waits some
/// seconds for all of them: one that lives and does not answer is killed, lest it hold on to jobs that berthd
/// knows to be over. So is one of `holding`, cgroups of runners that have jobs, whose socket is gone.
FoundRunners find_runners(boost::asio::io_context& loop, const RunnerPaths& paths,
                          const std::set<std::string>& holding);
/// For one that has closed its link without having been told to end: kills it, if it lives yet, and calls
/// `ended` when it has ended, or has not for some seconds; at once when it is gone.
void end_runner(boost::asio::io_context& loop, const std::string& cgroup, std::function<void()> ended);
/// Starts one and waits, for seconds at most, until it listens; on any thread. Throws std::runtime_error that
/// says why it did not.
std::shared_ptr<RunnerLink> start_runner(boost::asio::io_context& loop, const RunnerPaths& paths);

}  // namespace berth
