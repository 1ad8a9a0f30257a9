// Files of a database: made private, written to the disk. Internal to store/. Throws StoreError.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace berth {

/// How long a connection waits for another one's lock: longer than any transaction of ours. A writer that
/// waits longer is stuck, not busy.
inline constexpr int kBusyTimeoutMilliseconds = 10'000;

/// Makes what was created in `folder` survive a power cut (fsync(2), "directory").
void sync_folder(const std::string& folder);
/// An empty file of mode 0600; SQLite would make it by the umask, and gives -wal and -shm the mode of the
/// main file. Nothing happens when it exists.
///
/// Never opens a file that exists: closing any descriptor of it would drop the POSIX locks that another
/// connection of this process holds (https://www.sqlite.org/howtocorrupt.html section 2.2).
void create_private_file(const std::string& path);
/// A file of mode 0600 that is whole and on the disk when it gets its name. Nothing happens when there is one
/// of this name by then. False where the file system has no files without a name, or gives them none later
/// (open(2), O_TMPFILE).
bool create_at_once(const std::string& path, std::string_view content);
/// rename(2), which replaces `to`.
void rename_file(const std::string& from, const std::string& to);
/// Throws unless the file system of `folder` has `bytes` left for this process; where it cannot tell, it has.
void require_room(const std::string& folder, std::int64_t bytes);
/// For files that no connection has open (see above).
void sync_file(const std::string& path);

}  // namespace berth
