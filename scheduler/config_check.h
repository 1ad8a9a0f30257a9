// What berthd's configuration must be on this machine, besides what its schema says.
#pragma once

#include <vector>

#include "schemas/daemon_config.h"

namespace berth {

/// Adds a fault for each value that berthd could not serve with, or that would cost data.
void check_config_here(const DaemonConfig& config, std::vector<InputFault>& faults);

}  // namespace berth
