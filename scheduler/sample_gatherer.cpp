#include "scheduler/sample_gatherer.h"

#include <utility>

namespace berth {
namespace {

constexpr std::chrono::seconds kSamplePatience{2};
/// From one beginning to the next.
constexpr std::chrono::milliseconds kBetween{100};

}  // namespace

void SampleGatherer::ask(Reply reply) {
  waiting_.push_back(std::move(reply));
  if (!std::exchange(gathers_, true)) {
    begin_in_time();
  }
}

void SampleGatherer::begin_in_time() {
  timer_.expires_at(begun_ + kBetween);
  timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) {
      begin();
    }
  });
}

void SampleGatherer::begin() {
  begun_ = std::chrono::steady_clock::now();
  replies_ = std::exchange(waiting_, {});
  samples_.clear();
  outstanding_.clear();
  for (const std::shared_ptr<RunnerLink>& link : links_) {
    if (!silent_.contains(link.get())) {
      outstanding_.insert(link.get());
    }
  }
  ++number_;
  timer_.expires_after(outstanding_.empty() ? std::chrono::seconds(0) : kSamplePatience);
  timer_.async_wait([this, number = number_](const boost::system::error_code& error) {
    if (!error && number == number_ && !replies_.empty()) {
      silent_.insert(outstanding_.begin(), outstanding_.end());
      finish();
    }
  });
  for (const std::shared_ptr<RunnerLink>& link : links_) {
    RunnerMessage message;
    message.kind = RunnerMessage::Kind::sample;
    message.id.job_id = number_;
    link->send(message);
  }
}

void SampleGatherer::take(const RunnerLink& link, const RunnerMessage& message) {
  silent_.erase(&link);
  if (message.id.job_id != number_ || replies_.empty()) {
    return;  // too late
  }
  samples_.insert(samples_.end(), message.samples.begin(), message.samples.end());
  wait_no_longer_for(link);
}

void SampleGatherer::lose(const RunnerLink& link) {
  silent_.erase(&link);
  wait_no_longer_for(link);
}

void SampleGatherer::wait_no_longer_for(const RunnerLink& link) {
  if (outstanding_.erase(&link) > 0 && outstanding_.empty() && !replies_.empty()) {
    finish();
  }
}

void SampleGatherer::finish() {
  const std::vector<Reply> replies = std::exchange(replies_, {});
  gathers_ = !waiting_.empty();
  if (gathers_) {
    begin_in_time();
  } else {
    timer_.cancel();
  }
  for (const Reply& reply : replies) {
    reply(samples_);
  }
}

}  // namespace berth
