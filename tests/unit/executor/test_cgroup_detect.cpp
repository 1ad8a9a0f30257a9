// Where each controller lives, on machines other than this one: from their texts.
#include <catch2/catch.hpp>
#include <fstream>
#include <iterator>
#include <map>

#include "executor/cgroup_detect.h"

using namespace berth;

namespace {

std::string captured(const std::string& name) {
  std::ifstream file(std::string(BERTH_TEST_DATA) + "/cgroup/proc/" + name);
  REQUIRE(file);
  return {std::istreambuf_iterator<char>(file), {}};
}

constexpr const char* kAllControllers =
    "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t0\t9\t1\ncpu\t0\t9\t1\ncpuacct\t0\t9\t1\n"
    "blkio\t0\t9\t1\nmemory\t0\t9\t1\ndevices\t0\t9\t1\nfreezer\t0\t9\t1\nnet_"
    "cls\t0\t9\t1\nhugetlb\t0\t9\t1\n"
    "pids\t0\t9\t1\n";

CgroupMachine detect(const std::string& mountinfo, const std::string& memberships, const std::string& kernel,
                     const std::map<std::string, std::string>& files, bool is_root = true) {
  CgroupTexts texts;
  texts.mountinfo = mountinfo;
  texts.memberships = memberships;
  texts.kernel_controllers = kernel;
  texts.is_root = is_root;
  texts.read_file = [files](const std::string& path) {
    const auto found = files.find(path);
    return found == files.end() ? std::string() : found->second;
  };
  return detect_cgroups_from(texts);
}

}  // namespace

TEST_CASE("hybrid: v1 controllers where they are mounted, hugetlb left to a mount of berth's own") {
  const CgroupMachine machine =
      detect(captured("mountinfo_hybrid"), captured("self_cgroup_hybrid"), captured("cgroups_hybrid"),
             {{"/sys/fs/cgroup/unified//cgroup.controllers", "hugetlb\n"}});
  CHECK(machine.unified.version == 2);
  CHECK(machine.unified.mount_point == "/sys/fs/cgroup/unified");
  for (const Controller controller :
       {Controller::cpu, Controller::cpuacct, Controller::cpuset, Controller::memory, Controller::pids,
        Controller::devices, Controller::freezer, Controller::blkio}) {
    INFO(to_string(controller));
    CHECK(machine.at(controller).version == 1);
    CHECK(machine.at(controller).mount_point == std::string("/sys/fs/cgroup/") + to_string(controller));
  }
  CHECK(machine.at(Controller::memory).own_path == "/system.slice/berthd.service");
  for (const Controller controller : {Controller::net_cls, Controller::hugetlb}) {
    CHECK(machine.at(controller).version == 1);
    CHECK(machine.at(controller).mount_point.empty());
  }
}

TEST_CASE("pure v2 under systemd: what the parent passed on, and what v2 always has") {
  const std::string mountinfo =
      "35 24 0:30 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 "
      "rw,nsdelegate,memory_recursiveprot\n";
  const std::string directory =
      "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/run-1.scope";
  const CgroupMachine machine = detect(
      mountinfo, "0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-1.scope\n", kAllControllers,
      {{directory + "/cgroup.controllers", "memory pids\n"}, {directory + "/cgroup.subtree_control", "\n"}},
      false);
  for (const Controller controller : {Controller::memory, Controller::pids, Controller::cpuacct,
                                      Controller::devices, Controller::freezer}) {
    INFO(to_string(controller));
    CHECK(machine.at(controller).version == 2);
    CHECK(machine.at(controller).own_path ==
          "/user.slice/user-1000.slice/user@1000.service/app.slice/run-1.scope");
  }
  for (const Controller controller :
       {Controller::cpuset, Controller::blkio, Controller::cpu, Controller::hugetlb}) {
    INFO(to_string(controller));
    CHECK(machine.at(controller).version == 0);
    CHECK_THAT(machine.at(controller).reason, Catch::Contains("Delegate="));
  }
  CHECK(machine.at(Controller::net_cls).version == 0);  // only root mounts it
}

TEST_CASE("on v2 root gets net_cls by a mount of berth's own") {
  const CgroupMachine machine =
      detect("35 24 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/\n", kAllControllers,
             {{"/sys/fs/cgroup//cgroup.controllers", "cpuset cpu io memory hugetlb pids\n"}});
  CHECK(machine.at(Controller::net_cls).version == 1);
  CHECK(machine.at(Controller::net_cls).mount_point.empty());
  CHECK(machine.at(Controller::hugetlb).version == 2);
  CHECK(machine.at(Controller::blkio).version == 2);
}

TEST_CASE("controllers of one v1 hierarchy share its mount, and a bind mount of a part is understood") {
  const CgroupMachine machine = detect(
      "40 30 0:40 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
      "41 30 0:41 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
      "42 30 0:42 /docker/other /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n",
      "3:cpu,cpuacct:/docker/abc/x\n2:memory:/docker/abc\n1:pids:/docker/abc\n", kAllControllers, {});
  CHECK(machine.at(Controller::cpu).version == 1);
  CHECK(machine.at(Controller::cpu).own_path == "/x");
  CHECK(machine.at(Controller::cpuacct).mount_point == machine.at(Controller::cpu).mount_point);
  CHECK(machine.at(Controller::cpu).hierarchy == "cpu,cpuacct");
  CHECK(machine.at(Controller::memory).version == 0);
  CHECK_THAT(machine.at(Controller::memory).reason, Catch::Contains("read-only"));
  CHECK(machine.at(Controller::pids).version == 0);
  CHECK_THAT(machine.at(Controller::pids).reason, Catch::Contains("does not show"));
}

TEST_CASE("berth that moved to its own daemon leaf still knows its own cgroup") {
  const CgroupMachine machine = detect("35 24 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
                                       "0::/system.slice/berthd.service/berth/daemon\n", kAllControllers, {});
  CHECK(machine.unified.own_path == "/system.slice/berthd.service");
}

TEST_CASE("a controller that the kernel lacks or disables says so, with what to do") {
  const CgroupMachine machine = detect("", "", "memory\t0\t1\t0\nnet_cls\t0\t1\t1\ncpu\t0\t1\t1\n", {});
  CHECK(machine.unified.version == 0);
  CHECK_THAT(machine.at(Controller::memory).reason, Catch::Contains("cgroup_disable"));
  CHECK_THAT(machine.at(Controller::pids).reason, Catch::Contains("built without"));
  CHECK_THAT(machine.at(Controller::cpu).reason, Catch::Contains("mount -t cgroup"));
  for (std::size_t i = 0; i < kControllerCount; ++i) {
    if (machine.controllers[i].version == 0) {
      CHECK_THAT(machine.controllers[i].reason, Catch::Contains("; "));  // what is so; what to do
    }
  }
}
