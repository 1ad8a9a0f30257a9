// `berth version`.
#pragma once

namespace berth {

/// Prints the version; with `as_json` those of the libraries too.
void print_version(bool as_json);

}  // namespace berth
