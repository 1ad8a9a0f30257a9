// What berthd's configuration must be on this machine, besides what its schema says.
#pragma once

#include <string>
#include <vector>

#include "schemas/daemon_config.h"

namespace berth {

/// The berth-runner that is configured, or else the one that was installed with this program; empty when that
/// is not there.
std::string runner_program_of(const DaemonConfig& config);

/// Adds a fault for each value that berthd could not serve with, or that would cost data.
void check_config_here(const DaemonConfig& config, std::vector<InputFault>& faults);

}  // namespace berth
