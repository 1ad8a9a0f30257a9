#include "scheduler/batch.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace berth {
namespace {

/// Final records in one durable commit, and waiting jobs that are cancelled between two looks at signals.
constexpr std::size_t kWritesAtOnce = 1000;

Outcome cancelled_outcome(const std::string& message) {
  Outcome outcome;
  outcome.state = JobState::cancelled;
  outcome.cause = Cause::cancelled;
  outcome.message = message;
  return outcome;
}

Outcome launcher_failure(const std::string& what) {
  Outcome outcome;
  outcome.state = JobState::failed;
  outcome.cause = Cause::launch_failed;
  outcome.stage = "start";
  outcome.message = "the job could not be started: " + what;
  return outcome;
}

Resources free_of(const SlotPool& pool) {
  return {pool.free_cpus(), pool.free_memory(), pool.free_slots()};
}

Resources wanted_by(const JobSpec& spec, const SlotPool& pool) {
  const SlotRequest request = slot_request(spec);
  return {pool.cpus_for(request), pool.memory_for(request), 1};
}

/// What other berths have: nobody knows until when. As though they ended now: what waits for them first is
/// passed by no other then.
void add_withheld(std::vector<RunningJob>& running, const SlotPool& pool, SteadyTime now) {
  if (pool.withheld() > 0) {
    running.push_back({{pool.withheld(), 0, 0}, now});
  }
}

}  // namespace

SlotRequest slot_request(const JobSpec& spec) {
  return {spec.cpus_per_task, spec.memory_per_node};
}

Batch::Batch(JobStore& store, Launcher& launcher, SlotPool& pool, const Clock& clock, Supervisor supervisor,
             JobObserver& observer, Overlap overlap)
    : store_(store),
      launcher_(launcher),
      pool_(pool),
      clock_(clock),
      supervisor_(std::move(supervisor)),
      observer_(observer),
      overlap_(overlap) {}

std::vector<InputFault> Batch::refusals(const SlotPool& pool, const std::vector<Submission>& submissions) {
  std::vector<InputFault> faults;
  for (const Submission& submission : submissions) {
    const JobSpec& spec = submission.job.spec;
    if (const std::optional<std::string> reason = pool.never_fits(slot_request(spec))) {
      faults.push_back(
          {submission.source, "", "job \"" + spec.name + "\" can never run here: it " + *reason});
    }
  }
  return faults;
}

std::vector<Batch::Prospect> Batch::prospects(SlotPool& pool, const std::vector<Submission>& submissions,
                                              Overlap overlap, SteadyTime now) {
  std::vector<Prospect> prospects;
  prospects.reserve(submissions.size());
  JobQueue queue;
  for (const Submission& submission : submissions) {
    const JobSpec& spec = submission.job.spec;
    const Resources takes = wanted_by(spec, pool);
    queue.push({effective_priority(spec), prospects.size(), takes, longest_stay(spec)});
    prospects.push_back({takes});
  }
  pool.look_at_others();
  Resources taken;
  std::vector<RunningJob> started;
  bool overlaps = false;
  while (!queue.empty()) {
    Resources free = free_of(pool);
    free -= taken;
    std::vector<RunningJob> running = started;
    add_withheld(running, pool, now);
    if (const std::optional<QueuedJob> next = queue.take_next(free, running, now)) {
      prospects[next->sequence].starts_now = true;
      prospects[next->sequence].overlaps = overlaps;
      taken += next->wants;
      started.push_back({next->wants, now + next->stay});
      continue;
    }
    const unsigned withheld = pool.withheld();
    if (overlap == Overlap::last) {
      pool.overlap(taken.cpus + queue.first(1).front().wants.cpus);
    }
    if (pool.withheld() == withheld) {
      break;
    }
    overlaps = true;
  }
  return prospects;
}

BatchResult Batch::run(const std::function<void()>& after_wait) {
  if (after_wait) {
    after_wait();
  }
  launch_claimed();
  rehearse_end();
  while (true) {
    write_running();
    flush_writes();
    stop_running();
    if (stop_ == Stop::none) {
      start_what_fits();
    } else {
      cancel_waiting(kWritesAtOnce, "cancelled before it started");
    }
    note_others();
    if (ended_ == entries_.size() && unwritten_.empty()) {
      break;
    }
    if (has_given_up()) {
      cancel_waiting(queue_.size(), "never started: " + store_error_);
      break;
    }
    check_progress();
    for (const LauncherEvent& event : launcher_.wait(next_deadline())) {
      handle(event);
    }
    if (after_wait) {
      after_wait();
    }
  }
  return take_result();
}

void Batch::request_cancel() {
  stop_ = std::max(stop_, Stop::cancel);
}

void Batch::request_kill() {
  stop_ = Stop::kill;
}

void Batch::submit(std::vector<Submission> submissions) {
  if (std::vector<InputFault> faults = refusals(pool_, submissions); !faults.empty()) {
    throw InputError(std::move(faults));
  }
  std::vector<NewJob> jobs;
  jobs.reserve(submissions.size());
  for (Submission& submission : submissions) {
    jobs.push_back(std::move(submission.job));
    jobs.back().submit = clock_.system_now();
  }
  store_.as_one([&] {
    const std::vector<JobId> ids = store_.submit(jobs, supervisor_);
    enqueue(std::move(jobs), ids);
    while (const std::optional<QueuedJob> next = next_that_fits()) {
      if (!lease(next->sequence)) {
        queue_.push(*next);
        break;
      }
      claim(next->sequence);
    }
  });
  for (const Entry& entry : entries_) {
    observer_.on_queued(entry.record.job_id, *entry.record.spec);
  }
}

void Batch::enqueue(std::vector<NewJob> jobs, const std::vector<JobId>& ids) {
  entries_.reserve(jobs.size());
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    NewJob& job = jobs[i];
    Entry& entry = entries_.emplace_back();
    AccountingRecord& record = entry.record;
    record.job_id = ids.at(i);
    record.attempt = 0;
    record.user = std::move(job.user);
    record.user_id = job.user_id;
    record.job_user = std::move(job.job_user);
    record.job_user_id = job.job_user_id;
    record.host = std::move(job.host);
    record.submit = job.submit;
    record.spec = std::make_shared<const JobSpec>(std::move(job.spec));
    index_of_.emplace(record.job_id, i);
    queue_.push(
        {effective_priority(*record.spec), i, wanted_by(*record.spec, pool_), longest_stay(*record.spec)});
  }
}

std::vector<RunningJob> Batch::running_jobs() const {
  std::vector<RunningJob> running;
  running.reserve(active_.size());
  for (const std::size_t index : active_) {
    running.push_back({wanted_by(*entries_[index].record.spec, pool_), entries_[index].latest_end});
  }
  add_withheld(running, pool_, clock_.steady_now());
  return running;
}

void Batch::start_what_fits() {
  while (stop_ == Stop::none && store_may_be_tried()) {
    const std::optional<QueuedJob> next = next_that_fits();
    if (!next) {
      return;
    }
    if (!start(next->sequence)) {
      queue_.push(*next);
      return;
    }
  }
}

std::optional<QueuedJob> Batch::next_that_fits() {
  if (queue_.empty()) {
    return std::nullopt;
  }
  pool_.look_at_others();
  std::optional<QueuedJob> next = take_next();
  return next || pool_.withheld() == 0 ? next : next_that_overlaps();
}

std::optional<QueuedJob> Batch::take_next() {
  return queue_.take_next(free_of(pool_), running_jobs(), clock_.steady_now());
}

std::optional<QueuedJob> Batch::next_that_overlaps() {
  const bool is_time =
      active_.empty() || (withheld_since_ && clock_.steady_now() - *withheld_since_ >= kPatience);
  if (overlap_ == Overlap::never || !is_time) {
    return std::nullopt;
  }
  pool_.overlap(queue_.first(1).front().wants.cpus);
  return take_next();
}

/// False when another berth was faster, or the start could not be committed: the job goes on waiting.
bool Batch::start(std::size_t index) {
  if (!lease(index)) {
    return false;
  }
  std::string refusal;
  const bool is_tried = try_store([&] {
    try {
      claim(index);
    } catch (const StoreError& error) {
      if (error.kind() != StoreError::Kind::refused) {
        throw;
      }
      refusal = error.what();  // as it would be for ever: another process has ended the job
    }
  });
  if (!is_tried) {
    entries_[index].lease.reset();
    return false;
  }
  if (refusal.empty()) {
    launch(index);
  } else {
    handle_ended(index, clock_.system_now(), launcher_failure(refusal), {});
  }
  return true;
}

/// Gives the job its slot. False when another berth has taken the CPUs meanwhile.
bool Batch::lease(std::size_t index) {
  Entry& entry = entries_[index];
  entry.lease = pool_.lease(slot_request(*entry.record.spec));
  if (!entry.lease && pool_.withheld() == 0) {
    throw std::logic_error("the slot pool has free what job " + std::to_string(entry.record.job_id) +
                           " needs, but gives no lease");
  }
  return entry.lease.has_value();
}

/// Writes down that the job has its slot.
void Batch::claim(std::size_t index) {
  Entry& entry = entries_[index];
  const Allocation& allocation = entry.lease->allocation();
  constexpr unsigned kFirstAttempt = 1;
  store_.configure(entry.record.job_id, kFirstAttempt, allocation, clock_.system_now());
  entry.record.attempt = kFirstAttempt;
  entry.record.state = JobState::configuring;
  entry.record.allocation = allocation;
  entry.phase = Phase::configuring;
  entry.latest_end = clock_.steady_now() + longest_stay(*entry.record.spec);
  active_.push_back(index);
}

/// The jobs that began with their submission, unless berth was told to end meanwhile.
void Batch::launch_claimed() {
  const std::vector<std::size_t> claimed = active_;
  for (const std::size_t index : claimed) {
    if (stop_ == Stop::none) {
      launch(index);
    } else {
      handle_ended(index, clock_.system_now(), cancelled_outcome("cancelled before it started"), {});
    }
  }
}

/// While the first job is on its way.
void Batch::rehearse_end() {
  if (active_.empty() || trouble_since_) {
    return;
  }
  const AccountingRecord& first = entries_[active_.front()].record;
  try {
    store_.rehearse_end(first.job_id, first.attempt);
  } catch (const StoreError&) {
    return;  // its end will tell
  }
}

void Batch::launch(std::size_t index) {
  const AccountingRecord& record = entries_[index].record;
  try {
    launcher_.start({record.job_id, record.attempt, *record.spec, *record.allocation});
  } catch (const std::exception& error) {  // one job that cannot be started never stops the rest
    handle_ended(index, clock_.system_now(), launcher_failure(error.what()), {});
  }
}

std::size_t Batch::active_index(JobId job) const {
  const auto found = index_of_.find(job);
  if (found == index_of_.end() || std::find(active_.begin(), active_.end(), found->second) == active_.end()) {
    throw std::logic_error("the launcher reported job " + std::to_string(job) + ", which does not run");
  }
  return found->second;
}

void Batch::handle(const LauncherEvent& event) {
  if (const auto* started = std::get_if<JobStarted>(&event)) {
    handle_started(active_index(started->job_id), *started);
  } else if (const auto* ended = std::get_if<JobEnded>(&event)) {
    handle_ended(active_index(ended->job_id), ended->at, ended->outcome, ended->usage);
  }
}

void Batch::handle_started(std::size_t index, const JobStarted& started) {
  Entry& entry = entries_[index];
  const Timestamp at = started.at;
  entry.started_detail = started.detail;
  entry.phase = Phase::running;
  entry.record.state = JobState::running;
  entry.record.start = at;
  entry.latest_end = clock_.steady_now() + longest_stay(*entry.record.spec);
  entry.tell_running = clock_.steady_now() + kShortJob;
  observer_.on_started(entry.record.job_id, *entry.record.spec, *entry.record.allocation, at);
}

void Batch::handle_ended(std::size_t index, Timestamp at, const Outcome& outcome, const Usage& usage) {
  Entry& entry = entries_[index];
  entry.phase = Phase::ended;
  entry.record.state = outcome.state;
  entry.record.end = at;
  entry.record.outcome = outcome;
  entry.record.usage = usage;
  write({index, true});
  entry.lease.reset();
  active_.erase(std::remove(active_.begin(), active_.end(), index), active_.end());
  ++ended_;
  if (active_.empty() && trouble_since_) {
    trouble_since_ = clock_.steady_now();  // only now does waiting for the database hold nobody's work up
  }
  observer_.on_ended(entry.record);
}

void Batch::stop_running() {
  if (stop_ <= stop_sent_) {
    return;
  }
  stop_sent_ = stop_;
  const StopMode mode = stop_ == Stop::kill ? StopMode::immediate : StopMode::graceful;
  for (const std::size_t index : active_) {
    launcher_.stop(entries_[index].record.job_id, Cause::cancelled, mode);
  }
}

void Batch::cancel_waiting(std::size_t most, const std::string& message) {
  std::vector<std::size_t> cancelled;
  while (cancelled.size() < most) {
    const std::optional<QueuedJob> job = queue_.take_first();
    if (!job) {
      break;
    }
    cancelled.push_back(job->sequence);
    Entry& entry = entries_[job->sequence];
    entry.phase = Phase::ended;
    entry.record.state = JobState::cancelled;
    entry.record.end = clock_.system_now();
    entry.record.outcome = cancelled_outcome(message);
    unwritten_.push_back({job->sequence, true});
  }
  if (!trouble_since_) {
    flush_writes();
  }
  for (const std::size_t index : cancelled) {
    ++ended_;
    observer_.on_ended(entries_[index].record);
  }
}

/// RUNNING, of the jobs that have not ended meanwhile.
void Batch::write_running() {
  for (const std::size_t index : active_) {
    std::optional<SteadyTime>& due = entries_[index].tell_running;
    if (due && clock_.steady_now() >= *due) {
      due.reset();
      write({index, false});
    }
  }
}

/// Commits now, or keeps the commit for later: commits stay in order, whichever job they belong to.
void Batch::write(Write due) {
  if (trouble_since_ || !unwritten_.empty() || !try_store([&] { commit(due); })) {
    unwritten_.push_back(due);
  }
}

void Batch::commit(const Write& due) {
  Entry& entry = entries_[due.index];
  const AccountingRecord& record = entry.record;
  if (!due.final) {
    try {
      store_.run(record.job_id, record.attempt, *record.start, entry.started_detail);
    } catch (const StoreError& error) {
      if (error.kind() != StoreError::Kind::refused) {
        throw;
      }
      // Another process has ended it in the database: the final record will meet that.
    }
    return;
  }
  bool is_first_record = false;
  if (record.start) {
    // The last one is synced by the caller, beside what else there is to end.
    const Sync sync = ended_ + 1 < entries_.size() ? Sync::now : Sync::later;
    is_first_record =
        store_.run_and_finish(record.job_id, record.attempt, {*record.start, entry.started_detail},
                              *record.outcome, record.usage, *record.end, sync);
  } else {
    is_first_record =
        store_.finish(record.job_id, record.attempt, *record.outcome, record.usage, *record.end);
  }
  if (!is_first_record) {
    entry.superseded = true;
    store_error_ = "job " + std::to_string(record.job_id) + " already had a final record in the database";
  }
}

void Batch::flush_writes() {
  if (stop_ != Stop::kill && !store_may_be_tried()) {
    return;
  }
  while (!unwritten_.empty()) {
    const auto end =
        unwritten_.begin() + static_cast<std::ptrdiff_t>(std::min(unwritten_.size(), kWritesAtOnce));
    const bool written = try_store([&] {
      store_.together(
          [&] { std::for_each(unwritten_.begin(), end, [&](const Write& due) { commit(due); }); });
    });
    if (!written) {
      return;
    }
    unwritten_.erase(unwritten_.begin(), end);
  }
}

bool Batch::store_may_be_tried() const {
  return !trouble_since_ || clock_.steady_now() >= retry_at_;
}

bool Batch::try_store(const std::function<void()>& action) {
  try {
    action();
  } catch (const StoreError& error) {
    const SteadyTime now = clock_.steady_now();
    retry_at_ = now + kRetryInterval;
    store_error_ = error.what();
    if (!trouble_since_) {
      trouble_since_ = now;
      observer_.on_store_trouble(store_error_);
    }
    return false;
  }
  if (trouble_since_) {
    trouble_since_.reset();
    observer_.on_store_trouble("");
  }
  return true;
}

bool Batch::has_given_up() const {
  return trouble_since_ && active_.empty() &&
         (stop_ != Stop::none || clock_.steady_now() - *trouble_since_ >= kStorePatience);
}

/// Whether jobs wait for what other berths have.
void Batch::note_others() {
  const bool do_wait = stop_ == Stop::none && !trouble_since_ && !queue_.empty() && pool_.withheld() > 0;
  pool_.set_waiting(do_wait && overlap_ == Overlap::never);
  if (!do_wait) {
    withheld_since_.reset();
    told_of_others_ = false;
    return;
  }
  const SteadyTime now = clock_.steady_now();
  withheld_since_ = withheld_since_.value_or(now);
  if (active_.empty() && !told_of_others_ && now - *withheld_since_ >= kLongWait) {
    told_of_others_ = true;
    observer_.on_waiting_for_others();
  }
}

std::optional<SteadyTime> Batch::next_look() const {
  if (!withheld_since_) {
    return std::nullopt;
  }
  constexpr int kPartOfWait = 4;
  const SteadyTime now = clock_.steady_now();
  const auto pause = std::chrono::duration_cast<Milliseconds>(now - *withheld_since_) / kPartOfWait;
  return now + std::clamp(pause, Milliseconds(1), kLookAtOthers);
}

/// A loop that waits for nothing would wait for ever.
void Batch::check_progress() const {
  if (active_.empty() && stop_ == Stop::none && !trouble_since_ && !withheld_since_ && pool_.leases() == 0) {
    throw std::logic_error("jobs wait although the whole pool is free");
  }
}

std::optional<SteadyTime> Batch::next_deadline() const {
  if (stop_ > stop_sent_ || (stop_ != Stop::none && !queue_.empty())) {
    return clock_.steady_now();  // there is more to do: look at what happened, do not wait for it
  }
  std::optional<SteadyTime> deadline = trouble_since_ ? std::optional(retry_at_) : std::nullopt;
  if (const std::optional<SteadyTime> look = next_look()) {
    deadline = std::min(deadline.value_or(*look), *look);
  }
  for (const std::size_t index : active_) {
    if (const std::optional<SteadyTime>& due = entries_[index].tell_running) {
      deadline = std::min(deadline.value_or(*due), *due);
    }
  }
  return deadline;
}

BatchResult Batch::take_result() {
  std::vector<bool> unsaved(entries_.size(), false);
  for (const Write& due : unwritten_) {
    unsaved[due.index] = true;
  }
  BatchResult result;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    if (unsaved[i] || entries_[i].superseded) {
      result.unsaved.push_back(i);
    }
    result.records.push_back(std::move(entries_[i].record));
  }
  result.store_error = store_error_;
  result.cancelled = stop_ != Stop::none;
  return result;
}

}  // namespace berth
