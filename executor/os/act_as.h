// Finding and using files with another user's rights and no more.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace berth {

/// Those of the user database, however many, and `group`; none when it cannot be asked.
std::vector<gid_t> groups_of_user(const std::string& name, gid_t group);

/// While it lives, what this thread does with files that it has open is the user's doing: file system user
/// id, and no capability in effect. Root would write on where the disk is full for others and past a quota,
/// keep the set-user-ID bit of a file that it writes, and read of /proc what others may not. No group is
/// asked there. Some system calls and no allocation, for use around each read and write. Does nothing in a
/// process that is not root's, or for root. Throws std::system_error.
class AccessAs {
 public:
  explicit AccessAs(uid_t user);
  AccessAs(const AccessAs&) = delete;
  AccessAs& operator=(const AccessAs&) = delete;
  ~AccessAs();

 private:
  bool active_;
  std::array<std::uint32_t, 2> before_{};  ///< the capabilities that were in effect
};

/// AccessAs, and the group and the supplementary groups, for finding and opening files: those of the user
/// database, or the given ones.
/// setfsuid(2) alone would leave capabilities that open what the kernel guards beside file modes: other
/// processes (CAP_SYS_PTRACE), its own addresses (CAP_SYSLOG). Does nothing where AccessAs does nothing.
/// Throws std::system_error.
class ActAs {
 public:
  ActAs(uid_t user, gid_t group, const std::string& name);
  ActAs(uid_t user, gid_t group, const std::vector<gid_t>& groups);

 private:
  class Groups {
   public:
    Groups(uid_t user, gid_t group, const std::string& name);
    Groups(uid_t user, gid_t group, const std::vector<gid_t>& groups);
    Groups(const Groups&) = delete;
    Groups& operator=(const Groups&) = delete;
    ~Groups();

   private:
    std::optional<std::vector<gid_t>> own_;
  };

  Groups groups_;  // before access_: changing them takes a capability
  AccessAs access_;
};

}  // namespace berth
