// Who asked for a job, and who it runs as (executor.h: Caller, Identity).
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <vector>

#include "executor/executor.h"
#include "executor/launcher_process.h"
#include "executor/os/act_as.h"
#include "executor/sandbox_protocol.h"

namespace berth {
namespace {

/// "nobody" and "nogroup" inside: names that every passwd file has.
constexpr uid_t kNobody = 65534;

struct Account {
  uid_t uid = 0;
  gid_t gid = 0;
  std::string name;
  std::string home;
  std::string shell;
};

std::optional<unsigned> parse_number(std::string_view text) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && !text.empty() ? std::optional(value)
                                                                                   : std::nullopt;
}

std::optional<unsigned> environment_number(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? parse_number(value) : std::nullopt;
}

Account from_passwd(const passwd& entry) {
  return {entry.pw_uid, entry.pw_gid, entry.pw_name, entry.pw_dir, entry.pw_shell};
}

std::optional<Account> find_account(uid_t uid) {
  const passwd* entry = ::getpwuid(uid);
  return entry != nullptr ? std::optional(from_passwd(*entry)) : std::nullopt;
}

/// HOME inside: the account's own when it is below /home (the private home is mounted there).
std::string home_inside(const Account& account) {
  if (account.uid == 0) {
    return "/root";
  }
  return account.home.starts_with("/home/") && account.home.find("..") == std::string::npos
             ? account.home
             : "/home/" + account.name;
}

[[noreturn]] void refuse(int error_number, const std::string& message) {
  throw LaunchError("user", error_number, message);
}

/// Beside its own, and never the host's root group.
std::vector<gid_t> supplementary_groups(const Account& account) {
  std::vector<gid_t> groups = groups_of_user(account.name, account.gid);
  std::erase_if(groups, [&](gid_t group) { return group == account.gid || group == 0; });
  if (groups.size() > sandbox::kMaximumGroups) {
    refuse(E2BIG, "user " + account.name + " is in " + std::to_string(groups.size()) +
                      " supplementary groups, and a job may have " + std::to_string(sandbox::kMaximumGroups) +
                      "; take the user out of some, or name another one in isolation.user");
  }
  return groups;
}

Identity identity_of(const Account& account, bool with_groups) {
  Identity identity;
  identity.outside_uid = identity.inside_uid = account.uid;
  identity.outside_gid = identity.inside_gid = account.gid;
  identity.name = account.name;
  identity.home = home_inside(account);
  identity.shell = account.shell.empty() ? "/bin/sh" : account.shell;
  if (with_groups) {
    identity.groups = supplementary_groups(account);
  }
  return identity;
}

Identity unprivileged_identity() {
  Identity identity;
  identity.outside_uid = identity.outside_gid = kUnprivilegedId;
  identity.inside_uid = identity.inside_gid = kNobody;
  identity.name = "nobody";
  identity.home = "/home/nobody";
  identity.shell = "/bin/sh";
  return identity;
}

/// Root inside is an unprivileged id outside.
Identity root_inside(uid_t outside_uid, gid_t outside_gid) {
  Identity identity;
  identity.outside_uid = outside_uid;
  identity.outside_gid = outside_gid;
  identity.name = "root";
  identity.home = "/root";
  identity.shell = "/bin/sh";
  return identity;
}

Account parse_user(const std::string& text) {
  const std::size_t colon = text.find(':');
  const std::string user = text.substr(0, colon);
  std::optional<Account> account;
  if (const std::optional<unsigned> uid = parse_number(user)) {
    account = find_account(*uid);
    if (!account) {
      account = Account{*uid, *uid, "user" + user, "", ""};
    }
  } else if (const passwd* entry = ::getpwnam(user.c_str())) {
    account = from_passwd(*entry);
  } else {
    refuse(ENOENT, "isolation.user: there is no user \"" + user + "\" on this machine (see getent passwd)");
  }
  if (colon != std::string::npos) {
    const std::string group = text.substr(colon + 1);
    const std::optional<unsigned> gid = parse_number(group);
    const struct group* entry = gid ? nullptr : ::getgrnam(group.c_str());
    if (!gid && entry == nullptr) {
      refuse(ENOENT,
             "isolation.user: there is no group \"" + group + "\" on this machine (see getent group)");
    }
    account->gid = gid ? *gid : entry->gr_gid;
  }
  if (account->uid == 0 && colon != std::string::npos && account->gid != 0) {
    refuse(EINVAL, "isolation.user: \"" + text + "\": root inside has group 0 alone; leave the group out");
  }
  if (account->uid != 0 && account->gid == 0) {
    refuse(EPERM, "isolation.user: group 0 is the host's root group, which no job runs in");
  }
  return *account;
}

Identity resolve(const std::string& isolation_user, const Caller& caller);

bool is_in_group(const Caller& caller, gid_t group) {
  const std::vector<gid_t> groups = groups_of_user(caller.name, caller.gid);
  return group == caller.gid || std::find(groups.begin(), groups.end(), group) != groups.end();
}

/// What a user who is not root may name: itself, in one of its groups, or root inside, which it is itself
/// outside.
Identity resolve_own(const std::string& isolation_user, const Caller& caller) {
  const Account wanted = parse_user(isolation_user);
  if (wanted.uid == 0) {
    return root_inside(caller.uid, caller.gid);
  }
  if (wanted.uid != caller.uid) {
    refuse(EPERM, "isolation.user: only root can run a job as another user; leave it out");
  }
  if (!is_in_group(caller, wanted.gid)) {
    refuse(EPERM, "isolation.user: user " + caller.name + " is not in group " + std::to_string(wanted.gid) +
                      "; name a group that it is in, or leave it out");
  }
  return identity_of(wanted, true);
}

/// Whether this process's user namespace has the id: "inside outside count" lines, user_namespaces(7).
bool is_mapped(const char* map_file, unsigned id) {
  std::ifstream map(map_file);
  unsigned long inside = 0;
  unsigned long outside = 0;
  unsigned long count = 0;
  while (map >> inside >> outside >> count) {
    if (id >= inside && id - inside < count) {
      return true;
    }
  }
  return map.bad() || !map.is_open();  // without /proc nothing can be said against it
}

/// A user may have group 0 as its own in /etc/passwd.
void refuse_root_group(const Identity& identity) {
  if (identity.outside_gid == 0 && ::geteuid() == 0) {
    refuse(EPERM,
           "the group of user " + identity.name +
               " is 0, the host's root group, which no job runs in; give the user another group, or name "
               "one in isolation.user");
  }
}

/// The root of a container without privileges has few ids: better said here than by the id map's EPERM.
void check_mapped(const Identity& identity, bool is_named) {
  if (!is_mapped("/proc/self/uid_map", identity.outside_uid) ||
      !is_mapped("/proc/self/gid_map", identity.outside_gid)) {
    refuse(EPERM, "id " + std::to_string(identity.outside_uid) +
                      (is_named ? "" : ", which root's jobs run as,") +
                      " is not mapped in berth's own user namespace (a container's?); name a user that is "
                      "(--user, isolation.user), or run berth as an ordinary user");
  }
}

}  // namespace

Caller calling_user() {
  Caller caller{::getuid(), ::getgid(), ""};
  if (caller.uid == 0) {
    const std::optional<unsigned> uid = environment_number("SUDO_UID");
    const std::optional<unsigned> gid = environment_number("SUDO_GID");
    if (uid && gid) {
      caller.uid = *uid;
      caller.gid = *gid;
    }
  }
  if (caller.uid == 0) {
    caller.name = "root";
  } else {
    const std::optional<Account> account = find_account(caller.uid);
    caller.name = account ? account->name : std::to_string(caller.uid);
  }
  return caller;
}

bool can_enter(const Identity& identity, const std::string& directory) {
  const ActAs as_job(identity.outside_uid, identity.outside_gid, identity.groups);
  return ::faccessat(AT_FDCWD, directory.c_str(), X_OK, AT_EACCESS) == 0;
}

Identity resolve_identity(const std::string& isolation_user) {
  Identity identity = resolve(isolation_user, calling_user());
  refuse_root_group(identity);
  check_mapped(identity, !isolation_user.empty());
  return identity;
}

Identity resolve_identity(const std::string& isolation_user, const Caller& caller) {
  Identity identity = caller.uid == 0 || isolation_user.empty() ? resolve(isolation_user, caller)
                                                                : resolve_own(isolation_user, caller);
  refuse_root_group(identity);
  check_mapped(identity, !isolation_user.empty());
  return identity;
}

namespace {

Identity resolve(const std::string& isolation_user, const Caller& caller) {
  const bool privileged = is_privileged();
  std::optional<Account> wanted;
  if (!isolation_user.empty()) {
    wanted = parse_user(isolation_user);
  }
  if (!privileged) {
    const uid_t own = ::geteuid();
    if (own == 0) {
      refuse(
          EPERM,
          "this root has no CAP_SYS_ADMIN (a container's?), and a job never runs as root outside: grant it, "
          "or run berth as an ordinary user");
    }
    if (wanted && wanted->uid == 0) {
      return root_inside(own, ::getegid());
    }
    if (wanted && wanted->uid != own) {
      refuse(EPERM, "isolation.user: only root can run a job as another user; leave it out or use sudo");
    }
    if (isolation_user.find(':') != std::string::npos && wanted->gid != ::getegid()) {
      refuse(
          EPERM,
          "isolation.user: only root can run a job in another group than berth's own; leave the group out, "
          "or use sudo or newgrp");
    }
    Account account =
        find_account(own).value_or(Account{own, ::getegid(), "user" + std::to_string(own), "", ""});
    account.gid = ::getegid();
    return identity_of(account, false);
  }
  if (wanted && wanted->uid == 0) {
    return root_inside(kUnprivilegedId, kUnprivilegedId);
  }
  if (wanted) {
    return identity_of(*wanted, true);
  }
  if (caller.uid != 0) {
    const Account account =
        find_account(caller.uid)
            .value_or(Account{caller.uid, caller.gid, "user" + std::to_string(caller.uid), "", ""});
    return identity_of(account, true);
  }
  return unprivileged_identity();
}

}  // namespace
}  // namespace berth
