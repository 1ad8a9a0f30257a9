// Copies of berthd's database: made while it serves, found when it is damaged, put in its place.
//
// With connections of their own: any thread, beside any other connection. Throw StoreError.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "schemas/quantities.h"

namespace berth {

/// What PRAGMA quick_check finds, a fault a line; empty when it finds none. Takes time in proportion to the
/// file.
std::string check_quickly(const std::string& database);

/// Which tables and indexes of the newest schema are not in `database`, which is of that; empty when none is.
std::string missing_parts(const std::string& database);

/// Copies what is in `database` to `backup`, which is replaced in one step when the copy is whole and on the
/// disk. Every row is read and written anew (VACUUM INTO): a damaged or missing table ends it with
/// StoreError::Kind::damaged and the copy before stays; the copy's indexes are sound whatever those of the
/// original are. Its time of modification is when it was begun. Asks `stopped` now and then; false when that
/// ended it. What is at `backup` and is no database of berth's stays, and is a StoreError.
bool write_backup(const std::string& database, const std::string& backup,
                  const std::function<bool()>& stopped);

struct BackupFile {
  std::string path;
  Timestamp at;
};
/// What can take the place of `database`: `backup` if it is one of berth's, and the copies from before
/// migrations; the newest first.
std::vector<BackupFile> find_backups(const std::string& database, const std::string& backup);

/// Puts a copy of `backup` in the place of `database`, which no connection has open; what was there is kept
/// as the returned name, with its -wal, -shm and -journal; "" when nothing was. Numbers of jobs and events
/// that were given since are not given again, as far as the damaged file still tells them; else a million is
/// left out. Nothing has changed when it throws.
std::string restore_backup(const std::string& database, const std::string& backup, Timestamp now);

}  // namespace berth
