#include "scheduler/sample_gatherer.h"

#include <utility>

namespace berth {
namespace {

constexpr std::chrono::seconds kSamplePatience{2};

}  // namespace

void SampleGatherer::ask(const std::vector<std::shared_ptr<RunnerLink>>& links, Reply reply) {
  const JobId number = ++last_;
  auto gathering = std::make_unique<Gathering>(loop_);
  gathering->outstanding = links.size();
  gathering->reply = std::move(reply);
  gathering->timer.expires_after(links.empty() ? std::chrono::seconds(0) : kSamplePatience);
  gathering->timer.async_wait([this, number](const boost::system::error_code& error) {
    if (!error) {
      finish(number);
    }
  });
  gatherings_[number] = std::move(gathering);
  for (const std::shared_ptr<RunnerLink>& link : links) {
    RunnerMessage message;
    message.kind = RunnerMessage::Kind::sample;
    message.id.job_id = number;
    link->send(message);
  }
}

void SampleGatherer::take(const RunnerMessage& message) {
  const auto found = gatherings_.find(message.id.job_id);
  if (found == gatherings_.end()) {
    return;  // too late
  }
  Gathering& gathering = *found->second;
  gathering.samples.insert(gathering.samples.end(), message.samples.begin(), message.samples.end());
  if (--gathering.outstanding == 0) {
    finish(message.id.job_id);
  }
}

void SampleGatherer::finish(JobId number) {
  const auto found = gatherings_.find(number);
  if (found == gatherings_.end()) {
    return;
  }
  const std::unique_ptr<Gathering> gathering = std::move(found->second);
  gatherings_.erase(found);
  gathering->timer.cancel();
  gathering->reply(std::move(gathering->samples));
}

}  // namespace berth
