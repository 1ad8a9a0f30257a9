// Files of a database: made private, written to the disk. Internal to store/. Throws StoreError.
#pragma once

#include <string>

namespace berth {

/// Makes what was created in `folder` survive a power cut (fsync(2), "directory").
void sync_folder(const std::string& folder);
/// An empty file of mode 0600; SQLite would make it by the umask, and gives -wal and -shm the mode of the
/// main file. Nothing happens when it exists.
///
/// Never opens a file that exists: closing any descriptor of it would drop the POSIX locks that another
/// connection of this process holds (https://www.sqlite.org/howtocorrupt.html section 2.2).
void create_private_file(const std::string& path);
/// For files that no connection has open (see above).
void sync_file(const std::string& path);

}  // namespace berth
