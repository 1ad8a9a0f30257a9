#include "store/backup.h"

#include <SQLiteCpp/Database.h>
#include <SQLiteCpp/Statement.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <set>
#include <span>
#include <string_view>
#include <utility>

#include "store/database.h"
#include "store/job_store.h"
#include "store/store_error.h"
#include "store/store_files.h"

namespace berth {
namespace {

namespace fs = std::filesystem;

/// Some milliseconds of SQLite's virtual machine.
constexpr int kStepsBetweenQuestions = 100'000;
constexpr int kFaultsTold = 20;
/// Left out when nobody knows any more which numbers were given.
constexpr std::int64_t kNumbersLeftOut = 1'000'000;
/// A damaged page may tell anything.
constexpr std::int64_t kMostSince = 1'000'000'000;

std::string folder_of(const std::string& path) {
  return fs::path(path).parent_path().string();
}

Bytes size_of(const std::string& path) {
  std::error_code missing;
  const auto size = fs::file_size(path, missing);
  return missing ? 0 : size;
}

/// By the file's first bytes (https://www.sqlite.org/fileformat2.html section 1.3).
bool is_berth_database(const std::string& path) {
  constexpr std::string_view kMagic{"SQLite format 3\0", 16};
  constexpr std::size_t kIdOffset = 68;
  std::array<unsigned char, 100> header{};
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) {
    return false;
  }
  const ssize_t count = ::pread(descriptor, header.data(), header.size(), 0);
  ::close(descriptor);
  std::uint32_t application = 0;
  for (std::size_t byte = kIdOffset; byte < kIdOffset + sizeof application; ++byte) {
    application = application << 8U | header[byte];
  }
  return count == static_cast<ssize_t>(header.size()) &&
         std::equal(kMagic.begin(), kMagic.end(), header.begin()) &&
         application == static_cast<std::uint32_t>(kApplicationId);
}

/// A copy replaces nothing but a copy.
void require_replaceable(const std::string& database, const std::string& backup) {
  struct stat own {};
  struct stat other {};
  if (::stat(backup.c_str(), &other) < 0) {
    return;
  }
  // Before it is opened: closing it would drop SQLite's locks.
  if (::stat(database.c_str(), &own) == 0 && own.st_dev == other.st_dev && own.st_ino == other.st_ino) {
    throw StoreError(backup + ": is the database itself: name another file with history.backup.file");
  }
  if (!S_ISREG(other.st_mode) || !is_berth_database(backup)) {
    throw StoreError(backup +
                     ": is no copy that berthd made, and is not overwritten: move it away, or name another "
                     "file with history.backup.file");
  }
}

/// A copy must not be what fills the disk that the queue is on.
void require_room(const std::string& database, const std::string& backup) {
  struct statvfs file_system {};
  struct stat own {};
  struct stat other {};
  const std::string folder = folder_of(backup);
  if (::statvfs(folder.c_str(), &file_system) < 0 || ::stat(folder.c_str(), &other) < 0) {
    throw_store_error(folder, "cannot look at the folder", errno);
  }
  Bytes needed = size_of(database) + size_of(database + "-wal");
  if (::stat(database.c_str(), &own) == 0 && own.st_dev == other.st_dev) {
    needed *= 2;
  }
  const Bytes free = Bytes{file_system.f_bavail} * file_system.f_frsize;
  if (free < needed) {
    throw StoreError(folder + ": " + format_size(free) +
                         " are free, and a copy of the database is made where " + format_size(needed) +
                         " are: free space there, or name another file with history.backup.file",
                     StoreError::Kind::unwritable);
  }
}

int ask_whether_stopped(void* stopped) {
  return (*static_cast<const std::function<bool()>*>(stopped))() ? 1 : 0;
}

void set_modification(const std::string& path, Timestamp at) {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(at);
  timespec times[2]{};
  times[0].tv_nsec = UTIME_OMIT;
  times[1].tv_sec = seconds.time_since_epoch().count();
  times[1].tv_nsec = std::chrono::nanoseconds(at - seconds).count();
  if (::utimensat(AT_FDCWD, path.c_str(), times, 0) < 0) {
    throw_store_error(path, "cannot set the time of the copy", errno);
  }
}

std::optional<BackupFile> backup_at(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) < 0 || !S_ISREG(status.st_mode) || status.st_size == 0) {
    return std::nullopt;
  }
  return BackupFile{path, Timestamp(std::chrono::seconds(status.st_mtim.tv_sec) +
                                    std::chrono::microseconds(status.st_mtim.tv_nsec / 1000))};
}

std::vector<std::string> faults_of(SQLite::Database& connection) {
  std::vector<std::string> faults;
  SQLite::Statement check(connection, "PRAGMA quick_check(" + std::to_string(kFaultsTold) + ")");
  while (check.executeStep()) {
    if (const std::string line = check.getColumn(0).getString(); line != "ok") {
      faults.push_back(line);
    }
  }
  return faults;
}

/// "table jobs", "index jobs_by_end" …, but for what SQLite makes by itself.
std::set<std::string> parts_of(SQLite::Database& connection) {
  std::set<std::string> parts;
  SQLite::Statement query(
      connection,
      "SELECT type || ' ' || name FROM sqlite_schema WHERE type IN ('table', 'index') AND "
      "name NOT LIKE 'sqlite\\_%' ESCAPE '\\'");
  while (query.executeStep()) {
    parts.insert(query.getColumn(0).getString());
  }
  return parts;
}

const std::set<std::string>& parts_of_schema() {
  static const std::set<std::string> kParts = [] {
    SQLite::Database empty(":memory:", SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE);
    for (const Migration& step : migrations()) {
      empty.exec(std::string(step.sql));
    }
    return parts_of(empty);
  }();
  return kParts;
}

std::string missing_in(SQLite::Database& connection) {
  const std::set<std::string> found = parts_of(connection);
  std::string missing;
  for (const std::string& part : parts_of_schema()) {
    if (!found.contains(part)) {
      missing += (missing.empty() ? "" : ", ") + part;
    }
  }
  return missing;
}

void copy_rows(const std::string& database, const std::string& copy, const std::function<bool()>& stopped) {
  SQLite::Database source(database, SQLite::OPEN_READONLY, kBusyTimeoutMilliseconds);
  if (const std::string missing = missing_in(source); !missing.empty()) {
    throw StoreError(database + ": the database is damaged: it lacks " + missing, StoreError::Kind::damaged);
  }
  std::function<bool()> question = stopped;
  ::sqlite3_progress_handler(source.getHandle(), kStepsBetweenQuestions, ask_whether_stopped, &question);
  SQLite::Statement statement(source, "VACUUM INTO ?");
  statement.bind(1, copy);
  statement.exec();
}

/// The highest number that the table of `database` has given; nothing when it cannot be told any more.
std::optional<std::int64_t> last_number(const std::string& database, const std::string& table) {
  try {
    SQLite::Database connection(database, SQLite::OPEN_READONLY, kBusyTimeoutMilliseconds);
    SQLite::Statement query(connection, "SELECT seq FROM sqlite_sequence WHERE name = ?");
    query.bind(1, table);
    return query.executeStep() ? std::optional(query.getColumn(0).getInt64()) : 0;
  } catch (const SQLite::Exception&) {
    return std::nullopt;
  }
}

void leave_out_numbers(SQLite::Database& restored, const std::string& damaged) {
  for (const std::string table : {"jobs", "events"}) {
    const std::optional<std::int64_t> last = last_number(damaged, table);
    SQLite::Statement update(restored,
                             "UPDATE sqlite_sequence SET seq = CASE WHEN ?1 BETWEEN seq AND seq + ?2 THEN ?1 "
                             "ELSE seq + ?3 END WHERE name = ?4");
    last ? update.bind(1, *last) : update.bind(1);
    update.bind(2, kMostSince);
    update.bind(3, kNumbersLeftOut);
    update.bind(4, table);
    update.exec();
  }
}

/// What was about to start has: nobody sends it a second time (Daemon::take_over).
void let_starts_be_over(SQLite::Database& restored) {
  constexpr const char* kStarting = " WHERE state = 'CONFIGURING'";
  restored.exec(
      std::string("INSERT INTO events (job_id, attempt, at_us, state, detail) SELECT job_id, attempt, "
                  "configure_us, 'RUNNING', '{\"action\":\"restore\"}' FROM attempts") +
      kStarting);
  restored.exec(std::string("UPDATE attempts SET state = 'RUNNING', start_us = configure_us") + kStarting);
  restored.exec(std::string("UPDATE jobs SET state = 'RUNNING'") + kStarting);
}

constexpr std::array kSuffixes{"", "-wal", "-shm", "-journal"};

void remove_migration_backups(const std::string& path) {
  for (std::size_t version = 1; version < migrations().size(); ++version) {
    ::unlink(migration_backup(path, static_cast<int>(version)).c_str());
  }
}

void remove_database(const std::string& path) {
  for (const char* suffix : kSuffixes) {
    ::unlink((path + suffix).c_str());
  }
  remove_migration_backups(path);
}

/// A whole and newest database at `path`, made of the backup; with nothing beside it.
void prepare_restored(const std::string& path, const std::string& backup, const std::string& damaged) {
  remove_database(path);
  std::error_code error;
  create_private_file(path);
  fs::copy_file(backup, path, fs::copy_options::overwrite_existing, error);
  if (!error) {
    fs::permissions(path, fs::perms::owner_read | fs::perms::owner_write, error);  // not those of the copy
  }
  if (error) {
    throw_store_error(backup, "cannot be copied to " + path, error.value());
  }
  try {
    (void)Database::open(path,
                         Database::Missing::refuse);  // it is one of berth's, and becomes the newest version
  } catch (const StoreError& failure) {
    throw StoreError(backup + ": cannot take the place of a database; a copy of it says: " + failure.what(),
                     failure.kind());
  }
  remove_migration_backups(path);  // it is itself a copy of one
  SQLite::Database connection(path, SQLite::OPEN_READWRITE, kBusyTimeoutMilliseconds);
  std::vector<std::string> faults = faults_of(connection);
  if (const std::string missing = missing_in(connection); !missing.empty()) {
    faults.push_back("it lacks " + missing);
  }
  if (!faults.empty()) {
    throw StoreError(backup + ": is damaged too (" + faults.front() + "): name another copy",
                     StoreError::Kind::damaged);
  }
  leave_out_numbers(connection, damaged);
  let_starts_be_over(connection);
  connection.exec("PRAGMA journal_mode = DELETE");  // the log into the file, which is renamed alone
}

/// Gives a file a second name; false when there is none.
bool link_file(const std::string& from, const std::string& to) {
  if (::link(from.c_str(), to.c_str()) == 0) {
    return true;
  }
  if (errno == EPERM) {
    throw StoreError(
        from + ": cannot be kept as " + to +
            ", as this file system has no hard links: move it away, with its -wal, -shm and -journal",
        StoreError::Kind::unwritable);
  }
  if (errno != ENOENT) {
    throw_store_error(to, "cannot be made a second name of " + from, errno);
  }
  return false;
}

/// The damaged files get names of their own beside those that they have, which a copy can then replace in one
/// step. "" when there are none.
std::string set_aside(const std::string& database, Timestamp now) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(now.time_since_epoch()).count();
  const std::string name = database + ".damaged-" + std::to_string(seconds);
  std::vector<std::string> kept;
  try {
    for (const char* suffix : kSuffixes) {
      if (link_file(database + suffix, name + suffix)) {
        kept.push_back(name + suffix);
      }
    }
    sync_folder(folder_of(database));
  } catch (const StoreError&) {
    for (const std::string& one : kept) {
      ::unlink(one.c_str());
    }
    throw;
  }
  return kept.empty() ? "" : kept.front();
}

}  // namespace

std::string check_quickly(const std::string& database) {
  try {
    SQLite::Database connection(database, SQLite::OPEN_READONLY, kBusyTimeoutMilliseconds);
    std::string text;
    for (const std::string& fault : faults_of(connection)) {
      text += (text.empty() ? "" : "\n") + fault;
    }
    return text;
  } catch (const SQLite::Exception& error) {
    return error.what();
  }
}

std::string missing_parts(const std::string& database) {
  try {
    SQLite::Database connection(database, SQLite::OPEN_READONLY, kBusyTimeoutMilliseconds);
    return missing_in(connection);
  } catch (const SQLite::Exception& error) {
    throw_store_error(database, error);
  }
}

bool write_backup(const std::string& database, const std::string& backup,
                  const std::function<bool()>& stopped) {
  const auto begun = std::chrono::time_point_cast<Timestamp::duration>(std::chrono::system_clock::now());
  require_replaceable(database, backup);
  require_room(database, backup);
  const std::string unfinished = backup + ".new";
  ::unlink(unfinished.c_str());
  create_private_file(unfinished);
  try {
    copy_rows(database, unfinished, stopped);
    set_modification(unfinished, begun);
    sync_file(unfinished);
    rename_file(unfinished, backup);
  } catch (const SQLite::Exception& error) {
    ::unlink(unfinished.c_str());
    if (error.getErrorCode() == SQLITE_INTERRUPT) {
      return false;
    }
    const bool is_source = error.getErrorCode() == SQLITE_CORRUPT || error.getErrorCode() == SQLITE_NOTADB;
    throw_store_error(is_source ? database : unfinished, error);
  } catch (const StoreError&) {
    ::unlink(unfinished.c_str());
    throw;
  }
  sync_folder(folder_of(backup));
  return true;
}

std::vector<BackupFile> find_backups(const std::string& database, const std::string& backup) {
  std::vector<BackupFile> found;
  if (const auto regular = backup_at(backup); regular && is_berth_database(backup)) {
    found.push_back(*regular);
  }
  const int newest = static_cast<int>(migrations().size());
  for (int version = 1; version < newest; ++version) {
    if (const auto migrated = backup_at(migration_backup(database, version))) {
      found.push_back(*migrated);
    }
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.at > b.at; });
  return found;
}

std::string restore_backup(const std::string& database, const std::string& backup, Timestamp now) {
  const std::string restored = database + ".restored";
  std::string kept;
  try {
    prepare_restored(restored, backup, database);
    sync_file(restored);
    kept = set_aside(database, now);
  } catch (const SQLite::Exception& error) {
    remove_database(restored);
    throw_store_error(backup, error);
  } catch (const StoreError&) {
    remove_database(restored);
    throw;
  }
  // Not one moment with the old log beside the new file.
  for (const char* suffix : std::span(kSuffixes).subspan(1)) {
    ::unlink((database + suffix).c_str());
  }
  rename_file(restored, database);
  sync_folder(folder_of(database));
  return kept;
}

}  // namespace berth
