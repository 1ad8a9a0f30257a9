// The default seccomp profile: what no batch job needs and attackers do. Translated by libseccomp when berth
// is built (seccomp_compiler.cpp), loaded by init as raw BPF. docs/security.md lists the groups.
#pragma once

#include <linux/filter.h>

#include <span>

namespace berth {

/// The default profile's program, for the architecture that berth was built for.
std::span<const sock_filter> default_seccomp_program();

}  // namespace berth
