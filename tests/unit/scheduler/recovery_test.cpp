#include "scheduler/recovery.h"

#include <stdlib.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <set>
#include <stdexcept>

namespace berth {
namespace {

namespace fs = std::filesystem;

const Timestamp kNow{std::chrono::hours(500'000)};
const Supervisor kDead = make_supervisor("boot-b", 11, 1100);
const Supervisor kAlive = make_supervisor("boot-b", 12, 1200);
const Supervisor kOldBoot = make_supervisor("boot-a", 13, 1300);

NewJob new_job(const std::string& name) {
  NewJob job;
  job.spec.name = name;
  job.spec.argv = {"/bin/true"};
  job.spec.current_working_directory = "/";
  job.user = "alice";
  job.submit = kNow - std::chrono::minutes(5);
  return job;
}

Allocation allocation() {
  return {"cpu0", CpuSet{0}, CpuSet{0}, 1 << 20};
}

/// What the callbacks were asked for.
struct World {
  std::vector<std::string> collected;
  std::vector<std::string> removed;
  std::optional<Usage> usage = Usage{};

  RecoveryActions actions() {
    RecoveryActions result;
    result.is_alive = [](const Supervisor& who) { return who == kAlive; };
    result.is_of_this_boot = [](const Supervisor& who) { return who.boot_id == "boot-b"; };
    result.collect = [this](const Supervisor& who, JobId job, unsigned attempt) {
      collected.push_back(who.cgroup + " job " + std::to_string(job) + "." + std::to_string(attempt));
      return usage;
    };
    result.remove = [this](const Supervisor& who) { removed.push_back(who.cgroup); };
    return result;
  }
};

/// A /proc of our own making.
class FakeProc {
 public:
  FakeProc() {
    std::string pattern = (fs::temp_directory_path() / "berth-proc-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    root_ = pattern;
    write("sys/kernel/random/boot_id", "boot-b\n");
  }
  ~FakeProc() { fs::remove_all(root_); }
  FakeProc(const FakeProc&) = delete;
  FakeProc& operator=(const FakeProc&) = delete;

  std::string path() const { return root_.string(); }
  void write(const std::string& file, const std::string& text) {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
  }
  void remove(const std::string& file) { fs::remove(root_ / file); }
  void process(const std::string& comm, char state, std::uint64_t start_time) {
    write("11/stat", "11 (" + comm + ") " + state + " 1 11 11 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 " +
                         std::to_string(start_time) + " 12345 99 18446744073709551615\n");
  }

 private:
  fs::path root_;
};

}  // namespace

TEST_CASE("a running job of a dead berth ends NODE_FAIL with what its cgroup still tells") {
  const auto store = JobStore::open(":memory:");
  const JobId job = store->submit({new_job("a")}, kDead).front();
  store->configure(job, 1, allocation(), kNow);
  store->run(job, 1, kNow);
  World world;
  world.usage->memory_peak = 12345;
  const RecoveryReport report = recover(*store, world.actions(), kNow);
  CHECK(report.node_failed == std::vector<JobId>{job});
  CHECK(report.problems.empty());
  CHECK(world.collected == std::vector<std::string>{"run-11-1100 job 1.1"});
  CHECK(world.removed == std::vector<std::string>{"run-11-1100"});
  const AccountingRecord record = store->find(job).back();
  CHECK(record.state == JobState::node_fail);
  CHECK(record.end == kNow);
  CHECK(record.outcome.value().cause == Cause::node_fail);
  CHECK(record.outcome.value().message == "the berth that ran it (pid 11) died, or could not record its end");
  CHECK(record.usage.memory_peak == 12345U);
  CHECK(store->open_attempts().empty());
}

TEST_CASE("a waiting job of a dead berth ends NODE_FAIL without an attempt") {
  const auto store = JobStore::open(":memory:");
  const JobId job = store->submit({new_job("a")}, kDead).front();
  World world;
  recover(*store, world.actions(), kNow);
  CHECK(world.collected.empty());
  const AccountingRecord record = store->find(job).back();
  CHECK(record.state == JobState::node_fail);
  CHECK(record.attempt == 0);
  CHECK(record.outcome.value().message == "the berth that ran it (pid 11) died before it could start");
}

TEST_CASE("jobs of a berth that lives are left alone") {
  const auto store = JobStore::open(":memory:");
  const std::vector<JobId> jobs = store->submit({new_job("a"), new_job("b")}, kAlive);
  store->configure(jobs[0], 1, allocation(), kNow);
  World world;
  CHECK(recover(*store, world.actions(), kNow).node_failed.empty());
  CHECK(world.collected.empty());
  CHECK(world.removed.empty());
  CHECK(store->open_attempts().size() == 2);
}

TEST_CASE("the dead do not take the living with them") {
  const auto store = JobStore::open(":memory:");
  const JobId living = store->submit({new_job("a")}, kAlive).front();
  const JobId dead = store->submit({new_job("b")}, kDead).front();
  World world;
  CHECK(recover(*store, world.actions(), kNow).node_failed == std::vector<JobId>{dead});
  REQUIRE(store->open_attempts().size() == 1);
  CHECK(store->open_attempts().front().job_id == living);
}

TEST_CASE("after a restart of the machine no cgroup is touched") {
  const auto store = JobStore::open(":memory:");
  const JobId job = store->submit({new_job("a")}, kOldBoot).front();
  store->configure(job, 1, allocation(), kNow);
  World world;
  CHECK(recover(*store, world.actions(), kNow).node_failed == std::vector<JobId>{job});
  CHECK(world.collected.empty());
  CHECK(world.removed.empty());
  CHECK(store->find(job).back().outcome.value().message ==
        "the machine was restarted under the berth that ran it (pid 13)");
}

TEST_CASE("after a restart of the machine a job ended when that was, but not before it started") {
  const auto store = JobStore::open(":memory:");
  const std::vector<JobId> jobs = store->submit({new_job("a"), new_job("b")}, kOldBoot);
  const std::vector<Timestamp> starts{kNow - std::chrono::hours(24 * 365 * 50),
                                      kNow - std::chrono::seconds(1)};
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    store->configure(jobs[i], 1, allocation(), starts[i]);
    store->run(jobs[i], 1, starts[i]);
  }
  World world;
  recover(*store, world.actions(), kNow);
  const auto since = store->find(jobs[0]).back().end.value() - boot_instant(kNow);
  CHECK((since >= std::chrono::seconds(0) && since < std::chrono::minutes(1)));
  CHECK(boot_instant(kNow) < starts[1]);
  CHECK(store->find(jobs[1]).back().end == starts[1]);
}

TEST_CASE("each dead berth's cgroup is removed once, after all its jobs") {
  const auto store = JobStore::open(":memory:");
  const std::vector<JobId> jobs = store->submit({new_job("a"), new_job("b"), new_job("c")}, kDead);
  store->configure(jobs[0], 1, allocation(), kNow);
  store->configure(jobs[1], 1, {"cpu1", CpuSet{1}, CpuSet{0}, 1 << 20}, kNow);
  World world;
  RecoveryActions actions = world.actions();
  actions.remove = [&](const Supervisor& who) {
    CHECK(world.collected.size() == 2);
    world.removed.push_back(who.cgroup);
  };
  CHECK(recover(*store, actions, kNow).node_failed == jobs);
  CHECK(world.removed.size() == 1);
}

TEST_CASE("a cgroup that is gone or will not go does not keep the record from being written") {
  const auto store = JobStore::open(":memory:");
  const JobId job = store->submit({new_job("a")}, kDead).front();
  store->configure(job, 1, allocation(), kNow);
  World world;
  SECTION("gone") {
    world.usage.reset();
    CHECK(recover(*store, world.actions(), kNow).problems.empty());
  }
  SECTION("unwilling") {
    RecoveryActions actions = world.actions();
    actions.collect = [](const Supervisor&, JobId, unsigned) -> std::optional<Usage> {
      throw std::runtime_error("busy");
    };
    actions.remove = [](const Supervisor&) { throw std::runtime_error("busy"); };
    const RecoveryReport report = recover(*store, actions, kNow);
    CHECK(report.problems ==
          std::vector<std::string>{"leftovers of job 1: busy", "leftovers of cgroup run-11-1100: busy"});
    CHECK(report.node_failed == std::vector<JobId>{job});
  }
  SECTION("without callbacks") {
    RecoveryActions actions = world.actions();
    actions.collect = nullptr;
    actions.remove = nullptr;
    recover(*store, actions, kNow);
  }
  CHECK(store->find(job).back().state == JobState::node_fail);
}

TEST_CASE("two recoveries at once leave one record, and only one of them claims it") {
  const auto store = JobStore::open(":memory:");
  const JobId job = store->submit({new_job("a")}, kDead).front();
  store->configure(job, 1, allocation(), kNow);
  World world;
  RecoveryReport inner;
  RecoveryActions outer_actions = world.actions();
  outer_actions.collect = [&](const Supervisor&, JobId, unsigned) -> std::optional<Usage> {
    inner = recover(*store, world.actions(), kNow);  // the other one overtakes
    return Usage{};
  };
  const RecoveryReport outer = recover(*store, outer_actions, kNow);
  CHECK(inner.node_failed == std::vector<JobId>{job});
  CHECK(outer.node_failed.empty());
  CHECK(store->find(job).size() == 1);
  CHECK(recover(*store, world.actions(), kNow).node_failed.empty());
}

TEST_CASE("this process is alive to itself, and its cgroup is named after it") {
  const Supervisor self = this_supervisor();
  CHECK(self.pid == ::getpid());
  CHECK(self.start_time > 0);
  CHECK(self.cgroup == "run-" + std::to_string(self.pid) + "-" + std::to_string(self.start_time));
  CHECK(supervisor_alive(self));
  CHECK(of_this_boot(self));
  Supervisor other = self;
  other.start_time += 1;
  CHECK_FALSE(supervisor_alive(other));
  other = self;
  other.boot_id = "another";
  CHECK_FALSE(supervisor_alive(other));
}

TEST_CASE("a process counts as the supervisor only with its boot id, pid and start time") {
  FakeProc proc;
  CHECK_FALSE(supervisor_alive(kDead, proc.path()));
  proc.process("berth", 'S', 1100);
  CHECK(supervisor_alive(kDead, proc.path()));
  proc.process("berth", 'S', 1101);
  CHECK_FALSE(supervisor_alive(kDead, proc.path()));
  proc.process("berth", 'S', 1100);
  proc.write("sys/kernel/random/boot_id", "boot-c\n");
  CHECK_FALSE(supervisor_alive(kDead, proc.path()));
}

TEST_CASE("a zombie is dead") {
  FakeProc proc;
  proc.process("berth", 'Z', 1100);
  CHECK_FALSE(supervisor_alive(kDead, proc.path()));
}

TEST_CASE("a command name with spaces and parentheses does not shift the fields") {
  FakeProc proc;
  proc.process("a) Z 1 (b", 'S', 1100);
  CHECK(supervisor_alive(kDead, proc.path()));
}

TEST_CASE("a stat file that is cut short names nobody") {
  FakeProc proc;
  for (const char* text : {"", "11", "11 (berth)", "11 (berth) S 1 2 3\n"}) {
    proc.write("11/stat", text);
    CHECK_FALSE(supervisor_alive(kDead, proc.path()));
  }
}

TEST_CASE("without a boot id nobody is declared dead") {
  FakeProc proc;
  proc.remove("sys/kernel/random/boot_id");
  CHECK(supervisor_alive(kDead, proc.path()));
}

TEST_CASE("a dead berth's cgroup is removed though no attempt of its is open") {
  auto store = JobStore::open(":memory:");
  const Supervisor dead = make_supervisor("boot", 10, 100);
  const Supervisor living = make_supervisor("boot", 11, 110);
  NewJob job;
  job.spec.name = "n";
  job.spec.argv = {"true"};
  job.spec.current_working_directory = "/";
  for (const Supervisor& supervisor : {dead, living}) {
    const JobId id = store->submit({job}, supervisor).at(0);
    Outcome outcome;
    outcome.state = JobState::cancelled;
    outcome.cause = Cause::cancelled;
    outcome.message = "cancelled";
    REQUIRE(store->finish(id, 0, outcome, Usage{}, Timestamp{}));
  }
  std::vector<std::string> removed;
  RecoveryActions actions;
  actions.is_alive = [&](const Supervisor& who) { return who == living; };
  actions.is_of_this_boot = [](const Supervisor&) { return true; };
  actions.list = [&] { return std::vector<std::string>{dead.cgroup, living.cgroup, "run-99-1"}; };
  actions.remove = [&](const Supervisor& who) { removed.push_back(who.cgroup); };
  std::vector<std::string> removed_if_empty;
  actions.remove_empty = [&](const std::string& cgroup) { removed_if_empty.push_back(cgroup); };
  CHECK(recover(*store, actions, Timestamp{}).node_failed.empty());
  CHECK(removed == std::vector<std::string>{dead.cgroup});
  CHECK(removed_if_empty == std::vector<std::string>{"run-99-1"});  // another database's, or of none
}

TEST_CASE("a dead berth's cgroup goes with its database") {
  const auto store = JobStore::open(":memory:");
  World world;
  RecoveryActions actions = world.actions();
  actions.is_of_this_boot = [](const Supervisor&) { return true; };
  actions.list = [] { return std::vector<std::string>{"run-1-1", "run-2-1", "run-3-1", "run-4-1"}; };
  actions.is_alive = [](const Supervisor& who) { return who.pid == 4; };
  actions.owner = [](const std::string& cgroup) {
    return cgroup == "run-1-1"   ? LeftoverOwner::other
           : cgroup == "run-2-1" ? LeftoverOwner::own  // an earlier file of this name
                                 : LeftoverOwner::gone;
  };
  std::vector<std::string> unclaimed;
  actions.remove_unclaimed = [&](const Supervisor& who) { unclaimed.push_back(who.cgroup); };
  std::vector<std::string> removed_if_empty;
  actions.remove_empty = [&](const std::string& cgroup) { removed_if_empty.push_back(cgroup); };
  CHECK(recover(*store, actions, kNow).problems.empty());
  CHECK(world.removed.empty());
  CHECK(unclaimed == std::vector<std::string>{"run-2-1", "run-3-1"});
  CHECK(removed_if_empty == std::vector<std::string>{"run-1-1"});
}

}  // namespace berth
