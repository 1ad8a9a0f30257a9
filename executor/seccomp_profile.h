// The default seccomp profile: what no batch job needs and attackers do. Built with libseccomp once per
// process, loaded by init as raw BPF. docs/security.md lists the groups.
#pragma once

#include <linux/filter.h>

#include <vector>

namespace berth {

/// The default profile's program. Throws std::system_error when libseccomp fails.
const std::vector<sock_filter>& default_seccomp_program();

}  // namespace berth
