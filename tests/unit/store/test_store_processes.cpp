// Several real processes on one database, and processes that die in the middle of writing to it.
#include <SQLiteCpp/Transaction.h>
#include <fcntl.h>
#include <signal.h>

#include <array>
#include <chrono>
#include <thread>
#include <vector>

#include "store/database.h"
#include "store/queue_store.h"
#include "tests/unit/store/store_fixtures.h"

namespace berth {
namespace {

JobId run_one_job(JobStore& store, const std::string& name) {
  const JobId id = store.submit({sample_job(name)}, sample_supervisor(::getpid())).at(0);
  store.configure(id, 1, sample_allocation(), at(1));
  store.run(id, 1, at(2));
  store.finish(id, 1, completed(), {}, at(3));
  return id;
}

/// Reads one id that a process acknowledged; false when the process is gone.
bool read_id(int descriptor, JobId& id) {
  return ::read(descriptor, &id, sizeof id) == ssize_t{sizeof id};
}

void write_id(int descriptor, JobId id) {
  if (::write(descriptor, &id, sizeof id) != ssize_t{sizeof id}) {
    ::_exit(2);
  }
}

}  // namespace

TEST_CASE("processes that create and write one database at once lose nothing") {
  constexpr int kProcesses = 4;
  constexpr int kJobs = 25;
  const TemporaryFolder folder;
  // A new file is renamed into place, an empty one that somebody made is filled in place.
  const bool made_by_others = GENERATE(false, true);
  const std::string path = folder.file(made_by_others ? "berth.db" : "new/berth.db");
  if (made_by_others) {
    write_file(path, "");
  }
  std::vector<pid_t> processes;
  processes.reserve(kProcesses);
  for (int process = 0; process < kProcesses; ++process) {
    processes.push_back(start_process([&] {
      const auto store = JobStore::open(path);
      for (int job = 0; job < kJobs; ++job) {
        run_one_job(*store, "p" + std::to_string(process));
      }
    }));
  }
  for (const pid_t process : processes) {
    CHECK(wait_status(process) == 0);
  }
  const auto store = JobStore::open_existing(path);
  REQUIRE(store);
  HistoryFilter done;
  done.states = {JobState::completed};
  CHECK(store->history(done).size() == std::size_t{kProcesses} * kJobs);
  for (int process = 0; process < kProcesses; ++process) {
    HistoryFilter own;
    own.names = {"p" + std::to_string(process)};
    CHECK(store->history(own).size() == kJobs);
  }
  CHECK(store->open_attempts().empty());
  CHECK(store->check_integrity().empty());
}

TEST_CASE("kill -9 at any moment loses no acknowledged job and damages nothing") {
  constexpr int kRounds = 8;
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  std::vector<JobId> acknowledged;
  for (int round = 0; round < kRounds; ++round) {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    const pid_t writer = start_process([&] {
      ::close(ends[0]);
      const auto store = JobStore::open(path);
      for (;;) {
        write_id(ends[1], run_one_job(*store, "endless"));
      }
    });
    ::close(ends[1]);
    JobId id = 0;
    for (int job = 0; job <= round; ++job) {
      REQUIRE(read_id(ends[0], id));
      acknowledged.push_back(id);
    }
    REQUIRE(::kill(writer, SIGKILL) == 0);
    while (read_id(ends[0], id)) {
      acknowledged.push_back(id);
    }
    ::close(ends[0]);
    CHECK(WTERMSIG(wait_status(writer)) == SIGKILL);

    const auto store = JobStore::open(path);
    CHECK(store->check_integrity().empty());
    for (const JobId job : acknowledged) {
      const std::vector<AccountingRecord> records = store->find(job);
      REQUIRE(records.size() == 1);
      REQUIRE(records[0].state == JobState::completed);
      REQUIRE(replay(store->events(job)) == JobState::completed);
    }
    // At most one job was under way, and it can be recorded like any orphan.
    const std::vector<OpenAttempt> open = store->open_attempts();
    CHECK(open.size() <= 1);
    for (const OpenAttempt& orphan : open) {
      CHECK(store->finish(orphan.job_id, orphan.attempt, ended(JobState::node_fail, Cause::node_fail), {},
                          at(9)));
    }
  }
}

TEST_CASE("a writer killed inside a transaction leaves nothing of it and no lock") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  JobStore::open(path);
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  const pid_t writer = start_process([&] {
    const auto database = Database::open(path, Database::Missing::refuse);
    database->write([&] {
      const int rows =
          database
              ->query("INSERT INTO supervisors (boot_id, pid, start_time, cgroup) VALUES ('b', 1, 1, 'c')")
              .execute();
      write_id(ends[1], 1);
      for (;;) {
        ::pause();
      }
      return rows;
    });
  });
  JobId inside = 0;
  REQUIRE(read_id(ends[0], inside));
  REQUIRE(::kill(writer, SIGKILL) == 0);
  CHECK(WTERMSIG(wait_status(writer)) == SIGKILL);
  ::close(ends[0]);
  ::close(ends[1]);
  const auto database = Database::open(path, Database::Missing::refuse);
  CHECK(database->check_integrity().empty());
  CHECK_FALSE(database->query("SELECT 1 FROM supervisors").step());
  CHECK(JobStore::open(path)->submit({sample_job()}, sample_supervisor()).size() == 1);
}

TEST_CASE("a process killed before the first migration leaves a file that the next one completes") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  const pid_t writer = start_process([&] {
    write_file(path, "");
    ::raise(SIGKILL);
  });
  CHECK(WTERMSIG(wait_status(writer)) == SIGKILL);
  CHECK(JobStore::open(path)->submit({sample_job()}, sample_supervisor()).size() == 1);
}

TEST_CASE("a store that another connection of this process closes keeps its locks") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  // Forked before this process has a connection: SQLite's would not survive the fork.
  const pid_t rival = start_process([&] {
    JobId go = 0;
    read_id(ends[0], go);
    SQLite::Database connection(path, SQLite::OPEN_READWRITE);
    try {
      SQLite::Transaction transaction(connection, SQLite::TransactionBehavior::IMMEDIATE);
    } catch (const SQLite::Exception&) {
      return;
    }
    throw StoreError("the lock was free");
  });
  const auto holder = Database::open(path, Database::Missing::create);
  holder->write([&] {
    JobStore::open_existing(path);  // opened and closed again, which must not release the write lock
    JobStore::open(path);
    write_id(ends[1], 1);
    CHECK(wait_status(rival) == 0);
    return 0;
  });
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST_CASE("a report tells of jobs and their attempts at one moment, also while jobs end") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  JobStore::open(path);
  const pid_t writer = start_process([&] {
    const auto store = JobStore::open(path);
    for (int index = 0; index < 400; ++index) {
      const JobId job = store->submit({sample_job(std::to_string(index))}, sample_supervisor()).at(0);
      store->configure(job, 1, sample_allocation(), at(0));
      store->run_and_finish(job, 1, {at(1), ""}, completed(), {}, at(2), Sync::later);
    }
  });
  const auto store = QueueStore::open_existing(path);
  ReportFilter filter;
  filter.key = ReportKey::name;
  std::size_t torn = 0;
  int status = -1;
  while (::waitpid(writer, &status, WNOHANG) == 0) {
    for (const ReportRow& row : store->report(filter)) {
      torn += row.jobs != row.attempts ? 1 : 0;
    }
  }
  CHECK(status == 0);
  CHECK(torn == 0);
}

TEST_CASE("a process that waited for another one's migration finds it done") {
  constexpr std::array kFirst{Migration{1, "CREATE TABLE notes (text TEXT NOT NULL) STRICT;"}};
  constexpr std::array kSecond{kFirst[0], Migration{2, "ALTER TABLE notes ADD COLUMN stars INTEGER;"}};
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  Database::open(path, Database::Missing::create, kFirst);
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  const pid_t waiting = start_process([&] {
    JobId go = 0;
    read_id(ends[0], go);
    if (Database::open(path, Database::Missing::refuse, kSecond)->version() != 2) {
      throw StoreError("not migrated");
    }
  });
  {
    SQLite::Database migrating(path, SQLite::OPEN_READWRITE);
    SQLite::Transaction transaction(migrating, SQLite::TransactionBehavior::IMMEDIATE);
    write_id(ends[1], 1);
    // Long enough for the other one to see version 1 and wait; the result is the same if it is slower.
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    migrating.exec("ALTER TABLE notes ADD COLUMN stars INTEGER; PRAGMA user_version = 2");
    transaction.commit();
  }
  CHECK(wait_status(waiting) == 0);
  ::close(ends[0]);
  ::close(ends[1]);
}

}  // namespace berth
