#include "scheduler/batch.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <set>

#include "tests/support/fake_launcher.h"
#include "tests/support/manual_clock.h"
#include "tests/support/temporary_directory.h"

namespace berth {
namespace {

using std::chrono::minutes;
using std::chrono::seconds;

constexpr Bytes kGibibyte = Bytes{1} << 30U;
const Supervisor kSelf{"boot", 100, 200, "run-100-200"};

/// A real in-memory store whose disk can fill up.
class FlakyStore final : public JobStore {
 public:
  std::unique_ptr<JobStore> real = JobStore::open(":memory:");
  bool full = false;
  int failures = 0;
  int transactions = 0;            ///< by together() and as_one()
  int unsynced = 0;                ///< final records since the last sync()
  std::vector<std::string> calls;  ///< that succeeded: "configure 1", "run 1", "finish 1"

  std::vector<JobId> submit(const std::vector<NewJob>& jobs, const Supervisor& supervisor) override {
    check();
    return real->submit(jobs, supervisor);
  }
  void configure(JobId job, unsigned attempt, const Allocation& allocation, Timestamp at) override {
    check();
    real->configure(job, attempt, allocation, at);
    calls.push_back("configure " + std::to_string(job));
  }
  void run(JobId job, unsigned attempt, Timestamp at, const std::string& detail) override {
    check();
    real->run(job, attempt, at, detail);
    calls.push_back("run " + std::to_string(job));
  }
  bool finish(JobId job, unsigned attempt, const Outcome& outcome, const Usage& usage,
              Timestamp at) override {
    check();
    calls.push_back("finish " + std::to_string(job));
    return real->finish(job, attempt, outcome, usage, at);
  }
  bool run_and_finish(JobId job, unsigned attempt, const AttemptStart& start, const Outcome& outcome,
                      const Usage& usage, Timestamp at, Sync sync) override {
    check();
    unsynced += sync == Sync::later ? 1 : 0;
    calls.push_back("finish " + std::to_string(job));
    return real->run_and_finish(job, attempt, start, outcome, usage, at, sync);
  }
  void sync() override {
    real->sync();
    unsynced = 0;
  }
  void together(const std::function<void()>& body) override {
    check();
    ++transactions;
    real->together(body);
  }
  void as_one(const std::function<void()>& body) override {
    check();
    ++transactions;
    real->as_one(body);
  }
  std::vector<OpenAttempt> open_attempts() override { return real->open_attempts(); }
  bool is_of_berthd() override { return real->is_of_berthd(); }
  std::optional<Supervisor> find_supervisor(const std::string& cgroup) override {
    return real->find_supervisor(cgroup);
  }
  std::vector<AccountingRecord> history(const HistoryFilter& filter) override {
    return real->history(filter);
  }
  std::vector<AccountingRecord> find(JobId job) override { return real->find(job); }
  std::vector<JobEvent> events(JobId job) override { return real->events(job); }
  std::string check_integrity() override { return real->check_integrity(); }

 private:
  void check() {
    if (full) {
      ++failures;
      throw StoreError("berth.db: the disk is full", StoreError::Kind::unwritable);
    }
  }
};

class Listener final : public JobObserver {
 public:
  std::vector<std::string> log;
  std::vector<std::string> troubles;
  std::function<void(JobId)> when_started;
  int waits_for_others = 0;

  void on_queued(JobId job, const JobSpec& spec) override {
    log.push_back("queued " + std::to_string(job) + " " + spec.name);
  }
  void on_started(JobId job, const JobSpec& spec, const Allocation& allocation, Timestamp) override {
    log.push_back("started " + std::to_string(job) + " " + spec.name + " on " + allocation.slot);
    if (when_started) {
      when_started(job);
    }
  }
  void on_ended(const AccountingRecord& record) override {
    log.push_back("ended " + std::to_string(record.job_id) + " " + std::string(to_string(record.state)));
  }
  void on_waiting_for_others() override { ++waits_for_others; }
  void on_store_trouble(const std::string& message) override { troubles.push_back(message); }
};

struct JobOptions {
  unsigned cpus = 1;
  std::int64_t priority = 0;
  std::optional<Milliseconds> time_limit = std::nullopt;
  std::optional<Bytes> memory = 10 * kMebibyte;
};

Submission submission(const std::string& name, const JobOptions& options = {}) {
  Submission result;
  result.source = "jobs.json";
  result.job.user = "alice";
  result.job.user_id = 1000;
  result.job.job_user = "bob";
  result.job.job_user_id = 1001;
  result.job.host = "here";
  JobSpec& spec = result.job.spec;
  spec.name = name;
  spec.argv = {"/bin/true"};
  spec.current_working_directory = "/";
  spec.cpus_per_task = options.cpus;
  spec.priority = options.priority;
  spec.memory_per_node = options.memory;
  spec.time_limit = options.time_limit;
  spec.grace_period = Milliseconds{0};
  return result;
}

struct Fixture {
  explicit Fixture(const std::string& topology = "core:2 pu:1", PoolBounds bounds = {},
                   Overlap overlap = Overlap::never)
      : pool(synthetic_topology(topology, kGibibyte), std::move(bounds)),
        batch(store, launcher, pool, clock, kSelf, listener, overlap) {}

  ManualClock clock;
  FlakyStore store;
  FakeLauncher launcher{clock};
  SlotPool pool;
  Listener listener;
  Batch batch;

  /// As berth run does it.
  BatchResult run(std::vector<Submission> submissions, const std::function<void()>& after_wait = {}) {
    batch.submit(std::move(submissions));
    BatchResult result = batch.run(after_wait);
    store.sync();
    return result;
  }
  std::vector<std::string> started() const {
    std::vector<std::string> names;
    for (const StartRequest& request : launcher.starts) {
      names.push_back(request.spec.name);
    }
    return names;
  }
  JobState stored_state(const AccountingRecord& record) { return store.find(record.job_id).back().state; }
  void everything_returned() {
    CHECK(pool.leases() == 0);
    CHECK(pool.free_memory() == pool.total_memory());
  }
};

/// On a machine where another berth has CPUs.
struct SharedFixture : Fixture {
  explicit SharedFixture(const CpuSet& taken, Overlap overlap = Overlap::never)
      : Fixture("core:2 pu:1", {}, overlap), other(path) {
    pool.share(std::make_unique<CpuLocks>(path));
    REQUIRE(other.lease(taken));
  }

  TemporaryDirectory folder;
  std::string path = folder.path() + "/cpus";
  CpuLocks other;
};

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("a job is queued, configured, run and finished, each committed before the next") {
  Fixture f;
  f.launcher.plan = [&](const StartRequest& request) {
    CHECK(f.store.calls == Names{"configure 1"});
    CHECK(f.store.find(request.job_id).back().state == JobState::configuring);
    FakeLauncher::Plan plan;
    plan.duration = seconds(3);
    plan.outcome = exited_with(7);
    plan.usage.memory_peak = 4096;
    return plan;
  };
  const Timestamp before = f.clock.system_now();
  const BatchResult result = f.run({submission("build")});
  CHECK(f.store.calls == Names{"configure 1", "run 1", "finish 1"});
  CHECK(f.listener.log == Names{"queued 1 build", "started 1 build on cpu0", "ended 1 FAILED"});
  REQUIRE(result.records.size() == 1);
  const AccountingRecord& record = result.records.front();
  CHECK(record.job_id == 1);
  CHECK(record.attempt == 1);
  CHECK(record.state == JobState::failed);
  CHECK(record.user == "alice");
  CHECK(record.user_id == 1000);
  CHECK(record.job_user == "bob");
  CHECK(record.job_user_id == 1001);
  CHECK(record.host == "here");
  CHECK(record.submit == before);
  CHECK(record.start == before);
  CHECK(record.end == before + seconds(3));
  CHECK(record.spec->name == "build");
  CHECK(record.allocation.value().cpus == CpuSet{0});
  CHECK(record.outcome.value().exit_code == 7);
  CHECK(record.usage.memory_peak == 4096U);
  CHECK(result.unsaved.empty());
  CHECK_FALSE(result.cancelled);
  f.everything_returned();
}

TEST_CASE("the record that is returned is the one in the database") {
  Fixture f;
  const BatchResult result = f.run({submission("a"), submission("b", {2})});
  for (const AccountingRecord& record : result.records) {
    const AccountingRecord stored = f.store.find(record.job_id).back();
    CHECK(stored.attempt == record.attempt);
    CHECK(stored.state == record.state);
    CHECK(stored.submit == record.submit);
    CHECK(stored.start == record.start);
    CHECK(stored.end == record.end);
    CHECK(stored.allocation == record.allocation);
    CHECK(stored.outcome == record.outcome);
    CHECK(stored.usage == record.usage);
    CHECK(stored.user == record.user);
    CHECK(stored.spec->name == record.spec->name);
  }
}

TEST_CASE("the start of a job that ends at once is committed with its end") {
  Fixture f;
  f.launcher.plan = [](const StartRequest&) {
    FakeLauncher::Plan plan;
    plan.duration = Batch::kShortJob - Milliseconds{1};
    return plan;
  };
  const BatchResult result = f.run({submission("short")});
  CHECK(f.store.calls == Names{"configure 1", "finish 1"});
  const AccountingRecord stored = f.store.find(1).back();
  CHECK(stored.state == JobState::completed);
  CHECK(stored.start == result.records.front().start);
  CHECK(stored.start.has_value());
}

TEST_CASE("the record of the job that ends last alone is left for the caller to sync") {
  Fixture f("core:1 pu:1");
  f.batch.submit({submission("a"), submission("b"), submission("c")});
  f.batch.run([&] { CHECK(f.store.unsynced == (f.store.calls.back() == "finish 3" ? 1 : 0)); });
  CHECK(f.store.unsynced == 1);
}

TEST_CASE("jobs that fit when they are submitted are configured in the same commit") {
  Fixture f;
  f.batch.submit({submission("a"), submission("b"), submission("c")});
  CHECK(f.store.transactions == 1);
  CHECK(f.store.calls == Names{"configure 1", "configure 2"});
  CHECK(f.launcher.starts.empty());
  f.batch.run();
  CHECK(f.started() == Names{"a", "b", "c"});
  f.everything_returned();
}

TEST_CASE("no jobs are no work") {
  Fixture f;
  CHECK(f.run({}).records.empty());
}

TEST_CASE("as many jobs run at once as fit, the next as soon as one ends") {
  Fixture f;
  f.launcher.plan = [](const StartRequest& request) {
    FakeLauncher::Plan plan;
    plan.duration = request.spec.name == "a" ? seconds(10) : seconds(1);
    return plan;
  };
  const Timestamp begin = f.clock.system_now();
  const BatchResult result =
      f.run({submission("a"), submission("b"), submission("c"), submission("d"), submission("e")});
  CHECK(f.launcher.most_at_once == 2);
  CHECK(f.started() == Names{"a", "b", "c", "d", "e"});
  CHECK(f.clock.system_now() - begin == seconds(10));
  CHECK(result.records[4].start == begin + seconds(3));
  f.everything_returned();
}

TEST_CASE("the number of slots bounds the jobs that run at once") {
  Fixture f("core:8 pu:1", {3U, std::nullopt, std::nullopt});
  std::vector<Submission> jobs(10, submission("job"));
  f.run(jobs);
  CHECK(f.launcher.most_at_once == 3);
}

TEST_CASE("memory bounds the jobs that run at once") {
  Fixture f("core:8 pu:1", {std::nullopt, std::nullopt, 100 * kMebibyte});
  JobOptions options;
  options.memory = 40 * kMebibyte;
  f.run(std::vector<Submission>(6, submission("job", options)));
  CHECK(f.launcher.most_at_once == 2);
}

TEST_CASE("jobs start by priority, then by submission; records come back in submit order") {
  Fixture f("core:1 pu:1");
  const BatchResult result = f.run({submission("low", {1, -1}), submission("first", {1, 0}),
                                    submission("second", {1, 0}), submission("high", {1, 5})});
  CHECK(f.started() == Names{"high", "first", "second", "low"});
  Names returned;
  for (const AccountingRecord& record : result.records) {
    returned.push_back(record.spec->name);
  }
  CHECK(returned == Names{"low", "first", "second", "high"});
}

TEST_CASE("jobs without time limits do not pass a wide one that waits") {
  Fixture f;
  f.run({submission("narrow"), submission("wide", {2}), submission("later")});
  CHECK(f.started() == Names{"narrow", "wide", "later"});
  CHECK(f.launcher.most_at_once == 1);
}

TEST_CASE("a short job slips in beside a longer one while a wide one waits") {
  Fixture f;
  f.launcher.plan = [](const StartRequest& request) {
    FakeLauncher::Plan plan;
    plan.duration = *request.spec.time_limit;
    return plan;
  };
  const Timestamp begin = f.clock.system_now();
  const BatchResult result =
      f.run({submission("long", {1, 0, minutes(10)}), submission("wide", {2, 0, minutes(1)}),
             submission("too long", {1, 0, minutes(11)}), submission("short", {1, 0, minutes(9)})});
  CHECK(f.started() == Names{"long", "short", "wide", "too long"});
  CHECK(result.records[1].start == begin + minutes(10));
}

TEST_CASE(
    "a batch with jobs that can never fit is refused whole, naming each of them, before anything is queued") {
  Fixture f;
  const std::vector<Submission> jobs{submission("fits"), submission("wide", {3}),
                                     submission("fat", {1, 0, {}, 5 * kGibibyte})};
  try {
    f.run(jobs);
    FAIL("accepted");
  } catch (const InputError& error) {
    REQUIRE(error.faults().size() == 2);
    CHECK(error.faults()[0].file == "jobs.json");
    CHECK(error.faults()[0].message ==
          "job \"wide\" can never run here: it needs 3 CPUs, but the pool has 2 (lower cpus_per_task, as an "
          "option -c)");
    CHECK(error.faults()[1].message ==
          "job \"fat\" can never run here: it needs 5G of memory, but the pool has 921M (lower "
          "memory_per_node, as an option --mem)");
  }
  CHECK(f.launcher.starts.empty());
  CHECK(f.listener.log.empty());
  CHECK(f.store.history({}).empty());
}

TEST_CASE("a failed launch returns the slot, is recorded, and the others go on") {
  Fixture f("core:1 pu:1");
  f.launcher.plan = [](const StartRequest& request) {
    FakeLauncher::Plan plan;
    if (request.spec.name == "broken") {
      plan.outcome = failed_launch("exec", 2);
    }
    return plan;
  };
  const BatchResult result = f.run({submission("broken"), submission("sound")});
  CHECK(result.records[0].outcome.value().cause == Cause::launch_failed);
  CHECK_FALSE(result.records[0].start);
  CHECK(result.records[0].attempt == 1);
  CHECK(f.stored_state(result.records[0]) == JobState::failed);
  CHECK(result.records[1].state == JobState::completed);
  f.everything_returned();
}

TEST_CASE("a launcher that throws fails that job alone") {
  Fixture f("core:1 pu:1");
  f.launcher.plan = [](const StartRequest& request) {
    FakeLauncher::Plan plan;
    plan.start_throws = request.spec.name == "broken" ? "no more processes" : "";
    return plan;
  };
  const BatchResult result = f.run({submission("broken"), submission("sound")});
  CHECK(result.records[0].outcome.value().cause == Cause::launch_failed);
  CHECK(result.records[0].outcome.value().message == "the job could not be started: no more processes");
  CHECK(result.records[1].state == JobState::completed);
  f.everything_returned();
}

TEST_CASE("cancel stops what runs, gracefully and in order, and records what waits without starting it") {
  Fixture f;
  f.launcher.plan = [](const StartRequest&) {
    FakeLauncher::Plan plan;
    plan.duration = minutes(5);
    plan.stop_delay = seconds(2);
    return plan;
  };
  int waits = 0;
  const Timestamp begin = f.clock.system_now();
  const BatchResult result = f.run({submission("a"), submission("b"), submission("c"), submission("d")}, [&] {
    if (++waits == 2) {
      f.batch.request_cancel();
    }
  });
  CHECK(f.started() == Names{"a", "b"});
  CHECK(f.launcher.stops == std::vector<FakeLauncher::Stopped>{{1, Cause::cancelled, StopMode::graceful},
                                                               {2, Cause::cancelled, StopMode::graceful}});
  CHECK(f.clock.system_now() - begin == seconds(2));
  CHECK(result.cancelled);
  for (const AccountingRecord& record : result.records) {
    CHECK(record.state == JobState::cancelled);
    CHECK(record.outcome.value().cause == Cause::cancelled);
    CHECK(f.stored_state(record) == JobState::cancelled);
  }
  CHECK(result.records[3].outcome.value().message == "cancelled before it started");
  CHECK(result.records[3].attempt == 0);
  CHECK_FALSE(result.records[3].allocation);
  CHECK_FALSE(result.records[3].start);
  CHECK(f.store.open_attempts().empty());
  f.everything_returned();
}

TEST_CASE("kill after cancel kills at once what is being stopped") {
  Fixture f;
  f.launcher.plan = [](const StartRequest&) {
    FakeLauncher::Plan plan;
    plan.duration = minutes(5);
    plan.stop_delay = minutes(1);
    return plan;
  };
  int waits = 0;
  const Timestamp begin = f.clock.system_now();
  f.launcher.wakes_at = f.clock.steady_now() + seconds(10);
  const BatchResult result = f.run({submission("a"), submission("b"), submission("c")}, [&] {
    ++waits;
    if (waits == 2) {
      f.batch.request_cancel();
      f.batch.request_cancel();
    } else if (f.clock.system_now() - begin == seconds(10)) {
      f.batch.request_kill();
      f.batch.request_cancel();
    }
  });
  CHECK(f.launcher.stops == std::vector<FakeLauncher::Stopped>{{1, Cause::cancelled, StopMode::graceful},
                                                               {2, Cause::cancelled, StopMode::graceful},
                                                               {1, Cause::cancelled, StopMode::immediate},
                                                               {2, Cause::cancelled, StopMode::immediate}});
  CHECK(f.clock.system_now() - begin == seconds(10));
  CHECK(result.cancelled);
  f.everything_returned();
}

TEST_CASE("kill alone kills at once") {
  Fixture f;
  f.launcher.plan = [](const StartRequest&) {
    FakeLauncher::Plan plan;
    plan.duration = minutes(5);
    plan.stop_delay = minutes(1);
    return plan;
  };
  int waits = 0;
  const Timestamp begin = f.clock.system_now();
  f.run({submission("a"), submission("b"), submission("c")}, [&] {
    if (++waits == 2) {
      f.batch.request_kill();
    }
  });
  CHECK(f.launcher.stops == std::vector<FakeLauncher::Stopped>{{1, Cause::cancelled, StopMode::immediate},
                                                               {2, Cause::cancelled, StopMode::immediate}});
  CHECK(f.clock.system_now() == begin);
  f.everything_returned();
}

TEST_CASE("cancel before the first start starts nothing") {
  Fixture f;
  const BatchResult result = f.run({submission("a"), submission("b")}, [&] { f.batch.request_cancel(); });
  CHECK(f.launcher.starts.empty());
  CHECK(result.records[0].state == JobState::cancelled);
  CHECK(f.store.open_attempts().empty());
}

TEST_CASE("cancel from the observer takes effect before the next start") {
  Fixture f("core:1 pu:1");
  f.listener.when_started = [&](JobId) { f.batch.request_cancel(); };
  const BatchResult result = f.run({submission("a"), submission("b")});
  CHECK(f.started() == Names{"a"});
  CHECK(result.records[1].state == JobState::cancelled);
}

TEST_CASE("many waiting jobs are cancelled with looks at signals in between") {
  Fixture f("core:1 pu:1");
  int looks = 0;
  const BatchResult result = f.run(std::vector<Submission>(4500, submission("job")), [&] {
    ++looks;
    f.batch.request_cancel();
  });
  CHECK(looks >= 5);
  CHECK(f.store.transactions <= 10);  // each is a wait for the disk
  CHECK(f.store.open_attempts().empty());
  CHECK(result.records.back().state == JobState::cancelled);
}

TEST_CASE("a database that cannot take the jobs starts none") {
  Fixture f;
  f.store.full = true;
  CHECK_THROWS_AS(f.run({submission("a")}), StoreError);
  CHECK(f.launcher.starts.empty());
  CHECK(f.pool.leases() == 0);
}

TEST_CASE("while the disk is full running jobs run on, none starts, and commits are made up for in order") {
  Fixture f;
  f.launcher.plan = [](const StartRequest& request) {
    FakeLauncher::Plan plan;
    plan.duration = request.spec.name == "a"   ? seconds(2)
                    : request.spec.name == "b" ? minutes(2)
                                               : seconds(1);
    return plan;
  };
  const Timestamp begin = f.clock.system_now();
  const BatchResult result = f.run({submission("a"), submission("b"), submission("c")}, [&] {
    const auto elapsed = f.clock.system_now() - begin;
    f.store.full = f.launcher.starts.size() == 2 && elapsed < minutes(1);
  });
  CHECK(f.store.calls == Names{"configure 1", "configure 2", "run 1", "run 2", "finish 1", "configure 3",
                               "run 3", "finish 3", "finish 2"});
  CHECK(f.launcher.stops.empty());
  CHECK(result.records[2].start >= begin + minutes(1));
  CHECK(result.unsaved.empty());
  CHECK(f.store.failures > 10);
  CHECK(f.listener.troubles == Names{"berth.db: the disk is full", ""});
  for (const AccountingRecord& record : result.records) {
    CHECK(f.stored_state(record) == JobState::completed);
  }
  f.everything_returned();
}

TEST_CASE("a commit that failed is made up for before any later one") {
  Fixture f;
  f.launcher.plan = [&](const StartRequest& request) {
    f.store.full = request.spec.name == "b";
    return FakeLauncher::Plan{};
  };
  f.listener.when_started = [&](JobId) { f.store.full = false; };
  const BatchResult result = f.run({submission("a"), submission("b")});
  CHECK(f.store.calls == Names{"configure 1", "configure 2", "run 1", "run 2", "finish 1", "finish 2"});
  CHECK(result.unsaved.empty());
}

TEST_CASE("a database that stays broken is given up, with every record in hand and none lost silently") {
  Fixture f("core:1 pu:1");
  f.launcher.plan = [&](const StartRequest&) {
    f.store.full = true;
    FakeLauncher::Plan plan;
    plan.duration = minutes(10);
    return plan;
  };
  const Timestamp begin = f.clock.system_now();
  const BatchResult result = f.run({submission("a"), submission("b")});
  // It was tried first when the start of the job was due to be written.
  CHECK(f.clock.system_now() - begin == minutes(10) + Batch::kStorePatience + Batch::kShortJob);
  CHECK(result.records[0].state == JobState::completed);
  CHECK(result.records[1].state == JobState::cancelled);
  CHECK(result.records[1].outcome.value().message == "never started: berth.db: the disk is full");
  CHECK(result.unsaved == std::vector<std::size_t>{0, 1});
  CHECK(result.store_error == "berth.db: the disk is full");
  CHECK(std::count(f.listener.log.begin(), f.listener.log.end(), "ended 2 CANCELLED") == 1);
  f.everything_returned();
}

TEST_CASE("a start that cannot be committed does not start") {
  Fixture f("core:1 pu:1");
  const BatchResult result = f.run({submission("a"), submission("b")}, [&] { f.store.full = true; });
  CHECK(f.started() == Names{"a"});
  CHECK(result.records[1].state == JobState::cancelled);
  CHECK(result.records[1].attempt == 0);
  CHECK_FALSE(result.records[1].allocation);
  CHECK(result.unsaved == std::vector<std::size_t>{0, 1});
  f.everything_returned();
}

TEST_CASE("a start that the database refuses ends that job, and is no trouble of the database's") {
  Fixture f("core:1 pu:1");
  f.listener.when_started = [&](JobId job) {
    if (job == 1) {
      Outcome outcome;
      outcome.state = JobState::node_fail;
      outcome.cause = Cause::node_fail;
      outcome.message = "declared dead";
      f.store.real->finish(2, 0, outcome, {}, f.clock.system_now());  // by another process
    }
  };
  const Timestamp begin = f.clock.system_now();
  const BatchResult result = f.run({submission("a"), submission("b"), submission("c")});
  CHECK(f.started() == Names{"a", "c"});
  CHECK(f.clock.system_now() - begin < seconds(10));
  CHECK(result.records[1].outcome.value().message.find("could not be started") != std::string::npos);
  CHECK(result.unsaved == std::vector<std::size_t>{1});
  f.everything_returned();
}

TEST_CASE("a kill does not wait for a broken database") {
  Fixture f;
  int waits = 0;
  const Timestamp begin = f.clock.system_now();
  f.launcher.plan = [](const StartRequest&) {
    return FakeLauncher::Plan{minutes(1), exited_with(0), {}, {}, {}};
  };
  const BatchResult result = f.run({submission("a"), submission("b"), submission("c")}, [&] {
    if (++waits == 2) {
      f.store.full = true;
      f.batch.request_kill();
    }
  });
  CHECK(f.clock.system_now() == begin);
  CHECK(result.unsaved == std::vector<std::size_t>{0, 1, 2});
}

TEST_CASE("a kill tries the database once more") {
  Fixture f;
  int waits = 0;
  const Timestamp begin = f.clock.system_now();
  f.launcher.plan = [&](const StartRequest&) {
    f.store.full = true;
    return FakeLauncher::Plan{};
  };
  const BatchResult result = f.run({submission("a")}, [&] {
    if (++waits == 2) {
      f.store.full = false;
      f.batch.request_kill();
    }
  });
  CHECK(f.clock.system_now() == begin);
  CHECK(result.unsaved.empty());
  CHECK(f.stored_state(result.records[0]) == JobState::cancelled);
}

TEST_CASE("a final record that another process wrote first is reported as not saved") {
  Fixture f;
  f.listener.when_started = [&](JobId job) {
    Outcome outcome;
    outcome.state = JobState::node_fail;
    outcome.cause = Cause::node_fail;
    outcome.message = "declared dead";
    f.store.real->finish(job, 1, outcome, {}, f.clock.system_now());
  };
  const BatchResult result = f.run({submission("a")});
  CHECK(result.records[0].state == JobState::completed);
  CHECK(result.unsaved == std::vector<std::size_t>{0});
  CHECK(result.store_error == "job 1 already had a final record in the database");
}

TEST_CASE("a thousand jobs of all shapes end, each with one record, none on another's CPUs") {
  Fixture f("numa:2 l3:2 core:8 pu:2");
  std::map<JobId, Allocation> running;
  f.launcher.plan = [&](const StartRequest& request) {
    FakeLauncher::Plan plan;
    plan.duration = Milliseconds{1 + request.job_id * 7919 % 997};
    plan.outcome = request.job_id % 11 == 0 ? failed_launch("exec", 13)
                                            : exited_with(static_cast<int>(request.job_id % 3));
    return plan;
  };
  std::vector<Submission> jobs;
  for (unsigned i = 0; i < 1000; ++i) {
    JobOptions options;
    options.cpus = 1 + i * 31 % 64;
    options.priority = i % 5;
    options.memory = (1 + i % 25) * kMebibyte;
    if (i % 2 == 0) {
      options.time_limit = seconds(1 + i % 7);
    }
    jobs.push_back(submission("job" + std::to_string(i), options));
  }
  const BatchResult result = f.run(jobs);
  REQUIRE(result.records.size() == 1000);
  std::set<JobId> ids;
  for (const AccountingRecord& record : result.records) {
    ids.insert(record.job_id);
    CHECK(is_final(record.state));
    CHECK(record.allocation.value().cpus.size() == record.spec->cpus_per_task);
  }
  CHECK(ids.size() == 1000);
  CHECK(f.launcher.starts.size() == 1000);
  CHECK(f.store.open_attempts().empty());
  for (std::size_t a = 0; a < result.records.size(); ++a) {
    for (std::size_t b = a + 1; b < result.records.size(); ++b) {
      const AccountingRecord& one = result.records[a];
      const AccountingRecord& two = result.records[b];
      if (one.start && two.start && *one.start < *two.end && *two.start < *one.end &&
          one.allocation->cpus.intersects(two.allocation->cpus)) {
        FAIL("jobs " << one.job_id << " and " << two.job_id << " shared a CPU");
      }
    }
  }
  f.everything_returned();
}

TEST_CASE("jobs wait for CPUs that another berth has, and say so when it takes long") {
  SharedFixture f({0, 1});
  const SteadyTime begin = f.clock.steady_now();
  int looks = 0;
  const BatchResult result = f.run({submission("a"), submission("b")}, [&] {
    ++looks;
    if (f.clock.steady_now() - begin > seconds(10)) {
      f.other.give_back({0, 1});
    } else {
      CHECK(f.launcher.starts.empty());
    }
  });
  CHECK(result.records.size() == 2);
  CHECK(result.records[0].state == JobState::completed);
  CHECK(*result.records[0].start - result.records[0].submit > seconds(10));
  CHECK(f.listener.waits_for_others == 1);
  CHECK(looks < 300);
  f.everything_returned();
  CHECK(f.other.taken({0, 1}) == CpuSet{});
}

TEST_CASE("a batch that waits for another berth can be cancelled") {
  SharedFixture f({0});
  const BatchResult result = f.run({submission("wide", {2})}, [&] {
    if (f.listener.waits_for_others > 0) {
      f.batch.request_cancel();
    }
  });
  REQUIRE(result.records.size() == 1);
  CHECK(result.records[0].state == JobState::cancelled);
  CHECK(f.launcher.starts.empty());
  CHECK_FALSE(f.other.is_behind({0, 1}));
}

TEST_CASE("where jobs may overlap, the first does so at once and the others after a while") {
  SharedFixture f({0, 1}, Overlap::last);
  f.launcher.plan = [](const StartRequest&) {
    FakeLauncher::Plan plan;
    plan.duration = seconds(60);  // a service, and who asks it
    return plan;
  };
  const BatchResult result = f.run({submission("service"), submission("client")});
  CHECK(*result.records[0].start - result.records[0].submit < Milliseconds(100));
  CHECK(*result.records[1].start - result.records[1].submit >= Batch::kPatience);
  CHECK(*result.records[1].start - result.records[1].submit < seconds(2));
  CHECK(result.records[0].allocation->cpus != result.records[1].allocation->cpus);
  CHECK(f.listener.waits_for_others == 0);
  CHECK(CpuLocks(f.path).taken({0, 1}) == CpuSet{0, 1});  // what the other has stays locked
}

TEST_CASE("a CPU of its own comes before one of another berth's") {
  SharedFixture f({0}, Overlap::last);
  const BatchResult result = f.run({submission("a")});
  CHECK(result.records[0].allocation->cpus == CpuSet{1});
}

TEST_CASE("no job with a time limit passes one that waits for another berth's CPUs") {
  SharedFixture f({1});
  const SteadyTime begin = f.clock.steady_now();
  f.run({submission("wide", {2}), submission("narrow", {1, 0, Milliseconds(1000)})}, [&] {
    if (f.clock.steady_now() - begin > seconds(5)) {
      f.other.give_back({1});
    }
  });
  CHECK(f.started() == Names{"wide", "narrow"});
}

TEST_CASE("prospects tell which jobs would start now, and lease nothing") {
  Fixture f("core:2 pu:1");
  const auto told = [&](const std::vector<Submission>& submissions) {
    std::string text;
    for (const Batch::Prospect& one :
         Batch::prospects(f.pool, submissions, Overlap::never, f.clock.steady_now())) {
      text += one.starts_now ? "now " : "later ";
    }
    return text;
  };
  Submission urgent = submission("urgent");
  urgent.job.spec.priority = 1;
  CHECK(told({submission("a"), submission("b"), urgent}) == "now later now ");
  Submission whole = submission("whole");
  whole.job.spec.cpus_per_task = 2;
  whole.job.spec.memory_per_node.reset();
  CHECK(told({submission("a"), whole, submission("b")}) == "now later later ");  // as in a run, b passes not
  CHECK(Batch::prospects(f.pool, {whole}, Overlap::never, f.clock.steady_now()).front().takes ==
        Resources{2, f.pool.total_memory(), 1});
  f.everything_returned();
  CHECK(f.store.calls.empty());
}

TEST_CASE("prospects tell what other berths are in the way of") {
  SharedFixture f({0});
  const auto first = [&](Overlap overlap, unsigned cpus) {
    Submission job = submission("job");
    job.job.spec.cpus_per_task = cpus;
    return Batch::prospects(f.pool, {job}, overlap, f.clock.steady_now()).front();
  };
  CHECK(first(Overlap::never, 1).starts_now);
  CHECK_FALSE(first(Overlap::last, 1).overlaps);
  CHECK_FALSE(first(Overlap::never, 2).starts_now);
  CHECK(first(Overlap::last, 2).starts_now);
  CHECK(first(Overlap::last, 2).overlaps);
}

}  // namespace berth
