// Daemon: berthd's scheduling: which job starts when, on which runner, and what of it is committed when.
//
// Life of an attempt (docs/architecture.md):
//   lease -> commit CONFIGURING -> plan to the runner -> STARTED -> commit RUNNING -> ENDED -> commit record
//   and state in one transaction -> acknowledge the runner
// so that, wherever berthd is killed, the next one knows: an attempt that is CONFIGURING and unknown to its
// living runner was never sent, and is sent; one that its runner has is taken over; one whose runner is dead
// has its record in the spool, or ends as NODE_FAIL.
//
// On the event loop alone; the database is written by the Committer. Times come from a Clock. Throws ApiError
// for what a caller got wrong.
#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "scheduler/clock.h"
#include "scheduler/committer.h"
#include "scheduler/record_spool.h"
#include "scheduler/retry.h"
#include "scheduler/runner_link.h"
#include "scheduler/sample_gatherer.h"
#include "scheduler/side_thread.h"
#include "scheduler/slot_pool.h"
#include "scheduler/waiting_jobs.h"
#include "schemas/daemon_config.h"
#include "schemas/dependency.h"

namespace berth {

/// What is answered to a request that cannot be done: an HTTP status and a sentence with the remedy.
class ApiError : public std::runtime_error {
 public:
  ApiError(unsigned status, const std::string& message) : std::runtime_error(message), status_(status) {}
  unsigned status() const { return status_; }

 private:
  unsigned status_;
};

/// Who asks, known by SO_PEERCRED.
struct Actor {
  unsigned user_id = 0;
  unsigned group_id = 0;
  std::string name;
  bool administrator = false;
};

/// What is asked of cancel().
struct Cancellation {
  bool at_once = false;          ///< without SIGTERM and grace period
  std::vector<JobState> states;  ///< only what is in one of them, of an array too; empty: whatever it is in
  bool concerns(JobState state) const {
    return states.empty() || std::find(states.begin(), states.end(), state) != states.end();
  }
};

/// How a job ended, for those who wait for it.
struct JobEnd {
  JobState state = JobState::failed;
  int exit_status = 0;
};

/// What is done about the jobs of a runner that died, as RecoveryActions does it.
struct LeftoverActions {
  /// Ends the attempt's processes, reads its counters, removes its cgroup; nothing when there was none.
  std::function<std::optional<Usage>(const Supervisor&, JobId, unsigned attempt)> collect;
  /// Removes a dead runner's cgroup; throws when something of it stays, and is called again then.
  std::function<void(const Supervisor&)> remove;
};

class Daemon {
 public:
  using Reply = std::function<void(std::exception_ptr)>;
  using SubmitReply = std::function<void(std::exception_ptr, const std::vector<JobId>&)>;
  using EndReply = std::function<void(const JobEnd&)>;

  /// Everything that a restart takes over has been taken over when it returns. `reader` is a connection of
  /// its own to the database that `writer` writes. `descriptors`: the soft limit of them that jobs begin
  /// with. Throws what keeps berthd from serving.
  Daemon(boost::asio::io_context& loop, DaemonConfig config, std::unique_ptr<QueueStore> writer,
         QueueStore& reader, const Clock& clock, LeftoverActions leftovers, std::uint64_t descriptors);
  ~Daemon();
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  const DaemonConfig& config() const { return config_; }
  /// What may change while jobs run does; the rest is named in a log line.
  void reconfigure(const DaemonConfig& config);
  /// Why new jobs are refused now; empty when they are not.
  const std::string& store_trouble() const { return store_damage_.empty() ? store_trouble_ : store_damage_; }
  /// When `error` says that the database is damaged: until berthd is restarted no job is taken or started,
  /// and running ones go on.
  void note_damage(const std::exception_ptr& error);
  const SlotPool& pool() const { return pool_; }
  /// As pool(), which knows of other berths' CPUs what they were at the last decision, but as of now.
  const SlotPool& current_pool() {
    pool_.look_at_others();
    return pool_;
  }
  /// What the runners of this machine can enforce.
  const ControllerReport& controllers() const { return controllers_; }

  /// Throws InputError and ApiError for what cannot be submitted now.
  void check(const std::vector<NewJob>& jobs, const Actor& actor, const std::string& file);
  /// Throws ApiError for one that has passed.
  void check_deadline(const QueueFacts& facts) const;
  /// For one request, by the two below.
  struct LookedUp {
    std::set<JobId> known;       ///< that there are, and that the actor may see
    std::size_t conditions = 0;  ///< of jobs that are to change
    std::size_t steps = 0;       ///< through what those wait for in turn
  };
  /// Throws ApiError for a dependency on what there is not, or on another user's job.
  void require_dependency(const std::string& text, const Actor& actor, LookedUp& looked_up);
  /// Throws ApiError when `dependent`, which waits already, with this dependency and name would wait for
  /// itself over whatever way; 413 when that takes too long to tell, of all jobs of the request together.
  void refuse_circle(const std::string& text, JobId dependent, const std::string& name, LookedUp& looked_up);
  /// When the job would start at the latest, submitted now; nothing when that cannot be told.
  std::optional<Timestamp> would_start(const NewJob& job);
  /// All or none; as check().
  void submit(std::vector<NewJob> jobs, const Actor& actor, const std::string& file, SubmitReply reply);
  void cancel(JobId job, const Actor& actor, const Cancellation& asked, Reply reply);
  /// These four, and update(), of an array: of all its tasks that wait, or run. They throw ApiError when it
  /// can be done to none.
  void hold(JobId job, const Actor& actor, Reply reply);
  void release(JobId job, const Actor& actor, Reply reply);
  void suspend(JobId job, const Actor& actor, bool suspended, Reply reply);
  void signal(JobId job, const Actor& actor, int signal_number, bool batch_job, const Reply& reply);
  /// A job that has ended waits again; one that runs is ended first.
  void requeue(JobId job, const Actor& actor, Reply reply);
  /// Changes what a waiting job is scheduled by, and its spec's JSON text. Throws where it may not; ApiError
  /// 413 refuses the whole request.
  struct Edit {
    std::function<void(JobId, QueueFacts&, std::string& spec_text)> apply;
    bool of_spec = false;  ///< else it gets no text
  };
  void update(JobId job, const Actor& actor, const Edit& edit, Reply reply);
  /// The state of a job that has ended and does not wait again.
  std::optional<JobState> ended_as(JobId job);
  /// How a job ended as `state`: read on any thread that `store` belongs to. Of an array it takes time in
  /// proportion to its tasks.
  static JobEnd end_of(QueueStore& store, JobId job, JobState state);
  /// Called once, when the job has ended; at once when it has. Returns a number for cancel_wait, 0 when
  /// called.
  std::uint64_t wait_for(JobId job, EndReply reply);
  void cancel_wait(JobId job, std::uint64_t number);

  /// A task that has not started has no number of its own: it waits in its array, unless it is separated,
  /// to be changed or ended apart from the others.
  bool has_waiting_task(JobId array, unsigned task) const;
  /// Its number is being written.
  bool is_task_on_its_way(JobId array, unsigned task) const;
  using TaskReply = std::function<void(std::exception_ptr, JobId)>;
  void separate_task(JobId array, unsigned task, TaskReply reply);
  /// Why a task of an array that has no number never gets one; nothing when it may, or there is none.
  std::optional<Outcome> never_started(JobId array, unsigned task);
  /// Called once, with the task's number when it has got one, with 0 when the array has ended without it or
  /// the number could not be written: has_waiting_task() tells.
  /// Returns a number for cancel_wait_for_task.
  std::uint64_t wait_for_task(JobId array, unsigned task, std::function<void(JobId)> reply);
  void cancel_wait_for_task(JobId array, std::uint64_t number);

  /// Throws ApiError 404 where there is no such job, or none that the actor may see.
  KnownJob require(JobId job, const Actor& actor);
  StoredJob require_stored(JobId job, const Actor& actor);
  /// The attempt that runs now, and its runner's name. Throws ApiError 404 as require() does, 409 where none
  /// runs, or it is suspended.
  struct RunningAttempt {
    AttemptId id;
    std::string runner;
  };
  RunningAttempt require_running(JobId job, const Actor& actor);
  /// The attempt that a runner has, if it is a later one than `after`.
  std::optional<RunningAttempt> find_attempt(JobId job, unsigned after) const;
  using StartReply = std::function<void(const RunningAttempt&)>;
  /// Called once, just before an attempt of the job is sent to its runner. Returns a number for
  /// cancel_wait_for_start.
  std::uint64_t wait_for_start(JobId job, StartReply reply);
  void cancel_wait_for_start(JobId job, std::uint64_t number);
  /// Where the runners' sockets are.
  std::string runner_folder() const { return runner_paths().socket_folder; }
  std::optional<WaitReason> reason(JobId job);
  /// Why berthd itself holds the job; empty: it does not.
  std::string held_because(JobId job);
  /// When a waiting job starts at the latest, if the jobs before it keep to their time limits; nothing when
  /// that cannot be told.
  std::optional<Timestamp> expected_start(JobId job);
  /// How many eligible jobs come before it, as far as they were looked at.
  std::size_t jobs_before(JobId job) const;
  /// No job starts until undrained.
  void drain(bool draining);
  bool draining() const { return draining_; }

  struct RunningView {
    JobId job_id = 0;
    unsigned user_id = 0;
    Allocation allocation;
    std::string runner;
  };
  std::vector<RunningView> running() const;
  /// For how long the job's attempt that runs has been suspended.
  std::chrono::microseconds suspended_time(JobId job) const;
  /// What running jobs use at this moment, of those whose runners answer in time.
  void sample(SampleGatherer::Reply reply) { samples_.ask(std::move(reply)); }
  std::size_t waiting() const { return waiting_.size(); }
  /// Jobs that have not ended; an array whose tasks wait counts once.
  std::map<JobState, std::uint64_t> counts() const;
  /// Since this berthd was started.
  struct Totals {
    std::uint64_t submitted = 0;                          ///< jobs
    std::uint64_t started = 0;                            ///< attempts whose command began to run
    std::map<JobState, std::uint64_t> ended = no_ends();  ///< attempts
    std::chrono::microseconds cpu_time{0};                ///< of those, where it is known
    std::uint64_t oom_kills = 0;
    /// Each state in which one can end has its place, so that counting throws nothing.
    static std::map<JobState, std::uint64_t> no_ends();
    void count_end(const Outcome& outcome, const Usage& usage) noexcept;
  };
  const Totals& totals() const { return totals_; }
  /// Neither waits nor runs, and its end is on the disk.
  bool is_over(JobId job) const { return !waiting_.contains(job) && !active_.contains(job); }
  std::optional<WaitingJob> find_waiting(JobId job) const { return waiting_.find(job); }
  std::size_t runners() const { return links_.size(); }

  /// Called after each commit that changed a job, for those who follow events.
  void on_commit(std::function<void()> callback) { on_commit_ = std::move(callback); }

 private:
  struct Active {
    AttemptId id;
    unsigned user_id = 0;
    WaitingJob waiting;  ///< to put it back when the start cannot be committed
    std::optional<SlotLease> lease;
    Resources holds;
    SteadyTime latest_end;                 ///< a year later while it is suspended
    SteadyTime suspended_at;               ///< by this berthd or before it started
    SteadyTime::duration suspended_for{};  ///< before that
    std::shared_ptr<RunnerLink> runner;
    JobState state = JobState::configuring;
    bool start_committed = false;  ///< CONFIGURING is on the disk
    bool sent = false;
    std::optional<RunnerMessage> stop;  ///< asked for before the start was sent
    bool requeue = false;               ///< it was asked for: waits again when it has ended
    bool stopping = false;              ///< its runner has been told to end it, or will be
    /// Its runner has been asked to suspend or resume it, and has not answered yet.
    struct Pause {
      bool suspended = false;
      Reply reply;
    };
    std::optional<Pause> pause;
    /// By whom it was cancelled first: no attempt follows, however this one ends.
    std::optional<std::string> canceller;
    AttemptStart start;              ///< told by the runner
    std::uint64_t start_commit = 0;  ///< its commit, while it may be joined to the end's
    RetryRule rule;
    std::optional<JobId> array;    ///< whose task it is
    std::optional<unsigned> task;  ///< which, while it has no number yet
  };
  using Namesakes = std::pair<unsigned, std::string>;  ///< user and name
  using Turn = std::pair<JobId, JobId>;                ///< place_of() a singleton, and itself
  /// A waiting job that depends on others.
  struct Dependent {
    Dependency dependency;           ///< the conditions in the order of the jobs and tasks that they are on
    std::vector<Fulfilment> states;  ///< of its conditions, when they were last looked up
    std::size_t yeses = 0;           ///< how many of them are so
    std::size_t nevers = 0;
    Namesakes namesakes;  ///< of a singleton
    Turn turn;            ///< of a singleton
    bool never = false;
    void set_state(std::size_t index, Fulfilment state);
  };
  /// What others may depend on: a job has started, ended or is waited for again.
  struct Change {
    JobId job = 0;                 ///< of an array: all its tasks too
    std::optional<JobId> array;    ///< whose task it is
    std::optional<unsigned> task;  ///< which
  };
  /// Of an array, one of whose tasks ended, or those that have not started.
  struct ArrayEnd {
    std::optional<JobId> array;
    std::optional<JobState> state;  ///< when that was the last
  };
  void mark_numbers();
  void take_in_spool(QueueStore& store);
  void settle_attempt(QueueStore& store, AttemptId id, const Outcome& outcome);
  void take_over(QueueStore& store);
  void adopt(const OpenAttempt& open, const StoredJob& stored);
  void tell_again(AttemptId id);
  void load_queue(QueueStore& store);
  void start_first_runners();
  void handle_runner_start(const std::shared_ptr<RunnerLink>& link, const std::string& problem);
  void replace_runners();
  void attach(const std::shared_ptr<RunnerLink>& link);
  bool lacks_runners() const;
  bool has_runner() const;
  void let_leave(const std::shared_ptr<RunnerLink>& link, const RunnerMessage& message);
  void retire_if_outdated(const std::shared_ptr<RunnerLink>& link);
  void handle(const std::shared_ptr<RunnerLink>& link, const RunnerMessage& message);
  void handle_gone(const std::shared_ptr<RunnerLink>& link);
  void settle_gone(const RunnerLink& link);
  void remove_leftovers(const Supervisor& runner, bool was_told = false);
  std::map<AttemptId, RunnerMessage> spooled_records();
  void enqueue(const WaitingJob& job, Timestamp now, bool is_named = true);
  void now_or_later(JobId job, const std::function<void()>& call);
  void unblock_or_link(const WaitingJob& job, Timestamp now, bool is_named);
  void link(JobId job, Dependency&& dependency, Dependent& dependent);
  void leave_turn(const Dependent& dependent);
  void forget(JobId job);
  void examine_now(JobId job, Timestamp now, const std::optional<Change>& changed);
  void examine(JobId job, Timestamp now, const std::optional<Change>& changed = std::nullopt);
  void add_after(JobId array, std::set<JobId>& jobs) const;
  void release_dependents(JobId ended, std::optional<JobId> array);
  Fulfilment state_of(const Dependency::Condition& condition);
  Fulfilment state_of_singleton(JobId job, const Dependent& dependent);
  std::optional<Timestamp> start_of(std::size_t sequence, const std::vector<QueuedJob>& waiting);
  std::optional<std::vector<QueuedJob>> jobs_up_to(std::size_t sequence,
                                                   const std::vector<QueuedJob>& waiting) const;
  bool may_be_passed(const QueuedJob& job, Timestamp by) const;
  void give_task_back(const WaitingJob& array, unsigned task);
  bool store_holds_as_waiting(JobId job);
  void hold_refused(JobId job, const std::exception_ptr& error);
  void commit_start(JobId key, const std::shared_ptr<std::optional<StoredJob>>& stored,
                    const std::exception_ptr& error);
  void give_back(const Active& active);
  void uncount(const Active& active);
  void uncount_task(JobId array);
  bool is_barred(JobId array, const QueueFacts& facts) const;
  std::optional<JobId> throttled_array(const WaitingJob& job);
  void throttle(JobId array);
  void handle_started(Active& active, const AttemptStart& start);
  void handle_ended(const std::shared_ptr<RunnerLink>& link, const RunnerMessage& message);
  void finish_as_told(Active& active, const RunnerMessage& ended, const std::shared_ptr<RunnerLink>& link);
  void acknowledge(const std::shared_ptr<RunnerLink>& link, const AttemptId& id);
  void finish_unheard_of(const std::shared_ptr<RunnerLink>& link, const RunnerMessage& message);
  QueueFacts fitted(QueueFacts facts) const;
  static bool is_requeued(const Active& active, const Outcome& outcome);
  bool count_failed_start(const Active& active, const Outcome& outcome);
  std::optional<WaitingJob> next_attempt(const Active& active, const Outcome& outcome, Timestamp at) const;
  void finish(Active& active, const Outcome& outcome, const Usage& usage, Timestamp at,
              const std::shared_ptr<RunnerLink>& link);
  void schedule();
  void decide();
  void start_jobs();
  bool waits_for_others() const;
  void arm_timer();
  bool start_or_end(const WaitingJob& job, Timestamp now);
  bool start(const WaitingJob& job);
  void take_from_queue(Active& active, std::optional<unsigned> task, const std::string& rest);
  void commit_configuring(JobId key, const Active& active);
  RunnerMessage start_message(const Active& active, const StoredJob& stored) const;
  void send_start(AttemptId id, const StoredJob& stored);
  std::shared_ptr<RunnerLink> runner_for(const std::string& shared_network) const;
  Resources allowance(unsigned user_id) const;
  std::vector<RunningJob> running_jobs(SteadyTime others_end) const;
  Outcome node_failure(const Supervisor& runner, AttemptId id, Usage& usage, bool was_killed = false);
  RunnerPaths runner_paths() const;
  unsigned wanted_runners() const;
  void stop(Active& active, const RunnerMessage& message);
  void cancel_running(Active& active, const Actor& actor, bool at_once, Reply reply);
  /// `waiting`: some that waited to run again, whose ends are being committed.
  enum class CancelledTasks { none, running, waiting };
  CancelledTasks cancel_tasks(JobId array, const Actor& actor, const Cancellation& asked);
  void end_waiting(JobId job, const Outcome& outcome, Reply reply);
  /// There is the task, and it has no number yet.
  bool is_without_number(JobId array, unsigned task) const;
  bool leads_back(const Dependency& dependency, const KnownJob& own, std::size_t& steps);
  void add_earlier_namesakes(const KnownJob& singleton, const KnownJob& asking,
                             std::map<Namesakes, JobId>& added, std::vector<JobId>& jobs);
  void tell_end(JobId job, const JobEnd& end);
  void tell_array_end(JobId array, JobState state);
  void tell_task(std::optional<JobId> array, std::optional<unsigned> task, JobId id);
  void require_store() const;
  void refuse_while_ending(JobId job) const;
  Active* find_active(JobId job);
  bool has_tasks_on_their_way(JobId array);
  void change_waiting(JobId job, const Actor& actor, const std::string& action, const Edit& edit,
                      Reply reply);
  /// A waiting job as an edit makes it.
  struct Changed {
    WaitingJob job;
    std::shared_ptr<const std::string> spec_text;  ///< null: as it was
    QueueFacts before;
  };
  std::vector<Changed> edited(const std::vector<JobId>& rows, const Edit& edit, std::exception_ptr& refusal);
  void change_all(JobId job, const Actor& actor, const std::string& action, const Edit& edit, Reply reply);
  std::vector<JobId> runs_of(JobId job, const Actor& actor);
  void suspend_one(Active& active, bool suspended, Reply reply);
  void handle_paused(Active& active, const std::string& problem);
  void note_suspension(Active& active, bool suspended, Reply reply);
  Active& require_active(JobId job, const Actor& actor);
  void change(const WaitingJob& job, const std::string& action, const Actor& actor,
              const std::shared_ptr<const std::string>& spec_text, Reply reply);
  bool fits_ever(const QueueFacts& facts) const;
  void unblock(JobId job, Timestamp now);
  void examine_first(const Namesakes& namesakes);
  void examine_singletons();
  /// Changes of a waiting job that are being committed. Each rests on those before it.
  struct Changing {
    QueueFacts recorded;  ///< as the last that is on the disk made them
    unsigned asked = 0;
    unsigned settled = 0;
    bool has_failed = false;
    /// Which is the first that could not be made, 0: none.
    std::shared_ptr<std::atomic<unsigned>> refused = std::make_shared<std::atomic<unsigned>>(0);
  };
  void settle_change(const WaitingJob& changed, bool failed);
  void committed();
  void forget_old_jobs();
  void forget_again_after(std::chrono::milliseconds pause);
  Timestamp cautious_now() const;
  void notice_clock();

  boost::asio::io_context& loop_;
  const std::uint64_t descriptors_;  // soft limit that berthd was started with
  DaemonConfig config_;
  QueueStore& reader_;
  const Clock& clock_;
  SlotPool pool_;
  LeftoverActions leftovers_;
  RecordSpool spool_;
  WaitingJobs waiting_;
  std::unordered_map<JobId, Active> active_;
  std::vector<std::shared_ptr<RunnerLink>> links_;
  ControllerReport controllers_;                 ///< as the last runner told
  std::unique_ptr<SideThread> starting_runner_;  ///< while one is being started
  std::unordered_map<JobId, Dependent> dependents_;
  std::set<JobId> unexamined_;  ///< those for which something went wrong, to be looked at again
  std::unordered_map<JobId, std::set<JobId>> task_depended_on_;  ///< on single tasks: by array
  std::unordered_map<JobId, std::set<JobId>> depended_on_;       ///< on a job: who waits for it
  std::map<Namesakes, std::set<Turn>> singletons_;               ///< those that wait for their turn
  std::unordered_map<JobId, unsigned> arrays_;                   ///< how many tasks of an array run
  /// Tasks with numbers of their own that wait, of arrays with a throttle.
  std::unordered_map<JobId, std::set<JobId>> throttled_;
  JobId last_placeholder_ = 0;  ///< negative: a task whose job has no id yet
  std::unordered_map<JobId, std::map<std::uint64_t, EndReply>> waiters_;
  std::unordered_map<JobId, std::map<std::uint64_t, StartReply>> start_waiters_;
  struct TaskWaiter {
    unsigned task = 0;
    std::function<void(JobId)> reply;
  };
  std::unordered_map<JobId, std::map<std::uint64_t, TaskWaiter>> task_waiters_;  ///< by array
  /// Tasks that are being given a number of their own; by whom they were cancelled meanwhile, if they were.
  std::map<std::pair<JobId, unsigned>, std::string> separating_;
  std::unordered_map<unsigned, std::size_t> submitting_;  ///< jobs of a user that are being committed
  /// What jobs of a request depend on, by their places in it.
  using Needs = std::vector<std::pair<std::size_t, Dependency::Condition>>;
  std::set<std::shared_ptr<const Needs>> submitting_needs_;  ///< of what is being committed
  std::unordered_map<JobId, unsigned> failed_starts_;        ///< in a row, of jobs that are to run again
  std::set<JobId> requeueing_;                               ///< ended jobs whose requeue is being committed
  std::unordered_map<JobId, Changing> changing_;
  std::multiset<JobId> ending_;  ///< that waited, whose ends are being committed
  std::uint64_t last_waiter_ = 0;
  Totals totals_;
  std::string store_trouble_;
  std::string store_damage_;  ///< does not go away by itself
  /// What the system clock is ahead of the steady one: when berthd started, and when it was last looked at.
  Milliseconds first_clock_lead_;
  Milliseconds clock_lead_;
  bool draining_ = false;
  bool scheduled_ = false;
  bool stopping_ = false;
  std::function<void()> on_commit_;
  SampleGatherer samples_;
  boost::asio::steady_timer timer_;
  SteadyTime wakes_at_ = SteadyTime::max();  ///< of timer_
  boost::asio::steady_timer retention_timer_;
  boost::asio::steady_timer mark_timer_;
  GivenNumbers marked_;                   // in the file
  std::unique_ptr<Committer> committer_;  // last: it is joined first
};

/// The supervisor of a job that waits in berthd's queue: no process, so that no recovery takes it for dead.
const Supervisor& queue_supervisor();

}  // namespace berth
