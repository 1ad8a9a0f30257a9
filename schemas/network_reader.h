// The parts of isolation{} that are about the network. For schemas/isolation_reader.cpp.
#pragma once

#include <vector>

#include "schemas/job_reader.h"

namespace berth {

void read_network_mode(const Field& field, NetworkSpec& network);
void read_egress(const Field& field, NetworkSpec& network);
void read_publish(const Field& field, NetworkSpec& network);
void read_dns(const Field& field, NetworkSpec& network);
void read_rate(const Field& field, NetworkSpec& network);
/// Faults of fields that do not go together; `isolation` is the whole object.
void check_network(const Field& isolation, const NetworkSpec& network);

std::vector<ObjectFields> network_fields();

}  // namespace berth
