#include "store/store_error.h"

#include <SQLiteCpp/Exception.h>
#include <linux/magic.h>
#include <sqlite3.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
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

/// Whether SQLite's locks, and the memory that its processes share, need luck there (statfs(2), "f_type").
bool is_on_network(const std::string& path) {
  constexpr std::array<std::uint32_t, 8> kTypes{NFS_SUPER_MAGIC,  CIFS_SUPER_MAGIC, SMB_SUPER_MAGIC,
                                                SMB2_SUPER_MAGIC, FUSE_SUPER_MAGIC, V9FS_MAGIC,
                                                AFS_FS_MAGIC,     CEPH_SUPER_MAGIC};
  struct statfs status {};
  return ::statfs(path.c_str(), &status) == 0 &&
         std::find(kTypes.begin(), kTypes.end(), static_cast<std::uint32_t>(status.f_type)) != kTypes.end();
}

std::string local_place(const std::string& path) {
  return is_on_network(path)
             ? "; it is on a network or FUSE file system, where SQLite may not be able to work: name "
               "one on a local disk with --database, as /var/tmp/" +
                   std::to_string(::geteuid()) + "/berth.db (berthd: state_directory)"
             : "";
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
             "` and try again" + local_place(path);
    case SQLITE_PERM:
    case SQLITE_AUTH:
      return "permission denied: run as its owner or choose another file with --database (berthd: "
             "state_directory)";
    case SQLITE_IOERR:
      return std::string(
                 "reading or writing failed: check the disk (dmesg), that the file is on a local file "
                 "system, "
                 "and `ulimit -f`") +
             local_place(path);
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
