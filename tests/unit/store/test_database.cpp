#include "store/database.h"

#include <array>
#include <cstdint>
#include <filesystem>
#include <iterator>

#include "store/store_files.h"
#include "tests/unit/store/store_fixtures.h"

namespace berth {
namespace {

using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;
using Missing = Database::Missing;

constexpr std::array kFirstVersion{Migration{1, "CREATE TABLE notes (text TEXT NOT NULL) STRICT;"}};
constexpr std::array kSecondVersion{
    kFirstVersion[0],
    Migration{2, "ALTER TABLE notes ADD COLUMN stars INTEGER; UPDATE notes SET stars = 5;"},
};
constexpr std::array kBrokenSecondVersion{
    kFirstVersion[0],
    Migration{2, "UPDATE notes SET text = 'lost'; ALTER TABLE nowhere ADD COLUMN stars INTEGER;"},
};

std::string first_note(Database& database) {
  return database.read([&] {
    Query query = database.query("SELECT text FROM notes");
    return query.step() ? query.text(0) : "";
  });
}

/// A file of schema version 1 with one row in it.
void make_first_version(const std::string& path) {
  const auto database = Database::open(path, Missing::create, kFirstVersion);
  database->write([&] { return database->query("INSERT INTO notes VALUES ('kept')").execute(); });
}

}  // namespace

TEST_CASE("what keeps a database from being probed is not said to be its disk") {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder.file("state"));
  const auto database = Database::open(folder.file("state/jobs.db"), Missing::create, kFirstVersion);
  std::filesystem::rename(folder.file("state"), folder.file("away"));
  std::string message;
  try {
    database->probe();
  } catch (const StoreError& error) {
    message = error.what();
  }
  std::filesystem::rename(folder.file("away"), folder.file("state"));
  CHECK_THAT(message, Contains("cannot create a file") && Contains("No such file or directory"));
  database->probe();
}

TEST_CASE("a new database and its folders belong to their user alone") {
  const TemporaryFolder folder;
  const std::string path = folder.file("state/berth/berth.db");
  const mode_t before = ::umask(0);
  const auto store = JobStore::open(path);
  ::umask(before);
  store->submit({sample_job()}, sample_supervisor());
  CHECK(mode_of(folder.file("state")) == 0700);
  CHECK(mode_of(folder.file("state/berth")) == 0700);
  CHECK(mode_of(path) == 0600);
  CHECK(mode_of(path + "-wal") == 0600);
  CHECK(mode_of(path + "-shm") == 0600);
}

TEST_CASE("a symbolic link to what is not there yet is where the database is made") {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder.file("disk"));
  std::filesystem::create_symlink("disk/second", folder.file("berth.db"));
  std::filesystem::create_symlink(folder.file("disk/berth.db"), folder.file("disk/second"));
  JobStore::open(folder.file("berth.db"))->submit({sample_job()}, sample_supervisor());
  CHECK(std::filesystem::is_symlink(folder.file("berth.db")));
  CHECK(std::filesystem::is_regular_file(folder.file("disk/berth.db")));
  CHECK(JobStore::open_existing(folder.file("berth.db"))->history({}).size() == 1);
}

TEST_CASE("a new database is whole when it gets its name, without a lock on its file") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  CHECK(create_at_once(path, "whole"));
  CHECK(create_at_once(path, "too late"));
  CHECK(read_file(path) == "whole");
  CHECK(mode_of(path) == 0600);
  CHECK_FALSE(create_at_once("/proc/self/berth.db", "no files without a name there"));
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);
}

TEST_CASE("a new database takes nothing from the log or journal of one that is gone") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  {
    const auto store = JobStore::open(path);
    for (int index = 0; index < 200; ++index) {
      store->submit({sample_job()}, sample_supervisor());
    }
  }
  std::string left = path + "-wal";
  SECTION("a log") {}
  SECTION("a journal") {
    left = path + "-journal";
    const pid_t killed = start_process([&] {
      SQLite::Database connection(path, SQLite::OPEN_READWRITE);
      connection.exec("PRAGMA journal_mode = DELETE; PRAGMA cache_size = 5; BEGIN; DELETE FROM jobs");
      ::_exit(0);
    });
    REQUIRE(wait_status(killed) == 0);
  }
  REQUIRE(std::filesystem::file_size(left) > 0);
  std::filesystem::remove(path);
  const auto database = Database::open(path, Missing::create);
  CHECK(database->check_integrity().empty());
  CHECK_FALSE(database->query("SELECT 1 FROM jobs").step());
  Query vacuum = database->query("PRAGMA auto_vacuum");
  REQUIRE(vacuum.step());
  CHECK(vacuum.integer(0) == 2);  // INCREMENTAL, also where it is made in place
}

TEST_CASE("open_existing creates nothing") {
  const TemporaryFolder folder;
  CHECK(JobStore::open_existing(folder.file("none/berth.db")) == nullptr);
  CHECK(JobStore::open_existing(folder.file("berth.db")) == nullptr);
  CHECK(std::filesystem::is_empty(folder.path()));
  write_file(folder.file("empty.backup"), "");
  CHECK_THAT(store_error([&] { JobStore::open_existing(folder.file("empty.backup")); }),
             Contains("is a copy"));
  CHECK(std::filesystem::is_empty(folder.file("empty.backup")));
}

TEST_CASE("a new database carries berth's application id, the newest version and a write-ahead log") {
  const TemporaryFolder folder;
  const auto database = Database::open(folder.file("berth.db"), Missing::create);
  CHECK(database->version() == static_cast<int>(migrations().size()));
  const auto pragma = [&](const std::string& name) { return database->prepare("PRAGMA " + name); };
  const auto value = [&](const std::string& name) {
    SQLite::Statement statement = pragma(name);
    statement.executeStep();
    return statement.getColumn(0).getString();
  };
  CHECK(value("application_id") == std::to_string(0x62727468));
  CHECK(value("journal_mode") == "wal");
  CHECK(value("synchronous") == "2");  // FULL
  CHECK(value("foreign_keys") == "1");
}

TEST_CASE("migrations are numbered from 1 without gaps") {
  int expected = 0;
  for (const Migration& step : migrations()) {
    CHECK(step.version == ++expected);
    CHECK_THAT(std::string(step.sql), !Contains("-- "));
  }
  CHECK(expected >= 1);
}

TEST_CASE("docs/accounting.md names every table and column") {
  const std::string page = read_file(BERTH_SOURCE_DIR "/docs/accounting.md");
  const auto database = Database::open(":memory:", Missing::create);
  SQLite::Statement columns = database->prepare(
      "SELECT t.name, c.name FROM sqlite_schema t, pragma_table_info(t.name) c "
      "WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'");
  int found = 0;
  while (columns.executeStep()) {
    CHECK_THAT(page, Contains("**" + columns.getColumn(0).getString() + "**"));
    CHECK_THAT(page, Contains("`" + columns.getColumn(1).getString() + "`"));
    ++found;
  }
  CHECK(found > 70);
}

TEST_CASE("an older database is backed up and migrated, and keeps its rows") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  make_first_version(path);
  {
    const auto database = Database::open(path, Missing::refuse, kSecondVersion);
    CHECK(database->version() == 2);
    CHECK(first_note(*database) == "kept");
    CHECK(database->query("SELECT stars FROM notes").step());
  }
  CHECK(mode_of(path + ".v1.backup") == 0600);
  CHECK_FALSE(std::filesystem::exists(path + ".v1.backup.new"));
  const auto backup = Database::open(path + ".v1.backup", Missing::refuse, kFirstVersion);
  CHECK(backup->version() == 1);
  CHECK(first_note(*backup) == "kept");
  CHECK(backup->check_integrity().empty());
}

TEST_CASE("a task of an array is found by its number, not among all of them") {
  const auto database = Database::open(":memory:", Missing::create);
  Query plan =
      database->query("EXPLAIN QUERY PLAN SELECT id FROM jobs WHERE array_job_id = ? AND array_task_id = ?");
  REQUIRE(plan.step());
  CHECK_THAT(plan.text(3), Contains("(array_job_id=? AND array_task_id=?)"));
}

TEST_CASE("the open tasks of an array are found in their order, not among those that are over") {
  const auto database = Database::open(":memory:", Missing::create);
  Query plan = database->query(
      "EXPLAIN QUERY PLAN SELECT id FROM jobs INDEXED BY jobs_open_by_array WHERE array_job_id = ? AND "
      "end_us "
      "IS NULL ORDER BY array_task_id");
  REQUIRE(plan.step());
  CHECK_THAT(plan.text(3), Contains("(array_job_id=?)"));
  CHECK_FALSE(plan.step());  // nothing is sorted
}

TEST_CASE("a database that holds a task of an array twice is migrated") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  {
    const auto database = Database::open(path, Missing::create, migrations().first(7));
    database->prepare("INSERT INTO supervisors VALUES (1, '', 0, 0, 'berthd')").exec();
    SQLite::Statement task = database->prepare(
        "INSERT INTO jobs (supervisor_id, user, user_id, job_user, job_user_id, host, name, account, spec, "
        "state, submit_us, array_job_id, array_task_id) "
        "VALUES (1, '', 0, '', 0, '', '', '', '{}', 'PENDING', 0, 7, 2)");
    task.exec();
    task.reset();
    task.exec();
  }
  const auto database = Database::open(path, Missing::refuse);
  Query tasks = database->query("SELECT count(*) FROM jobs WHERE array_job_id = 7 AND array_task_id = 2");
  REQUIRE(tasks.step());
  CHECK(tasks.integer(0) == 2);
}

TEST_CASE("a new database is not backed up") {
  const TemporaryFolder folder;
  Database::open(folder.file("berth.db"), Missing::create, kSecondVersion);
  CHECK_FALSE(std::filesystem::exists(folder.file("berth.db.v1.backup")));
  CHECK_FALSE(std::filesystem::exists(folder.file("berth.db.v0.backup")));
}

TEST_CASE("a migration that fails leaves the old version as it was") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  make_first_version(path);
  CHECK_THAT(store_error([&] { Database::open(path, Missing::create, kBrokenSecondVersion); }),
             StartsWith(path + ": ") && Contains("nowhere"));
  const auto database = Database::open(path, Missing::refuse, kFirstVersion);
  CHECK(database->version() == 1);
  CHECK(first_note(*database) == "kept");
}

TEST_CASE("a database of a newer berth is refused with the remedy and not touched") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  make_first_version(path);
  Database::open(path, Missing::refuse, kSecondVersion);
  const std::string before = read_file(path);
  CHECK_THAT(store_error([&] { Database::open(path, Missing::create, kFirstVersion); }),
             StartsWith(path) && Contains("newer berth (schema version 2") && Contains("use that berth"));
  CHECK(read_file(path) == before);
}

TEST_CASE("another program's database is refused and not touched") {
  const TemporaryFolder folder;
  const std::string path = folder.file("mail.db");
  SQLite::Database(path, SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE).exec("CREATE TABLE mail (text)");
  const std::string before = read_file(path);
  CHECK_THAT(store_error([&] { JobStore::open(path); }), StartsWith(path) && Contains("another program"));
  CHECK_THAT(store_error([&] { JobStore::open_existing(path); }), Contains("choose another file"));
  CHECK(read_file(path) == before);
}

TEST_CASE("a file that is no database is refused and not touched") {
  const TemporaryFolder folder;
  const std::string path = folder.file("notes.txt");
  const std::string text(5000, 'x');
  write_file(path, text);
  CHECK_THAT(store_error([&] { JobStore::open(path); }),
             StartsWith(path) && Contains("not an SQLite database") && Contains("--database"));
  CHECK(read_file(path) == text);
}

TEST_CASE("a damaged database is refused with how to recover it") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  JobStore::open(path)->submit({sample_job()}, sample_supervisor());
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(100);  // behind the header: the page that holds the schema
  file << std::string(3000, '\xff');
  file.close();
  CHECK_THAT(store_error([&] { JobStore::open(path); }), StartsWith(path) && Contains("damaged") &&
                                                             Contains("-wal, -shm and -journal") &&
                                                             Contains(".dump"));
}

TEST_CASE("a truncated database is reported, by open or by the integrity check") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  {
    const auto store = JobStore::open(path);
    for (int index = 0; index < 200; ++index) {
      store->submit({sample_job()}, sample_supervisor());
    }
  }
  std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
  std::string fault;
  try {
    const auto store = JobStore::open_existing(path);
    fault = store->check_integrity();
  } catch (const StoreError& error) {
    fault = error.what();
  }
  CHECK_FALSE(fault.empty());
}

TEST_CASE("paths that cannot be a database say why") {
  const TemporaryFolder folder;
  CHECK_THAT(store_error([&] { JobStore::open(folder.path()); }),
             StartsWith(folder.path() + ": is a folder") && Contains("--database"));
  CHECK_THAT(store_error([&] { JobStore::open("/dev/null"); }), Contains("not a regular file"));
  write_file(folder.file("file"), "");
  CHECK_THAT(store_error([&] { JobStore::open(folder.file("file/berth.db")); }),
             Contains("Not a directory") && Contains("--database"));
  CHECK_THAT(store_error([&] { JobStore::open("/proc/berth/berth.db"); }), Contains("/proc"));
}

TEST_CASE("an empty file is taken for a new database") {
  const TemporaryFolder folder;
  write_file(folder.file("berth.db"), "");
  const auto store = JobStore::open_existing(folder.file("berth.db"));
  REQUIRE(store);
  CHECK(store->history({}).empty());
}

TEST_CASE("characters that mean something in a URI are only part of the name") {
  const TemporaryFolder folder;
  const std::string path = folder.file("a?b#c%20 d.db");
  JobStore::open(path)->submit({sample_job()}, sample_supervisor());
  CHECK(std::filesystem::exists(path));
  CHECK(JobStore::open_existing(path)->history({}).size() == 1);
}

TEST_CASE("events can be neither changed nor removed while their job exists") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  JobStore::open(path)->submit({sample_job()}, sample_supervisor());
  const auto database = Database::open(path, Missing::refuse);
  const auto execute = [&](const char* sql) {
    return database->write([&] { return database->query(sql).execute(); });
  };
  CHECK_THAT(store_error([&] { execute("UPDATE events SET state = 'RUNNING'"); }), Contains("append-only"));
  CHECK_THAT(store_error([&] { execute("DELETE FROM events"); }), Contains("append-only"));
  CHECK(execute("DELETE FROM jobs") == 1);
  CHECK_FALSE(database->query("SELECT 1 FROM events").step());
  CHECK(database->check_integrity().empty());
}

TEST_CASE("a record that cannot be written leaves the transaction undone") {
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  make_first_version(path);
  const auto database = Database::open(path, Missing::refuse, kFirstVersion);
  CHECK_THAT(store_error([&] {
               database->write([&] {
                 database->query("UPDATE notes SET text = 'half'").execute();
                 return database->query("INSERT INTO notes VALUES (NULL)").execute();
               });
             }),
             StartsWith(path));
  CHECK(first_note(*database) == "kept");
}

}  // namespace berth
