// JobSpec as a JSON value; for the .cpp files of this folder, which alone see nlohmann's headers.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "schemas/job_spec.h"

namespace berth {

/// The canonical form: every field that has a value, defaults included, so that a later change of a
/// default does not change what a stored job asked for. Quantities are strings with units.
nlohmann::ordered_json to_json(const JobSpec& spec);

}  // namespace berth
