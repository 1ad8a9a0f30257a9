// isolation{}: the walls around a job.
#include <algorithm>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>

#include "schemas/characters.h"
#include "schemas/job_reader.h"
#include "schemas/network_reader.h"

namespace berth {

namespace {

constexpr std::size_t kMaximumHostname = 64;             // HOST_NAME_MAX (gethostname(2))
constexpr std::size_t kMaximumHostLabel = 63;            // RFC 1123, section 2.1, and RFC 1035
constexpr std::uint64_t kMaximumUserId = 4'294'967'294;  // the highest uid_t; one more means "none"
constexpr std::int64_t kMaximumOffset = 3'153'600'000;   // 100 years, as for durations

/// Isolation under construction: where each mount was written, for faults that concern two of them.
struct Reading {
  Isolation& isolation;
  std::vector<std::string> mount_pointers;
};

// ---- mounts and tmpfs ----

bool is_at_or_below(const std::string& path, const std::string& folder) {
  return path == folder || path.starts_with(folder + '/');
}

/// Berth makes /proc, /dev and /sys itself: a mount there would undo what it masks.
std::optional<std::string> read_target(const Field& field) {
  std::optional<std::string> target = field.inside_path();
  if (!target) {
    return std::nullopt;
  }
  if (*target == "/") {
    field.refuse("would replace the whole root; use isolation.root for that");
    return std::nullopt;
  }
  for (const char* folder : {"/proc", "/dev", "/sys"}) {
    if (is_at_or_below(*target, folder)) {
      field.refuse(std::string("is in ") + folder + ", which berth makes itself; choose another target");
      return std::nullopt;
    }
  }
  return target;
}

/// A mount as written; what was left out matters.
struct MountReading {
  std::optional<std::string> type;
  std::optional<bool> read_only;
  Mount mount;
};

void read_mount_type(const Field& field, MountReading& reading) {
  const std::optional<std::string> type = field.text();
  if (type && *type != "bind" && *type != "tmpfs") {
    field.refuse("is not a kind of mount (use \"bind\" or \"tmpfs\")");
  } else if (type) {
    reading.type = type;
    reading.mount.kind = *type == "bind" ? Mount::Kind::bind : Mount::Kind::tmpfs;
  }
}

constexpr Member<MountReading> kMountMembers[] = {
    {"type", read_mount_type},
    {"source", [](const Field& field,
                  MountReading& reading) { reading.mount.source = field.host_path().value_or(""); }},
    {"target", [](const Field& field,
                  MountReading& reading) { reading.mount.target = read_target(field).value_or(""); }},
    {"read_only",
     [](const Field& field, MountReading& reading) {
       reading.read_only = field.boolean();
       reading.mount.read_only = reading.read_only.value_or(true);
     }},
    {"size", [](const Field& field, MountReading& reading) { reading.mount.size = field.size({}); }},
};

void check_bind(const Field& field, const MountReading& reading) {
  if (reading.mount.source.empty()) {
    field.refuse_plainly("is a bind mount without \"source\"; add the host path to mount");
  }
  if (reading.mount.size) {
    field.refuse_plainly("is a bind mount, which has no \"size\"; remove it, or use \"type\": \"tmpfs\"");
  }
}

void check_tmpfs(const Field& field, const MountReading& reading) {
  if (!reading.mount.size) {
    field.refuse_plainly("is a tmpfs without \"size\"; add one, e.g. \"size\": \"64M\"");
  }
  if (!reading.mount.source.empty()) {
    field.refuse_plainly("is a tmpfs, which has no \"source\"; remove it, or use \"type\": \"bind\"");
  }
  if (reading.read_only) {
    field.refuse_plainly("is a tmpfs, which is always writable; remove \"read_only\"");
  }
}

void add_mount(const Field& field, Mount mount, Reading& reading) {
  reading.isolation.mounts.push_back(std::move(mount));
  reading.mount_pointers.push_back(field.pointer());
}

void read_mount(const Field& field, Reading& reading) {
  const std::vector<InputFault>& faults = field.context().faults;
  const std::size_t faults_before = faults.size();
  MountReading mount;
  read_members<MountReading>(field, kMountMembers, "/isolation/mounts/*", mount);
  if (faults.size() != faults_before) {
    return;
  }
  if (mount.mount.target.empty()) {
    field.refuse_plainly("has no \"target\"; add the path inside the job");
  }
  if (mount.mount.kind == Mount::Kind::bind) {
    check_bind(field, mount);
  } else {
    check_tmpfs(field, mount);
  }
  if (faults.size() == faults_before) {
    add_mount(field, std::move(mount.mount), reading);
  }
}

void read_mounts(const Field& field, Reading& reading) {
  if (const auto elements = field.elements("an array of objects with \"target\"")) {
    for (const Field& element : *elements) {
      read_mount(element, reading);
    }
  }
}

constexpr Member<Mount> kTmpfsMembers[] = {
    {"target", [](const Field& field, Mount& mount) { mount.target = read_target(field).value_or(""); }},
    {"size", [](const Field& field, Mount& mount) { mount.size = field.size({}); }},
};

void read_tmpfs_element(const Field& field, Reading& reading) {
  const std::size_t faults_before = field.context().faults.size();
  Mount mount;
  mount.kind = Mount::Kind::tmpfs;
  read_members<Mount>(field, kTmpfsMembers, "/isolation/tmpfs/*", mount);
  if (field.context().faults.size() != faults_before) {
    return;
  }
  if (mount.target.empty() || !mount.size) {
    field.refuse_plainly("needs both \"target\" and \"size\"");
    return;
  }
  add_mount(field, std::move(mount), reading);
}

/// {"/scratch": "1G"}: the key is the target.
void read_tmpfs_member(const Field& field, Reading& reading) {
  const nlohmann::ordered_json key = field.key();
  Mount mount;
  mount.kind = Mount::Kind::tmpfs;
  mount.target = read_target(Field(key, field.pointer(), field.context())).value_or("");
  mount.size = field.size({});
  if (!mount.target.empty() && mount.size) {
    add_mount(field, std::move(mount), reading);
  }
}

void read_tmpfs(const Field& field, Reading& reading) {
  if (field.value().is_array()) {
    const std::vector<Field> elements = *field.elements("");
    for (const Field& element : elements) {
      read_tmpfs_element(element, reading);
    }
  } else if (const auto members = field.members("an object such as {\"/scratch\": \"1G\"}")) {
    for (const Field& member : *members) {
      read_tmpfs_member(member, reading);
    }
  }
}

void check_targets_differ(ReadContext& context, const Reading& reading) {
  std::map<std::string, std::string> pointer_of_target;
  for (std::size_t index = 0; index < reading.mount_pointers.size(); ++index) {
    const std::string& target = reading.isolation.mounts[index].target;
    const std::string& pointer = reading.mount_pointers[index];
    const auto [earlier, is_new] = pointer_of_target.emplace(target, pointer);
    if (!is_new) {
      context.faults.push_back(
          {context.file, pointer,
           "mounts on " + shown(target) + " like " + earlier->second + "; give each mount its own target"});
    }
  }
}

void check_count(const Field& field, const Isolation& isolation) {
  const std::size_t count = isolation.mounts.size() + isolation.devices.size();
  if (!field.context().is_stored && count > kMostMounts) {
    field.context().faults.push_back(
        {field.context().file, field.pointer(),
         "has " + std::to_string(count) + " mounts, tmpfs and devices, more than the " +
             std::to_string(kMostMounts) + " possible; mount a folder above several"});
  }
}

// ---- root ----

struct RootReading {
  std::string path;
  bool writable = false;
};

void read_root_path(const Field& field, RootReading& root) {
  const std::optional<std::string> path = field.host_path();
  if (path && *path == "/") {
    field.refuse("is the host's root, which is the default; leave the field out");
  } else {
    root.path = path.value_or("");
  }
}

constexpr Member<RootReading> kRootMembers[] = {
    {"path", read_root_path},
    {"writable",
     [](const Field& field, RootReading& root) { root.writable = field.boolean().value_or(false); }},
};

void read_root(const Field& field, Reading& reading) {
  RootReading root;
  if (field.value().is_string()) {
    read_root_path(field, root);
  } else if (field.value().is_object()) {
    const std::size_t faults_before = field.context().faults.size();
    read_members<RootReading>(field, kRootMembers, "/isolation/root", root);
    if (root.path.empty() && field.context().faults.size() == faults_before) {
      field.refuse_plainly("has no \"path\"; add the root directory");
    }
  } else {
    field.refuse("is not a root directory (use a path, or {\"path\": …, \"writable\": true})");
  }
  reading.isolation.root = root.path;
  reading.isolation.root_writable = root.writable;
}

// ---- single values ----

bool is_label(std::string_view label) {
  return !label.empty() && label.size() <= kMaximumHostLabel && label.front() != '-' && label.back() != '-' &&
         std::all_of(label.begin(), label.end(), [](char c) { return is_letter_or_digit(c) || c == '-'; });
}

bool is_hostname(std::string_view name) {
  if (name.size() > kMaximumHostname) {
    return false;
  }
  while (true) {
    const std::size_t dot = name.find('.');
    if (!is_label(name.substr(0, dot))) {
      return false;
    }
    if (dot == std::string_view::npos) {
      return true;
    }
    name.remove_prefix(dot + 1);
  }
}

void read_hostname(const Field& field, Reading& reading) {
  const std::optional<std::string> hostname = field.word();
  if (hostname && !is_hostname(*hostname)) {
    field.refuse("is not a host name (use letters, digits, inner hyphens and dots, at most 64)");
  } else {
    reading.isolation.hostname = hostname.value_or("");
  }
}

bool is_digits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

bool is_id(std::string_view text) {
  std::uint64_t id = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  return is_digits(text) && error == std::errc() && id <= kMaximumUserId;
}

bool is_user(std::string_view user) {
  if (const std::size_t colon = user.find(':'); colon != std::string_view::npos) {
    return is_id(user.substr(0, colon)) && is_id(user.substr(colon + 1));
  }
  return is_digits(user) ? is_id(user)
                         : user.front() != '-' && user.find_first_of("/ ") == std::string_view::npos;
}

void read_user(const Field& field, Reading& reading) {
  if (field.value().is_number()) {
    if (const auto id = field.integer(0, static_cast<std::int64_t>(kMaximumUserId))) {
      reading.isolation.user = std::to_string(*id);
    }
    return;
  }
  const std::optional<std::string> user = field.word();
  if (user && !is_user(*user)) {
    field.refuse("is not a user (use a login name, 1000 or \"1000:1000\")");
  } else {
    reading.isolation.user = user.value_or("");
  }
}

void read_devices(const Field& field, Reading& reading) {
  const auto elements = field.elements("an array of device nodes such as [\"/dev/fuse\"]");
  if (!elements) {
    return;
  }
  for (const Field& element : *elements) {
    const std::optional<std::string> device = element.inside_path();
    if (device && !device->starts_with("/dev/")) {
      element.refuse("is not a device node (use a path in /dev)");
    } else if (device) {
      reading.isolation.devices.push_back(*device);
    }
  }
}

void read_seccomp(const Field& field, Reading& reading) {
  const std::optional<std::string> profile = field.text();
  if (profile && *profile != "default" && *profile != "none") {
    field.refuse("is not a seccomp profile (use \"default\" or \"none\")");
  } else if (profile) {
    reading.isolation.seccomp = *profile == "default";
  }
}

constexpr Member<Isolation> kTimeOffsetMembers[] = {
    {"monotonic",
     [](const Field& field, Isolation& isolation) {
       isolation.time_offset_monotonic_seconds = field.integer(-kMaximumOffset, kMaximumOffset);
     }},
    {"boottime",
     [](const Field& field, Isolation& isolation) {
       isolation.time_offset_boottime_seconds = field.integer(-kMaximumOffset, kMaximumOffset);
     }},
};

constexpr Member<Reading> kIsolationMembers[] = {
    {"network",
     [](const Field& field, Reading& reading) { read_network_mode(field, reading.isolation.network); }},
    {"egress", [](const Field& field, Reading& reading) { read_egress(field, reading.isolation.network); }},
    {"publish", [](const Field& field, Reading& reading) { read_publish(field, reading.isolation.network); }},
    {"dns", [](const Field& field, Reading& reading) { read_dns(field, reading.isolation.network); }},
    {"rate", [](const Field& field, Reading& reading) { read_rate(field, reading.isolation.network); }},
    {"root", read_root},
    {"overlay", [](const Field& field,
                   Reading& reading) { reading.isolation.overlay = field.boolean().value_or(false); }},
    {"mounts", read_mounts},
    {"tmpfs", read_tmpfs},
    {"hostname", read_hostname},
    {"user", read_user},
    {"devices", read_devices},
    {"seccomp", read_seccomp},
    {"time_offset",
     [](const Field& field, Reading& reading) {
       read_members<Isolation>(field, kTimeOffsetMembers, "/isolation/time_offset", reading.isolation);
     }},
};

}  // namespace

void read_isolation(const Field& field, Isolation& isolation) {
  Reading reading{isolation, {}};
  read_members<Reading>(field, kIsolationMembers, "/isolation", reading);
  check_targets_differ(field.context(), reading);
  check_count(field, isolation);
  check_network(field, isolation.network);
  if (isolation.overlay && isolation.root_writable) {
    field.context().faults.push_back({field.context().file, field.pointer() + "/overlay",
                                      "contradicts a writable root: an overlay throws writes away; remove "
                                      "\"overlay\" or \"writable\""});
  }
}

std::vector<ObjectFields> isolation_fields() {
  std::vector<ObjectFields> fields{names_of<Reading>("/isolation", kIsolationMembers),
                                   names_of<RootReading>("/isolation/root", kRootMembers),
                                   names_of<MountReading>("/isolation/mounts/*", kMountMembers),
                                   names_of<Mount>("/isolation/tmpfs/*", kTmpfsMembers),
                                   names_of<Isolation>("/isolation/time_offset", kTimeOffsetMembers)};
  for (ObjectFields& object : network_fields()) {
    fields.push_back(std::move(object));
  }
  return fields;
}

}  // namespace berth
