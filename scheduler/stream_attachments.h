// StreamAttachments: the clients that are attached to a runner's jobs (berth attach): each gets what its job
// writes from then on, and where the job has a terminal each may type on it. Several at one job see the same.
//
// The runner keeps the terminal of a job while nobody is attached, and its output goes to the job's file all
// the time. Part of a Runner, single-threaded, on its DescriptorLoop.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "executor/descriptor_loop.h"
#include "executor/os/unique_fd.h"
#include "scheduler/stream_request.h"
#include "scheduler/stream_session.h"
#include "schemas/outcome.h"

namespace berth {

/// What a runner knows of an attempt.
struct AttemptView {
  enum class State { unknown, runs, ended };
  State state = State::unknown;
  bool terminal = false;           ///< runs: on one of its own
  std::optional<Outcome> outcome;  ///< ended
};

class StreamAttachments {
 public:
  /// `loop` outlives it. `signal` sends one to every process of a job.
  StreamAttachments(DescriptorLoop& loop, std::function<void(JobId, int)> signal);

  /// A client whose attempt is unknown waits here: berthd hands it over just before the attempt's start.
  /// `of_user` as StreamSession's.
  void add(const StreamRequest& request, const AttemptView& attempt, UniqueFd client, unsigned& of_user);
  /// What the terminal of a job that is about to start is to be like.
  TerminalWindow window_of(JobId job) const;

  /// The attempt's set-up begins: those who waited for it are attached.
  void begin(AttemptId id, bool terminal);
  /// `master` is non-blocking, and owned from now on until the job's end.
  void open_terminal(JobId job, UniqueFd master);
  void tell(JobId job, StreamFrame::Kind stream, std::string_view text);
  void end(AttemptId id, const Outcome& outcome);

  /// Lets go of clients that have gone, or have got everything.
  void sweep();
  /// Whether clients of jobs that have ended have not got everything yet.
  bool are_ending() const { return !ending_.empty(); }

 private:
  /// A job with a terminal or with clients.
  struct Target {
    AttemptId id;
    bool begun = false;
    bool terminal = false;
    UniqueFd master;
    std::optional<TerminalWindow> window;  ///< the last that a client asked for
    std::vector<std::shared_ptr<StreamSession>> sessions;
  };

  void join(Target& target, StreamSession& session);
  void resize(JobId job, TerminalWindow window);

  DescriptorLoop& loop_;
  const std::function<void(JobId, int)> signal_;
  std::map<JobId, Target> targets_;
  std::vector<std::shared_ptr<StreamSession>> ending_;
};

}  // namespace berth
