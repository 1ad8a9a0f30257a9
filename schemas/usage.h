// Usage: what one attempt used, read once when its cgroup is empty and before it is removed.
//
// A counter that this kernel or hierarchy lacks is absent (NULL in SQL, missing in JSON), never 0.
// docs/accounting.md names the control file behind each counter for cgroup v1 and v2.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "schemas/quantities.h"

namespace berth {

struct Usage {
  using Micros = std::chrono::microseconds;
  using Count = std::uint64_t;

  std::optional<Micros>
      wall;  ///< exec handshake to the end of the main process (CLOCK_MONOTONIC), but suspended time
  std::optional<Micros> cpu_total;            ///< cpuacct.usage | cpu.stat usage_usec
  std::optional<Micros> cpu_user;             ///< cpuacct.usage_user | cpu.stat user_usec
  std::optional<Micros> cpu_system;           ///< cpuacct.usage_sys | cpu.stat system_usec
  std::optional<Count> throttled_periods;     ///< cpu.stat nr_throttled
  std::optional<Micros> throttled_time;       ///< cpu.stat throttled_time (ns) | throttled_usec
  std::optional<Bytes> memory_peak;           ///< memory.max_usage_in_bytes | memory.peak
  std::optional<Bytes> memory_anon_peak;      ///< highest sampled memory.stat anon (rss on v1)
  std::optional<Bytes> memory_file_peak;      ///< highest sampled memory.stat file (cache on v1)
  std::optional<Bytes> swap_peak;             ///< memory.swap.peak; v1: highest sampled memory.stat swap
  std::optional<Count> memory_limit_hits;     ///< memory.failcnt | memory.events.local max
  std::optional<Count> page_faults;           ///< memory.stat pgfault
  std::optional<Count> major_page_faults;     ///< memory.stat pgmajfault
  std::optional<Count> voluntary_switches;    ///< wait4(2) rusage of all that was waited for, through init
  std::optional<Count> involuntary_switches;  ///< likewise
  std::optional<Bytes> io_read_bytes;         ///< blkio.throttle.io_service_bytes | io.stat rbytes
  std::optional<Bytes> io_write_bytes;
  std::optional<Count> io_read_operations;  ///< blkio.throttle.io_serviced | io.stat rios
  std::optional<Count> io_write_operations;
  std::optional<Count> pids_peak;        ///< pids.peak (Linux 6.11+, v2); v1: highest sampled pids.current
  std::optional<Count> pids_limit_hits;  ///< pids.events max
  std::optional<Count> oom_kills;        ///< memory.oom_control | memory.events oom_kill
  std::optional<Micros> cpu_stall;       ///< PSI cpu.pressure, "some" total
  std::optional<Micros> memory_stall;    ///< PSI memory.pressure, "some" total
  std::optional<Micros> io_stall;        ///< PSI io.pressure, "some" total
  std::optional<Bytes> network_receive_bytes;  ///< the job's own devices, /proc/PID/net/dev
  std::optional<Bytes> network_transmit_bytes;
  std::optional<Count> network_receive_packets;
  std::optional<Count> network_transmit_packets;
  std::optional<Count> network_denied_packets;  ///< that its egress policy or another wall refused
  std::optional<Count>
      network_connections_peak;       ///< tracked at once (nf_conntrack); private and shared networks
  std::optional<Bytes> output_bytes;  ///< what the job wrote to its standard output and error

  bool operator==(const Usage&) const = default;
};

}  // namespace berth
