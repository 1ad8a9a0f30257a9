// SampleGatherer: what running jobs use at this moment, asked of all runners at once.
//
// On berthd's event loop alone. A runner that does not answer in time is left out, and nobody waits for it
// any more until it has answered. Runners read the counters of all their jobs for it, so they are asked at
// most ten times a second, for all who asked meanwhile.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <set>
#include <vector>

#include "scheduler/runner_link.h"

namespace berth {

class SampleGatherer {
 public:
  using Reply = std::function<void(std::vector<RunningSample>)>;

  using Links = std::vector<std::shared_ptr<RunnerLink>>;

  /// `links`: the runners at any time; outlives this.
  SampleGatherer(boost::asio::io_context& loop, const Links& links) : links_(links), timer_(loop) {}

  /// Calls `reply` once, later, with what was gathered since.
  void ask(Reply reply);
  /// A runner's answer.
  void take(const RunnerLink& link, const RunnerMessage& message);
  /// It has gone, and answers no more. Called of each, before it is destroyed.
  void lose(const RunnerLink& link);

 private:
  void begin_in_time();
  void begin();
  void wait_no_longer_for(const RunnerLink& link);
  void finish();

  const Links& links_;
  boost::asio::steady_timer timer_;  ///< until it begins, or until it ends with the answers there are
  std::vector<Reply> waiting_;       ///< for the next one
  std::vector<Reply> replies_;       ///< while one is under way
  std::vector<RunningSample> samples_;
  std::set<const RunnerLink*> outstanding_;  ///< those that are waited for
  std::set<const RunnerLink*> silent_;       ///< those that did not answer in time, and have not since
  bool gathers_ = false;                     ///< or is about to
  std::chrono::steady_clock::time_point begun_;
  JobId number_ = 0;  ///< of the one that is under way
};

}  // namespace berth
