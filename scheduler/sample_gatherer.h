// SampleGatherer: what running jobs use at this moment, asked of all runners at once.
//
// On berthd's event loop alone. A runner that does not answer in time is left out.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "scheduler/runner_link.h"

namespace berth {

class SampleGatherer {
 public:
  using Reply = std::function<void(std::vector<RunningSample>)>;

  explicit SampleGatherer(boost::asio::io_context& loop) : loop_(loop) {}

  /// Calls `reply` once, later.
  void ask(const std::vector<std::shared_ptr<RunnerLink>>& links, Reply reply);
  /// A runner's answer.
  void take(const RunnerMessage& message);

 private:
  struct Gathering {
    explicit Gathering(boost::asio::io_context& loop) : timer(loop) {}
    std::size_t outstanding = 0;
    std::vector<RunningSample> samples;
    Reply reply;
    boost::asio::steady_timer timer;
  };
  void finish(JobId number);

  boost::asio::io_context& loop_;
  std::unordered_map<JobId, std::unique_ptr<Gathering>> gatherings_;
  JobId last_ = 0;
};

}  // namespace berth
