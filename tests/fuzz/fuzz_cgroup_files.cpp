// Every parser of control-file text on every input: no crash, no undefined behaviour, and no number out of
// text whose line is not complete.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "executor/cgroup_files.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace berth;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const bool has_line = text.find('\n') != std::string_view::npos;
  const bool found =
      parse_number(text) || parse_keyed(text, "total_pgfault") || parse_pressure_total(text, "some") ||
      parse_blkio_totals(text) || !parse_words(text).empty() || !parse_pids(text).empty() ||
      !parse_cgroup_mounts(text).empty() || !parse_cgroup_memberships(text).empty() ||
      !parse_kernel_controllers(text).empty() || parse_network_devices(text, Loopback::counted);
  if (found && !has_line) {
    std::abort();
  }
  parse_io_stat(text, [](std::string_view device) { return !device.empty(); });
  const std::size_t half = size / 2;
  const auto below = path_below_mount(text.substr(0, half), text.substr(half));
  if (below && (below->empty() || (*below)[0] != '/')) {
    std::abort();
  }
  return 0;
}
