// Parsing of control files: captured from a real kernel (6.18, cgroup v1 with a bare v2 tree) in
// tests/data/cgroup, plus forms from the kernel's documentation for what that machine does not have.
#include <catch2/catch.hpp>
#include <fstream>
#include <iterator>

#include "executor/block_devices.h"
#include "executor/cgroup_files.h"

using namespace berth;

namespace {

std::string captured(const std::string& name) {
  std::ifstream file(std::string(BERTH_TEST_DATA) + "/cgroup/" + name);
  REQUIRE(file);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Whatever a parser makes of every possible truncation, it never makes a number that was not there.
template <typename Parse>
void every_truncation_gives(const std::string& text, Parse parse) {
  const auto whole = parse(text);
  for (std::size_t size = 0; size < text.size(); ++size) {
    const auto cut = parse(text.substr(0, size));
    INFO("cut after " << size << " bytes");
    CHECK((!cut || cut == whole));
  }
}

}  // namespace

TEST_CASE("numbers of one line, complete or absent") {
  CHECK(parse_number("17\n") == 17U);
  CHECK(parse_number("18446744073709551615\n") == 18446744073709551615U);
  CHECK_FALSE(parse_number("18446744073709551616\n"));
  CHECK_FALSE(parse_number("max\n"));
  CHECK_FALSE(parse_number("-1\n"));
  CHECK_FALSE(parse_number("17"));  // the rest may be missing
  CHECK_FALSE(parse_number("17 18\n"));
  CHECK_FALSE(parse_number(""));
  CHECK_FALSE(parse_number("\n"));
  CHECK(parse_number(captured("v1/memory.max_usage_in_bytes")) == 33554432U);
  CHECK(parse_number(captured("v1/memory.failcnt")) == 80U);
  CHECK(parse_number(captured("v1/pids.peak")) == 7U);
}

TEST_CASE("flat keyed files give the value of exactly that key") {
  const std::string stat = captured("v1/memory.stat");
  CHECK(parse_keyed(stat, "total_pgfault").has_value());
  CHECK(parse_keyed(stat, "hierarchical_memory_limit") == 33554432U);
  CHECK_FALSE(parse_keyed(stat, "total_"));
  CHECK_FALSE(parse_keyed(stat, "anon"));
  CHECK(parse_keyed(captured("v1/memory.oom_control"), "oom_kill") == 1U);  // not oom_kill_disable
  CHECK(parse_keyed(captured("v1/pids.events"), "max") == 1U);
  CHECK(parse_keyed(captured("v1/cpu.stat"), "nr_throttled") == 11U);
  CHECK(parse_keyed(captured("v1/cpu.stat"), "throttled_time") == 458744487U);
  CHECK(parse_keyed(captured("v2/cpu.stat"), "usage_usec") == 243155U);
  CHECK(parse_keyed(captured("v2/cgroup.events"), "populated") == 0U);
  CHECK_FALSE(parse_keyed("", "max"));
  CHECK_FALSE(parse_keyed("max\n", "max"));
  CHECK_FALSE(parse_keyed("max \n", "max"));
  CHECK_FALSE(parse_keyed("max x\n", "max"));
  every_truncation_gives(stat, [](std::string_view text) { return parse_keyed(text, "total_unevictable"); });
}

TEST_CASE("of a truncated file only whole lines count, of an empty one nothing") {
  const std::string cut = captured("broken/memory.stat.truncated");
  CHECK(parse_keyed(cut, "pgfault") == parse_keyed(captured("v1/memory.stat"), "pgfault"));
  CHECK_FALSE(parse_keyed(cut, "total_pgfault"));
  const std::size_t last = cut.rfind('\n') + 1;
  REQUIRE(last < cut.size());  // its last line has no end
  CHECK_FALSE(parse_keyed(cut, cut.substr(last, cut.find(' ', last) - last)));
  CHECK_FALSE(parse_keyed(captured("broken/memory.stat.empty"), "cache"));
  CHECK_FALSE(parse_blkio_totals(captured("broken/blkio.truncated")));
}

TEST_CASE("pressure totals are those of the line that was asked for") {
  const std::string pressure = captured("v2/cpu.pressure");
  CHECK(parse_pressure_total(pressure, "some") == 776210U);
  CHECK(parse_pressure_total(pressure, "full") == 761312U);
  CHECK_FALSE(parse_pressure_total("", "some"));
  CHECK_FALSE(parse_pressure_total("some avg10=0.00\n", "some"));
  every_truncation_gives(pressure, [](std::string_view text) { return parse_pressure_total(text, "full"); });
}

TEST_CASE("blkio totals add up reads and writes and need the closing line") {
  const std::string text = captured("v1/blkio.throttle.io_service_bytes_recursive");
  CHECK(parse_blkio_totals(text) == IoTotals{5308416, 8388608});
  CHECK(parse_blkio_totals("Total 0\n") == IoTotals{0, 0});
  CHECK_FALSE(parse_blkio_totals(""));
  CHECK_FALSE(parse_blkio_totals("8:0 Read 10\n8:0 Wri"));
  CHECK(parse_blkio_totals("8:0 Read 10\n8:0 Write 1\n8:16 Read 5\nTotal 16\n") == IoTotals{15, 1});
  CHECK(parse_blkio_totals("8:0 Read 10\n253:0 Read 10\nTotal 20\n",
                           [](std::string_view device) { return device == "8:0"; }) == IoTotals{10, 0});
  every_truncation_gives(text, [](std::string_view cut) { return parse_blkio_totals(cut); });
}

TEST_CASE("io.stat is added up over devices; no device means nothing was read or written") {
  const IoStat stat = parse_io_stat(
      "8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0\n"
      "8:0 rbytes=90430464 wbytes=299008000 rios=8950 wios=1252 dbytes=50331648 dios=3021\n"
      "7:0 \n");
  CHECK(stat == IoStat{{91889664, 613781504}, {9142, 1605}});
  CHECK(parse_io_stat("") == IoStat{});
  CHECK(parse_io_stat("8:0 rbytes=x wbytes wios==3\n") == IoStat{});
  const auto is_disk = [](std::string_view device) { return device == "8:0"; };
  CHECK(parse_io_stat("7:1 7:0 8:0 rbytes=1 wbytes=2 rios=3 wios=4\n8:0 7:0 rbytes=5\n", is_disk) ==
        IoStat{{1, 2}, {3, 4}});
}

TEST_CASE("inner devices, which the kernel does not number, do not count beside the disk") {
  CHECK_FALSE(counts_as_disk("(unknown)"));
  CHECK(counts_as_disk("4095:1048575"));  // gone meanwhile, for all that is known
}

TEST_CASE("process lists leave out what is no pid here") {
  CHECK(parse_pids("1\n4711\n") == std::vector<pid_t>{1, 4711});
  CHECK(parse_pids("0\n12\n") == std::vector<pid_t>{12});  // 0: of another pid namespace
  CHECK(parse_pids("12\n345") == std::vector<pid_t>{12});
  CHECK(parse_pids("-5\n99999999999\nx\n").empty());
}

TEST_CASE("mountinfo of a hybrid machine gives each v1 hierarchy and the v2 tree") {
  const auto mounts = parse_cgroup_mounts(captured("proc/mountinfo_hybrid"));
  REQUIRE(mounts.size() == 10);
  CHECK(mounts[0].mount_point == "/sys/fs/cgroup/cpu");
  CHECK(mounts[0].version == 1);
  CHECK(mounts[0].writable);
  CHECK(mounts[0].controllers == std::vector<std::string>{"rw", "cpu"});
  CHECK(mounts[9].version == 2);
  CHECK(mounts[9].mount_point == "/sys/fs/cgroup/unified");
  CHECK(mounts[9].root == "/");
}

TEST_CASE("the table of mounts") {
  const auto mounts = parse_mounts(
      "36 35 98:0 / /a\\040b rw master:1 - proc proc rw\n37 36 0:5 /x /a\\040b/c ro - tmpfs none rw\n"
      "x 35 98:0 / /y rw - proc proc rw\n38 35 98:0 / /z rw\n");
  REQUIRE(mounts.size() == 2);
  CHECK(mounts[0].id == 36);
  CHECK(mounts[0].parent == 35);
  CHECK(mounts[0].mount_point == "/a b");
  CHECK(mounts[0].type == "proc");
  CHECK(mounts[1].mount_point == "/a b/c");
  CHECK(mounts[1].type == "tmpfs");
}

TEST_CASE("mountinfo: optional fields, escapes, read-only mounts and truncation") {
  const auto mounts = parse_cgroup_mounts(
      "30 23 0:26 /../.. /sys/fs/my\\040cgroup ro,nosuid shared:4 master:1 - cgroup2 cgroup2 rw,nsdelegate\n"
      "31 23 0:27 /a\\134b /c rw - cgroup cgroup ro,cpu,cpuacct\n"
      "32 23 0:28 / /d rw - tmpfs cgroup rw\n"
      "33 23 0:29 / /e rw - cgr");
  REQUIRE(mounts.size() == 2);
  CHECK(mounts[0].mount_point == "/sys/fs/my cgroup");
  CHECK(mounts[0].root == "/../..");
  CHECK_FALSE(mounts[0].writable);
  CHECK(mounts[1].root == "/a\\b");
  CHECK_FALSE(mounts[1].writable);
  CHECK(parse_cgroup_mounts("").empty());
  CHECK(parse_cgroup_mounts(" - cgroup cgroup rw\n").empty());
}

TEST_CASE("memberships keep colons of the path and co-mounted controllers") {
  const auto hybrid = parse_cgroup_memberships(captured("proc/self_cgroup_hybrid"));
  REQUIRE(hybrid.size() == 10);
  CHECK(hybrid[5].controllers == std::vector<std::string>{"memory"});
  CHECK(hybrid[5].path == "/system.slice/berthd.service");
  CHECK(hybrid[9].hierarchy == 0);
  CHECK(hybrid[9].controllers.empty());
  const auto odd = parse_cgroup_memberships("4:cpu,cpuacct:/a:b c\nx:cpu:/\n5:pids:\n6:pids:/cut");
  REQUIRE(odd.size() == 1);
  CHECK(odd[0].path == "/a:b c");
  CHECK(odd[0].controllers == std::vector<std::string>{"cpu", "cpuacct"});
}

TEST_CASE("/proc/cgroups tells which controllers the kernel has and which are disabled") {
  const auto controllers = parse_kernel_controllers(captured("proc/cgroups_hybrid"));
  REQUIRE(controllers.size() == 12);
  CHECK(controllers[0].name == "cpuset");
  CHECK(controllers[0].hierarchy == 3);
  CHECK(controllers[0].enabled);
  const auto disabled = parse_kernel_controllers("#subsys_name\thierarchy\nmemory\t0\t1\t0\npids\t0\t1");
  REQUIRE(disabled.size() == 1);
  CHECK_FALSE(disabled[0].enabled);
}

TEST_CASE("a path is found below the part of the hierarchy that is mounted") {
  CHECK(path_below_mount("/a/b", "/") == "/a/b");
  CHECK(path_below_mount("/", "/") == "/");
  CHECK(path_below_mount("/docker/1", "/docker/1") == "/");
  CHECK(path_below_mount("/docker/1/x", "/docker/1") == "/x");
  CHECK_FALSE(path_below_mount("/docker/12", "/docker/1"));
  CHECK_FALSE(path_below_mount("/elsewhere", "/docker/1"));
  CHECK_FALSE(path_below_mount("/", "/../.."));     // mounted outside our cgroup namespace
  CHECK_FALSE(path_below_mount("/../other", "/"));  // our process was moved out of the namespace's root
  CHECK_FALSE(path_below_mount("", "/"));
}

TEST_CASE("weights become shares as the kernel's own scheduler does it") {
  CHECK(cpu_shares_from_weight(100) == 1024);
  CHECK(cpu_shares_from_weight(1) == 10);
  CHECK(cpu_shares_from_weight(10000) == 102400);
  CHECK(cpu_shares_from_weight(0) == 2);  // the smallest that the kernel takes
}

TEST_CASE("a quota keeps the default period unless it would be under the kernel's millisecond") {
  CHECK(cpu_bandwidth(1.0) == CpuBandwidth{100000, 100000});
  CHECK(cpu_bandwidth(0.5) == CpuBandwidth{50000, 100000});
  CHECK(cpu_bandwidth(64) == CpuBandwidth{6400000, 100000});
  CHECK(cpu_bandwidth(0.01) == CpuBandwidth{1000, 100000});
  CHECK(cpu_bandwidth(0.005) == CpuBandwidth{5000, 1000000});
  CHECK(cpu_bandwidth(0.0001) == CpuBandwidth{1000, 1000000});
}

TEST_CASE("the counters of network devices are added up, each once") {
  const std::string text = captured("proc/net_dev");
  CHECK(parse_network_devices(text, Loopback::counted) == NetworkTotals{222686486, 9757, 2626070, 9682});
  CHECK(parse_network_devices(text, Loopback::left_out) == NetworkTotals{222444420, 5454, 2384004, 5379});
  const std::string loopback_alone = text.substr(0, text.find("  ifb0"));
  CHECK(parse_network_devices(loopback_alone, Loopback::counted) ==
        NetworkTotals{242066, 4303, 242066, 4303});
  CHECK_FALSE(parse_network_devices(loopback_alone, Loopback::left_out));
  CHECK_FALSE(parse_network_devices(text.substr(0, text.find("    lo:")), Loopback::counted));  // headings
  CHECK_FALSE(parse_network_devices("lo: 1 2 3 4 5 6 7 8 9\n", Loopback::counted));
  CHECK_FALSE(parse_network_devices("lo: 1 2 3 4 5 6 7 8 9 10", Loopback::counted));
  CHECK(parse_network_devices("lo: 1 2 3 4 5 6 7 8 9 10\n", Loopback::counted) == NetworkTotals{1, 2, 9, 10});
}
