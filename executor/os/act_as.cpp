#include "executor/os/act_as.h"

#include <grp.h>
#include <linux/capability.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <system_error>

namespace berth {

std::vector<gid_t> groups_of_user(const std::string& name, gid_t group) {
  std::vector<gid_t> groups(64);
  int count = static_cast<int>(groups.size());
  if (::getgrouplist(name.c_str(), group, groups.data(), &count) < 0) {
    groups.resize(static_cast<std::size_t>(std::max(count, 0)));
    if (::getgrouplist(name.c_str(), group, groups.data(), &count) < 0) {
      count = 0;
    }
  }
  groups.resize(static_cast<std::size_t>(count));
  return groups;
}

namespace {

/// The bare system call: this thread alone, where glibc's setgroups(3) would change every thread.
bool set_groups(const std::vector<gid_t>& groups) {
  return ::syscall(SYS_setgroups, groups.size(), groups.data()) == 0;
}

/// All that are permitted in effect, or none. Of this thread, as capset(2) always is.
bool set_capabilities_in_effect(bool all) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> data{};
  if (::syscall(SYS_capget, &header, data.data()) != 0) {
    return false;
  }
  for (__user_cap_data_struct& half : data) {
    half.effective = all ? half.permitted : 0;
  }
  return ::syscall(SYS_capset, &header, data.data()) == 0;
}

}  // namespace

ActAs::ActAs(uid_t user, gid_t group, const std::string& name) : active_(::geteuid() == 0 && user != 0) {
  if (!active_) {
    return;
  }
  const int own = std::max(::getgroups(0, nullptr), 0);
  own_groups_.resize(static_cast<std::size_t>(own));
  own_groups_.resize(static_cast<std::size_t>(std::max(::getgroups(own, own_groups_.data()), 0)));
  if (!set_groups(groups_of_user(name, group))) {
    throw std::system_error(errno, std::generic_category(), "setgroups");
  }
  ::setfsgid(group);
  ::setfsuid(user);
  // Both calls report failure only by the id that a second call returns.
  const bool is_user = static_cast<uid_t>(::setfsuid(static_cast<uid_t>(-1))) == user;
  has_dropped_ = is_user && set_capabilities_in_effect(false);
  if (!has_dropped_) {
    undo();
    throw std::system_error(EPERM, std::generic_category(), "act as user " + std::to_string(user));
  }
}

ActAs::~ActAs() {
  if (active_) {
    undo();
  }
}

void ActAs::undo() noexcept {
  const bool has_capabilities = !has_dropped_ || set_capabilities_in_effect(true);
  ::setfsuid(::geteuid());
  ::setfsgid(::getegid());
  if (!has_capabilities || !set_groups(own_groups_)) {
    std::abort();  // going on as root with another user's groups would be worse
  }
}

}  // namespace berth
