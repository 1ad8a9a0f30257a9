#include "store/store_error.h"

#include <SQLiteCpp/Exception.h>
#include <sqlite3.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "store/job_store.h"

namespace berth {
namespace {

/// SQLite does not tell a full disk from others where it grows the -shm file.
bool is_full(const std::string& path) {
  struct statvfs status {};
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return ::statvfs(folder.empty() ? "." : folder.c_str(), &status) == 0 &&
         (status.f_bavail * status.f_frsize < 65536 || (status.f_files > 0 && status.f_favail == 0));
}

// https://www.sqlite.org/rescode.html; the low byte of an extended code is the primary one.
std::string remedy(const std::string& path, int extended_code) {
  const int code = extended_code & 0xff;
  switch (code == SQLITE_IOERR && is_full(path) ? SQLITE_FULL : code) {
    case SQLITE_FULL:
      return "the disk is full: free space there or choose another file with --database (berthd: "
             "state_directory); nothing of this "
             "change was kept";
    case SQLITE_READONLY:
      return "the database may only be read: make the file and its folder writable, or choose another file "
             "with --database (berthd: state_directory)";
    case SQLITE_CANTOPEN:
      return "SQLite cannot open it: check that the folder exists and that both it and the file are readable "
             "and writable, or choose another file with --database (berthd: state_directory)";
    case SQLITE_NOTADB:
      return "not an SQLite database: choose another file with --database (berthd: state_directory), or move "
             "this one away, with its -wal, -shm and -journal";
    case SQLITE_CORRUPT:
      return "the database is damaged: while no berth runs, move it away, with its -wal, -shm and -journal; "
             "the newest copy, " +
             path + "*.backup, may take its place. `sqlite3 " + path +
             " .dump` prints what can still be read, as long as they are together";
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
      return "another process held the database locked for too long: find it with `fuser " + path +
             "` and try again";
    case SQLITE_PERM:
    case SQLITE_AUTH:
      return "permission denied: run as its owner or choose another file with --database (berthd: "
             "state_directory)";
    case SQLITE_IOERR:
      return "reading or writing failed: check the disk (dmesg), that the file is on a local file system, "
             "and `ulimit -f`";
    case SQLITE_NOMEM:
      return "out of memory: free memory and try again";
    default:
      return "this is unexpected: check the file with `sqlite3 " + path + " 'PRAGMA integrity_check'`";
  }
}

StoreError::Kind kind_of(int extended_code) {
  switch (extended_code & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return StoreError::Kind::damaged;
    case SQLITE_FULL:
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
    case SQLITE_PERM:
    case SQLITE_IOERR:
    case SQLITE_NOMEM:
      return StoreError::Kind::unwritable;
    default:
      return StoreError::Kind::refused;
  }
}

std::string remedy_for_errno(int error_number) {
  switch (error_number) {
    case EACCES:
    case EPERM:
      return "user " + std::to_string(::geteuid()) +
             " may not: run as its owner or choose another file with --database (berthd: state_directory)";
    case EROFS:
      return "choose a file on a writable file system with --database (berthd: state_directory)";
    case ENOSPC:
    case EDQUOT:
      return "free space there or choose another file with --database (berthd: state_directory)";
    case ENOTDIR:
      return "a part of the path is not a folder: choose another file with --database (berthd: "
             "state_directory)";
    default:
      return "choose another file with --database (berthd: state_directory)";
  }
}

}  // namespace

void throw_store_error(const std::string& path, const SQLite::Exception& error) {
  // Some of SQLiteCpp's own checks carry only the primary code.
  const int code = error.getExtendedErrorCode() >= 0 ? error.getExtendedErrorCode() : error.getErrorCode();
  throw StoreError(path + ": " + remedy(path, code) + " (SQLite: " + error.what() + ")", kind_of(code));
}

void throw_store_error(const std::string& path, const std::string& operation, int error_number) {
  throw StoreError(path + ": " + operation + ": " + std::generic_category().message(error_number) + ": " +
                       remedy_for_errno(error_number),
                   StoreError::Kind::unwritable);
}

}  // namespace berth
