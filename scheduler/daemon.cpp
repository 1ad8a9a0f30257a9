#include "scheduler/daemon.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <utility>

#include "scheduler/backup_keeper.h"
#include "scheduler/imagined_cpus.h"
#include "scheduler/log.h"
#include "scheduler/loop_error.h"
#include "scheduler/number_mark.h"
#include "schemas/quantities.h"

namespace berth {
namespace {

/// Ended jobs are forgotten so many at a time, in a transaction of some milliseconds, with a pause for
/// others' work.
constexpr std::size_t kForgottenAtOnce = 200;
constexpr std::size_t kPagesAtOnce = 200;
constexpr std::chrono::milliseconds kForgettingPause{50};
constexpr std::chrono::seconds kForgettingInterval{10};
/// A database that lost what is newer than this is not found out (number_mark.h).
constexpr std::chrono::seconds kMarkInterval{2};

SlotPool make_pool(const DaemonConfig::Pool& pool) {
  PoolBounds bounds{pool.slots, pool.cpus, pool.memory};
  bounds.cpus_setting = "pool.cpus";
  bounds.memory_setting = "pool.memory";
  return SlotPool(pool_topology(), std::move(bounds));
}

/// Those that differ, of the keys that a running berthd cannot change.
std::string keys_for_a_restart(const DaemonConfig& now, const DaemonConfig& next) {
  std::string keys;
  for (const auto& [key, is_changed] : std::initializer_list<std::pair<const char*, bool>>{
           {"socket", now.socket != next.socket},
           {"runtime_directory", now.runtime_directory != next.runtime_directory},
           {"state_directory", now.state_directory != next.state_directory},
           {"runner_program", now.runner_program != next.runner_program},
           {"runners", now.runners != next.runners},
           {"armed_ahead", now.armed_ahead != next.armed_ahead},
           {"pool.cpus", now.pool.cpus != next.pool.cpus},
           {"pool.memory", now.pool.memory != next.pool.memory},
           {"pool.slots", now.pool.slots != next.pool.slots}}) {
    if (is_changed) {
      keys += (keys.empty() ? "" : ", ") + std::string(key);
    }
  }
  return keys;
}

Milliseconds lead_of(const Clock& clock) {
  return std::chrono::duration_cast<Milliseconds>(clock.system_now().time_since_epoch() -
                                                  clock.steady_now().time_since_epoch());
}

}  // namespace

const Supervisor& queue_supervisor() {
  static const Supervisor kQueue{"", 0, 0, "berthd"};
  return kQueue;
}

Daemon::Daemon(boost::asio::io_context& loop, DaemonConfig config, std::unique_ptr<QueueStore> writer,
               QueueStore& reader, const Clock& clock, LeftoverActions leftovers, std::uint64_t descriptors)
    : loop_(loop),
      descriptors_(descriptors),
      config_(std::move(config)),
      reader_(reader),
      clock_(clock),
      pool_(make_pool(config_.pool)),
      leftovers_(std::move(leftovers)),
      spool_(config_.state_directory + "/spool"),
      waiting_([this](unsigned cpus, std::optional<Bytes> wish) {
        return pool_.memory_for({cpus, wish});
      }),
      first_clock_lead_(lead_of(clock_)),
      clock_lead_(first_clock_lead_),
      samples_(loop, links_),
      timer_(loop),
      retention_timer_(loop),
      mark_timer_(loop) {
  std::string problem;
  pool_.share(CpuLocks::of_this_machine(problem));
  if (!problem.empty()) {
    log_warning(problem + ": jobs may share CPUs with those of other berths on this machine");
  }
  draining_ = std::filesystem::exists(config_.drain_file());
  take_in_spool(*writer);
  take_over(*writer);
  load_queue(*writer);
  committer_ =
      std::make_unique<Committer>(std::move(writer), loop, [this](const std::exception_ptr& trouble) {
        store_trouble_ = trouble ? text_of(trouble) : "";
        if (!trouble) {
          log_warning("the job database works again");
          schedule();
        } else {
          log_error(store_trouble_);
          note_damage(trouble);
        }
      });
  start_first_runners();
  if (links_.empty()) {
    throw std::runtime_error("no runner could be started: " + runner_paths().log_file + " says why");
  }
  for (const auto& link : links_) {
    attach(link);
  }
  replace_runners();
  schedule();
  forget_again_after(kForgettingPause);
  mark_numbers();
}

Daemon::~Daemon() {
  stopping_ = true;
  for (const auto& link : links_) {
    link->close();  // the runners go on
  }
  committer_.reset();  // first: what it has goes to the disk, whatever the next one waits for
  starting_runner_.reset();
  try {
    mark_numbers();
    reader_.move_log();
  } catch (const std::exception& error) {  // the log is read at the next start
    log_warning(error.what());
  }
}

/// Now, and again after a while.
void Daemon::mark_numbers() {
  try {
    if (const GivenNumbers numbers = reader_.given_numbers(); numbers != marked_) {
      write_number_mark(config_.number_file(), numbers);
      marked_ = numbers;
    }
  } catch (const std::exception& error) {  // a full disk
    log_debug(error.what());
  }
  if (stopping_) {
    return;
  }
  mark_timer_.expires_after(kMarkInterval);
  mark_timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) {
      mark_numbers();
    }
  });
}

RunnerPaths Daemon::runner_paths() const {
  return {config_.runner_program,
          config_.runtime_directory + "/runners",
          config_.state_directory + "/spool",
          config_.state_directory + "/runners.log",
          config_.armed_ahead,
          descriptors_};
}

unsigned Daemon::wanted_runners() const {
  constexpr unsigned kMostByDefault = 8;
  return config_.runners > 0 ? config_.runners : std::min(pool_.total_cpus(), kMostByDefault);
}

void Daemon::committed() {
  if (on_commit_) {
    on_commit_();
  }
}

/// Lasts over restarts: a file says so.
void Daemon::drain(bool draining) {
  if (draining) {
    std::ofstream file(config_.drain_file());
    if (!file.flush()) {
      throw ApiError(507,
                     config_.drain_file() + ": cannot be made, so draining would not last over a restart");
    }
  } else {
    std::filesystem::remove(config_.drain_file());
  }
  draining_ = draining;
  schedule();
}

std::vector<Daemon::RunningView> Daemon::running() const {
  std::vector<RunningView> views;
  for (const auto& [job, active] : active_) {
    if (active.lease && active.runner && job > 0) {  // below 0: a task that has no number yet
      views.push_back({job, active.user_id, active.lease->allocation(), active.runner->runner().cgroup});
    }
  }
  return views;
}

std::map<JobState, std::uint64_t> Daemon::Totals::no_ends() {
  std::map<JobState, std::uint64_t> ends;
  for (const JobState state :
       {JobState::completed, JobState::failed, JobState::timeout, JobState::out_of_memory,
        JobState::cancelled, JobState::preempted, JobState::node_fail, JobState::deadline}) {
    ends.emplace(state, 0);
  }
  return ends;
}

void Daemon::Totals::count_end(const Outcome& outcome, const Usage& usage) noexcept {
  if (const auto count = ended.find(outcome.state); count != ended.end()) {
    ++count->second;
  }
  cpu_time += usage.cpu_total.value_or(std::chrono::microseconds(0));
  oom_kills += usage.oom_kills.value_or(0);
}

std::map<JobState, std::uint64_t> Daemon::counts() const {
  std::map<JobState, std::uint64_t> counts{{JobState::pending, waiting_.size()},
                                           {JobState::configuring, 0},
                                           {JobState::running, 0},
                                           {JobState::suspended, 0}};
  for (const auto& [job, active] : active_) {
    ++counts[active.state];
  }
  return counts;
}

void Daemon::note_damage(const std::exception_ptr& error) {
  if (is_damage(error) && store_damage_.empty()) {
    store_damage_ = text_of(error) + "\n" + remedy_for_damage(config_, clock_.system_now());
    log_error(store_damage_);
  }
}

/// What goes by the system clock changes with it; the log says why.
void Daemon::notice_clock() {
  constexpr Milliseconds kNoticed{5000};
  const Milliseconds lead = lead_of(clock_);
  const Milliseconds change = lead - clock_lead_;
  clock_lead_ = lead;
  if (std::chrono::abs(change) > kNoticed) {
    log_warning("the system clock was set " + format_duration(std::chrono::abs(change)) +
                (change.count() > 0 ? " forwards" : " backwards") + ": begin times and deadlines go by it");
  }
}

// -- retention ------------------------------------------------------------------------------------------

void Daemon::forget_again_after(std::chrono::milliseconds pause) {
  retention_timer_.expires_after(pause);
  retention_timer_.async_wait([this](const boost::system::error_code& error) {
    if (error || stopping_) {
      return;
    }
    try {
      forget_old_jobs();
    } catch (...) {
      throw_from(loop_);
      forget_again_after(kForgettingInterval);
    }
  });
}

/// The system clock, but not ahead of when berthd started and what has passed since: history that a clock set
/// to the next year makes old is not forgotten.
Timestamp Daemon::cautious_now() const {
  const Milliseconds ahead = lead_of(clock_) - first_clock_lead_;
  return clock_.system_now() - std::max(ahead, Milliseconds(0));
}

/// One step; the next one follows soon when there was something to do.
void Daemon::forget_old_jobs() {
  const DaemonConfig::Retain& retain = config_.retain;
  if ((!retain.age && !retain.jobs) || !store_trouble().empty()) {
    forget_again_after(kForgettingInterval);
    return;
  }
  Retention rule;
  if (retain.age) {
    rule.since = cautious_now() - *retain.age;
  }
  rule.jobs = retain.jobs;
  rule.now = clock_.system_now();
  for (const auto& [job, dependents] : depended_on_) {
    rule.needed.insert(job);
  }
  std::set<JobId> arrays;
  for (const auto& [array, dependents] : task_depended_on_) {
    arrays.insert(array);
  }
  for (const auto& needs : submitting_needs_) {
    for (const auto& [index, condition] : *needs) {
      rule.needed.insert(condition.job);
      if (condition.task) {
        arrays.insert(condition.job);
      }
    }
  }
  for (const JobId array : arrays) {
    const std::vector<JobId> tasks = reader_.array_tasks(array);
    rule.needed.insert(array);
    rule.needed.insert(tasks.begin(), tasks.end());
  }
  for (const auto& [job, waiters] : waiters_) {
    rule.needed.insert(job);
  }
  const auto is_done = std::make_shared<bool>(true);
  committer_->commit(
      [rule, is_done](QueueStore& store) {
        const std::size_t forgotten = store.forget_ended(rule, kForgottenAtOnce);
        *is_done = forgotten < kForgottenAtOnce && store.give_back_pages(kPagesAtOnce) < kPagesAtOnce;
      },
      [this, is_done](const std::exception_ptr& error) {
        if (error) {
          log_warning("ended jobs were not removed from the database: " + text_of(error));
        }
        forget_again_after(error || *is_done ? kForgettingInterval : kForgettingPause);
      });
}

void Daemon::reconfigure(const DaemonConfig& config) {
  DaemonConfig next = config_;
  next.file = config.file;
  next.user_limits = config.user_limits;
  next.api = config.api;
  next.administrators = config.administrators;
  next.retain = config.retain;
  next.backup = config.backup;
  next.log_level = config.log_level;
  next.network = config.network;
  if (const std::string waiting = keys_for_a_restart(config_, config); !waiting.empty()) {
    log_warning(waiting + ": changed, and takes effect when berthd is started again");
  }
  config_ = std::move(next);
  schedule();
  forget_again_after(kForgettingPause);
}

}  // namespace berth
