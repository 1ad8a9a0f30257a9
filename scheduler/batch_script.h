// The #SBATCH lines of a batch script (sbatch(1)): options, as though they stood on the command line before
// its own.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace berth {

/// The words of all lines that begin with "#SBATCH", up to the first line that is neither empty nor a
/// comment, split as a shell does it: spaces separate, quotes and backslashes keep them, "#" begins a
/// comment. Throws InputError, naming `file` and the line, for a quote that does not end.
std::vector<std::string> batch_options(std::string_view script, const std::string& file);

}  // namespace berth
