#include "scheduler/api_attach.h"

#include <memory>
#include <nlohmann/json.hpp>

#include "scheduler/api.h"
#include "scheduler/stream_hand_over.h"
#include "scheduler/stream_request.h"
#include "scheduler/submission.h"

namespace berth {
namespace {

ApiResponse hand_over(const Daemon& daemon, const Daemon::RunningAttempt& attempt, StreamRequest request) {
  request.id = attempt.id;
  const auto runner = std::make_shared<StreamHandOver>(daemon.runner_folder(), attempt.runner);
  ApiResponse response;
  response.type = kStreamProtocol;
  response.take_over = [runner, request](int descriptor) { runner->give(request, descriptor); };
  return response;
}

ApiResponse end_response(JobId job, const JobEnd& end) {
  ApiResponse response;
  response.body =
      nlohmann::ordered_json{
          {"job_id", job}, {"state", std::string(to_string(end.state))}, {"exit_status", end.exit_status}}
          .dump() +
      "\n";
  return response;
}

void check_may_start(Daemon& daemon, const AttachRequest& asked, const StoredJob& stored) {
  const std::string name = "job " + std::to_string(asked.job);
  if (const std::string task = first_task(stored); !task.empty()) {
    throw ApiError(409,
                   name + " is an array, whose tasks run by themselves; attach to one: berth attach " + task);
  }
  if (daemon.is_over(asked.job)) {
    return;
  }
  if (!asked.wait) {
    throw ApiError(409, name + " is " + std::string(to_string(stored.state)) + " and does not run now");
  }
}

}  // namespace

void attach_to_job(Daemon& daemon, const ApiRequest& request, const AttachRequest& asked, const Actor& actor,
                   const ApiRespond& respond) {
  if (request.upgrade != kStreamProtocol) {
    throw ApiError(426, "ask with the headers \"Connection: Upgrade\" and \"Upgrade: " +
                            std::string(kStreamProtocol) + "\"; docs/berthd.md describes the stream");
  }
  const StoredJob stored = daemon.require_stored(asked.job, actor);
  const StreamRequest stream = parse_attach_request(request.body);
  if (const auto attempt = daemon.find_attempt(asked.job, asked.after_attempt)) {
    respond(hand_over(daemon, *attempt, stream));
    return;
  }
  check_may_start(daemon, asked, stored);
  struct Waits {
    std::uint64_t start = 0;
    std::uint64_t end = 0;
  };
  const auto waits = std::make_shared<Waits>();
  const JobId job = asked.job;
  waits->start = daemon.wait_for_start(
      job, [&daemon, job, waits, stream, respond](const Daemon::RunningAttempt& attempt) {
        daemon.cancel_wait(job, waits->end);
        try {
          respond(hand_over(daemon, attempt, stream));
        } catch (...) {
          respond(api_failure(std::current_exception()));
        }
      });
  waits->end = daemon.wait_for(job, [&daemon, job, waits, respond](const JobEnd& end) {
    daemon.cancel_wait_for_start(job, waits->start);
    respond(end_response(job, end));
  });
  request.interest->when_lost([&daemon, job, waits] {
    daemon.cancel_wait(job, waits->end);
    daemon.cancel_wait_for_start(job, waits->start);
  });
}

}  // namespace berth
