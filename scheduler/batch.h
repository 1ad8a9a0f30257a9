// Batch: the loop of `berth run`. Jobs in, records out: event, decision, record, until every job is final.
//
// Life of a job, as docs and recovery rely on it: all jobs are committed PENDING in one transaction; then per
// job: lease, commit CONFIGURING, launcher.start(), JobStarted, commit RUNNING, JobEnded, commit record and
// final state in one transaction, lease returned. Which job starts when is scheduler/job_queue.h's.
//
// When the database cannot be written (full disk, locked too long):
//   - at submit: StoreError leaves submit(); nothing was started.
//   - later: running jobs keep running and no job is started. What could not be committed is kept in order
//     and tried again every kRetryInterval. When no job has run for kStorePatience (or on request_kill())
//     and it still fails, the batch gives up: jobs still waiting end CANCELLED, and every record that is not
//     in the database is named in BatchResult::unsaved for the caller to print. (The database then still
//     shows these attempts as open; the next command's recovery closes them as NODE_FAIL.)
//
// Exceptions of the collaborators other than StoreError leave run(); what is then open in the database is
// closed by recovery too.
//
// Single-threaded. Borrows its collaborators, which must outlive it. One submit() and one run() per
// Batch.
#pragma once

#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "scheduler/clock.h"
#include "scheduler/job_queue.h"
#include "scheduler/launcher.h"
#include "scheduler/slot_pool.h"
#include "schemas/accounting_record.h"
#include "schemas/input_error.h"
#include "store/job_store.h"

namespace berth {

/// Told of everything that happens, in order, from within submit() and run(). Overrides must not
/// throw.
class JobObserver {
 public:
  virtual ~JobObserver() = default;
  /// Committed as PENDING.
  virtual void on_queued(JobId /*job*/, const JobSpec& /*spec*/) {}
  /// Its first instruction is about to run.
  virtual void on_started(JobId /*job*/, const JobSpec& /*spec*/, const Allocation& /*allocation*/,
                          Timestamp /*at*/) {}
  /// Final, also when it never started.
  virtual void on_ended(const AccountingRecord& /*record*/) {}
  /// Nothing runs and nothing can start: other berths use the CPUs. Told once for each such time.
  virtual void on_waiting_for_others() {}
  /// The database failed (told once, not for each retry) or, `message` empty, works again.
  virtual void on_store_trouble(const std::string& /*message*/) {}
};

struct Submission {
  NewJob job;          ///< submit is set by the batch
  std::string source;  ///< names its origin in faults: the file's name, or "command line"
};

struct BatchResult {
  std::vector<AccountingRecord> records;  ///< in submit order, all final
  std::vector<std::size_t> unsaved;       ///< indexes of records that are not in the database
  std::string store_error;                ///< the last failure of the database, if it ever failed
  bool cancelled = false;                 ///< request_cancel() or request_kill() was called
};

/// What a job asks of the pool.
SlotRequest slot_request(const JobSpec& spec);

/// Whether jobs may get CPUs that jobs of other berths have.
enum class Overlap {
  never,  ///< they wait in line for them
  last,   ///< when there are no others: at once while nothing of the batch runs, else after kPatience
};

class Batch {
 public:
  static constexpr Milliseconds kRetryInterval{1'000};
  /// A job that ends sooner after its start has both committed at once.
  static constexpr Milliseconds kShortJob{3};
  static constexpr Milliseconds kStorePatience{30'000};
  /// Nobody tells when another berth gives CPUs back: they are looked at after a while that grows with the
  /// wait, up to this.
  static constexpr Milliseconds kLookAtOthers{50};
  /// Overlap::last: so long jobs wait for CPUs of their own while others of the batch run, which may need
  /// them to end (a service and who asks it).
  static constexpr Milliseconds kPatience{1'000};
  /// A wait for other berths that is worth a word.
  static constexpr Milliseconds kLongWait{500};

  Batch(JobStore& store, Launcher& launcher, SlotPool& pool, const Clock& clock, Supervisor supervisor,
        JobObserver& observer, Overlap overlap = Overlap::never);

  /// One fault for every job that can never fit the pool; submit() throws them. Nothing is created, so
  /// callers can refuse before they make anything.
  static std::vector<InputFault> refusals(const SlotPool& pool, const std::vector<Submission>& submissions);

  /// What would become of a job that were submitted now.
  struct Prospect {
    Resources takes;
    bool starts_now = false;  ///< else it would wait for jobs to end
    bool overlaps = false;    ///< it would get CPUs that jobs of other berths have
  };
  /// One for each submission, in their order; none of them is refused. Nothing is leased: another berth may
  /// be faster.
  static std::vector<Prospect> prospects(SlotPool& pool, const std::vector<Submission>& submissions,
                                         Overlap overlap, SteadyTime now);

  /// Commits all jobs, those that fit into the pool as CONFIGURING and the others as PENDING; does not use
  /// the launcher yet. Throws InputError with refusals() before anything is queued: a batch is taken as a
  /// whole, because half a pipeline is no use to its author. Throws StoreError when the submission cannot be
  /// committed.
  void submit(std::vector<Submission> submissions);
  /// Runs what was submitted to its end. The record of the job that ends last is on the disk only after
  /// JobStore::sync(), which the caller owes. `after_wait` is called once before the first job starts and
  /// then after each return of launcher.wait(): the place to read a signalfd that the launcher wakes up for,
  /// and to call request_cancel() or request_kill().
  BatchResult run(const std::function<void()>& after_wait = {});

  /// First Ctrl-C: running jobs are stopped gracefully in the order in which they started; waiting ones are
  /// recorded CANCELLED without having started. Takes effect in the loop; callable from after_wait and from
  /// the observer. Not from a signal handler.
  void request_cancel();
  /// Before the process is stopped: other berths on the machine do not wait for it. It gets in line anew.
  void leave_line() { pool_.set_waiting(false); }
  /// Second Ctrl-C: as request_cancel(), but running jobs are killed at once, also those being stopped.
  void request_kill();

 private:
  enum class Stop { none, cancel, kill };
  enum class Phase { waiting, configuring, running, ended };

  struct Entry {
    AccountingRecord record;
    Phase phase = Phase::waiting;
    std::optional<SlotLease> lease;
    SteadyTime latest_end;
    std::string started_detail;              // of the RUNNING event
    std::optional<SteadyTime> tell_running;  // when RUNNING is due to be committed, if that is still to come
    bool superseded = false;                 // another process wrote the final record
  };
  /// A commit that is due: RUNNING, or the final record.
  struct Write {
    std::size_t index = 0;
    bool final = false;
  };

  void enqueue(std::vector<NewJob> jobs, const std::vector<JobId>& ids);
  void start_what_fits();
  bool start(std::size_t index);
  std::optional<QueuedJob> next_that_fits();
  std::optional<QueuedJob> next_that_overlaps();
  std::optional<QueuedJob> take_next();
  void note_others();
  std::optional<SteadyTime> next_look() const;
  bool lease(std::size_t index);
  void claim(std::size_t index);
  void launch_claimed();
  void rehearse_end();
  void launch(std::size_t index);
  std::vector<RunningJob> running_jobs() const;
  void handle(const LauncherEvent& event);
  void handle_started(std::size_t index, const JobStarted& started);
  void handle_ended(std::size_t index, Timestamp at, const Outcome& outcome, const Usage& usage);
  std::size_t active_index(JobId job) const;
  void stop_running();
  void cancel_waiting(std::size_t most, const std::string& message);
  void write_running();
  void write(Write due);
  void commit(const Write& due);
  void flush_writes();
  bool try_store(const std::function<void()>& action);
  bool store_may_be_tried() const;
  bool has_given_up() const;
  void check_progress() const;
  std::optional<SteadyTime> next_deadline() const;
  BatchResult take_result();

  JobStore& store_;
  Launcher& launcher_;
  SlotPool& pool_;
  const Clock& clock_;
  Supervisor supervisor_;
  JobObserver& observer_;

  std::vector<Entry> entries_;                       // in submit order
  std::unordered_map<JobId, std::size_t> index_of_;  // in entries_
  JobQueue queue_;                                   // QueuedJob::sequence is the index in entries_
  std::vector<std::size_t> active_;                  // configuring or running, in the order of starting
  std::size_t ended_ = 0;
  Stop stop_ = Stop::none;
  Stop stop_sent_ = Stop::none;

  std::optional<SteadyTime> withheld_since_;  // jobs wait while other berths have CPUs
  bool told_of_others_ = false;
  Overlap overlap_;

  std::deque<Write> unwritten_;              // oldest first; empty while the database works
  std::optional<SteadyTime> trouble_since_;  // or since the last job ended, if that is later
  SteadyTime retry_at_;
  std::string store_error_;
};

}  // namespace berth
