#include "scheduler/runner_link.h"

#include <boost/asio/local/connect_pair.hpp>
#include <boost/asio/write.hpp>
#include <catch2/catch.hpp>
#include <functional>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace berth {
namespace {

RunnerMessage started(JobId job) {
  RunnerMessage message;
  message.kind = RunnerMessage::Kind::started;
  message.id = {job, 1};
  return message;
}

/// A link, the runner's end of it, and what the link told.
struct Fixture {
  boost::asio::io_context loop;
  RunnerLink::Socket runner{loop};
  std::shared_ptr<RunnerLink> link;
  std::vector<JobId> told;
  int gone = 0;
  JobId faulty = 0;  ///< for whose messages the handler throws
  JobId large = 0;   ///< for whose message there is no memory, once
  int thrown = 0;    ///< from the loop

  Fixture() {
    RunnerLink::Socket own(loop);
    boost::asio::local::connect_pair(own, runner);
    link = std::make_shared<RunnerLink>(std::move(own), RunnerMessage{}, FrameReader{});
    link->start(
        [this](const auto&, const RunnerMessage& message) {
          told.push_back(message.id.job_id);
          if (message.id.job_id == faulty) {
            throw std::runtime_error("the database cannot be read");
          }
          if (message.id.job_id == large) {
            large = 0;
            throw std::bad_alloc();
          }
        },
        [this](const auto&) { ++gone; });
  }
  void send(const std::string& bytes) { boost::asio::write(runner, boost::asio::buffer(bytes)); }
  void run_until(const std::function<bool()>& condition) {
    while (!condition()) {
      loop.restart();
      std::size_t run = 1;
      try {
        run = loop.run_one();
      } catch (const std::exception&) {
        ++thrown;
      }
      REQUIRE(run > 0);
    }
  }
};

}  // namespace

TEST_CASE("what a handler throws comes from the loop, and is no fault of the runner's") {
  Fixture f;
  f.faulty = 1;
  f.send(to_frame(started(1)) + to_frame(started(2)));
  f.run_until([&] { return f.told.size() == 2 && f.thrown == 1; });
  f.send(to_frame(started(3)));
  f.run_until([&] { return f.told.size() == 3; });
  CHECK(f.told == std::vector<JobId>{1, 2, 3});
  CHECK(f.link->is_open());
  CHECK(f.gone == 0);
  CHECK(f.thrown == 1);
}

TEST_CASE("what there was no memory for is handled again, in order") {
  Fixture f;
  f.large = 2;
  f.send(to_frame(started(1)) + to_frame(started(2)) + to_frame(started(3)));
  f.run_until([&] { return f.told.size() == 4; });
  CHECK(f.told == std::vector<JobId>{1, 2, 2, 3});
  CHECK(f.link->is_open());
  CHECK(f.thrown == 1);
  f.send(to_frame(started(4)));
  f.run_until([&] { return f.told.size() == 5; });
}

TEST_CASE("a link that brings what is no message is closed, once") {
  Fixture f;
  f.send(to_frame(started(1)) + std::string(64, '\xff') + to_frame(started(2)));
  f.run_until([&] { return f.gone > 0; });
  CHECK(f.told == std::vector<JobId>{1});
  CHECK_FALSE(f.link->is_open());
  f.loop.restart();
  f.loop.run();
  CHECK(f.gone == 1);
}

}  // namespace berth
