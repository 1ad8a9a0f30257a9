// NumberMark: the numbers that berthd's database had given to jobs and events, kept beside the database.
//
// A database that is lost, emptied, replaced by an older copy or short of the end of its write-ahead log is a
// sound one to SQLite. Its numbers tell: they are below those of this file. So jobs are not forgotten in
// silence, nor run a second time, nor are their numbers given to others.
//
// One small text file, written now and then and not synced: it may be some seconds old, never ahead of the
// database. Throws std::system_error.
#pragma once

#include <optional>
#include <string>

#include "store/queue_store.h"

namespace berth {

/// Nothing when there is no such file, or it is not one that was written here.
std::optional<GivenNumbers> read_number_mark(const std::string& path);
void write_number_mark(const std::string& path, const GivenNumbers& numbers);

}  // namespace berth
