#include "store/backup.h"

#include <SQLiteCpp/Database.h>

#include <fstream>

#include "store/database.h"
#include "store/queue_store.h"
#include "tests/unit/store/store_fixtures.h"

namespace berth {
namespace {

using Catch::Matchers::Contains;
namespace fs = std::filesystem;

const auto kNeverStopped = [] { return false; };
constexpr Timestamp kNow{std::chrono::hours(500'000)};

std::vector<JobId> submit(const std::string& path, std::size_t jobs) {
  return JobStore::open(path)->submit(std::vector<NewJob>(jobs, sample_job()), sample_supervisor());
}

/// Everything into the file itself, then every page of it but the first overwritten.
void damage(const std::string& path) {
  SQLite::Database(path, SQLite::OPEN_READWRITE).exec("PRAGMA journal_mode = DELETE");
  const auto size = fs::file_size(path);
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(4096);
  file << std::string(size - 4096, '\xff');
}

std::size_t jobs_in(const std::string& path) {
  return JobStore::open_existing(path)->history({}).size();
}

StoreError::Kind kind_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const StoreError& error) {
    return error.kind();
  }
  FAIL("it throws no StoreError");
  return StoreError::Kind::refused;
}

}  // namespace

TEST_CASE("a copy holds what the database held, beside a connection that goes on writing") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  const auto store = JobStore::open(path);
  store->submit({sample_job(), sample_job()}, sample_supervisor());
  REQUIRE(write_backup(path, folder.file("copy"), kNeverStopped));
  store->submit({sample_job()}, sample_supervisor());
  CHECK(jobs_in(folder.file("copy")) == 2);
  CHECK(mode_of(folder.file("copy")) == 0600);
  REQUIRE(write_backup(path, folder.file("copy"), kNeverStopped));
  CHECK(jobs_in(folder.file("copy")) == 3);
  CHECK_FALSE(fs::exists(folder.file("copy.new")));
}

TEST_CASE("a copy that is stopped leaves the one before it") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  submit(path, 1);
  REQUIRE(write_backup(path, folder.file("copy"), kNeverStopped));
  submit(path, 20'000);
  CHECK_FALSE(write_backup(path, folder.file("copy"), [] { return true; }));
  CHECK(jobs_in(folder.file("copy")) == 1);
  CHECK_FALSE(fs::exists(folder.file("copy.new")));
}

TEST_CASE("a damaged database is found, not copied, and restored with new numbers") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  const std::string copy = path + ".backup";
  const JobId first = submit(path, 1).front();
  REQUIRE(write_backup(path, copy, kNeverStopped));
  const JobId lost = submit(path, 3).back();
  CHECK(check_quickly(path).empty());
  damage(path);
  CHECK_FALSE(check_quickly(path).empty());
  CHECK(kind_of([&] { write_backup(path, copy, kNeverStopped); }) == StoreError::Kind::damaged);
  CHECK(jobs_in(copy) == 1);

  const std::string kept = restore_backup(path, copy, kNow);
  CHECK(check_quickly(path).empty());
  CHECK_FALSE(check_quickly(kept).empty());
  CHECK(mode_of(path) == 0600);
  CHECK(jobs_in(path) == 1);
  CHECK(JobStore::open(path)->check_integrity().empty());
  const JobId next = submit(path, 1).front();
  CHECK(next > lost);
  CHECK(next > first + 1000);  // what was given is not told any more
}

TEST_CASE("a database without one of its tables or indexes is neither sound nor copied nor restored") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  submit(path, 1);
  CHECK(missing_parts(path).empty());
  REQUIRE(write_backup(path, folder.file("copy"), kNeverStopped));
  REQUIRE(write_backup(path, folder.file("poor"), kNeverStopped));
  for (const std::string& file : {path, folder.file("poor")}) {
    SQLite::Database(file, SQLite::OPEN_READWRITE).exec("DROP TABLE usage; DROP INDEX jobs_by_end");
  }
  CHECK(missing_parts(path) == "index jobs_by_end, table usage");
  CHECK(kind_of([&] { write_backup(path, folder.file("copy"), kNeverStopped); }) ==
        StoreError::Kind::damaged);
  CHECK_FALSE(fs::exists(folder.file("copy.new")));
  CHECK_THROWS_WITH(restore_backup(path, folder.file("poor"), kNow), Contains("table usage"));
  restore_backup(path, folder.file("copy"), kNow);
  CHECK(missing_parts(path).empty());
}

TEST_CASE("numbers that the damaged file still tells are not given again, and no more are left out") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  submit(path, 1);
  REQUIRE(write_backup(path, folder.file("copy"), kNeverStopped));
  const JobId last = submit(path, 3).back();
  restore_backup(path, folder.file("copy"), kNow);
  CHECK(submit(path, 1).front() == last + 1);
}

TEST_CASE("what cannot take its place leaves the database as it is") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  submit(path, 2);
  std::ofstream(folder.file("text")) << "no database at all";
  CHECK_THROWS_AS(restore_backup(path, folder.file("text"), kNow), StoreError);
  CHECK_THROWS_AS(restore_backup(path, folder.file("nothing"), kNow), StoreError);
  SQLite::Database(folder.file("other"), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE)
      .exec("CREATE TABLE theirs (x)");
  CHECK_THROWS_AS(restore_backup(path, folder.file("other"), kNow), StoreError);
  REQUIRE(write_backup(path, folder.file("copy"), kNeverStopped));
  damage(folder.file("copy"));
  CHECK_THROWS_WITH(restore_backup(path, folder.file("copy"), kNow), Contains("copy"));
  CHECK(jobs_in(path) == 2);
}

TEST_CASE("a copy of an older version takes the place of a missing database and leaves nothing beside it") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  Database::open(path, Database::Missing::create, migrations().first(migrations().size() - 1));
  SQLite::Database(path, SQLite::OPEN_READWRITE).exec("PRAGMA journal_mode = DELETE");
  fs::rename(path, folder.file("copy"));
  fs::permissions(folder.file("copy"), fs::perms::others_read, fs::perm_options::add);
  CHECK(restore_backup(path, folder.file("copy"), kNow).empty());
  CHECK(mode_of(path) == 0600);
  CHECK(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()) == 2);
  CHECK(jobs_in(path) == 0);
}

TEST_CASE("a database that cannot be kept stays, with nothing beside it") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  submit(path, 1);
  REQUIRE(write_backup(path, folder.file("copy"), kNeverStopped));
  const std::string kept =
      path + ".damaged-" +
      std::to_string(std::chrono::floor<std::chrono::seconds>(kNow).time_since_epoch().count());
  write_file(kept + "-wal", "of another time");
  CHECK_THROWS_WITH(restore_backup(path, folder.file("copy"), kNow), Contains(kept + "-wal"));
  CHECK_FALSE(fs::exists(kept));
  CHECK_FALSE(fs::exists(path + ".restored"));
  CHECK(read_file(kept + "-wal") == "of another time");
  CHECK(jobs_in(path) == 1);
}

TEST_CASE("an attempt that was about to start when the copy was made has started") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  const JobId job = submit(path, 1).front();
  JobStore::open(path)->configure(job, 1, sample_allocation(), kNow);
  REQUIRE(write_backup(path, folder.file("copy"), kNeverStopped));
  restore_backup(path, folder.file("copy"), kNow);
  const auto store = JobStore::open(path);
  REQUIRE(store->open_attempts().size() == 1);
  CHECK(store->open_attempts().front().state == JobState::running);
  CHECK(replay(store->events(job)) == JobState::running);
}

TEST_CASE("a copy replaces nothing but a copy, and leaves nothing beside it") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  submit(path, 1);
  std::ofstream(folder.file("text")) << std::string(200, 'x');
  SQLite::Database(folder.file("other"), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE)
      .exec("CREATE TABLE theirs (x)");
  fs::create_directory(folder.file("folder"));
  fs::create_symlink(path, folder.file("link"));
  for (const char* name : {"text", "other", "folder", "link", "berth.db"}) {
    INFO(name);
    const std::string target = folder.file(name);
    CHECK_THROWS_WITH(write_backup(path, target, kNeverStopped), Contains(target + ": is"));
    CHECK_FALSE(fs::exists(target + ".new"));
  }
  CHECK(fs::file_size(folder.file("text")) == 200);
  CHECK(fs::is_symlink(folder.file("link")));
  CHECK(jobs_in(path) == 1);
  CHECK(find_backups(path, folder.file("text")).empty());
}

TEST_CASE("the newest copy comes first, whichever kind it is") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  CHECK(find_backups(path, path + ".backup").empty());
  submit(path, 1);
  REQUIRE(write_backup(path, path + ".v3.backup", kNeverStopped));
  REQUIRE(write_backup(path, path + ".backup", kNeverStopped));
  std::ofstream(path + ".v4.backup").flush();  // empty: of one that was never finished
  CHECK(find_backups(path, path + ".backup").front().path == path + ".backup");
  fs::last_write_time(path + ".v3.backup", fs::file_time_type::clock::now() + std::chrono::hours(1));
  const std::vector<BackupFile> found = find_backups(path, path + ".backup");
  REQUIRE(found.size() == 2);
  CHECK(found.front().path == path + ".v3.backup");
}

TEST_CASE("whoever looks into a copy changes nothing of it") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  Database::open(path, Database::Missing::create, migrations().first(migrations().size() - 1));
  submit(path, 2);
  const std::string old = migration_backup(path, static_cast<int>(migrations().size()) - 1);
  REQUIRE(write_backup(path, path + ".backup", kNeverStopped));
  const auto hour_ago = fs::file_time_type::clock::now() - std::chrono::hours(1);
  fs::last_write_time(old, hour_ago - std::chrono::hours(1));
  fs::last_write_time(path + ".backup", hour_ago);
  const std::string old_bytes = read_file(old);
  const std::string bytes = read_file(path + ".backup");
  const auto files = [&] {
    return std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator());
  };
  const auto count = files();

  CHECK(jobs_in(path + ".backup") == 2);
  CHECK_THAT(store_error([&] { jobs_in(old); }),
             Contains("copy it to a file whose name does not end in .backup"));
  CHECK(files() == count);
  CHECK(read_file(old) == old_bytes);
  CHECK(read_file(path + ".backup") == bytes);
  CHECK(fs::last_write_time(path + ".backup") == hour_ago);

  fs::copy_file(old, folder.file("looked-at"));
  CHECK(jobs_in(folder.file("looked-at")) == 0);
  fs::copy_file(old, migration_backup(old, 1));  // of a berth that did migrate copies
  const std::vector<BackupFile> found = find_backups(path, path + ".backup");
  REQUIRE(found.size() == 2);
  CHECK(found.front().path == path + ".backup");
  CHECK(found.back().path == old);
}

}  // namespace berth
