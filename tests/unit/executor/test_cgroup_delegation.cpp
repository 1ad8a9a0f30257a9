// Who gets controllers on cgroup v2, on directories that stand in for cgroups: writes land in plain files.
// That the kernel agrees is for tests on a machine with cgroup v2.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "executor/cgroup_v2.h"
#include "executor/os/syscall.h"
#include "tests/support/skip_case.h"

using namespace berth;
namespace fs = std::filesystem;

namespace {

void put(const fs::path& file, const std::string& text) {
  std::ofstream(file) << text;
}

std::string get(const fs::path& file) {
  std::ifstream stream(file);
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// <tmp>/own/berth/{tree,daemon}, as if berth had just made them.
struct FakeTree {
  FakeTree(const std::string& available, const std::string& enabled, const std::string& processes,
           bool is_root) {
    char name[] = "/tmp/berth-test-delegation-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    own = name;
    fs::create_directories(own / "berth" / "tree");
    fs::create_directories(own / "berth" / "daemon");
    put(own / "cgroup.controllers", available + "\n");
    put(own / "cgroup.subtree_control", enabled + "\n");
    put(own / "cgroup.procs", processes);
    for (const char* below : {"berth", "berth/tree", "berth/daemon"}) {
      put(own / below / "cgroup.subtree_control", "");
      put(own / below / "cgroup.procs", "");
    }
    if (!is_root) {
      put(own / "cgroup.type", "domain\n");
    }
    hierarchy.version = 2;
    hierarchy.own_path = "/own";
    hierarchy.own = open_at(AT_FDCWD, own, O_RDONLY | O_DIRECTORY);
    hierarchy.berth = open_at(AT_FDCWD, own / "berth", O_RDONLY | O_DIRECTORY);
    hierarchy.tree = open_at(AT_FDCWD, own / "berth/tree", O_RDONLY | O_DIRECTORY);
    hierarchy.controllers.insert(Controller::memory);
  }
  ~FakeTree() { fs::remove_all(own); }

  const std::string& enable(OwnCgroup rule) {
    enable_controllers_v2(hierarchy, rule, reasons);
    return reasons[static_cast<std::size_t>(Controller::memory)];
  }
  std::string written(const char* directory) { return get(own / directory / "cgroup.subtree_control"); }

  fs::path own;
  Hierarchy hierarchy;
  Reasons reasons;
};

}  // namespace

TEST_CASE("at the root a controller is enabled from own down to the tree") {
  FakeTree fake("cpu memory", "", "1\n2\n", true);
  CHECK(fake.enable(OwnCgroup::may_change).empty());
  for (const char* directory : {".", "berth", "berth/tree"}) {
    CHECK(fake.written(directory).starts_with("+memory"));
  }
  CHECK(fake.hierarchy.controllers.contains(Controller::memory));
  CHECK(fake.hierarchy.added_to_own == "memory");
  CHECK_FALSE(fake.hierarchy.moved_to_daemon);
}

TEST_CASE("a controller that is enabled already leaves own as it is") {
  FakeTree fake("memory", "memory", "1\n", false);
  CHECK(fake.enable(OwnCgroup::may_change).empty());
  CHECK(fake.written(".") == "memory\n");
  CHECK(fake.written("berth") == "+memory");
  CHECK(fake.hierarchy.added_to_own.empty());
}

TEST_CASE("the v2 tree of a hybrid machine is not changed above berth's own") {
  FakeTree fake("memory", "", "", true);
  CHECK_THAT(fake.enable(OwnCgroup::leave_alone), Catch::Contains("hybrid"));
  CHECK(fake.written(".") == "\n");
  CHECK(fake.written("berth").empty());
  CHECK_FALSE(fake.hierarchy.controllers.contains(Controller::memory));
}

TEST_CASE("a controller that the parent keeps is explained by delegation") {
  FakeTree fake("cpu", "cpu", "", false);
  CHECK_THAT(fake.enable(OwnCgroup::may_change), Catch::Contains("Delegate="));
  CHECK_FALSE(fake.hierarchy.controllers.contains(Controller::memory));
}

TEST_CASE("a cgroup with processes that are not ours is neither emptied nor changed") {
  FakeTree fake("memory", "", "1\n" + std::to_string(::getpid()) + "\n", false);
  const std::string& reason = fake.enable(OwnCgroup::may_change);
  INFO(reason);
  CHECK_THAT(reason, Catch::Contains("systemd-run"));
  CHECK(get(fake.own / "berth/daemon/cgroup.procs").empty());
  CHECK(fake.written(".") == "\n");
  CHECK_FALSE(fake.hierarchy.controllers.contains(Controller::memory));
}

TEST_CASE("our own processes move to the daemon's leaf") {
  if (::geteuid() == 0 && ::access("/run/systemd/system", F_OK) == 0) {
    skip_case("under systemd a directory without its delegation mark is not root's to empty");
    return;
  }
  FakeTree fake("memory", "", std::to_string(::getpid()) + "\n", false);
  // The stand-in keeps listing us, so berth gives up in the end; what counts is where it moved us.
  CHECK_THAT(fake.enable(OwnCgroup::may_change), Catch::Contains("keep appearing"));
  CHECK(get(fake.own / "berth/daemon/cgroup.procs") == std::to_string(::getpid()));
}

TEST_CASE("a process that ended since it was listed does not count as another's") {
  if (::geteuid() == 0 && ::access("/run/systemd/system", F_OK) == 0) {
    skip_case("under systemd a directory without its delegation mark is not root's to empty");
    return;
  }
  const pid_t child = ::fork();
  if (child == 0) {
    ::_exit(0);
  }
  REQUIRE(::waitpid(child, nullptr, 0) == child);
  FakeTree fake("memory", "", std::to_string(child) + "\n" + std::to_string(::getpid()) + "\n", false);
  CHECK_THAT(fake.enable(OwnCgroup::may_change), Catch::Contains("keep appearing"));
}

TEST_CASE("at the end berth and its children go back to own and the daemon's leaf is removed") {
  const std::string us = std::to_string(::getpid());
  FakeTree fake("memory", "memory", "", false);
  put(fake.own / "berth/daemon/cgroup.procs", "1\n" + us + "\n");
  fake.hierarchy.moved_to_daemon = true;
  fake.hierarchy.added_to_own = "memory";
  restore_own_v2(fake.hierarchy);
  CHECK(fake.written(".") == "-memory");
  CHECK(fake.written("berth") == "-memory");
  // Plain files keep the last write; pid 1 is not ours to move.
  CHECK(get(fake.own / "cgroup.procs") == us);
  CHECK_FALSE(fake.hierarchy.moved_to_daemon);
}
