// The folder of small files that all berths of one user on a machine share until the next boot: /run/berth
// for root, else $XDG_RUNTIME_DIR/berth (XDG Base Directory Specification).
#pragma once

#include <sys/stat.h>

#include <string>

namespace berth {

/// Its path, whether or not it is there; empty when there is no place for it.
std::string runtime_folder();

/// Makes the folder if it is missing. False when it is not there then, or others may write to it.
bool make_runtime_folder(const std::string& folder);

/// A folder that nobody but this user can have put files into.
bool is_own_folder(const std::string& folder);
/// This user's, and nobody else may write to it.
bool is_own(const struct stat& status);

}  // namespace berth
