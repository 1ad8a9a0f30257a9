// Strict JSON text to a value: what JSON leaves open is refused here.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "schemas/input_error.h"

namespace berth {

/// What a text is for, as its faults say it.
struct TextKind {
  std::string_view name;    ///< "a job file"
  std::string_view levels;  ///< how many it needs
  std::string_view least;   ///< what to write into an empty one
};
inline constexpr TextKind kJobText{"a job file", "six", "write one job object or an array of them"};

/// Parses one JSON value, members in the order of the text. Faults are appended: a syntax error (with
/// line and column), text that is not UTF-8, a number out of range or too deep nesting end the parse and
/// nothing is returned; each repeated key is a fault of its own and the first value is kept. kMostFaults end
/// it too.
std::optional<nlohmann::ordered_json> parse_json(std::string_view text, const std::string& file_name,
                                                 std::vector<InputFault>& faults,
                                                 const TextKind& kind = kJobText);

/// The same; throws InputError with the faults.
nlohmann::ordered_json require_json(std::string_view text, const std::string& file_name,
                                    const TextKind& kind);

/// Faults in the order of the file; what is missing counts as being where its object begins. Takes time by
/// the number of faults, times what the values around them hold.
void sort_by_position(std::vector<InputFault>& faults, const nlohmann::ordered_json& document);

/// `pointer` + "/" + `token`, escaped as RFC 6901, section 3 says.
std::string child_pointer(const std::string& pointer, std::string_view token);

}  // namespace berth
