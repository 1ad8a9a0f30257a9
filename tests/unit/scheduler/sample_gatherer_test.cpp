#include "scheduler/sample_gatherer.h"

#include <boost/asio/buffer.hpp>
#include <boost/asio/local/connect_pair.hpp>
#include <catch2/catch.hpp>
#include <functional>
#include <string>

namespace berth {
namespace {

/// Two runners, and how often those who asked were answered.
struct Fixture {
  boost::asio::io_context loop;
  std::vector<RunnerLink::Socket> runners;
  SampleGatherer::Links links;
  SampleGatherer gatherer{loop, links};
  std::size_t answers = 0;
  std::size_t samples = 0;  ///< of the last answer
  JobId round = 0;

  Fixture() {
    for (int runner = 0; runner < 2; ++runner) {
      RunnerLink::Socket own(loop);
      boost::asio::local::connect_pair(own, runners.emplace_back(loop));
      links.push_back(std::make_shared<RunnerLink>(std::move(own), RunnerMessage{}, FrameReader{}));
    }
  }
  void run_until(const std::function<bool()>& condition) {
    while (!condition()) {
      loop.restart();
      REQUIRE(loop.run_one() > 0);
    }
  }
  /// Returns when the first runner has been asked.
  void ask() {
    gatherer.ask([this](const std::vector<RunningSample>& all) {
      ++answers;
      samples = all.size();
    });
    run_until([&] { return runners[0].available() > 0; });
    std::string request(runners[0].available(), '\0');
    runners[0].read_some(boost::asio::buffer(request));
    ++round;
  }
  void answer(std::size_t runner) {
    RunnerMessage message;
    message.kind = RunnerMessage::Kind::samples;
    message.id.job_id = round;
    message.samples.resize(1);
    gatherer.take(*links[runner], message);
  }
};

}  // namespace

TEST_CASE("a runner that did not answer in time is not waited for until it has answered") {
  Fixture f;
  f.ask();
  f.answer(0);
  CHECK(f.answers == 0);
  f.run_until([&] { return f.answers == 1; });
  CHECK(f.samples == 1);
  f.ask();
  f.answer(0);
  CHECK(f.answers == 2);
  f.answer(1);
  f.ask();
  f.answer(0);
  CHECK(f.answers == 2);
  f.answer(1);
  CHECK(f.answers == 3);
  CHECK(f.samples == 2);
}

TEST_CASE("a runner that has gone is not waited for") {
  Fixture f;
  f.ask();
  f.answer(0);
  f.gatherer.lose(*f.links[1]);
  CHECK(f.answers == 1);
}

}  // namespace berth
