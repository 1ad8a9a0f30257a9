// Which block devices' I/O to count. A bio that goes through a stacked device (LVM, RAID, dm-crypt, loop) is
// counted by the kernel at every level, and one of memory (ram, zram) is no I/O: only the disks below count.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace berth {

/// The disks of this machine as "major:minor", from /sys/block.
std::vector<std::string> disks();

/// Whether I/O of "major:minor" is to be added up. Remembers its answers. Devices that /sys does not have
/// (any more) count; what the kernel calls "(unknown)", which never had a number, does not.
bool counts_as_disk(std::string_view device);

}  // namespace berth
