// sbatch's forms of an instant that is still to come, for --begin and --deadline.
#pragma once

#include <string_view>

#include "schemas/quantities.h"

namespace berth {

/// What parse_instant() takes, and "teatime", "noon", "5:30pm", "12/24", "12/24/26", "12/24-17:30", "122426".
/// A time of day that has passed is tomorrow's, a day without a year the next one of that name. Local time.
Timestamp parse_coming_instant(std::string_view text, Timestamp now);

}  // namespace berth
