// The #SBATCH lines of a batch script (sbatch(1)): options, as though they stood on the command line before
// its own.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace berth {

struct BatchLine {
  std::string place;               ///< for faults: "job.sh: line 2"
  std::vector<std::string> words;  ///< after "#SBATCH"
};

/// The lines that begin with "#SBATCH", up to the first line that is neither empty nor a comment, split as a
/// shell does it: spaces separate, quotes and backslashes keep them, "#" begins a comment. `file` is the
/// script's name. Throws InputError for a quote that does not end.
std::vector<BatchLine> batch_lines(std::string_view script, const std::string& file);

}  // namespace berth
