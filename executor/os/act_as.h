// Finding files with another user's rights and no more.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace berth {

/// Those of the user database, however many, and `group`; none when it cannot be asked.
std::vector<gid_t> groups_of_user(const std::string& name, gid_t group);

/// While it lives, this thread's file accesses are the user's: file system ids, the supplementary groups of
/// the user database, and no capability in effect. setfsuid(2) alone would leave those that open what the
/// kernel guards beside file modes: other processes (CAP_SYS_PTRACE), its own addresses (CAP_SYSLOG). Does
/// nothing in a process that is not root's, or for root. Throws std::system_error.
class ActAs {
 public:
  ActAs(uid_t user, gid_t group, const std::string& name);
  ActAs(const ActAs&) = delete;
  ActAs& operator=(const ActAs&) = delete;
  ~ActAs();

 private:
  void undo() noexcept;

  bool active_;
  bool has_dropped_ = false;
  std::vector<gid_t> own_groups_;
};

}  // namespace berth
