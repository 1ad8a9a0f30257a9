// Signal names and numbers: "USR1", "SIGUSR1", "10".
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace berth {

inline constexpr int kMaximumSignal = 64;  // SIGRTMAX on every Linux architecture but MIPS (signal(7))

/// The number of "USR1", "SIGUSR1", "sigusr1" or "10"; nothing when there is no such signal.
std::optional<int> parse_signal(std::string_view text);
/// "USR1"; the number for signals without a name.
std::string signal_name(int number);

}  // namespace berth
