// The name in the file system that berthd's socket has: taken only when nobody else has it, and left to
// whoever has it by then.
#pragma once

#include <sys/types.h>

#include <string>

namespace berth {

/// Removes the socket that a dead berthd left at `path`. Throws std::runtime_error when something else is
/// there: no socket, or one that somebody serves.
void clear_socket_place(const std::string& path);

/// A socket that was bound to a path a moment ago.
class BoundSocket {
 public:
  explicit BoundSocket(std::string path);
  /// Unless another one has its name by now.
  void remove() const;

 private:
  std::string path_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace berth
