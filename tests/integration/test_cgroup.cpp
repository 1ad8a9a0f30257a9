// Cgroups on the real kernel: needs root and a mounted cgroup file system, else skips (77). Makes cgroups
// only below <own cgroup>/berth and compares every hierarchy before and after.
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <set>

#include "executor/cgroup.h"
#include "executor/device_program.h"
#include "executor/os/syscall.h"
#include "tests/support/skip_case.h"

using namespace berth;
namespace fs = std::filesystem;

namespace {

constexpr Bytes kMiB = Bytes{1024} * 1024;

void skip(const std::string& reason) {
  std::fprintf(stderr, "SKIPPED: %s\n", reason.c_str());
  std::_Exit(77);
}

const CgroupMachine& machine() {
  static const CgroupMachine kDetected = [] {
    if (::geteuid() != 0) {
      skip("cgroup tests need root");
    }
    CgroupMachine found = detect_cgroups();
    if (found.unified.version == 0 && found.at(Controller::memory).version == 0) {
      skip("no cgroup file system is mounted read-write: " + found.unified.reason);
    }
    return found;
  }();
  return kDetected;
}

std::string tree_name() {
  return "test-" + std::to_string(::getpid());
}

/// All directories of every mounted hierarchy below our own cgroups, berth's leftovers included.
std::set<std::string> all_cgroups() {
  std::set<std::string> found;
  const auto add = [&](const ControllerMount& where) {
    if (where.mount_point.empty()) {
      return;
    }
    const fs::path berth = fs::path(where.mount_point + where.own_path) / "berth";
    std::error_code ignored;
    if (fs::exists(berth / tree_name(), ignored)) {
      found.insert(berth / tree_name());
    }
    for (fs::recursive_directory_iterator entry(berth / tree_name(), ignored), end; entry != end;
         entry.increment(ignored)) {
      if (entry->is_directory(ignored)) {
        found.insert(entry->path());
      }
    }
  };
  add(machine().unified);
  for (const ControllerMount& where : machine().controllers) {
    add(where);
  }
  return found;
}

/// Every test ends by proving that nothing is left.
struct NothingLeft {
  NothingLeft() { REQUIRE(all_cgroups().empty()); }
  ~NothingLeft() { CHECK(all_cgroups().empty()); }
};

std::string slurp(const std::string& path) {
  std::ifstream file(path);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  while (!text.empty() && text.back() == '\n') {
    text.pop_back();
  }
  return text;
}

/// The directory of a job in the controller's hierarchy; v2 may stand in for v1's cpuacct and freezer.
std::string directory(const JobCgroup& job, Controller controller) {
  const std::string own = machine().at(controller).mount_point + job.path(controller);
  return fs::exists(own) ? own : machine().unified.mount_point + job.path(controller);
}

struct Child {
  pid_t pid = -1;
  ~Child() {
    if (pid > 0) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
    }
  }
  int wait() {
    int status = 0;
    CHECK(::waitpid(pid, &status, 0) == pid);
    pid = -1;
    return status;
  }
};

/// A child born as the executor does it: CLONE_INTO_CGROUP for v2, "0" into each v1 tasks file.
pid_t spawn_into(int into, const std::vector<int>& tasks, const std::function<int()>& body) {
  clone_args arguments{};
  arguments.exit_signal = SIGCHLD;
  if (into >= 0) {
    arguments.flags = CLONE_INTO_CGROUP;
    arguments.cgroup = static_cast<__u64>(into);
  }
  const pid_t pid = static_cast<pid_t>(::syscall(SYS_clone3, &arguments, sizeof arguments));
  if (pid == 0) {
    for (const int fd : tasks) {
      if (::write(fd, "0", 1) != 1) {
        ::_exit(99);
      }
    }
    ::_exit(body());
  }
  REQUIRE(pid > 0);
  return pid;
}

pid_t spawn_in(JobCgroup& job, const std::function<int()>& body) {
  return spawn_into(job.clone_into_descriptor(), job.attach_descriptors(), body);
}

int sleep_forever() {
  while (true) {
    ::pause();
  }
}

void wait_for(const std::function<bool()>& condition) {
  for (int i = 0; i < 5000 && !condition(); ++i) {
    ::usleep(2000);
  }
  REQUIRE(condition());
}

}  // namespace

TEST_CASE("every limit is in its control file before make_job returns") {
  const NothingLeft nothing_left;
  const auto tree = CgroupTree::create(machine(), tree_name());
  const bool v1 = machine().at(Controller::memory).version == 1;
  CgroupLimits limits;
  if (tree->usable(Controller::cpuset)) {
    limits.cpus = CpuSet{0};
    limits.memory_nodes = CpuSet{0};
  }
  limits.cpu_quota = 0.5;
  limits.cpu_weight = 200;
  limits.memory = 64 * kMiB;
  limits.pids = 17;
  if (tree->accounts_swap()) {
    limits.swap = 16 * kMiB;
  }
  limits.devices = std::vector<DeviceRule>{{'c', 1, 3, "rw"}, {'c', 136, std::nullopt, "rw"}};
  const auto job = tree->make_job("job-1.1", limits);

  if (limits.cpus) {
    CHECK(slurp(directory(*job, Controller::cpuset) + "/cpuset.cpus") == "0");
    CHECK(slurp(directory(*job, Controller::cpuset) + "/cpuset.mems") == "0");
  }
  const std::string cpu = directory(*job, Controller::cpu);
  const std::string memory = directory(*job, Controller::memory);
  CHECK(slurp(directory(*job, Controller::pids) + "/pids.max") == "17");
  if (v1) {
    CHECK(slurp(cpu + "/cpu.cfs_quota_us") == "50000");
    CHECK(slurp(cpu + "/cpu.cfs_period_us") == "100000");
    CHECK(slurp(cpu + "/cpu.shares") == "2048");
    CHECK(slurp(memory + "/memory.limit_in_bytes") == std::to_string(64 * kMiB));
    if (limits.swap) {
      CHECK(slurp(memory + "/memory.memsw.limit_in_bytes") == std::to_string(80 * kMiB));
    }
    CHECK(slurp(directory(*job, Controller::devices) + "/devices.list") == "c 1:3 rw\nc 136:* rw");
  } else {
    CHECK(slurp(cpu + "/cpu.max") == "50000 100000");
    CHECK(slurp(cpu + "/cpu.weight") == "200");
    CHECK(slurp(memory + "/memory.max") == std::to_string(64 * kMiB));
    if (limits.swap) {
      CHECK(slurp(memory + "/memory.swap.max") == std::to_string(16 * kMiB));
    }
  }
}

TEST_CASE("a process may be born before the v1 cgroups are made where v2 only counts") {
  const NothingLeft nothing_left;
  const auto tree = CgroupTree::create(machine(), tree_name());
  const bool counts_only = machine().unified.version == 2 && machine().at(Controller::memory).version == 1;
  const std::string memory = machine().at(Controller::memory).mount_point +
                             machine().at(Controller::memory).own_path + "/berth/" + tree_name() + "/job-1.1";
  CgroupLimits limits;
  limits.memory = 64 * kMiB;
  const auto job = tree->begin_job("job-1.1");
  CHECK(job->can_bear() == counts_only);
  CHECK(::access(memory.c_str(), F_OK) != 0);
  const int birthplace = job->clone_into_descriptor();
  tree->complete_job(*job, limits);
  CHECK(job->can_bear());
  CHECK(::access(memory.c_str(), F_OK) == 0);
  CHECK((!counts_only || job->clone_into_descriptor() == birthplace));

  // What cannot be completed after a birth is removed, with who was born.
  CgroupLimits impossible;
  impossible.cpus = CpuSet{4000};
  Child born;
  auto failing = tree->begin_job("job-2.1");
  if (failing->can_bear()) {
    born.pid = spawn_into(failing->clone_into_descriptor(), {}, sleep_forever);
  }
  CHECK_THROWS_AS(tree->complete_job(*failing, impossible), CgroupError);
  failing.reset();
}

TEST_CASE("a tree that is begun has v2 alone, and a job in it may be begun") {
  const NothingLeft nothing_left;
  const auto tree = CgroupTree::begin(machine(), tree_name());
  const auto job = tree->begin_job("job-1.1");
  CHECK(!tree->usable(Controller::pids) == (machine().at(Controller::pids).version == 1));
  tree->complete();
  CHECK(tree->usable(Controller::pids));
  CgroupLimits limits;
  limits.pids = 7;
  tree->complete_job(*job, limits);
  CHECK(job->can_bear());
}

TEST_CASE("a child is born inside every hierarchy") {
  const NothingLeft nothing_left;
  const auto tree = CgroupTree::create(machine(), tree_name());
  const auto job = tree->make_job("job-1.1", {});
  Child child{spawn_in(*job, sleep_forever)};
  const std::string expected = "/berth/" + tree_name() + "/job-1.1";
  for (std::size_t i = 0; i < kControllerCount; ++i) {
    const auto controller = static_cast<Controller>(i);
    if (!job->path(controller).empty()) {
      INFO(to_string(controller));
      CHECK_THAT(job->path(controller), Catch::EndsWith(expected));
      wait_for(
          [&] { return slurp(directory(*job, controller) + "/cgroup.procs") == std::to_string(child.pid); });
    }
  }
  CHECK(job->processes() == std::vector<pid_t>{child.pid});
  CHECK_FALSE(job->empty());
  job->kill_all();
  CHECK(WTERMSIG(child.wait()) == SIGKILL);
  wait_for([&] { return job->empty(); });
  CHECK(job->remove());
}

TEST_CASE("counters come from the job alone") {
  const NothingLeft nothing_left;
  const auto tree = CgroupTree::create(machine(), tree_name());
  CgroupLimits limits;
  limits.memory = 256 * kMiB;
  const auto job = tree->make_job("job-1.1", limits);
  Child child{spawn_in(*job, [] {
    constexpr std::size_t kSize = 32 * kMiB;
    void* memory = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    std::memset(memory, 1, kSize);
    volatile unsigned long sum = 0;
    for (unsigned long i = 0; i < 50'000'000; ++i) {
      sum = sum + i;
    }
    ::raise(SIGSTOP);
    return 0;
  })};
  int status = 0;
  REQUIRE(::waitpid(child.pid, &status, WUNTRACED) == child.pid);
  job->sample();
  ::kill(child.pid, SIGKILL);
  child.wait();
  const CgroupCounters counters = job->read();
  const Usage& usage = counters.usage;
  REQUIRE(usage.cpu_total);
  CHECK(*usage.cpu_total >= std::chrono::milliseconds(1));
  // Read later: the kernel may still be charging the last turn of a process that was waited for.
  CHECK(job->cpu_time().value() >= *usage.cpu_total);
  CHECK(job->cpu_time().value() < *usage.cpu_total + std::chrono::seconds(1));
  CHECK(usage.memory_peak.value() >= 32 * kMiB);
  CHECK(usage.memory_peak.value() <= 64 * kMiB);
  CHECK(usage.memory_anon_peak.value() >= 32 * kMiB);  // sampled while it lived
  CHECK(usage.pids_peak.value() == 1);
  CHECK(usage.page_faults.value() >= 32);
  CHECK(usage.oom_kills == 0U);
  CHECK(usage.memory_limit_hits == 0U);
  CHECK(usage.pids_limit_hits == 0U);
  CHECK(usage.cpu_stall.has_value() == (machine().unified.version == 2 && fs::exists("/proc/pressure/cpu")));
}

TEST_CASE("kill_all ends a fork bomb") {
  const NothingLeft nothing_left;
  const auto tree = CgroupTree::create(machine(), tree_name());
  CgroupLimits limits;
  limits.pids = 64;
  const auto job = tree->make_job("job-1.1", limits);
  Child child{spawn_in(*job, [] {
    ::setsid();
    while (true) {
      ::fork();
    }
    return 0;
  })};
  wait_for([&] { return job->read().usage.pids_limit_hits.value() > 0; });
  job->kill_all();
  child.wait();
  wait_for([&] { return job->empty(); });
  const CgroupCounters counters = job->read();
  CHECK(counters.usage.pids_limit_hits.value() > 0);
  CHECK(counters.usage.pids_peak.value() == 64);
}

namespace {

void write_control(const fs::path& file, const std::string& value) {
  std::ofstream(file) << value;
}

bool memory_is_v1() {
  return machine().at(Controller::memory).version == 1;
}

/// Limits the memory of a cgroup above jobs, but not yet its swap.
void limit_memory(const fs::path& cgroup, Bytes size) {
  write_control(cgroup / (memory_is_v1() ? "memory.limit_in_bytes" : "memory.max"), std::to_string(size));
}
/// To what its memory is limited to.
void allow_no_swap(const fs::path& cgroup, Bytes memory) {
  write_control(cgroup / (memory_is_v1() ? "memory.memsw.limit_in_bytes" : "memory.swap.max"),
                std::to_string(memory_is_v1() ? memory : 0));
}

int use_64_mib() {
  constexpr std::size_t kSize = 64 * kMiB;
  void* memory = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  std::memset(memory, 1, kSize);
  return 0;
}

/// Uses memory, page by page, until `enough`, and gives it back.
int use_until(const std::function<bool()>& enough) {
  constexpr std::size_t kPage = 4096;
  constexpr std::size_t kSize = 64 * kMiB;
  void* memory = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ::madvise(memory, kSize, MADV_NOHUGEPAGE);
  for (std::size_t used = 0; used < kSize && !enough(); used += kPage) {
    static_cast<char*>(memory)[used] = 1;
  }
  return enough() ? 0 : 1;
}

/// Whether hardly any memory is left of the limit: room for what the kernel charges ahead for two CPUs, 64
/// pages each, as to look is charged too.
bool is_nearly_full(const fs::path& cgroup, Bytes limit) {
  constexpr Bytes kChargedAhead = Bytes{2} * 64 * 4096;
  const std::string usage = slurp(cgroup / (memory_is_v1() ? "memory.usage_in_bytes" : "memory.current"));
  return std::stoull(usage) + kChargedAhead >= limit;
}

}  // namespace

TEST_CASE("a job beyond its memory is killed, and its own cgroup is named as the limiting one") {
  const NothingLeft nothing_left;
  const auto tree = CgroupTree::create(machine(), tree_name());
  // Which counter tells depends on whether the limit hit is that of memory or that of memory+swap.
  const bool limit_swap = GENERATE(true, false);
  CgroupLimits limits;
  limits.memory = 16 * kMiB;
  if (limit_swap && tree->accounts_swap()) {
    limits.swap = 0;
  }
  if (!limit_swap && slurp("/proc/swaps").find('\n') != std::string::npos) {
    skip_case("this machine swaps: without a limit of swap nothing would be killed");
    return;
  }
  const auto job = tree->make_job("job-1.1", limits);
  Child child{spawn_in(*job, use_64_mib)};
  CHECK(WTERMSIG(child.wait()) == SIGKILL);
  const CgroupCounters counters = job->read();
  CHECK(counters.usage.oom_kills == 1U);
  CHECK(counters.memory_limit_hits.value_or(1) > 0);  // absent where the kernel forgets to count
  CHECK((limit_swap || counters.memory_limit_hits.has_value()));
  CHECK(job->limiting_cgroup() == job->path(Controller::memory));
}

TEST_CASE("a job killed by a limit above it names the cgroup with that limit") {
  const NothingLeft nothing_left;
  const auto tree = CgroupTree::create(machine(), tree_name());
  const auto job = tree->make_job("job-1.1", {});
  const fs::path above = fs::path(directory(*job, Controller::memory)).parent_path();
  limit_memory(above, 16 * kMiB);
  allow_no_swap(above, 16 * kMiB);
  Child child{spawn_in(*job, use_64_mib)};
  CHECK(WTERMSIG(child.wait()) == SIGKILL);
  CHECK(job->read().usage.oom_kills == 1U);
  CHECK(job->limiting_cgroup() == fs::path(job->path(Controller::memory)).parent_path());
}

TEST_CASE("a limit above kills several jobs and is named for each of them, but for none made later") {
  const NothingLeft nothing_left;
  const auto tree = CgroupTree::create(machine(), tree_name());
  const auto one = tree->make_job("job-1.1", {});
  const auto other = tree->make_job("job-2.1", {});
  const fs::path above = fs::path(directory(*one, Controller::memory)).parent_path();
  limit_memory(above, 16 * kMiB);
  allow_no_swap(above, 16 * kMiB);
  for (JobCgroup* job : {one.get(), other.get()}) {
    Child child{spawn_in(*job, use_64_mib)};
    CHECK(WTERMSIG(child.wait()) == SIGKILL);
  }
  const std::string limited = fs::path(one->path(Controller::memory)).parent_path();
  CHECK(one->limiting_cgroup() == limited);
  CHECK(other->limiting_cgroup() == limited);
  CHECK(tree->make_job("job-3.1", {})->limiting_cgroup() == "/");
}

TEST_CASE("a limit above that had been run into before is named when it kills a job") {
  const NothingLeft nothing_left;
  const auto tree = CgroupTree::create(machine(), tree_name());
  const auto filler = tree->make_job("job-1.1", {});
  const fs::path above = fs::path(directory(*filler, Controller::memory)).parent_path();
  limit_memory(above, 16 * kMiB);
  const auto has_run_into_it = [&] {
    return memory_is_v1() ? slurp(above / "memory.failcnt") != "0" : is_nearly_full(above, 16 * kMiB);
  };
  CHECK(Child{spawn_in(*filler, [&] { return use_until(has_run_into_it); })}.wait() == 0);
  CHECK(filler->limiting_cgroup() != filler->path(Controller::memory));
  allow_no_swap(above, 16 * kMiB);
  const auto job = tree->make_job("job-2.1", {});
  CHECK(WTERMSIG(Child{spawn_in(*job, use_64_mib)}.wait()) == SIGKILL);
  CHECK(job->limiting_cgroup() == fs::path(job->path(Controller::memory)).parent_path());
}

TEST_CASE("a job that had used all its memory before is told whose limit killed it") {
  const NothingLeft nothing_left;
  const auto tree = CgroupTree::create(machine(), tree_name());
  CgroupLimits limits;
  limits.memory = 32 * kMiB;
  if (tree->accounts_swap()) {
    limits.swap = 0;
  }
  const auto job = tree->make_job("job-1.1", limits);
  const fs::path own = directory(*job, Controller::memory);
  const fs::path above = own.parent_path();
  CHECK(Child{spawn_in(*job, [&] {
          return use_until([&] { return is_nearly_full(own, 32 * kMiB); });
        })}.wait() == 0);
  limit_memory(above, 16 * kMiB);
  allow_no_swap(above, 16 * kMiB);
  CHECK(WTERMSIG(Child{spawn_in(*job, use_64_mib)}.wait()) == SIGKILL);
  CHECK(job->limiting_cgroup() == fs::path(job->path(Controller::memory)).parent_path());
  allow_no_swap(above, 64 * kMiB);
  limit_memory(above, 64 * kMiB);
  CHECK(WTERMSIG(Child{spawn_in(*job, use_64_mib)}.wait()) == SIGKILL);
  CHECK(job->limiting_cgroup() == job->path(Controller::memory));
}

TEST_CASE("a job whose name is taken in one hierarchy is made in none") {
  const NothingLeft nothing_left;
  const auto tree = CgroupTree::create(machine(), tree_name());
  fs::path taken;
  {
    const auto job = tree->make_job("job-1.1", {});
    taken = directory(*job, Controller::pids);
  }
  REQUIRE(fs::create_directory(taken));
  const std::set<std::string> before = all_cgroups();
  try {
    tree->make_job("job-1.1", {});
    FAIL("the name was taken");
  } catch (const CgroupError& error) {
    CHECK(error.code().value() == EEXIST);
    CHECK_THAT(error.file(), Catch::EndsWith("/job-1.1"));
  }
  CHECK(all_cgroups() == before);
  fs::remove(taken);
}

TEST_CASE("a frozen job makes no progress until it is thawed") {
  const NothingLeft nothing_left;
  const auto tree = CgroupTree::create(machine(), tree_name());
  if (!tree->usable(Controller::freezer)) {
    skip_case("no freezer: " + tree->reason_unusable(Controller::freezer));
    return;
  }
  const auto job = tree->make_job("job-1.1", {});
  auto* counter = static_cast<volatile unsigned long*>(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  Child child{spawn_in(*job, [&] {
    while (true) {
      *counter = *counter + 1;
    }
    return 0;
  })};
  wait_for([&] { return *counter > 0; });
  job->freeze(true);
  // The freezer takes hold some time after the write: wait for two equal readings.
  wait_for([&] {
    const unsigned long before = *counter;
    ::usleep(20'000);
    return *counter == before;
  });
  job->freeze(false);
  const unsigned long frozen_at = *counter;
  wait_for([&] { return *counter > frozen_at; });
  job->freeze(true);
  job->kill_all();  // also while frozen
  CHECK(WTERMSIG(child.wait()) == SIGKILL);
}

TEST_CASE("a prepared cgroup takes higher and lower limits in any order") {
  const NothingLeft nothing_left;
  const auto tree = CgroupTree::create(machine(), tree_name());
  const auto job = tree->make_job("job-1.1", {});
  const bool swap = tree->accounts_swap();
  for (const Bytes size : {64 * kMiB, 16 * kMiB, 256 * kMiB, 128 * kMiB}) {
    CgroupLimits limits;
    limits.memory = size;
    if (swap) {
      limits.swap = 0;
    }
    limits.cpu_quota = size > 100 * kMiB ? 0.001 : 1.5;
    limits.devices = std::vector<DeviceRule>{{'c', 1, static_cast<unsigned>(size / (16 * kMiB)), "rw"}};
    job->apply(limits);
    if (machine().at(Controller::memory).version == 1) {
      const std::string memory = directory(*job, Controller::memory);
      CHECK(slurp(memory + "/memory.limit_in_bytes") == std::to_string(size));
      if (swap) {
        CHECK(slurp(memory + "/memory.memsw.limit_in_bytes") == std::to_string(size));
      }
      CHECK(slurp(directory(*job, Controller::cpu) + "/cpu.cfs_quota_us") ==
            (size > 100 * kMiB ? "1000" : "150000"));
      CHECK(slurp(directory(*job, Controller::devices) + "/devices.list") ==
            "c 1:" + std::to_string(size / (16 * kMiB)) + " rw");
    } else {
      CHECK(slurp(directory(*job, Controller::memory) + "/memory.max") == std::to_string(size));
    }
  }
}

TEST_CASE("a limit that the kernel refuses names file, value and errno, and leaves nothing behind") {
  const NothingLeft nothing_left;
  const auto tree = CgroupTree::create(machine(), tree_name());
  CgroupLimits limits;
  limits.memory = 64 * kMiB;
  limits.io = {{4095, 1, 1000, std::nullopt, std::nullopt, std::nullopt}};  // no such device
  if (!tree->usable(Controller::blkio)) {
    skip_case("no blkio controller: " + tree->reason_unusable(Controller::blkio));
    return;
  }
  const std::set<std::string> before = all_cgroups();
  try {
    tree->make_job("job-1.1", limits);
    FAIL("make_job accepted a device that does not exist");
  } catch (const CgroupError& error) {
    INFO(error.what());
    CHECK(error.code().value() == ENODEV);
    CHECK(error.file().find("/job-1.1/") != std::string::npos);
    CHECK(std::string(error.what()).find("4095:1") != std::string::npos);
  }
  CHECK(all_cgroups() == before);
}

TEST_CASE("a limit of a hugetlb page size that does not exist is refused") {
  const NothingLeft nothing_left;
  const auto tree = CgroupTree::create(machine(), tree_name());
  CgroupLimits limits;
  limits.hugetlb["3MB"] = kMiB;
  const std::set<std::string> before = all_cgroups();
  CHECK_THROWS_AS(tree->make_job("job-1.1", limits), CgroupError);
  CHECK(all_cgroups() == before);
}

TEST_CASE("net_cls and hugetlb are mounted only for the job that names them, where nobody can see it") {
  const NothingLeft nothing_left;
  const std::string mounts = slurp("/proc/self/mountinfo");
  const std::string subtree_control =
      slurp(machine().unified.mount_point + machine().unified.own_path + "/cgroup.subtree_control");
  {
    const auto tree = CgroupTree::create(machine(), tree_name());
    const auto plain = tree->make_job("job-1.1", {});
    CHECK(plain->path(Controller::net_cls).empty() == machine().at(Controller::net_cls).mount_point.empty());
    if (!tree->usable(Controller::net_cls)) {
      WARN("no net_cls: " << tree->reason_unusable(Controller::net_cls));
    } else {
      CgroupLimits limits;
      limits.net_class = 0x00100001;
      const auto classed = tree->make_job("job-2.1", limits);
      Child child{spawn_in(*classed, sleep_forever)};
      wait_for([&] {  // "4:net_cls:/…" or "4:net_cls,net_prio:/…"
        const std::string text = slurp("/proc/" + std::to_string(child.pid) + "/cgroup");
        const std::size_t line = text.find("net_cls");
        return line != std::string::npos &&
               text.substr(line, text.find('\n', line) - line).ends_with("/job-2.1");
      });
      classed->kill_all();
    }
    if (!tree->usable(Controller::hugetlb)) {
      WARN("no hugetlb: " << tree->reason_unusable(Controller::hugetlb));
    } else {
      CgroupLimits limits;
      limits.hugetlb["2MB"] = 2 * kMiB;
      const auto paged = tree->make_job("job-3.1", limits);
      CHECK_FALSE(paged->path(Controller::hugetlb).empty());
    }
    CHECK(slurp("/proc/self/mountinfo") == mounts);
  }
  CHECK(slurp("/proc/self/mountinfo") == mounts);
  CHECK(slurp(machine().unified.mount_point + machine().unified.own_path + "/cgroup.subtree_control") ==
        subtree_control);
}

TEST_CASE("what a killed berth left is listed, killed, read and removed") {
  const NothingLeft nothing_left;
  // The orphaned job comes to us: as a zombie it would hold its hierarchies until somebody reaps it.
  REQUIRE(::prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
  const auto has_net_cls = [] { return slurp("/proc/self/cgroup").find("net_cls") != std::string::npos; };
  const bool others_have_net_cls = has_net_cls();  // a berthd that runs here keeps it
  const std::string made_as = GENERATE(std::string("job-7.2"), kArmedPrefix + std::string("3"));
  CAPTURE(made_as);
  const std::string name = tree_name();
  const FdPair ready = make_pipe();
  const pid_t berth = ::fork();
  if (berth == 0) {
    auto tree = CgroupTree::create(machine(), name);
    CgroupLimits limits;
    limits.memory = 64 * kMiB;
    limits.net_class = 0x00100001;
    if (!tree->usable(Controller::net_cls)) {
      limits.net_class.reset();
    }
    auto job = tree->make_job(made_as, limits);
    job->rename("job-7.2");
    spawn_in(*job, [&] {
      void* memory = ::mmap(nullptr, kMiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      std::memset(memory, 1, kMiB);
      write_all(ready.second.get(), "r", 1);
      return sleep_forever();
    });
    char byte = 0;
    ::read(ready.first.get(), &byte, 1);
    ::kill(::getpid(), SIGKILL);
  }
  REQUIRE(berth > 0);
  ::waitpid(berth, nullptr, 0);
  const CgroupMachine now = detect_cgroups();
  const std::vector<std::string> left = list_leftover_jobs(now, name);
  CHECK(std::set<std::string>(left.begin(), left.end()).size() == left.size());
  for (const std::string& each : left) {
    CHECK((each == "job-7.2" || each == made_as));
  }
  {
    const auto job = open_leftover_job(now, name, "job-7.2");
    REQUIRE(job);
    CHECK(job->processes().size() == 1);
    job->kill_all();
    wait_for([&] { return job->empty(); });
    CHECK(::waitpid(-1, nullptr, 0) > 0);
    const Usage usage = job->read().usage;
    CHECK(usage.memory_peak.value() >= kMiB);
    CHECK(usage.cpu_total.value() > std::chrono::microseconds(0));
    const bool keeps_peak = fs::exists(fs::path(directory(*job, Controller::pids)) / "pids.peak");
    CHECK(usage.pids_peak == (keeps_peak ? std::optional<Usage::Count>(1) : std::nullopt));
    CHECK(job->remove());
  }
  CHECK(open_leftover_job(now, name, "job-7.2") == nullptr);
  remove_leftover_tree(now, name);
  CHECK(list_leftover_jobs(now, name).empty());
  if (!others_have_net_cls) {
    wait_for([&] { return !has_net_cls(); });
  }
}

TEST_CASE("the CPU time of a killed berth's job is its own, where v1 counts it beside another controller") {
  if (machine().unified.version != 2 || machine().at(Controller::cpuacct).version != 1) {
    skip_case("v2 and v1 do not both count CPU time here");
    return;
  }
  const NothingLeft nothing_left;
  REQUIRE(::prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
  CgroupMachine co_mounted = machine();  // as systemd mounts them
  co_mounted.controllers[static_cast<std::size_t>(Controller::cpu)] = machine().at(Controller::cpuacct);
  constexpr std::clock_t kOfTheFirst = CLOCKS_PER_SEC / 10;
  const std::string name = tree_name();
  const pid_t berth = ::fork();
  if (berth == 0) {
    auto tree = CgroupTree::create(co_mounted, name);
    auto first = tree->make_job("job-1.1", {});
    Child{spawn_in(*first, [] {
      while (std::clock() < kOfTheFirst) {
      }
      return 0;
    })}.wait();
    first->read();
    first->remove(std::chrono::seconds(2), JobCgroup::Traceless::keep);
    first.reset();
    const auto second = tree->make_job("job-2.1", {});
    Child{spawn_in(*second, [] { return 0; })}.wait();
    ::kill(::getpid(), SIGKILL);
  }
  ::waitpid(berth, nullptr, 0);
  const auto job = open_leftover_job(co_mounted, name, "job-2.1");
  REQUIRE(job);
  const Usage usage = job->read().usage;
  CHECK(usage.cpu_total.value() > std::chrono::microseconds(0));
  CHECK(usage.cpu_total.value() < std::chrono::milliseconds(50));
  CHECK(job->remove());
  remove_leftover_tree(co_mounted, name);
}

TEST_CASE("the next job may fork where, without a freezer, a job was killed") {
  if (machine().at(Controller::pids).version != 1) {
    skip_case("pids is not in cgroup v1 here");
    return;
  }
  const NothingLeft nothing_left;
  CgroupMachine without_freezer = machine();
  without_freezer.controllers[static_cast<std::size_t>(Controller::freezer)] = {};
  without_freezer.unified = {};
  const auto tree = CgroupTree::create(without_freezer, tree_name());
  CgroupLimits limits;
  limits.pids = 10;
  const auto job = tree->make_job("job-1.1", limits);
  Child child{spawn_in(*job, sleep_forever)};
  wait_for([&] { return job->processes().size() == 1; });
  job->kill_all();
  CHECK(WTERMSIG(child.wait()) == SIGKILL);
  job->read();
  CHECK(job->remove(std::chrono::seconds(2), JobCgroup::Traceless::keep));
  const auto next = tree->make_job("job-2.1", limits);
  CHECK(slurp(directory(*next, Controller::pids) + "/pids.max") == "10");
}

TEST_CASE("v1 cgroups without a trace of their job are the next job's") {
  if (machine().at(Controller::devices).version != 1 || machine().at(Controller::cpu).version != 1) {
    skip_case("devices and cpu are not in cgroup v1 here");
    return;
  }
  const NothingLeft nothing_left;
  const auto tree = CgroupTree::create(machine(), tree_name());
  // A cgroup that counts CPU time is not kept.
  const bool keeps_cpu =
      tree->version(Controller::cpuacct) == 2 ||
      machine().at(Controller::cpu).mount_point != machine().at(Controller::cpuacct).mount_point;
  CgroupLimits limits;
  limits.memory = 64 * kMiB;
  limits.pids = 10;
  limits.devices = {{'c', 1, 3, "rw"}};
  const auto file_number = [](const JobCgroup& job, Controller controller) {
    struct stat status {};
    REQUIRE(::stat(directory(job, controller).c_str(), &status) == 0);
    return status.st_ino;
  };
  const auto end = [&](
                       std::unique_ptr<JobCgroup>& job, const std::function<int()>& body = [] { return 0; }) {
    Child child{spawn_in(*job, body)};
    child.wait();
    job->read();
    CHECK(job->remove(std::chrono::seconds(2), JobCgroup::Traceless::keep));
    job.reset();
  };

  auto first = tree->make_job("job-1.1", limits);
  const ino_t devices = file_number(*first, Controller::devices);
  const ino_t cpu = file_number(*first, Controller::cpu);
  const ino_t pids = file_number(*first, Controller::pids);
  const std::string first_memory = directory(*first, Controller::memory);
  end(first);
  CHECK_FALSE(fs::exists(first_memory));

  SECTION("when it wants the same limits") {
    const auto next = tree->make_job("job-2.1", limits);
    CHECK(file_number(*next, Controller::devices) == devices);
    CHECK((file_number(*next, Controller::cpu) == cpu) == keeps_cpu);
    CHECK(slurp(directory(*next, Controller::devices) + "/devices.list") == "c 1:3 rw");
    CHECK(file_number(*next, Controller::pids) == pids);
    CHECK(slurp(directory(*next, Controller::pids) + "/pids.max") == "10");
    CHECK(next->read().usage.pids_peak.value() <= 2);  // what every job has
    CHECK(next->path(Controller::pids).ends_with("/job-2.1"));
  }
  SECTION("when it waits for its job") {
    const auto next = tree->make_job(kArmedPrefix + std::string("1"), limits);
    CHECK(file_number(*next, Controller::pids) == pids);
    next->rename("job-2.1");
    CHECK(next->path(Controller::pids).ends_with("/job-2.1"));
    CHECK(file_number(*next, Controller::pids) == pids);
  }
  SECTION("when it has the same name") {
    limits.devices = {{'c', 1, 5, "rw"}};
    const auto next = tree->make_job("job-1.1", limits);
    CHECK(file_number(*next, Controller::devices) != devices);
  }
  SECTION("but not where more processes were in them than in every job") {
    auto next = tree->make_job("job-2.1", limits);
    end(next, [] {
      std::array<pid_t, 2> children{};
      for (pid_t& child : children) {
        child = ::fork();
        if (child == 0) {
          return sleep_forever();
        }
      }
      for (const pid_t child : children) {
        ::kill(child, SIGKILL);
        ::waitpid(child, nullptr, 0);
      }
      return 0;
    });
    const auto last = tree->make_job("job-3.1", limits);
    CHECK(file_number(*last, Controller::pids) != pids);
  }
  SECTION("when a limit is to be added") {
    limits.cpu_weight = 200;
    limits.cpu_quota = 0.5;
    auto next = tree->make_job("job-2.1", limits);
    CHECK((file_number(*next, Controller::cpu) == cpu) == keeps_cpu);
    CHECK(slurp(directory(*next, Controller::cpu) + "/cpu.shares") == "2048");
    CHECK(slurp(directory(*next, Controller::cpu) + "/cpu.cfs_quota_us") != "-1");
    end(next);  // a quota cannot be taken away: not for a job without one
    limits.cpu_quota.reset();
    auto other = tree->make_job("job-3.1", limits);
    CHECK(file_number(*other, Controller::cpu) != cpu);
    CHECK(slurp(directory(*other, Controller::cpu) + "/cpu.cfs_quota_us") == "-1");
    limits.cpu_quota = 0.5;
    auto last = tree->make_job("job-4.1", limits);
    CHECK((file_number(*last, Controller::cpu) == cpu) == keeps_cpu);
  }
  SECTION("but not where a quota throttled it") {
    limits.cpu_quota = 0.05;
    auto next = tree->make_job("job-2.1", limits);
    const ino_t throttled = file_number(*next, Controller::cpu);
    end(next, [] {
      const std::clock_t start = std::clock();
      while (std::clock() - start < CLOCKS_PER_SEC / 20) {
      }
      return 0;
    });
    const auto last = tree->make_job("job-3.1", limits);
    CHECK(file_number(*last, Controller::cpu) != throttled);
    CHECK(last->read().usage.throttled_periods == Usage::Count{0});
  }
  SECTION("but not when it wants other devices") {
    limits.devices = {{'c', 1, 5, "rw"}};
    const auto next = tree->make_job("job-2.1", limits);
    CHECK(file_number(*next, Controller::devices) != devices);
    CHECK(slurp(directory(*next, Controller::devices) + "/devices.list") == "c 1:5 rw");
  }
  SECTION("and the oldest make room when they fit nobody") {
    constexpr std::size_t kMoreThanAreKept = 9;
    std::vector<std::unique_ptr<JobCgroup>> others(kMoreThanAreKept);
    limits.devices = {{'c', 1, 5, "rw"}};
    for (std::size_t number = 0; number < others.size(); ++number) {
      others[number] = tree->make_job("job-1" + std::to_string(number) + ".1", limits);
    }
    for (auto& other : others) {
      end(other);
    }
    const auto next = tree->make_job("job-2.1", limits);
    CHECK(slurp(directory(*next, Controller::devices) + "/devices.list") == "c 1:5 rw");
    limits.devices = {{'c', 1, 3, "rw"}};
    const auto last = tree->make_job("job-3.1", limits);
    CHECK(file_number(*last, Controller::devices) != devices);
  }
  SECTION("but not when they hold cgroups of the job's") {
    auto next = tree->make_job("job-2.1", limits);
    const std::string own = directory(*next, Controller::devices) + "/own";
    REQUIRE(fs::create_directory(own));
    end(next);
    const auto last = tree->make_job("job-3.1", limits);
    CHECK(file_number(*last, Controller::devices) != devices);
  }
}

TEST_CASE("the destructor of a job kills what still runs") {
  const NothingLeft nothing_left;
  const auto tree = CgroupTree::create(machine(), tree_name());
  Child child;
  {
    const auto job = tree->make_job("job-1.1", {});
    child.pid = spawn_in(*job, sleep_forever);
    wait_for([&] { return !job->empty(); });  // on v1 the child attaches itself
  }
  CHECK(WTERMSIG(child.wait()) == SIGKILL);
}

TEST_CASE("two trees of one name are refused, two of different names live side by side") {
  const NothingLeft nothing_left;
  const auto tree = CgroupTree::create(machine(), tree_name());
  try {
    CgroupTree::create(machine(), tree_name());
    FAIL("a second tree of the same name was made");
  } catch (const CgroupError& error) {
    CHECK(error.code().value() == EEXIST);
  }
  auto other = CgroupTree::create(machine(), tree_name() + "-other");
  CHECK(other->make_job("job-1.1", {}) != nullptr);
  other.reset();
  CHECK(tree->make_job("job-1.1", {}) != nullptr);
}

TEST_CASE("the kernel takes the device program and enforces it") {
  if (machine().unified.version != 2) {
    skip_case("no cgroup v2 tree: " + machine().unified.reason);
    return;
  }
  const NothingLeft nothing_left;
  // A machine without v1 devices: the eBPF way, on this machine's v2 tree.
  CgroupMachine only_v2 = machine();
  only_v2.controllers = {};
  only_v2.controllers[static_cast<std::size_t>(Controller::devices)] = only_v2.unified;
  const auto tree = CgroupTree::create(only_v2, tree_name());
  if (!tree->usable(Controller::devices)) {
    skip_case("the kernel loads no device program: " + tree->reason_unusable(Controller::devices));
    return;
  }
  CgroupLimits limits;
  limits.devices = std::vector<DeviceRule>{{'c', 1, 3, "rw"}, {'c', 1, 5, "r"}};
  const auto job = tree->make_job("job-1.1", limits);
  const auto opens = [&](const char* path, int flags) {
    Child child{spawn_in(*job, [&] { return ::open(path, flags) >= 0 ? 0 : errno; })};
    return WEXITSTATUS(child.wait());
  };
  CHECK(opens("/dev/null", O_RDWR) == 0);
  CHECK(opens("/dev/zero", O_RDONLY) == 0);
  CHECK(opens("/dev/zero", O_RDWR) == EPERM);
  CHECK(opens("/dev/full", O_RDONLY) == EPERM);
  limits.devices = std::vector<DeviceRule>{{'c', 1, 7, "r"}};
  job->apply(limits);
  CHECK(opens("/dev/null", O_RDWR) == EPERM);
  CHECK(opens("/dev/full", O_RDONLY) == 0);
}

TEST_CASE("bytes and operations of direct I/O are counted") {
  const NothingLeft nothing_left;
  const auto tree = CgroupTree::create(machine(), tree_name());
  if (!tree->usable(Controller::blkio)) {
    skip_case("no blkio controller: " + tree->reason_unusable(Controller::blkio));
    return;
  }
  char path[] = "/var/tmp/berth-test-io-XXXXXX";
  const UniqueFd file{::mkostemp(path, O_DIRECT | O_CLOEXEC)};
  ::unlink(path);
  if (!file) {
    skip_case(std::string("/var/tmp has no O_DIRECT: ") + std::strerror(errno));
    return;
  }
  const auto job = tree->make_job("job-1.1", {});
  Child child{spawn_in(*job, [&] {
    void* block = ::mmap(nullptr, kMiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 4; ++i) {
      if (::pwrite(file.get(), block, kMiB, i * static_cast<off_t>(kMiB)) != static_cast<ssize_t>(kMiB)) {
        return errno;
      }
    }
    return ::pread(file.get(), block, kMiB, 0) == static_cast<ssize_t>(kMiB) ? 0 : errno;
  })};
  REQUIRE(WEXITSTATUS(child.wait()) == 0);
  const Usage usage = job->read().usage;
  CHECK(usage.io_write_bytes.value() >= 4 * kMiB);
  CHECK(usage.io_write_bytes.value() < 8 * kMiB);
  CHECK(usage.io_read_bytes.value() >= kMiB);
  CHECK(usage.io_write_operations.value() >= 1);
  CHECK(usage.io_read_operations.value() >= 1);
}
