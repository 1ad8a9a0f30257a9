// bench_launch: how long it takes to launch /bin/true with everything on, beside others, alternating in one
// run.
//
// Absolute times drift by tens of per cent between machines and hours; only the ratios of one run count.
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>

#include "executor/os/syscall.h"
#include "tests/bench/contender.h"

namespace berth::bench {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kIdle{50};

struct Options {
  unsigned jobs = 400;  // per contender and mode
  unsigned idle_jobs = 60;
  unsigned block = 20;  // launches in a row before the next contender has its turn
  unsigned armed = 2;
  std::string floor;
  std::string crun = "crun";
  std::string bwrap = "bwrap";
  std::string berth;
  std::string only;
  std::string contender;  // its name; empty: all of them
};

constexpr const char* kUsage =
    R"(Usage: bench_launch [OPTION…]     (as root)

Launches /bin/true N times through berth's Executor with everything on (8 namespaces, limits on every
controller, seccomp, init as pid 1, loopback up, usage read), and beside it through `crun run`, `bwrap
--unshare-all` and a bare posix_spawn, alternating. Prints p50, p90, p99 and jobs/s.

  --jobs N       launches per contender, one at a time and two at a time (default 400)
  --idle-jobs N  launches at one every 50 ms (default 60; 0: leave this mode out)
  --block N      launches in a row before the next contender has its turn (default 20)
  --armed N      sandboxes that the armed executor keeps ready (default 2, as berth run)
  --floor CMD    a program that launches once for every byte on its standard input and then answers with a
                 byte; run through sh, once for each slot
  --crun PATH, --bwrap PATH   the peers; an empty path leaves one out
  --berth PATH   also whole processes: `berth run -- /bin/true` beside crun and bwrap
  --only MODE    warm, idle, two, network or cold. "network" puts jobs with `--network private` beside those with
                 loopback, in a network namespace that it makes
  --contender NAME   this one alone ("berth, armed", "floor", …), to be profiled
)";

Options parse(int count, char** values) {
  Options options;
  const std::map<std::string, unsigned*> numbers{{"--jobs", &options.jobs},
                                                 {"--idle-jobs", &options.idle_jobs},
                                                 {"--block", &options.block},
                                                 {"--armed", &options.armed}};
  const std::map<std::string, std::string*> texts{
      {"--floor", &options.floor}, {"--crun", &options.crun}, {"--bwrap", &options.bwrap},
      {"--berth", &options.berth}, {"--only", &options.only}, {"--contender", &options.contender}};
  for (int i = 1; i < count; ++i) {
    const std::string name = values[i];
    const bool has_value = i + 1 < count;
    if (const auto number = numbers.find(name); number != numbers.end() && has_value) {
      *number->second = static_cast<unsigned>(std::strtoul(values[++i], nullptr, 10));
    } else if (const auto text = texts.find(name); text != texts.end() && has_value) {
      *text->second = values[++i];
    } else {
      std::fputs(kUsage, name == "--help" ? stdout : stderr);
      std::exit(name == "--help" ? 0 : 2);
    }
  }
  options.block = std::max(1U, options.block);
  return options;
}

std::string first_block_device() {
  for (const char* name : {"vda", "sda", "nvme0n1", "xvda"}) {
    std::string path = std::string("/dev/") + name;
    struct stat status {};
    if (::stat(path.c_str(), &status) == 0 && S_ISBLK(status.st_mode)) {
      return path;
    }
  }
  return "";
}

JobSpec full_spec() {
  JobSpec spec;
  spec.name = "bench";
  spec.argv = {"/bin/true"};
  spec.current_working_directory = "/tmp";
  spec.memory_per_node = Bytes{256} << 20;
  spec.time_limit = std::chrono::minutes(1);
  spec.limits.cpu_time = std::chrono::minutes(1);
  spec.limits.cpu_quota = 1.0;
  spec.limits.cpu_weight = 100;
  spec.limits.pids = 64;
  spec.limits.output = Bytes{1} << 20;
  if (const std::string device = first_block_device(); !device.empty()) {
    IoLimit io;
    io.device = device;
    io.read_bytes_per_second = std::uint64_t{1} << 40;
    spec.limits.io.push_back(io);
  }
  return spec;
}

std::vector<CpuSet> two_slots() {
  cpu_set_t set;
  CPU_ZERO(&set);
  ::sched_getaffinity(0, sizeof set, &set);
  std::vector<CpuSet> slots;
  for (unsigned cpu = 0; cpu < CPU_SETSIZE && slots.size() < 2; ++cpu) {
    if (CPU_ISSET(cpu, &set)) {
      slots.push_back(CpuSet{cpu});
    }
  }
  if (slots.size() == 1) {
    slots.push_back(slots[0]);
  }
  return slots;
}

/// An OCI bundle with about what berth gives a job, but for seccomp, whose profile crun would compile anew
/// each time.
std::string make_bundle(const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder / "rootfs");
  for (const char* name : {"usr", "etc", "proc", "dev", "tmp", "sys"}) {
    std::filesystem::create_directory(folder / "rootfs" / name);
  }
  for (const char* name : {"bin", "lib", "lib64", "sbin"}) {
    std::filesystem::create_symlink(std::string("usr/") + name, folder / "rootfs" / name);
  }
  std::ofstream(folder / "config.json")
      << R"({"ociVersion":"1.0.2","hostname":"bench","root":{"path":"rootfs","readonly":true},
"process":{"user":{"uid":0,"gid":0},"args":["/bin/true"],"env":["PATH=/usr/bin"],"cwd":"/","noNewPrivileges":true,"capabilities":{}},
"mounts":[{"destination":"/proc","type":"proc","source":"proc"},
{"destination":"/usr","type":"bind","source":"/usr","options":["rbind","ro"]},
{"destination":"/etc","type":"bind","source":"/etc","options":["rbind","ro"]},
{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","mode=755","size=65536k"]},
{"destination":"/dev/pts","type":"devpts","source":"devpts","options":["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620"]},
{"destination":"/dev/shm","type":"tmpfs","source":"shm","options":["nosuid","nodev"]},
{"destination":"/tmp","type":"tmpfs","source":"tmpfs","options":["nosuid","nodev"]}],
"linux":{"uidMappings":[{"containerID":0,"hostID":100000,"size":65536}],"gidMappings":[{"containerID":0,"hostID":100000,"size":65536}],
"namespaces":[{"type":"pid"},{"type":"network"},{"type":"ipc"},{"type":"uts"},{"type":"mount"},{"type":"cgroup"},{"type":"user"}],
"resources":{"memory":{"limit":268435456},"pids":{"limit":64},"cpu":{"shares":1024,"quota":100000,"period":100000,"cpus":"0","mems":"0"},
"devices":[{"allow":false,"access":"rwm"}]},"maskedPaths":["/proc/kcore","/proc/keys"],"readonlyPaths":["/proc/sys"]}})";
  return folder.string();
}

using Contenders = std::vector<std::unique_ptr<Contender>>;

struct Series {
  std::vector<double> microseconds;
  double seconds = 0;
};

double percentile(std::vector<double> values, double share) {
  if (values.empty()) {
    return 0;
  }
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1,
                         static_cast<std::size_t>(share * static_cast<double>(values.size())))];
}

/// `total` launches of each contender in turns of `block`, `slots` at a time.
std::vector<Series> measure(const Contenders& contenders, unsigned total, unsigned block, unsigned slots,
                            std::chrono::milliseconds pause) {
  std::vector<Series> series(contenders.size());
  for (unsigned done = 0; done < total; done += block) {
    for (std::size_t i = 0; i < contenders.size(); ++i) {
      Contender& contender = *contenders[i];
      std::vector<Clock::time_point> started(slots);
      contender.begin(0);  // not counted: caches and armed sandboxes as after a launch of its own
      contender.wait();
      contender.rest(std::max(pause, std::chrono::milliseconds(5)));
      const auto start = Clock::now();
      unsigned begun = 0;
      unsigned ended = 0;
      const auto begin = [&](unsigned slot) {
        if (pause.count() > 0) {
          contender.rest(pause);
        }
        started[slot] = Clock::now();
        contender.begin(slot);
        ++begun;
      };
      for (unsigned slot = 0; slot < slots; ++slot) {
        begin(slot);
      }
      while (ended < begun) {
        for (const unsigned slot : contender.wait()) {
          series[i].microseconds.push_back(
              std::chrono::duration<double, std::micro>(Clock::now() - started[slot]).count());
          ++ended;
          if (begun < block) {
            begin(slot);
          }
        }
      }
      series[i].seconds += std::chrono::duration<double>(Clock::now() - start).count();
    }
  }
  return series;
}

void print(const char* title, const Contenders& contenders, const std::vector<Series>& series) {
  std::printf("\n%s\n  %-22s %10s %10s %10s %10s   %s\n", title, "", "p50 us", "p90 us", "p99 us", "jobs/s",
              "p50 against the first");
  const double first = percentile(series[0].microseconds, 0.5);
  for (std::size_t i = 0; i < contenders.size(); ++i) {
    const auto& values = series[i].microseconds;
    const double median = percentile(values, 0.5);
    std::printf("  %-22s %10.0f %10.0f %10.0f %10.0f   %.2f\n", contenders[i]->name().c_str(), median,
                percentile(values, 0.9), percentile(values, 0.99),
                static_cast<double>(values.size()) / series[i].seconds, median / first);
  }
  std::fflush(stdout);
}

std::string status_line(const char* name) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(name)) {
      return line;
    }
  }
  return "";
}

long descriptors() {
  const auto all = std::filesystem::directory_iterator("/proc/self/fd");
  return std::distance(std::filesystem::begin(all), std::filesystem::end(all));
}

/// crun refuses hybrid machines ("cgroups in hybrid mode not supported"), so there it is started by a
/// program that stands in a mount namespace without the v2 tree. That costs two bytes through pipes.
std::string crun_server(const Options& options, const std::string& bundle) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  return "unshare -m sh -c 'umount /sys/fs/cgroup/unified 2>/dev/null; exec " + self + " --serve " +
         options.crun + " run --bundle " + bundle + " bench-$$-{}'";
}

/// The other end of Served.
int serve(std::vector<std::string> command) {
  Spawned spawned("served", std::move(command));
  for (char byte = 0; ::read(STDIN_FILENO, &byte, 1) == 1;) {
    spawned.begin(0);
    spawned.wait();
    if (::write(STDOUT_FILENO, &byte, 1) != 1) {
      break;
    }
  }
  return 0;
}

void add_peers(Contenders& contenders, const Options& options, const std::string& bundle) {
  if (!options.bwrap.empty()) {
    contenders.push_back(std::make_unique<Spawned>(
        "bwrap",
        std::vector<std::string>{options.bwrap, "--unshare-all", "--die-with-parent", "--new-session",
                                 "--as-pid-1", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc",
                                 "--tmpfs", "/tmp", "--uid", "65534", "--cap-drop", "ALL", "/bin/true"}));
  }
  if (!options.crun.empty()) {
    contenders.push_back(std::make_unique<Served>("crun run", crun_server(options, bundle), 2));
  }
}

void keep_wanted(Contenders& contenders, const Options& options) {
  if (options.contender.empty()) {
    return;
  }
  std::erase_if(contenders, [&](const auto& contender) { return contender->name() != options.contender; });
  if (contenders.empty()) {
    throw std::invalid_argument("--contender: \"" + options.contender + "\" is not in this mode");
  }
}

struct TemporaryFolder {
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("berth-bench-" + std::to_string(::getpid()));
  TemporaryFolder() { std::filesystem::create_directories(path); }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
};

int run(const Options& options) {
  const TemporaryFolder temporary;
  const std::filesystem::path& folder = temporary.path;
  const std::string bundle = make_bundle(folder / "bundle");
  const auto wanted = [&](const char* mode) { return options.only.empty() || options.only == mode; };
  {
    Contenders contenders;
    contenders.push_back(std::make_unique<Spawned>("posix_spawn", std::vector<std::string>{"/bin/true"}));
    contenders.push_back(std::make_unique<Berth>("berth", full_spec(), 0, two_slots()));
    contenders.push_back(std::make_unique<Berth>("berth, armed", full_spec(), options.armed, two_slots()));
    if (!options.floor.empty()) {
      contenders.push_back(std::make_unique<Served>("floor", options.floor, 2));
    }
    add_peers(contenders, options, bundle);
    keep_wanted(contenders, options);
    const std::string before = status_line("VmRSS") + ", descriptors: " + std::to_string(descriptors());
    if (wanted("warm")) {
      print("one at a time", contenders, measure(contenders, options.jobs, options.block, 1, {}));
    }
    if (wanted("two")) {
      print("two at a time", contenders, measure(contenders, options.jobs, options.block, 2, {}));
    }
    if (wanted("idle") && options.idle_jobs > 0) {
      print("one every 50 ms on an idle machine", contenders,
            measure(contenders, options.idle_jobs, options.block, 1, kIdle));
    }
    std::printf("\nbefore %s\nafter  %s, descriptors: %ld\n", before.c_str(), status_line("VmRSS").c_str(),
                descriptors());
  }
  if (wanted("network")) {
    if (::unshare(CLONE_NEWNET) != 0) {
      std::perror("unshare");
      return 1;
    }
    JobSpec connected = full_spec();
    connected.isolation.network.mode = NetworkMode::isolated;
    Contenders contenders;
    contenders.push_back(std::make_unique<Berth>("loopback, armed", full_spec(), options.armed, two_slots()));
    contenders.push_back(std::make_unique<Berth>("private, armed", connected, options.armed, two_slots()));
    contenders.push_back(std::make_unique<Berth>("loopback", full_spec(), 0, two_slots()));
    contenders.push_back(std::make_unique<Berth>("private", connected, 0, two_slots()));
    keep_wanted(contenders, options);
    const std::string before = status_line("VmRSS") + ", descriptors: " + std::to_string(descriptors());
    print("networks, one at a time", contenders, measure(contenders, options.jobs, options.block, 1, {}));
    if (options.idle_jobs > 0) {
      print("networks, one every 50 ms", contenders,
            measure(contenders, options.idle_jobs, options.block, 1, kIdle));
    }
    std::printf("\nbefore %s\nafter  %s, descriptors: %ld\n", before.c_str(), status_line("VmRSS").c_str(),
                descriptors());
  }
  if (!options.berth.empty() && wanted("cold")) {
    Contenders contenders;
    contenders.push_back(std::make_unique<Spawned>(
        "berth run", std::vector<std::string>{options.berth, "run", "-q", "--database", folder / "berth.db",
                                              "--mem", "256M", "-D", "/tmp", "--", "/bin/true"}));
    add_peers(contenders, options, bundle);
    contenders.push_back(std::make_unique<Spawned>("posix_spawn", std::vector<std::string>{"/bin/true"}));
    keep_wanted(contenders, options);
    print("whole processes, one at a time", contenders,
          measure(contenders, options.jobs / 2, options.block, 1, {}));
  }
  return 0;
}

}  // namespace
}  // namespace berth::bench

int main(int count, char** values) {
  std::signal(SIGPIPE, SIG_IGN);  // a contender that ends is told by its name
  try {
    if (count > 2 && std::strcmp(values[1], "--serve") == 0) {
      return berth::bench::serve(std::vector<std::string>(values + 2, values + count));
    }
    return berth::bench::run(berth::bench::parse(count, values));
  } catch (const std::exception& error) {
    std::cerr << "bench_launch: " << error.what() << '\n';
    return 1;
  }
}
