// The JSON Schema as a gate: nothing that schemas/job.schema.json refuses gets through.
//
// The reader's own checks speak first, with better messages; the gate is for what they might overlook.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "schemas/input_error.h"

namespace berth {

/// Validates JSON text against the embedded schema. Returns its complaint about the innermost value, or
/// none when it is content. The schema is compiled at the first call. Throws std::runtime_error on text that
/// is not JSON.
std::optional<InputFault> schema_fault(std::string_view json_text, const std::string& file_name);

/// The same for another schema; `schema_text` is one of the embedded ones.
std::optional<InputFault> schema_fault(std::string_view schema_text, std::string_view json_text,
                                       const std::string& file_name, const std::string& manual);

}  // namespace berth
