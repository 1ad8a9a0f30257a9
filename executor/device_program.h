// The eBPF program by which cgroup v2 limits devices (BPF_PROG_TYPE_CGROUP_DEVICE), assembled by hand: a
// dozen instructions per rule need no compiler and no libbpf.
//
// Source: linux/bpf.h, struct bpf_cgroup_dev_ctx; cgroup-v2.rst, "Device controller".
#pragma once

#include <linux/bpf.h>

#include <span>
#include <vector>

#include "executor/cgroup.h"
#include "executor/os/unique_fd.h"

namespace berth {

/// Returns 1 (allow) when one rule allows every access asked for, else 0 (EPERM).
std::vector<bpf_insn> device_program(const std::vector<DeviceRule>& rules);

/// bpf(2) BPF_PROG_LOAD; an empty descriptor and errno when the kernel refuses.
UniqueFd load_device_program(const std::vector<bpf_insn>& instructions) noexcept;

/// Attaches beside programs that are there (all must allow); 0 or errno. The kernel detaches it when the
/// cgroup is removed.
int attach_device_program(int program, int cgroup) noexcept;
int detach_device_program(int program, int cgroup) noexcept;

/// The programs that `cgroup` itself has, as open descriptors.
std::vector<UniqueFd> attached_device_programs(int cgroup);

}  // namespace berth
