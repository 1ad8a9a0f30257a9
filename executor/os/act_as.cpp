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

using CapabilitySets = std::array<__user_cap_data_struct, 2>;  // of this thread, as capset(2) always is

CapabilitySets own_capabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  CapabilitySets own{};
  (void)::syscall(SYS_capget, &header, own.data());  // cannot fail
  return own;
}

bool set_in_effect(const std::array<std::uint32_t, 2>& effective) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  CapabilitySets own = own_capabilities();
  own[0].effective = effective[0];
  own[1].effective = effective[1];
  return ::syscall(SYS_capset, &header, own.data()) == 0;
}

/// setfsuid(2) reports failure only by the id that a second call returns.
bool set_file_user(uid_t user) {
  ::setfsuid(user);
  return static_cast<uid_t>(::setfsuid(static_cast<uid_t>(-1))) == user;
}

bool is_to_act_as(uid_t user) {
  return user != 0 && ::geteuid() == 0;
}

}  // namespace

AccessAs::AccessAs(uid_t user) : active_(is_to_act_as(user)) {
  if (!active_) {
    return;
  }
  // First: the kernel takes the capabilities over files out of effect with the id, and gives them back with
  // it.
  const CapabilitySets own = own_capabilities();
  before_ = {own[0].effective, own[1].effective};
  if (!set_file_user(user) || !set_in_effect({0, 0})) {
    (void)set_file_user(::geteuid());
    throw std::system_error(EPERM, std::generic_category(), "act as user " + std::to_string(user));
  }
}

AccessAs::~AccessAs() {
  if (active_ && (!set_file_user(::geteuid()) || !set_in_effect(before_))) {
    std::abort();  // neither root nor the user
  }
}

ActAs::Groups::Groups(uid_t user, gid_t group, const std::string& name)
    : Groups(user, group, is_to_act_as(user) ? groups_of_user(name, group) : std::vector<gid_t>()) {}

ActAs::Groups::Groups(uid_t user, gid_t group, const std::vector<gid_t>& groups) {
  if (!is_to_act_as(user)) {
    return;
  }
  const int own = std::max(::getgroups(0, nullptr), 0);
  own_.emplace(static_cast<std::size_t>(own));
  own_->resize(static_cast<std::size_t>(std::max(::getgroups(own, own_->data()), 0)));
  if (!set_groups(groups)) {
    throw std::system_error(errno, std::generic_category(), "setgroups");
  }
  ::setfsgid(group);
}

ActAs::Groups::~Groups() {
  if (!own_) {
    return;
  }
  ::setfsgid(::getegid());
  if (!set_groups(*own_)) {
    std::abort();  // going on as root with another user's groups would be worse
  }
}

ActAs::ActAs(uid_t user, gid_t group, const std::string& name) : groups_(user, group, name), access_(user) {}
ActAs::ActAs(uid_t user, gid_t group, const std::vector<gid_t>& groups)
    : groups_(user, group, groups), access_(user) {}

}  // namespace berth
