#include "store/database.h"

#include <SQLiteCpp/Backup.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <thread>
#include <utility>

#include "store/job_store.h"
#include "store/store_files.h"

namespace berth {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMemory = ":memory:";

/// mkdir -p with 0700: job specs hold environment values, which are their user's alone.
void make_folders(const fs::path& folder) {
  std::error_code ignored;
  if (fs::is_directory(folder, ignored)) {
    return;
  }
  if (folder.has_relative_path()) {  // not the root itself
    make_folders(folder.parent_path());
  }
  if (::mkdir(folder.c_str(), 0700) == 0) {
    sync_folder(folder.parent_path().string());
  } else if (errno != EEXIST) {  // made by another process meanwhile, or a file: opening will tell
    throw_store_error(folder.string(), "cannot create the folder", errno);
  }
}

void set_identity(SQLite::Database& connection, int version) {
  connection.exec("PRAGMA application_id = " + std::to_string(kApplicationId));
  connection.exec("PRAGMA user_version = " + std::to_string(version));
}

/// The content of a database's file of the newest version, in WAL mode.
std::string new_content(std::span<const Migration> steps) {
  SQLite::Database connection(kMemory, SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE);
  // Before there is anything in it: auto_vacuum cannot be switched on later without writing the file anew.
  connection.exec("PRAGMA auto_vacuum = INCREMENTAL");
  SQLite::Transaction transaction(connection);
  for (const Migration& step : steps) {
    connection.exec(std::string(step.sql));
  }
  set_identity(connection, static_cast<int>(steps.size()));
  transaction.commit();
  sqlite3_int64 size = 0;
  const std::unique_ptr<unsigned char, decltype(&::sqlite3_free)> bytes(
      ::sqlite3_serialize(connection.getHandle(), "main", &size, 0), &::sqlite3_free);
  if (!bytes) {
    throw SQLite::Exception("no memory for a new database", SQLITE_NOMEM);
  }
  std::string content(reinterpret_cast<const char*>(bytes.get()), static_cast<std::size_t>(size));
  // Format of what writes and what reads: 2 is WAL (https://www.sqlite.org/fileformat2.html section 1.3.3).
  content.at(18) = content.at(19) = 2;
  return content;
}

/// Whether a database that is gone left what SQLite would take for a part of the next one of its name.
bool has_left_log(const std::string& path) {
  std::error_code ignored;
  return fs::exists(path + "-wal", ignored) || fs::exists(path + "-journal", ignored);
}

/// Makes a database of the newest version, which is whole and on disk when it gets its name: one fdatasync
/// instead of the seven that SQLite needs to do this in place, half the time at the start of a first
/// `berth run`. When another process was quicker, `path` is left to that. It is made empty, for migrate() to
/// fill, where the file system does not allow that, as NFS; and beside a log that was left: SQLite
/// removes that, under its lock, when the file has no pages.
void create_whole(const std::string& path, std::span<const Migration> steps) {
  try {
    if (has_left_log(path) || !create_at_once(path, new_content(steps))) {
      create_private_file(path);
    }
  } catch (const SQLite::Exception& error) {
    throw_store_error(path, error);
  }
  // The folder is synced by SQLite with the first commit, when it has made the -wal file there.
}

/// Every connection of ours is one thread's at a time, and nobody asks SQLite how much memory it has: without
/// those locks and counters a statement takes a twentieth less. Before main(), as it is too late when SQLite
/// has been used.
[[maybe_unused]] const bool kLocksAreLeftToUs = ::sqlite3_config(SQLITE_CONFIG_MULTITHREAD) == SQLITE_OK &&
                                                ::sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0) == SQLITE_OK;

/// What the file system says about `path` before SQLite, whose own errors do not carry errno, sees it.
enum class Access { missing, read_only, read_write };

Access examine(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) < 0) {
    if (errno == ENOENT) {
      return Access::missing;
    }
    throw_store_error(path, "cannot open the database", errno);
  }
  if (S_ISDIR(status.st_mode)) {
    throw StoreError(path + ": is a folder: name a file in it with --database (berthd: state_directory)");
  }
  if (!S_ISREG(status.st_mode)) {
    throw StoreError(
        path + ": is not a regular file: choose another file with --database (berthd: state_directory)");
  }
  if (::faccessat(AT_FDCWD, path.c_str(), R_OK, AT_EACCESS) < 0) {
    throw_store_error(path, "cannot read the database", errno);
  }
  // The folder too: SQLite makes the -wal and -shm files beside it, and not beside a symbolic link to it.
  std::error_code ignored;
  const std::string folder = fs::canonical(path, ignored).parent_path().string();
  const bool is_writable = ::faccessat(AT_FDCWD, path.c_str(), W_OK, AT_EACCESS) == 0 &&
                           ::faccessat(AT_FDCWD, folder.c_str(), W_OK | X_OK, AT_EACCESS) == 0;
  return is_writable ? Access::read_write : Access::read_only;
}

/// On a read-only file system nobody can be writing, so SQLite may go without locks and -shm
/// (https://www.sqlite.org/uri.html, "immutable"), unless a -wal holds records not yet in the main file.
std::string read_only_uri(const std::string& path) {
  std::string uri = "file:";
  for (const char character : path) {
    switch (character) {
      case '%':
        uri += "%25";
        break;
      case '?':
        uri += "%3f";
        break;
      case '#':
        uri += "%23";
        break;
      default:
        uri += character;
    }
  }
  struct statvfs file_system {};
  std::error_code ignored;
  const fs::path file = fs::canonical(path, ignored);  // the log is not beside a symbolic link
  const auto wal_size = fs::file_size(file.string() + "-wal", ignored);
  const bool has_wal = !ignored && wal_size > 0;
  const bool is_frozen = ::statvfs(path.c_str(), &file_system) == 0 && (file_system.f_flag & ST_RDONLY) != 0;
  return uri + (is_frozen && !has_wal ? "?immutable=1" : "?mode=ro");
}

}  // namespace

Query::~Query() {
  statement_.tryReset();
}

Query& Query::bind(std::int64_t value) {
  statement_.bind(next_parameter_++, value);
  return *this;
}

Query& Query::bind(const std::string& value) {
  statement_.bind(next_parameter_++, value);
  return *this;
}

Query& Query::bind_in_place(const std::string& value) {
  statement_.bindNoCopy(next_parameter_++, value);
  return *this;
}

Query& Query::bind_null() {
  statement_.bind(next_parameter_++);
  return *this;
}

std::optional<std::int64_t> Query::optional_integer(int column) const {
  return is_null(column) ? std::nullopt : std::optional(integer(column));
}

std::string migration_backup(const std::string& path, int version) {
  return path + ".v" + std::to_string(version) + kBackupSuffix;
}

std::unique_ptr<Database> Database::open(const std::string& path, Missing missing,
                                         std::span<const Migration> steps) {
  std::string full_path = path;
  std::string uri = kMemory;
  int flags = SQLite::OPEN_READWRITE;
  if (path == kMemory) {
    flags |= SQLite::OPEN_CREATE;
  } else {
    full_path = uri = fs::absolute(path).string();
    Access access = examine(full_path);
    while (access == Access::missing && missing == Missing::create && fs::is_symlink(full_path)) {
      const fs::path link = full_path;
      full_path = uri = (link.parent_path() / fs::read_symlink(link)).string();
      access = examine(full_path);
    }
    if (access == Access::missing) {
      if (missing == Missing::refuse) {
        return nullptr;
      }
      make_folders(fs::path(full_path).parent_path());
      create_whole(full_path, steps);
      access = examine(full_path);
    }
    if (access == Access::read_only) {
      if (missing == Missing::create) {
        throw StoreError(
            full_path +
            ": the database or its folder may only be read: make them writable, or choose another file "
            "with --database (berthd: state_directory)");
      }
      uri = read_only_uri(full_path);
      flags = SQLite::OPEN_READONLY | SQLite::OPEN_URI;
    }
  }
  try {
    std::unique_ptr<Database> database(new Database(full_path, uri, flags));
    const bool is_empty = database->identify();
    database->configure(missing, is_empty);
    database->migrate(steps);
    return database;
  } catch (const SQLite::Exception& error) {
    if ((flags & SQLite::OPEN_READONLY) != 0 && error.getErrorCode() == SQLITE_CANTOPEN) {
      throw StoreError(
          full_path +
          ": can only be read here together with its -wal and -shm, which are missing and cannot be "
          "made in a folder that may only be read: copy it, with its -wal if it has one, to a writable "
          "folder and name the copy with --database");
    }
    throw_store_error(full_path, error);
  }
}

Database::Database(std::string path, const std::string& uri, int flags)
    : path_(std::move(path)),
      read_only_((flags & SQLite::OPEN_READONLY) != 0),
      connection_(uri, flags, kBusyTimeoutMilliseconds) {}

void Database::tune_for_service() {
  translate_errors([&] {
    // 16 MiB of log: each move costs two fdatasync and the writing of every page that changed since the last.
    connection_.exec("PRAGMA wal_autocheckpoint = 4096; PRAGMA cache_size = -65536");
  });
}

void Database::move_log() {
  translate_errors([&] { connection_.exec("PRAGMA wal_checkpoint(TRUNCATE)"); });
}

int Database::version() {
  return translate_errors([&] { return connection_.execAndGet("PRAGMA user_version").getInt(); });
}

Query Database::query(const char* sql) {
  std::unique_ptr<SQLite::Statement>& statement = statements_[sql];
  if (!statement) {
    statement = std::make_unique<SQLite::Statement>(connection_, sql);
  }
  return Query(*statement);
}

namespace {

/// While it lives, who meets another's lock fails at once.
class NoPatience {
 public:
  explicit NoPatience(SQLite::Database& connection) : connection_(connection) {
    ::sqlite3_busy_timeout(connection_.getHandle(), 0);
  }
  ~NoPatience() { ::sqlite3_busy_timeout(connection_.getHandle(), kBusyTimeoutMilliseconds); }
  NoPatience(const NoPatience&) = delete;
  NoPatience& operator=(const NoPatience&) = delete;

 private:
  SQLite::Database& connection_;
};

}  // namespace

void Database::rehearse(const std::function<void()>& body, Durability durability) {
  translate_errors([&] {
    const NoPatience no_patience(connection_);
    set_durability(durability);
    const Transaction rolled_back(*this);
    body();
  });
}

Database::Transaction::~Transaction() {
  if (!committed_) {
    try {
      database_.query("ROLLBACK").execute();
    } catch (const std::exception&) {
      // SQLite has rolled it back already (a full disk).
    }
  }
}

Database::SavePoint::~SavePoint() {
  if (!kept_) {
    try {
      database_.query("ROLLBACK TO part").execute();
      database_.query("RELEASE part").execute();
    } catch (const std::exception&) {
      // SQLite has rolled the whole transaction back (a full disk); its commit will fail and tell.
    }
  }
}

void Database::together(const std::function<void()>& body, bool undoes_parts) {
  translate_errors([&] {
    set_durability(Durability::power_cut);
    Transaction transaction(*this);
    is_together_ = true;
    undoes_parts_ = undoes_parts;
    try {
      body();
    } catch (...) {
      is_together_ = false;
      throw;
    }
    is_together_ = false;
    transaction.commit();
  });
}

/// A page, and room for what follows: behind a transaction that a full disk failed, the log has room for its
/// first pages, so that a page is written while no transaction is.
void Database::probe() {
  constexpr std::int64_t kRoom = std::int64_t{4} << 20;
  if (path_ != kMemory) {
    require_room(fs::path(log_file()).parent_path().string(), kRoom);
  }
  const int version = this->version();
  together([&] { connection_.exec("PRAGMA user_version = " + std::to_string(version)); }, true);
}

/// What is committed is in the log, or was moved into the file, which SQLite does not do before that is on
/// the disk (https://www.sqlite.org/wal.html section 2.2).
void Database::sync() {
  if (path_ != kMemory) {
    sync_file(log_file());
  }
}

/// As SQLite calls it: beside the file, also where `path_` is a symbolic link to that.
std::string Database::log_file() {
  return ::sqlite3_filename_wal(::sqlite3_db_filename(connection_.getHandle(), "main"));
}

/// Refuses another program's database before anything in it is changed. Reading these also makes SQLite
/// check the header and parse the schema, which finds most damage; a whole integrity check takes time in
/// proportion to the file and is left to check_integrity(). Returns whether there is nothing in it yet.
bool Database::identify() {
  const SQLite::Transaction snapshot(
      connection_);  // another process may be making the database at this moment
  const int application = connection_.execAndGet("PRAGMA application_id").getInt();
  if (application == kApplicationId) {
    return false;
  }
  const bool is_fresh = application == 0 && connection_.execAndGet("PRAGMA user_version").getInt() == 0 &&
                        connection_.execAndGet("SELECT count(*) FROM sqlite_schema").getInt() == 0;
  if (!is_fresh) {
    throw StoreError(path_ + ": is an SQLite database of another program (application id " +
                     std::to_string(application) +
                     "): choose another file with --database (berthd: state_directory)");
  }
  return true;
}

void Database::configure(Missing missing, bool is_empty) {
  connection_.exec("PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF");
  if (read_only_ || path_ == kMemory) {
    return;
  }
  // Closing the last connection would move the log into the file, with three more fdatasync, at the end of
  // every short command; the log is moved when it has grown instead (wal_autocheckpoint).
  // Not much, though: the next command to open the database reads the whole log.
  ::sqlite3_db_config(connection_.getHandle(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  connection_.exec("PRAGMA wal_autocheckpoint = 64");
  if (missing == Missing::refuse) {
    return;  // a copy has no log, and whoever looks into it gives it none
  }
  if (is_empty) {
    connection_.exec("PRAGMA auto_vacuum = INCREMENTAL");  // now or never, as in new_content()
  }
  // Kept in the file, so this changes something only the first time. The change needs the file for itself
  // and does not wait for it (https://www.sqlite.org/wal.html section 8), hence the loop.
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(kBusyTimeoutMilliseconds);
  for (;;) {
    SQLite::Statement statement(connection_, "PRAGMA journal_mode = WAL");
    const int result = statement.tryExecuteStep();
    if (result == SQLITE_ROW) {
      const std::string mode = statement.getColumn(0).getString();
      if (mode != "wal") {
        throw StoreError(path_ + ": this file system allows SQLite no write-ahead log (journal mode \"" +
                         mode +
                         "\"): put the database on a local disk with --database (berthd: state_directory)");
      }
      return;
    }
    if ((result & 0xff) != SQLITE_BUSY || std::chrono::steady_clock::now() >= deadline) {
      throw SQLite::Exception(connection_.getHandle(), result);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

/// Between transactions only (https://www.sqlite.org/pragma.html#pragma_synchronous).
void Database::set_durability(Durability durability) {
  if (durability != durability_) {
    connection_.exec(durability == Durability::power_cut ? "PRAGMA synchronous = FULL"
                                                         : "PRAGMA synchronous = NORMAL");
    durability_ = durability;
  }
}

void Database::migrate(std::span<const Migration> steps) {
  const int newest = static_cast<int>(steps.size());
  if (refuse_newer(version(), newest) == newest) {
    return;
  }
  if (read_only_) {
    throw StoreError(path_ + ": was written by an older berth (schema version " + std::to_string(version()) +
                     ") and may only be read: copy it to a writable folder and name the copy with --database "
                     "(berthd: state_directory)");
  }
  if (path_.ends_with(kBackupSuffix)) {
    throw StoreError(path_ + ": was written by an older berth (schema version " + std::to_string(version()) +
                     "), and is a copy that stays as it is: copy it to a file whose name does not end in " +
                     kBackupSuffix + " and name that with --database");
  }
  SQLite::Transaction transaction(connection_, SQLite::TransactionBehavior::IMMEDIATE);
  // Again, under the lock: another process may have migrated while this one waited.
  const int current = refuse_newer(version(), newest);
  if (current == newest) {
    return;
  }
  if (current > 0) {
    back_up(current);
  }
  for (const Migration& step : steps.subspan(static_cast<std::size_t>(current))) {
    connection_.exec(std::string(step.sql));
  }
  set_identity(connection_, newest);
  transaction.commit();
}

int Database::refuse_newer(int found, int newest) const {
  if (found > newest) {
    throw StoreError(path_ + ": was written by a newer berth (schema version " + std::to_string(found) +
                     ", this one knows up to " + std::to_string(newest) +
                     "): use that berth, or choose another file with --database (berthd: state_directory)");
  }
  return found;
}

/// A copy as `path`.vN.backup, whole or not at all. The caller holds the write lock, so a second
/// connection reads exactly what the migration starts from.
void Database::back_up(int version) {
  if (path_ == kMemory) {
    return;
  }
  const std::string backup = migration_backup(path_, version);
  const std::string unfinished = backup + ".new";
  ::unlink(unfinished.c_str());
  try {
    create_private_file(unfinished);
    SQLite::Database source(path_, SQLite::OPEN_READONLY, kBusyTimeoutMilliseconds);
    SQLite::Database destination(unfinished, SQLite::OPEN_READWRITE);
    SQLite::Backup(destination, source).executeStep(-1);
    destination.exec("PRAGMA journal_mode = DELETE");  // else -wal and -shm come beside it when it is read
  } catch (const SQLite::Exception& error) {
    ::unlink(unfinished.c_str());
    throw_store_error(unfinished, error);
  }
  rename_file(unfinished, backup);
  sync_folder(fs::path(backup).parent_path().string());
}

std::size_t Database::give_back_pages(std::size_t most) {
  constexpr std::int64_t kKept = 1000;
  return translate_errors([&]() -> std::size_t {
    const std::int64_t unused = connection_.execAndGet("PRAGMA freelist_count").getInt64();
    const std::int64_t pages = connection_.execAndGet("PRAGMA page_count").getInt64();
    const std::int64_t surplus =
        std::min(unused - std::max(kKept, pages / 20), static_cast<std::int64_t>(most));
    if (surplus <= 0) {
      return 0;
    }
    // One step for each page: the pragma gives a row for each
    // (https://www.sqlite.org/pragma.html#pragma_incremental_vacuum).
    SQLite::Statement statement(connection_, "PRAGMA incremental_vacuum(" + std::to_string(surplus) + ")");
    while (statement.executeStep()) {
    }
    return static_cast<std::size_t>(pages - connection_.execAndGet("PRAGMA page_count").getInt64());
  });
}

std::string Database::check_integrity() {
  std::string faults;
  try {
    SQLite::Statement integrity(connection_, "PRAGMA integrity_check");
    while (integrity.executeStep()) {
      const std::string line = integrity.getColumn(0).getString();
      if (line != "ok") {
        faults += line + "\n";
      }
    }
    SQLite::Statement references(connection_, "PRAGMA foreign_key_check");
    while (references.executeStep()) {
      faults += "table " + references.getColumn(0).getString() + ": row " +
                references.getColumn(1).getString() + " refers to a missing row of " +
                references.getColumn(2).getString() + "\n";
    }
  } catch (const SQLite::Exception& error) {
    faults += std::string(error.what()) + "\n";
  }
  return faults;
}

}  // namespace berth
