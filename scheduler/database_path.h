// Where the job database is.
#pragma once

#include <string>

#include "scheduler/command_line.h"

namespace berth {

/// --database, else /var/lib/berth/berth.db for root, else $XDG_STATE_HOME/berth/berth.db, else
/// ~/.local/state/berth/berth.db. Throws std::runtime_error when there is no home either, and for root when
/// --database leads through a link of another than root and the calling user.
std::string database_path(const CommandLine& line);

}  // namespace berth
