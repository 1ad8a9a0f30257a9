// JSON values to JobSpec: every field, every rule, every fault. The parser's side of the contract that
// schemas/job.schema.json states; a test keeps both equal.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "schemas/job_spec.h"
#include "schemas/json_reader.h"

namespace berth {

/// Reads one job object. The result is valid when no fault was added below `field`'s pointer.
JobSpec read_job(const Field& field);
/// Parts of it.
void read_limits(const Field& field, Limits& limits);
void read_isolation(const Field& field, Isolation& isolation);

/// The fields of one kind of object. `path` is its place in a job: "", "/limits", "/limits/io/*" ….
struct ObjectFields {
  std::string path;
  std::vector<std::string> names;
};
/// Every object that the parser knows, with every field.
const std::vector<ObjectFields>& known_fields();
std::vector<ObjectFields> limits_fields();
std::vector<ObjectFields> isolation_fields();

/// How one field of an object is read into `Target`.
template <typename Target>
struct Member {
  const char* name;
  void (*read)(const Field& field, Target& target);
};

/// How many letters must be added, removed or changed to make one word of the other.
std::size_t edit_distance(std::string_view left, std::string_view right);
/// Records that the object at `path` has no such field, and which one was probably meant.
void refuse_unknown(const Field& field, const std::string& path);

/// Reads every member of an object by the table; `unknown` gets those that are not in it.
template <typename Target, typename Unknown>
void read_members_or(const Field& field, std::span<const Member<Target>> table, Target& target,
                     const Unknown& unknown) {
  const std::optional<std::vector<Field>> fields = field.members("an object");
  if (!fields) {
    return;
  }
  for (const Field& member : *fields) {
    bool known = false;
    for (const Member<Target>& entry : table) {
      if (member.key() == entry.name) {
        entry.read(member, target);
        known = true;
        break;
      }
    }
    if (!known) {
      unknown(member);
    }
  }
}

/// Those that are not in the table are faults, which name the nearest of all fields of a job.
template <typename Target>
void read_members(const Field& field, std::span<const Member<Target>> table, const std::string& path,
                  Target& target) {
  read_members_or(field, table, target, [&](const Field& member) { refuse_unknown(member, path); });
}

template <typename Target>
ObjectFields names_of(std::string path, std::span<const Member<Target>> table) {
  ObjectFields fields{std::move(path), {}};
  for (const Member<Target>& entry : table) {
    fields.names.emplace_back(entry.name);
  }
  return fields;
}

}  // namespace berth
