#include <algorithm>
#include <filesystem>
#include <limits>
#include <map>

#include "schemas/job_file.h"
#include "schemas/usage_fields.h"
#include "store/database.h"
#include "store/queue_store.h"
#include "tests/unit/store/store_fixtures.h"

namespace berth {
namespace {

using Catch::Matchers::Contains;

std::unique_ptr<JobStore> memory_store() {
  return JobStore::open(":memory:");
}

JobId submit_one(JobStore& store, const NewJob& job = sample_job()) {
  return store.submit({job}, sample_supervisor()).at(0);
}

NewJob sample_array(const std::string& tasks) {
  NewJob job = sample_job();
  job.queue.emplace();
  job.queue->array_tasks = tasks;
  return job;
}

/// Submits, configures, runs and finishes at the given seconds.
JobId run_to_end(JobStore& store, const NewJob& job, std::int64_t start, std::int64_t end,
                 const Outcome& outcome = completed()) {
  const JobId id = submit_one(store, job);
  store.configure(id, 1, sample_allocation(), at(start - 1));
  store.run(id, 1, at(start));
  REQUIRE(store.finish(id, 1, outcome, {}, at(end)));
  return id;
}

std::vector<JobId> ids_of(const std::vector<AccountingRecord>& records) {
  std::vector<JobId> ids;
  ids.reserve(records.size());
  for (const AccountingRecord& record : records) {
    ids.push_back(record.job_id);
  }
  return ids;
}

/// Every counter different and none zero, so that two swapped columns show.
Usage full_usage() {
  Usage usage;
  std::uint64_t next = 1'000;
  for_each_usage_field(usage, [&](std::string_view, auto& counter) {
    using Counter = typename std::remove_reference_t<decltype(counter)>::value_type;
    counter = Counter(next++);
  });
  return usage;
}

}  // namespace

TEST_CASE("a job comes back from the store as it went in, at each step of its life") {
  const auto store = memory_store();
  const NewJob job = sample_job();
  const JobId id = submit_one(*store, job);

  AccountingRecord record = store->find(id).at(0);
  CHECK(record.job_id == id);
  CHECK(record.state == JobState::pending);
  CHECK(record.attempt == 0);
  CHECK(record.user == "ada");
  CHECK(record.user_id == 1001);
  CHECK(record.job_user == "render");
  CHECK(record.job_user_id == 1002);
  CHECK(record.host == "node1");
  CHECK(record.submit == at(0));
  CHECK(*record.spec == job.spec);
  CHECK_FALSE(record.start);
  CHECK_FALSE(record.end);
  CHECK_FALSE(record.allocation);
  CHECK_FALSE(record.outcome);

  store->configure(id, 1, sample_allocation(), at(5));
  record = store->find(id).at(0);
  CHECK(record.state == JobState::configuring);
  CHECK(record.attempt == 1);
  CHECK(record.allocation == sample_allocation());
  CHECK_FALSE(record.start);

  store->run(id, 1, at(6));
  record = store->find(id).at(0);
  CHECK(record.state == JobState::running);
  CHECK(record.start == at(6));

  Outcome outcome = ended(JobState::out_of_memory, Cause::out_of_memory, 0, 9);
  outcome.core_dumped = true;
  outcome.limit = LimitHit{"memory_per_node", "512M", "/berth/run-1/job-1.1"};
  REQUIRE(store->finish(id, 1, outcome, full_usage(), at(60)));
  REQUIRE(store->find(id).size() == 1);
  record = store->find(id).at(0);
  CHECK(record.state == JobState::out_of_memory);
  CHECK(record.end == at(60));
  CHECK(record.outcome == outcome);
  CHECK(record.usage == full_usage());
  CHECK(record.allocation == sample_allocation());
  CHECK(store->check_integrity().empty());
}

TEST_CASE("a number is never given twice, also behind deleted jobs") {
  const auto store = QueueStore::open(":memory:");
  CHECK(submit_one(*store) == 1);
  run_to_end(*store, sample_job(), 10, 20);
  CHECK(store->forget_ended({at(1'000), std::nullopt, {}}, 10) == 1);
  CHECK(submit_one(*store) == 3);
}

TEST_CASE("a failed launch keeps its stage and errno") {
  const auto store = memory_store();
  const JobId id = submit_one(*store);
  store->configure(id, 1, sample_allocation(), at(1));
  Outcome outcome = never_ran(JobState::failed, Cause::launch_failed);
  outcome.stage = "mount /data";
  outcome.error_number = 13;
  REQUIRE(store->finish(id, 1, outcome, {}, at(2)));
  CHECK(store->find(id).at(0).outcome == outcome);
  CHECK_FALSE(store->find(id).at(0).start);
}

TEST_CASE("a counter that was not measured is absent, and zero is zero") {
  const auto store = memory_store();
  const JobId id = submit_one(*store);
  store->configure(id, 1, sample_allocation(), at(1));
  store->run(id, 1, at(1));
  Usage usage;
  usage.oom_kills = 0;
  usage.cpu_total = std::chrono::microseconds(0);
  REQUIRE(store->finish(id, 1, completed(), usage, at(2)));
  const Usage found = store->find(id).at(0).usage;
  CHECK(found == usage);
  CHECK(found.oom_kills == 0U);
  CHECK_FALSE(found.swap_peak);
}

TEST_CASE("a counter beyond SQLite's integers saturates") {
  const auto store = memory_store();
  const JobId id = submit_one(*store);
  store->configure(id, 1, sample_allocation(), at(1));
  store->run(id, 1, at(1));
  Usage usage;
  usage.io_read_bytes = std::numeric_limits<std::uint64_t>::max();
  REQUIRE(store->finish(id, 1, completed(), usage, at(2)));
  CHECK(store->find(id).at(0).usage.io_read_bytes == std::uint64_t{std::numeric_limits<std::int64_t>::max()});
}

TEST_CASE("submit gives ascending ids in order, and all or none") {
  const auto store = memory_store();
  CHECK(store->submit({}, sample_supervisor()).empty());
  CHECK(store->submit({sample_job("a"), sample_job("b")}, sample_supervisor()) == std::vector<JobId>{1, 2});
  CHECK(store->submit({sample_job("c")}, sample_supervisor(7)) == std::vector<JobId>{3});
  CHECK(store->find(2).at(0).spec->name == "b");
  CHECK(store->find(4).empty());
}

TEST_CASE("a second final record of one attempt is refused and changes nothing") {
  const auto store = memory_store();
  const JobId id = run_to_end(*store, sample_job(), 2, 3);
  const auto events = store->events(id).size();
  CHECK_FALSE(store->finish(id, 1, ended(JobState::failed, Cause::exited, 1), full_usage(), at(9)));
  const AccountingRecord record = store->find(id).at(0);
  CHECK(record.state == JobState::completed);
  CHECK(record.end == at(3));
  CHECK(record.usage == Usage{});
  CHECK(store->events(id).size() == events);
}

TEST_CASE("a job that never started ends as attempt 0, once") {
  const auto store = memory_store();
  const JobId id = submit_one(*store);
  const Outcome outcome = ended(JobState::cancelled, Cause::cancelled, 0, 15);
  REQUIRE(store->finish(id, 0, outcome, {}, at(4)));
  CHECK_FALSE(store->finish(id, 0, outcome, {}, at(5)));
  const AccountingRecord record = store->find(id).at(0);
  CHECK(record.attempt == 0);
  CHECK(record.state == JobState::cancelled);
  CHECK(record.end == at(4));
  CHECK(record.outcome == outcome);
  CHECK_FALSE(record.allocation);
}

TEST_CASE("an illegal transition throws, names both states and changes nothing") {
  const auto store = memory_store();
  const JobId id = submit_one(*store);
  CHECK_THAT(store_error([&] { store->run(id, 1, at(1)); }), Contains("PENDING") && Contains("RUNNING"));
  CHECK_THAT(store_error([&] { store->finish(id, 0, completed(), {}, at(1)); }),
             Contains("cannot become COMPLETED"));
  CHECK_THAT(store_error([&] { store->configure(id, 2, sample_allocation(), at(1)); }),
             Contains("attempt 2"));
  CHECK_THAT(store_error([&] { store->configure(99, 1, sample_allocation(), at(1)); }),
             Contains("job 99: there is no such job"));
  Outcome unfinished = completed();
  unfinished.state = JobState::running;
  CHECK_THAT(store_error([&] { store->finish(id, 0, unfinished, {}, at(1)); }),
             Contains("not a final state"));
  CHECK(store->find(id).at(0).state == JobState::pending);
  CHECK(store->events(id).size() == 1);

  store->configure(id, 1, sample_allocation(), at(1));
  CHECK_THAT(store_error([&] { store->configure(id, 2, sample_allocation(), at(1)); }),
             Contains("CONFIGURING"));
  CHECK_THAT(store_error([&] { store->run(id, 2, at(1)); }), Contains("attempt 2"));
  CHECK_THAT(
      store_error([&] { store->finish(id, 0, ended(JobState::cancelled, Cause::cancelled), {}, at(1)); }),
      Contains("attempt 0"));
  CHECK(store->find(id).at(0).state == JobState::configuring);

  const JobId over = run_to_end(*store, sample_job(), 2, 3);
  CHECK_THAT(store_error([&] { store->run(over, 1, at(4)); }), Contains("COMPLETED"));
}

TEST_CASE("replaying a job's events gives its state") {
  const auto store = memory_store();
  const JobId id = submit_one(*store);
  const auto states_agree = [&] { return replay(store->events(id)) == store->find(id).at(0).state; };
  CHECK(states_agree());
  store->configure(id, 1, sample_allocation(), at(1));
  CHECK(states_agree());
  store->run(id, 1, at(2));
  CHECK(states_agree());
  store->finish(id, 1, ended(JobState::timeout, Cause::wall_time, 0, 15), {}, at(3));
  CHECK(states_agree());

  const std::vector<JobEvent> events = store->events(id);
  REQUIRE(events.size() == 4);
  CHECK(events[0].detail == R"({"user":"ada","name":"render"})");
  CHECK(events[1].detail == R"({"slot":"cpu0-1","cpus":"0-1","memory_nodes":"0","memory":536870912})");
  CHECK(events[2].detail.empty());
  CHECK(events[3].detail == R"({"cause":"wall_time","exit_code":0,"signal":15,"message":"it ended"})");
  CHECK(events[3].at == at(3));
  CHECK(std::is_sorted(events.begin(), events.end(),
                       [](const JobEvent& a, const JobEvent& b) { return a.sequence < b.sequence; }));
}

TEST_CASE("the record and the event of a job that never ran have no exit code") {
  const auto store = memory_store();
  const JobId id = submit_one(*store);
  store->configure(id, 1, sample_allocation(), at(1));
  store->finish(id, 1, never_ran(JobState::failed, Cause::launch_failed), {}, at(2));
  CHECK(store->find(id).at(0).outcome == never_ran(JobState::failed, Cause::launch_failed));
  CHECK(store->events(id).back().detail == R"({"cause":"launch_failed","message":"it ended"})");
}

TEST_CASE("the 0 that a berth before recorded of a job that never ran is none") {
  const auto store = memory_store();
  for (const Cause cause : {Cause::launch_failed, Cause::node_fail, Cause::cancelled}) {
    const JobId id = submit_one(*store);
    store->finish(id, 0, ended(JobState::failed, cause), {}, at(2));
    CHECK(store->find(id).at(0).outcome == never_ran(JobState::failed, cause));
  }
  const JobId stopped =
      run_to_end(*store, sample_job(), 2, 3, ended(JobState::cancelled, Cause::cancelled, 0, 0));
  CHECK(store->find(stopped).at(0).outcome.value().exit_code == 0);
}

TEST_CASE("events that no job can have are refused by replay") {
  JobEvent pending;
  JobEvent completed_event;
  completed_event.state = JobState::completed;
  CHECK_THROWS_AS(replay({}), std::runtime_error);
  CHECK_THROWS_AS(replay({completed_event}), std::runtime_error);
  CHECK_THROWS_AS(replay({pending, completed_event}), std::runtime_error);
}

TEST_CASE("open attempts are all jobs that are not over, oldest first, with their supervisor") {
  const auto store = memory_store();
  const JobId waiting = submit_one(*store);
  run_to_end(*store, sample_job(), 2, 3);
  const JobId running = store->submit({sample_job()}, sample_supervisor(7)).at(0);
  store->configure(running, 1, sample_allocation(), at(4));
  store->run(running, 1, at(5));

  const std::vector<OpenAttempt> open = store->open_attempts();
  REQUIRE(open.size() == 2);
  CHECK(open[0].job_id == waiting);
  CHECK(open[0].attempt == 0);
  CHECK(open[0].state == JobState::pending);
  CHECK(open[0].supervisor == sample_supervisor());
  CHECK_FALSE(open[0].start);
  CHECK(open[1].job_id == running);
  CHECK(open[1].attempt == 1);
  CHECK(open[1].state == JobState::running);
  CHECK(open[1].supervisor == sample_supervisor(7));
  CHECK(open[1].start == at(5));

  Outcome lost = ended(JobState::node_fail, Cause::node_fail);
  REQUIRE(store->finish(waiting, 0, lost, {}, at(9)));
  REQUIRE(store->finish(running, 1, lost, {}, at(9)));
  CHECK(store->open_attempts().empty());
}

TEST_CASE("history filters by id, user, account and name") {
  const auto store = memory_store();
  NewJob other = sample_job("encode");
  other.user = "bob";
  other.user_id = 2002;
  other.spec.account = "ads";
  const JobId ada = submit_one(*store);
  const JobId bob = submit_one(*store, other);
  const auto matching = [&](const auto& set) {
    HistoryFilter filter;
    set(filter);
    return ids_of(store->history(filter));
  };
  using Ids = std::vector<JobId>;
  CHECK(matching([](auto&) {}) == Ids{ada, bob});
  CHECK(matching([&](auto& f) { f.job_ids = {bob, 77}; }) == Ids{bob});
  CHECK(matching([&](auto& f) { f.job_ranges = {{bob, bob + 9}}; }) == Ids{bob});
  CHECK(matching([&](auto& f) { f.job_ids = {bob}, f.job_ranges = {{0, ada}, {90, 99}}; }) == Ids{ada, bob});
  CHECK(matching([](auto& f) { f.users = {"ada"}; }) == Ids{ada});
  CHECK(matching([](auto& f) { f.users = {"2002"}; }) == Ids{bob});
  CHECK(matching([](auto& f) { f.users = {"ada", "bob"}; }) == Ids{ada, bob});
  CHECK(matching([](auto& f) { f.accounts = {"ads"}; }) == Ids{bob});
  CHECK(matching([](auto& f) { f.names = {"render", "' OR 1"}; }) == Ids{ada});
  CHECK(matching([](auto& f) { f.users = {"ada"}, f.accounts = {"ads"}; }).empty());
  CHECK(matching([](auto& f) { f.user_id = 2002; }) == Ids{bob});
  CHECK(matching([](auto& f) { f.user_id = 2002, f.users = {"ada", "bob"}; }) == Ids{bob});
  CHECK(matching([](auto& f) { f.user_id = 2002, f.users = {"ada"}; }).empty());
  CHECK(matching([](auto& f) { f.last = 1; }) == Ids{bob});
  CHECK(matching([](auto& f) { f.last = 0; }).empty());
}

TEST_CASE("history shows the jobs that were in any state within the window, as sacct does") {
  const auto store = memory_store();
  const JobId early = run_to_end(*store, sample_job("early", at(0)), 10, 20);
  const JobId late = run_to_end(*store, sample_job("late", at(100)), 110, 120);
  const JobId waiting = submit_one(*store, sample_job("waiting", at(130)));
  const auto between = [&](std::optional<Timestamp> start, std::optional<Timestamp> end) {
    HistoryFilter filter;
    filter.start = start;
    filter.end = end;
    return ids_of(store->history(filter));
  };
  using Ids = std::vector<JobId>;
  CHECK(between(at(20), {}) == Ids{early, late, waiting});
  CHECK(between(at(21), {}) == Ids{late, waiting});
  CHECK(between({}, at(99)) == Ids{early});
  CHECK(between({}, at(100)) == Ids{early, late});
  CHECK(between(at(15), at(16)) == Ids{early});
  CHECK(between(at(50), at(60)).empty());
  CHECK(between(at(5000), at(6000)) == Ids{waiting});
}

TEST_CASE("a state without a window is the state now; with one, the state within it") {
  const auto store = memory_store();
  const JobId ended_job = run_to_end(*store, sample_job("a", at(0)), 10, 20);
  const JobId failed_job =
      run_to_end(*store, sample_job("b", at(0)), 110, 120, ended(JobState::failed, Cause::exited, 3));
  const JobId running = submit_one(*store, sample_job("c", at(130)));
  store->configure(running, 1, sample_allocation(), at(140));
  store->run(running, 1, at(142));
  const auto in_state = [&](std::vector<JobState> states, std::optional<Timestamp> start = {},
                            std::optional<Timestamp> end = {}) {
    HistoryFilter filter;
    filter.states = std::move(states);
    filter.start = start;
    filter.end = end;
    return ids_of(store->history(filter));
  };
  using Ids = std::vector<JobId>;
  CHECK(in_state({JobState::running}) == Ids{running});
  CHECK(in_state({JobState::failed}) == Ids{failed_job});
  CHECK(in_state({JobState::failed, JobState::running}) == Ids{failed_job, running});
  CHECK(in_state({JobState::pending}).empty());

  CHECK(in_state({JobState::running}, at(15), at(16)) == Ids{ended_job});
  CHECK(in_state({JobState::running}, at(21), at(100)).empty());
  CHECK(in_state({JobState::running}, at(200)) == Ids{running});
  CHECK(in_state({JobState::pending}, at(50), at(60)) == Ids{failed_job});
  CHECK(in_state({JobState::configuring}, at(141), at(141)) == Ids{running});
  CHECK(in_state({JobState::completed}, at(15), at(30)) == Ids{ended_job});
  CHECK(in_state({JobState::completed}, at(5), at(15)).empty());
  CHECK(in_state({JobState::pending, JobState::completed}, at(15), at(30)) == Ids{ended_job, failed_job});
}

TEST_CASE("a closed store opens again with everything in it") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  const JobId id = run_to_end(*JobStore::open(path), sample_job(), 2, 3);
  const auto store = JobStore::open_existing(path);
  REQUIRE(store);
  CHECK(store->find(id).at(0).state == JobState::completed);
  CHECK(*store->find(id).at(0).spec == sample_job().spec);
  CHECK(store->check_integrity().empty());
}

namespace {

JobId run_in_queue(QueueStore& store, std::int64_t end, std::optional<JobId> array = std::nullopt) {
  NewJob job = sample_job();
  job.array_job_id = array;
  return run_to_end(store, job, end - 1, end);
}

}  // namespace

TEST_CASE("ended jobs are forgotten by age and by number, oldest first, and nothing of them stays") {
  const TemporaryFolder folder;
  const auto store = QueueStore::open(folder.file("berthd.db"));
  std::vector<JobId> jobs;
  for (const std::int64_t end : {10, 20, 30, 40, 50}) {
    jobs.push_back(run_in_queue(*store, end));
  }
  const JobId waiting = submit_one(*store);
  CHECK(store->forget_ended({}, 100) == 0);
  CHECK(store->forget_ended({at(20), std::nullopt, {}}, 100) == 1);
  CHECK_FALSE(store->find_stored(jobs[0]));
  CHECK(store->events(jobs[0]).empty());
  CHECK(store->forget_ended({std::nullopt, 3, {jobs[1]}}, 100) == 1);  // needed, so the next one goes
  CHECK(store->find_stored(jobs[1]));
  CHECK_FALSE(store->find_stored(jobs[2]));
  CHECK(store->forget_ended({at(1000), std::nullopt, {}}, 2) == 2);  // so many at once
  CHECK(store->forget_ended({at(1000), std::nullopt, {}}, 2) == 1);
  CHECK(store->find_stored(waiting));
  CHECK(store->check_integrity().empty());
  CHECK(run_in_queue(*store, 60) > waiting);  // no number is given twice
}

TEST_CASE("a clock that was ahead for a while makes no later job the oldest one") {
  const auto store = QueueStore::open(":memory:");
  std::vector<JobId> jobs;
  for (const std::int64_t end : {10, 1'000'020, 1'000'030, 40, 50}) {
    jobs.push_back(run_in_queue(*store, end));
  }
  CHECK(store->forget_ended({std::nullopt, 2, {}, at(60)}, 100) == 3);
  CHECK(store->find_known(jobs[3]));
  CHECK(store->find_known(jobs[4]));
}

TEST_CASE("a job that waits for another attempt is PENDING since it was to wait again") {
  const auto store = QueueStore::open(":memory:");
  NewJob job = sample_job();
  job.queue.emplace();
  const JobId id = run_to_end(*store, job, 9, 10, ended(JobState::failed, Cause::exited, 3));
  const JobId other = run_to_end(*store, sample_job(), 9, 10);
  store->requeue(id, *job.queue, at(10), "{}");
  const std::vector<AccountingRecord> records = store->find(id);
  REQUIRE(records.size() == 2);
  CHECK((records[0].attempt == 1 && records[0].state == JobState::failed));
  CHECK((records[1].attempt == 2 && records[1].state == JobState::pending));
  CHECK_FALSE((records[1].start || records[1].end || records[1].allocation || records[1].outcome));

  HistoryFilter filter;
  CHECK(ids_of(store->history(filter)) == std::vector<JobId>{id, id, other});
  filter.last = 2;
  CHECK(ids_of(store->history(filter)) == std::vector<JobId>{id, other});
  filter = {};
  filter.start = at(20);
  CHECK(ids_of(store->history(filter)) == std::vector<JobId>{id});
  filter.states = {JobState::pending};
  CHECK(ids_of(store->history(filter)) == std::vector<JobId>{id});
  filter.start = filter.end = at(9);
  CHECK(store->history(filter).empty());
  filter.states.clear();
  CHECK(ids_of(store->history(filter)) == std::vector<JobId>{id, other});  // the first attempt alone
  store->configure(id, 2, sample_allocation(), at(30));
  CHECK(ids_of(store->history(filter)) == std::vector<JobId>{id, other});
  filter.end = at(30);
  CHECK(ids_of(store->history(filter)) == std::vector<JobId>{id, id, other});

  store->requeue(other, *job.queue, at(50), "{}");
  filter.start = at(40);
  filter.end = at(45);
  CHECK(ids_of(store->history(filter)) == std::vector<JobId>{id});
  filter.end = at(50);
  CHECK(ids_of(store->history(filter)) == std::vector<JobId>{id, other});
}

TEST_CASE("an array is among the jobs that ended in a window in which it did") {
  const auto store = QueueStore::open(":memory:");
  const JobId array = submit_one(*store);
  const JobId task = run_in_queue(*store, 10, array);
  REQUIRE(store->settle_array(array, at(11)) == JobState::completed);
  HistoryFilter filter;
  filter.states = {JobState::completed};
  filter.start = at(5);
  CHECK(ids_of(store->history(filter)) == std::vector<JobId>{array, task});
  filter.start = at(12);
  CHECK(store->history(filter).empty());
}

TEST_CASE("tasks of an array stay until the array is over") {
  const TemporaryFolder folder;
  const auto store = QueueStore::open(folder.file("berthd.db"));
  const JobId array = submit_one(*store);
  const JobId task = run_in_queue(*store, 10, array);
  CHECK(store->forget_ended({at(1000), std::nullopt, {}}, 100) == 0);
  REQUIRE(store->settle_array(array, at(11)) == JobState::completed);
  CHECK(store->forget_ended({at(1000), std::nullopt, {}}, 100) == 2);
  CHECK_FALSE(store->find_stored(task));
}

namespace {

JobId submit_array(QueueStore& store, const std::string& tasks) {
  NewJob job = sample_job();
  job.queue.emplace();
  job.queue->array_tasks = tasks;
  return submit_one(store, job);
}

/// A task of the array, which runs.
JobId start_task(QueueStore& store, JobId array, unsigned task) {
  const JobId id = store.add_task(array, task, at(1));
  store.configure(id, 1, sample_allocation(), at(2));
  store.run(id, 1, at(3));
  return id;
}

}  // namespace

TEST_CASE(
    "long specs are beside their jobs, once for those that have the same, and go with the last of them") {
  const TemporaryFolder folder;
  const auto store = QueueStore::open(folder.file("berthd.db"));
  const auto database = Database::open(folder.file("berthd.db"), Database::Missing::refuse);
  const auto texts = [&] {
    Query query = database->query("SELECT count(*) FROM specs");
    query.step();
    return query.integer(0);
  };
  NewJob job = sample_job();
  job.spec.comment = std::string(5000, 'x');
  const JobId single = submit_one(*store, job);
  CHECK(texts() == 1);
  CHECK(*store->find(single).at(0).spec == job.spec);
  CHECK(store->find_known(single)->name == job.spec.name);
  CHECK(store->find_stored(single)->spec_text == to_json_text(job.spec));
  submit_one(*store);
  submit_one(*store, job);
  CHECK(texts() == 1);
  job.spec.comment = std::string(5000, 'z');
  job.queue.emplace();
  job.queue->array_tasks = "0-1";
  const JobId array = submit_one(*store, job);
  const JobId task = start_task(*store, array, 0);
  CHECK(texts() == 2);
  CHECK(*store->find(array).at(0).spec == job.spec);
  CHECK(*store->find(task).at(0).spec == job.spec);
  CHECK(store->find_stored(task)->spec_text == store->find_stored(array)->spec_text);
  JobSpec changed = job.spec;
  changed.comment = std::string(5000, 'y');
  store->change(array, *job.queue, at(2), "", to_json_text(changed));
  CHECK(texts() == 3);
  CHECK(*store->find(task).at(0).spec == job.spec);
  const JobId second = start_task(*store, array, 1);
  CHECK(*store->find(second).at(0).spec == changed);
  CHECK(texts() == 3);
  for (const JobId one : {task, second}) {
    store->finish(one, 1, completed(), {}, at(3));
  }
  REQUIRE(store->settle_array(array, at(4)));
  CHECK(store->forget_ended({at(1000), std::nullopt, {}}, 100) == 3);
  CHECK(texts() == 1);
  CHECK(store->check_integrity().empty());
}

TEST_CASE("a spec that records have in common is in memory once, and too many records are refused") {
  const auto store = QueueStore::open(":memory:");
  NewJob job = sample_array("0-9");
  job.spec.comment = std::string(5000, 'x');
  const JobId array = submit_one(*store, job);
  for (unsigned task = 0; task < 10; ++task) {
    start_task(*store, array, task);
  }
  const JobId other = submit_one(*store);
  HistoryFilter filter;
  const std::vector<AccountingRecord> records = store->history(filter);
  REQUIRE(records.size() == 12);
  CHECK(*records[0].spec == job.spec);
  for (const AccountingRecord& record : records) {
    CHECK((record.spec == records[0].spec) == (record.job_id != other));
  }
  filter.most_bytes = 25'000;
  CHECK(store->history(filter).size() == 12);
  filter.counts_each_spec = true;
  CHECK_THROWS_AS(store->history(filter), TooMuch);
  filter.last = 2;
  CHECK(store->history(filter).size() == 2);
}

TEST_CASE("what is asked of one array or attempt reads neither specs nor tasks that are over") {
  const auto store = QueueStore::open(":memory:");
  const NewJob job = sample_array("0-2");
  const JobId array = submit_one(*store, job);
  CHECK_FALSE(store->has_tasks(array));
  const JobId first = start_task(*store, array, 0);
  const JobId second = start_task(*store, array, 1);
  CHECK_FALSE(store->last_outcome(first));
  Outcome failed = completed();
  failed.state = JobState::failed;
  failed.exit_code = 3;
  failed.message = "exited with status 3";
  store->finish(first, 1, failed, {}, at(3));
  CHECK(store->has_tasks(array));
  CHECK(store->open_tasks(array) == std::vector<JobId>{second});
  CHECK(store->last_outcome(first) == store->find(first).at(0).outcome);
  CHECK(store->last_hold(array).empty());
  store->change(array, *job.queue, at(4), R"({"a_reason":"x","action":"hold","by":"a"})", "");
  store->change(array, *job.queue, at(5), R"({"action":"update","by":"a"})", "");
  CHECK(store->last_hold(array) == R"({"a_reason":"x","action":"hold","by":"a"})");
}

TEST_CASE("thousands of tasks and ranges are one filter") {
  const auto store = QueueStore::open(":memory:");
  const NewJob job = sample_array("0-2");
  const JobId array = submit_one(*store, job);
  const JobId task = start_task(*store, array, 1);
  const JobId last = submit_one(*store);
  HistoryFilter filter;
  for (unsigned number = 0; number < 3000; ++number) {
    filter.tasks.emplace_back(array, number);
  }
  REQUIRE(store->history(filter).size() == 1);
  CHECK(store->history(filter).at(0).job_id == task);
  filter.tasks.clear();
  for (JobId id = last; id < last + 3000; id += 2) {
    filter.job_ranges.emplace_back(id, id);
  }
  filter.with_tasks = true;
  CHECK(store->history(filter).size() == 1);
  filter.job_ranges = {{array, array}};
  CHECK(store->history(filter).size() == 2);
}

TEST_CASE("what the waiting tasks of an array are changed to is stored once") {
  const TemporaryFolder folder;
  const auto store = QueueStore::open(folder.file("berthd.db"));
  const auto database = Database::open(folder.file("berthd.db"), Database::Missing::refuse);
  NewJob job = sample_array("0-3");
  job.spec.comment = std::string(5000, 'x');
  const JobId array = submit_one(*store, job);
  std::vector<JobId> rows{array};
  for (unsigned task = 0; task < 3; ++task) {
    rows.push_back(store->add_task(array, task, at(1)));
  }
  job.spec.comment = std::string(5000, 'y');
  for (const JobId row : rows) {
    store->change(row, *job.queue, at(2), "", to_json_text(job.spec));
  }
  Query query = database->query("SELECT count(*), min(text) FROM specs");
  REQUIRE(query.step());
  CHECK(query.integer(0) == 1);
  CHECK(query.text(1) == to_json_text(job.spec));
  CHECK(*store->find(rows.back()).at(0).spec == job.spec);
}

TEST_CASE("events of others are looked at once") {
  const auto store = QueueStore::open(":memory:");
  const JobId own = submit_one(*store);
  NewJob other = sample_job();
  other.user_id = 7;
  for (int count = 0; count < 3; ++count) {
    submit_one(*store, other);
  }
  std::int64_t looked_at = 0;
  CHECK(store->events_after(0, 10, 1001, looked_at).size() == 1);
  CHECK(looked_at == store->last_event());
  CHECK(store->events_after(looked_at, 10, 1001, looked_at).empty());
  CHECK(looked_at == store->last_event());
  CHECK(store->events_after(0, 1, std::nullopt, looked_at).at(0).job_id == own);
  CHECK(looked_at == 1);
  CHECK(store->events_after(100, 10, std::nullopt, looked_at).empty());
  CHECK(looked_at == 100);
}

TEST_CASE("a record told again ends no attempt that waits; that ends as an attempt of its own") {
  const auto store = QueueStore::open(":memory:");
  const JobId job = run_to_end(*store, sample_job(), 2, 3, ended(JobState::failed, Cause::exited, 1));
  store->requeue(job, {}, at(4), "");
  CHECK(store->has_record(job, 1));
  CHECK_FALSE(store->has_record(job, 2));
  CHECK_FALSE(store->finish(job, 1, ended(JobState::failed, Cause::exited, 1), {}, at(5)));
  CHECK(store->find_stored(job)->state == JobState::pending);
  REQUIRE(store->end_waiting(job, ended(JobState::cancelled, Cause::cancelled), at(6)));
  CHECK_FALSE(store->end_waiting(job, ended(JobState::cancelled, Cause::cancelled), at(7)));
  const std::vector<AccountingRecord> records = store->find(job);
  REQUIRE(records.size() == 2);
  CHECK(records[1].attempt == 2);
  CHECK(records[1].state == JobState::cancelled);
  const JobId never_started = submit_one(*store);
  REQUIRE(store->end_waiting(never_started, ended(JobState::deadline, Cause::cancelled), at(6)));
  CHECK(store->find(never_started).at(0).attempt == 0);
}

TEST_CASE("a task leaves its array once, whatever else is written of that") {
  const auto store = QueueStore::open(":memory:");
  const JobId array = submit_array(*store, "0-2");
  const auto left = [&] {
    std::string tasks;
    store->visit_queue([&](const WaitingJob& job) { tasks = job.facts.array_tasks; });
    return tasks;
  };
  const JobId second = start_task(*store, array, 1);
  CHECK(store->find_task(array, 1) == second);
  CHECK(left() == "0,2");
  CHECK_THAT(store_error([&] { store->add_task(array, 1, at(1)); }), Contains("does not wait any more"));
  QueueFacts facts;
  facts.priority = 7;
  facts.array_tasks = "1-2";
  store->change(array, facts, at(2), "", "");
  CHECK(left() == "0,2");
  CHECK(store->unstarted(array).contains(2));
  CHECK_FALSE(store->unstarted(array).contains(1));
  start_task(*store, array, 0);
  start_task(*store, array, 2);
  CHECK(left().empty());
  CHECK_FALSE(store->unstarted(array).contains(2));
  CHECK_THAT(store_error([&] { store->add_task(array, 2, at(3)); }), Contains("does not wait any more"));
  CHECK(store->array_tasks(array).size() == 3);
}

TEST_CASE("an array has started when each of its tasks has, or ended before") {
  const auto store = QueueStore::open(":memory:");
  const JobId array = submit_array(*store, "0-1");
  CHECK_FALSE(store->has_started(array));
  const JobId first = start_task(*store, array, 0);
  CHECK_FALSE(store->has_started(array));
  start_task(*store, array, 1);
  CHECK(store->has_started(array));
  store->finish(first, 1, ended(JobState::failed, Cause::exited, 1), {}, at(4));
  CHECK(store->has_started(array));
  store->requeue(first, {}, at(5), "");
  CHECK(store->has_started(array));  // though that waits to run again
  CHECK(store->has_started(first));

  const JobId other = submit_array(*store, "0-1");
  const JobId lost = store->add_task(other, 0, at(6));
  start_task(*store, other, 1);
  CHECK_FALSE(store->has_started(other));
  store->configure(lost, 1, sample_allocation(), at(6));
  CHECK_FALSE(store->has_started(other));
  store->finish(lost, 1, ended(JobState::node_fail, Cause::node_fail), {}, at(7));
  CHECK(store->has_started(other));
  store->requeue(lost, {}, at(8), "");
  CHECK_FALSE(store->has_started(other));
  CHECK_FALSE(store->has_started(lost));
}

TEST_CASE("a listing has the time limits of jobs that run, also of those with long specs") {
  const auto store = QueueStore::open(":memory:");
  NewJob job = sample_job();
  job.spec.time_limit = std::chrono::milliseconds(90'500);
  NewJob large = sample_job();
  large.spec.time_limit = std::chrono::hours(50);
  large.spec.comment = std::string(5'000, 'x');
  NewJob unlimited = sample_job();
  unlimited.spec.time_limit.reset();
  const auto ids = store->submit({job, large, unlimited}, sample_supervisor());
  using TimeLimits = std::vector<std::optional<Milliseconds>>;
  const auto limits = [&] {
    TimeLimits found;
    SummaryFilter all;
    all.states = {JobState::pending, JobState::configuring, JobState::running, JobState::completed};
    for (const JobSummary& one : store->summaries(all)) {
      found.push_back(one.time_limit);
    }
    return found;
  };
  CHECK(limits() == TimeLimits(3));
  for (const JobId id : ids) {
    store->configure(id, 1, {"cpu0", CpuSet{0}, CpuSet{0}, 1 << 20}, at(0));
  }
  CHECK(limits() == TimeLimits(3));
  for (const JobId id : ids) {
    store->run(id, 1, at(1));
  }
  CHECK(limits() == TimeLimits{job.spec.time_limit, large.spec.time_limit, std::nullopt});
  REQUIRE(store->finish(ids.at(0), 1, completed(), {}, at(2)));
  CHECK(limits() == TimeLimits{std::nullopt, large.spec.time_limit, std::nullopt});
}

TEST_CASE("an array is listed while tasks of it have no rows of their own") {
  const auto store = QueueStore::open(":memory:");
  const JobId array = submit_array(*store, "0-1");
  const auto listed = [&] {
    std::vector<JobId> jobs;
    for (const JobSummary& job : store->summaries({})) {
      jobs.push_back(job.job_id);
    }
    return jobs;
  };
  CHECK(listed() == std::vector<JobId>{array});
  const JobId first = start_task(*store, array, 0);
  CHECK(listed() == std::vector<JobId>{array, first});
  const JobId second = start_task(*store, array, 1);
  CHECK(listed() == std::vector<JobId>{first, second});
}

TEST_CASE("an array whose tasks never start ends, as it was told, with the last of those that run") {
  const auto store = QueueStore::open(":memory:");
  const JobId array = submit_array(*store, "0-9");
  const JobId task = start_task(*store, array, 0);
  CHECK_FALSE(store->close_array(task, completed(), at(4)));
  CHECK_FALSE(store->closing(array));
  const Outcome outcome = never_ran(JobState::deadline, Cause::cancelled);
  REQUIRE(store->close_array(array, outcome, at(4)));
  CHECK_FALSE(store->settle_array(array, at(4)));
  CHECK(store->find(array).at(0).state == JobState::pending);
  CHECK(store->closing(array) == outcome);
  store->finish(task, 1, completed(), {}, at(5));
  REQUIRE(store->settle_array(array, at(5)) == JobState::deadline);
  AccountingRecord record = store->find(array).at(0);
  CHECK(record.state == JobState::deadline);
  CHECK(record.end == at(5));
  CHECK(record.outcome == outcome);
  CHECK_FALSE(store->settle_array(array, at(6)));
  store->requeue(task, {}, at(6), "");
  record = store->find(array).at(0);
  CHECK(record.state == JobState::pending);
  CHECK_FALSE(record.end);
  CHECK(replay(store->events(array)) == JobState::pending);
  store->configure(task, 2, sample_allocation(), at(7));
  store->run(task, 2, at(7));
  store->finish(task, 2, completed(), {}, at(8));
  CHECK(store->settle_array(array, at(8)) == JobState::deadline);
  CHECK(store->find(array).at(0).end == at(8));
}

TEST_CASE("an array all of whose tasks started is what they are, and cancelled when it was") {
  const auto store = QueueStore::open(":memory:");
  const JobId array = submit_array(*store, "0");
  const JobId task = start_task(*store, array, 0);
  store->note_cancel(array, 0, at(4), R"({"a_reason":"x","action":"cancel","by":"ada"})");
  store->finish(task, 1, ended(JobState::cancelled, Cause::cancelled), {}, at(5));
  CHECK(store->settle_array(array, at(5)) == JobState::cancelled);
  const auto run_again = [&](unsigned attempt, const Outcome& outcome) {
    store->requeue(task, {}, at(6), "");
    store->configure(task, attempt, sample_allocation(), at(7));
    store->finish(task, attempt, outcome, {}, at(8));
    return store->settle_array(array, at(8));
  };
  CHECK(run_again(2, ended(JobState::node_fail, Cause::node_fail)) == JobState::failed);
  CHECK(run_again(3, ended(JobState::failed, Cause::launch_failed)) == JobState::failed);
  CHECK(replay(store->events(array)) == JobState::failed);
}

TEST_CASE("room of forgotten jobs goes back to the file system, but for some that is kept") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berthd.db");
  const auto store = QueueStore::open(path);
  NewJob job = sample_job();
  job.spec.comment = std::string(20'000, 'x');
  store->together([&] {
    for (int index = 0; index < 500; ++index) {
      job.spec.comment.replace(0, 3, std::to_string(100 + index));  // a text of its own
      run_to_end(*store, job, 1, 2);
    }
  });
  CHECK(store->give_back_pages(100) == 0);
  CHECK(store->forget_ended({at(1000), std::nullopt, {}}, 1000) == 500);
  std::size_t given = 0;
  while (const std::size_t pages = store->give_back_pages(100)) {
    CHECK(pages <= 102);  // with those that described them (ptrmap)
    given += pages;
  }
  CHECK(given > 500);
  CHECK(store->check_integrity().empty());
}

TEST_CASE(
    "start and end of an attempt that are recorded at once give the same record as one after the other") {
  const auto store = QueueStore::open(":memory:");
  const JobId apart = submit_one(*store);
  const JobId at_once = submit_one(*store);
  Usage usage;
  usage.memory_peak = 4096;
  for (const JobId job : {apart, at_once}) {
    store->configure(job, 1, sample_allocation(), at(1));
  }
  store->run(apart, 1, at(2), "{}");
  CHECK(store->finish(apart, 1, completed(), usage, at(3)));
  CHECK(store->run_and_finish(at_once, 1, {at(2), "{}"}, completed(), usage, at(3), Sync::now));

  AccountingRecord expected = store->find(apart).at(0);
  expected.job_id = at_once;
  CHECK(to_json_text(store->find(at_once).at(0)) == to_json_text(expected));
  CHECK(store->find(at_once).at(0).start == at(2));
  const std::vector<JobEvent> events = store->events(at_once);
  REQUIRE(events.size() == 4);
  CHECK(events[2].state == JobState::running);
  CHECK(events[2].at == at(2));
  CHECK(replay(events) == JobState::completed);
  CHECK_FALSE(
      store->run_and_finish(at_once, 1, {at(2), "{}"}, completed(), usage, at(4), Sync::now));  // told twice
  CHECK(store->events(at_once).size() == 4);
}

TEST_CASE("an end that is rehearsed changes nothing and is recorded later") {
  const auto store = JobStore::open(":memory:");
  const JobId job = submit_one(*store);
  store->configure(job, 1, sample_allocation(), at(1));
  const std::string before = to_json_text(store->find(job).at(0));
  store->rehearse_end(job, 1);
  CHECK(to_json_text(store->find(job).at(0)) == before);
  CHECK(store->events(job).size() == 2);
  CHECK_THROWS_AS(store->rehearse_end(job, 2), StoreError);
  CHECK(store->run_and_finish(job, 1, {at(2), "{}"}, completed(), {}, at(3), Sync::now));
  CHECK(store->events(job).size() == 4);
  CHECK(store->find(job).at(0).state == JobState::completed);
}

TEST_CASE("a record that is not to be on the disk yet is in the database, and sync puts it on the disk") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  const auto store = JobStore::open(path);
  const JobId job = submit_one(*store);
  store->configure(job, 1, sample_allocation(), at(1));
  CHECK(store->run_and_finish(job, 1, {at(2), "{}"}, completed(), {}, at(3), Sync::later));
  CHECK(JobStore::open_existing(path)->find(job).at(0).state == JobState::completed);
  store->sync();
  std::filesystem::remove(path + "-wal");
  CHECK_THAT(store_error([&] { store->sync(); }), Contains(path + "-wal"));
  JobStore::open(":memory:")->sync();
}

TEST_CASE("a start that is recorded already is not recorded again with the end") {
  const auto store = QueueStore::open(":memory:");
  const JobId job = submit_one(*store);
  store->configure(job, 1, sample_allocation(), at(1));
  CHECK_THROWS_AS(store->run_and_finish(job, 2, {at(2), "{}"}, completed(), {}, at(3), Sync::now),
                  StoreError);
  store->run(job, 1, at(2), "{}");
  CHECK(store->run_and_finish(job, 1, {at(7), "{}"}, completed(), {}, at(8), Sync::now));
  CHECK(store->find(job).at(0).start == at(2));
  CHECK(store->events(job).size() == 4);
}

TEST_CASE("each of many jobs that are submitted together has its own number, event and place in the queue") {
  const auto store = QueueStore::open(":memory:");
  std::vector<NewJob> jobs;
  for (int index = 0; index < 100; ++index) {
    NewJob& job = jobs.emplace_back(sample_job("job" + std::to_string(index)));
    if (index % 10 != 3) {
      job.queue.emplace().priority = index;
    }
  }
  const std::vector<JobId> ids = store->submit(jobs, sample_supervisor());
  REQUIRE(ids.size() == jobs.size());
  std::map<JobId, std::int64_t> waiting;
  store->visit_queue([&](WaitingJob&& job) { waiting[job.job_id] = job.facts.priority; });
  CHECK(waiting.size() == 90);
  for (std::size_t index = 0; index < ids.size(); ++index) {
    CHECK(store->find_stored(ids[index])->name == jobs[index].spec.name);
    const std::vector<JobEvent> events = store->events(ids[index]);
    REQUIRE(events.size() == 1);
    CHECK(events[0].state == JobState::pending);
    CHECK(events[0].at == jobs[index].submit);
    CHECK(events[0].detail == R"({"user":"ada","name":"job)" + std::to_string(index) + "\"}");
    CHECK(waiting.contains(ids[index]) == jobs[index].queue.has_value());
    CHECK((!jobs[index].queue || waiting[ids[index]] == static_cast<std::int64_t>(index)));
  }
}

TEST_CASE("within one transaction a write that throws undoes itself alone, or all") {
  const auto store = QueueStore::open(":memory:");
  JobId job = 0;
  store->together([&] {
    job = submit_one(*store);
    CHECK_THROWS_AS(store->run(job, 1, at(1)), StoreError);  // it waits
  });
  CHECK(store->find_stored(job));
  JobId undone = 0;
  const auto fail = [&] {
    undone = submit_one(*store);
    store->run(undone, 1, at(1));
  };
  CHECK_THROWS_AS(store->as_one(fail), StoreError);
  CHECK_FALSE(store->find_stored(undone));
  CHECK(submit_one(*store) == undone);  // and the next transaction is whole
}

}  // namespace berth
