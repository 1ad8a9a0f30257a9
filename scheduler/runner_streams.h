// RunnerStreams: the further commands beside a runner's jobs (berth exec), and the clients that are attached
// to the jobs themselves (scheduler/stream_attachments.h). Takes connections over from berthd
// (scheduler/stream_request.h); so many of one user, and so many in all, that the runner, which has other
// users' jobs too, keeps memory and descriptors for these.
//
// Part of a Runner, single-threaded; the runner passes on what its Executor tells.
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "executor/descriptor_loop.h"
#include "executor/executor.h"
#include "executor/os/message.h"
#include "scheduler/stream_attachments.h"
#include "scheduler/stream_request.h"
#include "scheduler/stream_session.h"

namespace berth {

class RunnerStreams {
 public:
  /// `look` tells of an attempt of the runner's. Throws std::system_error when it cannot listen.
  RunnerStreams(Executor& executor, std::string socket_path, std::function<AttemptView(AttemptId)> look);
  ~RunnerStreams();
  RunnerStreams(const RunnerStreams&) = delete;
  RunnerStreams& operator=(const RunnerStreams&) = delete;

  /// Readable when dispatch() has work.
  int descriptor() const { return loop_.descriptor(); }
  void dispatch();
  StreamAttachments& attachments() { return attachments_; }
  /// Whether clients of what has ended have not got everything yet.
  bool are_ending() const { return !ending_.empty() || attachments_.are_ending(); }
  void take(TerminalOpened terminal);
  void take(const CommandEnded& ended);

 private:
  struct Command {
    std::shared_ptr<StreamSession> session;  ///< null when the client has gone
    UniqueFd master;                         ///< of its terminal, to set its size
  };

  void take_over();
  void take_over(std::size_t size, Descriptors& descriptors);
  std::string refusal(uid_t user, const UniqueFd& client);
  void run(const StreamRequest& request, UniqueFd client, unsigned& of_user);
  void start(const StreamRequest& request, const std::shared_ptr<StreamSession>& session, CommandId& id);
  void sweep();

  Executor& executor_;
  const std::string path_;
  const std::function<AttemptView(AttemptId)> look_;
  DescriptorLoop loop_;
  const int first_reserved_;            // descriptor that is kept for jobs
  std::map<uid_t, unsigned> of_users_;  // how many streams each has, for the sessions below
  StreamAttachments attachments_;
  UniqueFd socket_;
  std::vector<char> packet_;
  std::map<CommandId, Command> commands_;  // until their end is known
  std::vector<std::shared_ptr<StreamSession>> ending_;
};

}  // namespace berth
