// Dependency: what a job waits for, as sbatch's --dependency writes it: "afterok:12:13_4,afterany:14" (all of
// them) or with "?" between (any of them); types after, afterany, afterok, afternotok and singleton.
//
// A value. Pure; safe from any thread.
#pragma once

#include <compare>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "schemas/job.h"

namespace berth {

struct Dependency {
  enum class Type {
    after,       ///< it has started, or was cancelled
    afterany,    ///< it has ended
    afterok,     ///< it has completed
    afternotok,  ///< it has ended otherwise
    singleton,   ///< no earlier job of this name and user waits or runs
  };
  struct Condition {
    Type type = Type::afterany;
    JobId job = 0;                                ///< 0: singleton
    std::optional<unsigned> task = std::nullopt;  ///< of the array `job`: this one alone
    auto operator<=>(const Condition&) const = default;
  };
  std::vector<Condition> conditions;  ///< each once
  bool any = false;                   ///< one of them is enough
};

/// Throws std::invalid_argument whose what() completes `"afterok" …`.
Dependency parse_dependency(std::string_view text);
/// Of a job that is being submitted or changed: refuses more than 10,000 conditions, each of which is looked
/// up, and text above 256 KiB.
Dependency parse_new_dependency(std::string_view text);

/// Whether a condition on a job in that state holds, cannot hold any more, or may yet.
enum class Fulfilment { no, yes, never };
Fulfilment fulfilment(Dependency::Type type, JobState state);

}  // namespace berth
