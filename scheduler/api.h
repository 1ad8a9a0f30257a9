// Api: what berthd answers: routes, access, JSON. schemas/berthd.openapi.json describes it for clients.
//
// On the event loop; what reads much of the database, or parses much, runs on one thread of its own with a
// connection of its own, one user's after another's, and answers on the event loop.
#pragma once

#include <boost/asio/io_context.hpp>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "scheduler/api_routes.h"
#include "scheduler/api_server.h"
#include "scheduler/cli_show.h"
#include "scheduler/daemon.h"
#include "scheduler/submission.h"
#include "scheduler/user_turns.h"

namespace berth {

class Api {
 public:
  /// `reader` is for this thread's short look-ups, `database` is opened again for the other's.
  Api(boost::asio::io_context& loop, Daemon& daemon, QueueStore& reader, const std::string& database,
      const Clock& clock);
  ~Api() = default;
  Api(const Api&) = delete;
  Api& operator=(const Api&) = delete;

  void handle(const ApiRequest& request, const ApiRespond& respond);
  /// Forgets who is an administrator.
  void forget_users() { users_.clear(); }
  /// Calls `callback` once, after the next commit that changed a job.
  void when_changed(std::weak_ptr<std::function<void()>> callback);

 private:
  struct Known {
    Actor actor;
    SteadyTime until;
  };
  using Work = std::function<ApiResponse(QueueStore&)>;

  const Actor& actor_of(const Peer& peer);
  void route(const ApiRequest& request, const Actor& actor, const ApiRespond& respond);
  void call(ApiCall call, const ApiRequest& request, const Actor& actor, const ApiRespond& respond);
  void call_of_job(ApiCall call, const ApiRequest& request, JobId job, const Actor& actor,
                   const ApiRespond& respond);
  struct WaitingTask {
    JobId array = 0;
    unsigned index = 0;
  };
  void call_of_waiting_task(ApiCall call, const ApiRequest& request, const WaitingTask& task,
                            const Actor& actor, const ApiRespond& respond);
  ApiResponse never_started(ApiCall call, const WaitingTask& task);
  void why(JobId job, const Actor& actor, const ApiRespond& respond);
  void update(const ApiRequest& request, JobId job, const Actor& actor, const ApiRespond& respond);
  /// What a change makes of one spec, for all rows of an array that have it.
  struct ChangedSpec {
    std::string before_text;
    JobSpec before;
    JobSpec spec;
    std::string text;
    std::set<std::string> fields;  ///< that were given
    std::exception_ptr refusal;
  };
  static void change_spec(ChangedSpec& changed, const std::string& changes);
  void apply_change(const ChangedSpec& change, const Actor& actor, JobId changed, QueueFacts& facts,
                    Daemon::LookedUp& looked_up);
  void act(ApiCall call, const ApiRequest& request, JobId job, const Actor& actor, const ApiRespond& respond);
  void show(const ApiRequest& request, JobId job, const Actor& actor, const ApiRespond& respond);
  void submit(const ApiRequest& request, const Actor& actor, const ApiRespond& respond);
  ApiResponse test(const std::vector<NewJob>& jobs, const Actor& actor, const std::string& file);
  /// What only the daemon knows of a job in a listing.
  struct Told {
    std::optional<WaitReason> reason;
    std::chrono::microseconds suspended{0};
  };
  /// `asked` counts those whose reason was asked for.
  Told told_of(JobId job, JobState state, bool is_over, std::size_t& asked);
  std::vector<Told> told_of(const std::vector<JobSummary>& jobs);
  static ApiResponse listed(const std::vector<JobSummary>& jobs, const std::vector<Told>& told,
                            bool truncated);
  void list(const ApiRequest& request, const Actor& actor, const ApiRespond& respond);
  void history(const ApiRequest& request, const Actor& actor, const ApiRespond& respond);
  void report(const ApiRequest& request, const Actor& actor, const ApiRespond& respond);
  void wait(const ApiRequest& request, JobId job, const Actor& actor, const ApiRespond& respond);
  void output(const ApiRequest& request, JobId job, const Actor& actor, const ApiRespond& respond);
  void events(const ApiRequest& request, const Actor& actor, const ApiRespond& respond);
  void stream(const ApiRequest& request, JobId job, const Actor& actor, const ApiRespond& respond);
  void top(const Actor& actor, const ApiRespond& respond);
  ApiResponse slots(const Actor& actor) const;
  /// Runs `work` on the reading thread, in the actor's turn, and answers with what it returns, or with what
  /// it throws.
  void read(const Actor& actor, Work work, ApiRespond respond);
  std::function<void()> reading(Work work, ApiRespond respond);
  void read_records(const Actor& actor, const std::function<ShownJob(QueueStore&)>& look,
                    const std::function<ApiResponse(const ShownJob&)>& answer, const ApiRespond& respond);

  boost::asio::io_context& loop_;
  Daemon& daemon_;
  QueueStore& reader_;
  const Clock& clock_;
  std::unordered_map<unsigned, Known> users_;
  IdentityCache identities_;  // before the thread below, which asks it
  std::vector<std::weak_ptr<std::function<void()>>> followers_;
  std::unique_ptr<QueueStore> slow_reader_;  // of the thread below alone
  UserTurns reading_;
};

/// The answer to what a request threw.
ApiResponse api_failure(const std::exception_ptr& error);

}  // namespace berth
