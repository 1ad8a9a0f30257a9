#include <fcntl.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>
#include <vector>

#include "scheduler/output_files.h"
#include "tests/support/skip_case.h"
#include "tests/support/temporary_directory.h"

namespace berth {
namespace {

const FileOwner kMyself{::getuid(), ::getgid(), "root"};

std::string expand(std::string_view pattern) {
  return expand_pattern(pattern, {42, "build/x", "ann"});
}

void write_to(const std::string& path, OpenMode mode, const std::string& text) {
  const int descriptor = open_output_file(path, mode, kMyself);
  REQUIRE(::write(descriptor, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  CHECK((::fcntl(descriptor, F_GETFD) & FD_CLOEXEC) != 0);
  ::close(descriptor);
}

std::string contents(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string capabilities_in_effect() {
  const std::string status = contents("/proc/thread-self/status");
  const std::size_t at = status.find("CapEff:");
  return status.substr(at, status.find('\n', at) - at);
}

TEST_CASE("patterns stand for the job") {
  CHECK(expand("/l/%j-%A") == "/l/42-42");
  CHECK(expand("%u.%x") == "ann.build_x");
  CHECK(expand("100%%j%%") == "100%j%");
  CHECK(expand("%q%") == "%q%");
  CHECK(expand("plain").find('%') == std::string::npos);
}

TEST_CASE("a file is emptied or appended to as asked") {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/out";
  write_to(path, OpenMode::truncate, "first");
  write_to(path, OpenMode::append, "+");
  CHECK(contents(path) == "first+");
  write_to(path, OpenMode::truncate, "new");
  CHECK(contents(path) == "new");
}

TEST_CASE("a new file has the mode that the umask leaves") {
  const TemporaryDirectory directory;
  const mode_t before = ::umask(027);
  write_to(directory.path() + "/out", OpenMode::truncate, "x");
  ::umask(before);
  struct stat status {};
  REQUIRE(::stat((directory.path() + "/out").c_str(), &status) == 0);
  CHECK((status.st_mode & 0777U) == 0640U);
}

TEST_CASE("a symbolic link as last component is not followed, and its target is not touched") {
  const TemporaryDirectory directory;
  const std::string target = directory.path() + "/target";
  std::ofstream(target) << "precious";
  REQUIRE(::symlink(target.c_str(), (directory.path() + "/link").c_str()) == 0);
  CHECK_THROWS_WITH(open_output_file(directory.path() + "/link", OpenMode::truncate, kMyself),
                    Catch::Contains("symbolic link"));
  CHECK(contents(target) == "precious");
}

TEST_CASE("FIFOs, folders and devices are refused without waiting, /dev/null is taken") {
  const TemporaryDirectory directory;
  const std::string fifo = directory.path() + "/fifo";
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  CHECK_THROWS_AS(open_output_file(fifo, OpenMode::truncate, kMyself), std::system_error);
  const int reader = ::open(fifo.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  CHECK_THROWS_WITH(open_output_file(fifo, OpenMode::truncate, kMyself), Catch::Contains("no regular file"));
  ::close(reader);
  CHECK_THROWS_AS(open_output_file(directory.path(), OpenMode::truncate, kMyself), std::system_error);
  CHECK_THROWS_AS(open_output_file("/dev/zero", OpenMode::truncate, kMyself), std::system_error);
  const int null = open_output_file("/dev/null", OpenMode::truncate, kMyself);
  CHECK(null >= 0);
  ::close(null);
}

TEST_CASE("folders are not made and the message says so") {
  const TemporaryDirectory directory;
  CHECK_THROWS_WITH(open_output_file(directory.path() + "/a/b", OpenMode::truncate, kMyself),
                    Catch::Contains(directory.path() + "/a/b") && Catch::Contains("make it first"));
}

TEST_CASE("standard input must exist and not be a folder") {
  const TemporaryDirectory directory;
  CHECK_THROWS_WITH(open_input_file(directory.path() + "/none", kMyself),
                    Catch::Contains("there is no such file"));
  CHECK_THROWS_WITH(open_input_file(directory.path(), kMyself), Catch::Contains("folder"));
}

TEST_CASE("a FIFO as standard input is not waited for, and who reads it waits for its writer") {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/fifo";
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  const int reading = open_input_file(path, kMyself);  // would wait for ever
  REQUIRE(reading >= 0);
  CHECK((::fcntl(reading, F_GETFL) & O_NONBLOCK) == 0);
  char byte = 0;
  CHECK(::read(reading, &byte, 1) == 0);
  ::close(reading);
}

TEST_CASE("root opens files with the calling user's rights and gets its own back") {
  if (::geteuid() != 0) {
    skip_case("not root: opening files as another user is not tested");
    return;
  }
  const TemporaryDirectory directory;
  const FileOwner nobody{65534, 65534, "nobody"};
  std::vector<gid_t> groups_before(static_cast<std::size_t>(::getgroups(0, nullptr)));
  (void)::getgroups(static_cast<int>(groups_before.size()), groups_before.data());

  REQUIRE(::chmod(directory.path().c_str(), 0755) == 0);
  CHECK_THROWS_AS(open_output_file(directory.path() + "/denied", OpenMode::truncate, nobody),
                  std::system_error);
  const std::string secret = directory.path() + "/secret";
  std::ofstream(secret) << "x";
  REQUIRE(::chmod(secret.c_str(), 0600) == 0);
  CHECK_THROWS_AS(open_input_file(secret, nobody), std::system_error);

  REQUIRE(::chmod(directory.path().c_str(), 0777) == 0);
  ::close(open_output_file(directory.path() + "/theirs", OpenMode::truncate, nobody));
  struct stat status {};
  REQUIRE(::stat((directory.path() + "/theirs").c_str(), &status) == 0);
  CHECK(status.st_uid == 65534);
  CHECK(status.st_gid == 65534);

  CHECK(::setfsuid(static_cast<uid_t>(-1)) == 0);
  std::vector<gid_t> groups_after(static_cast<std::size_t>(::getgroups(0, nullptr)));
  (void)::getgroups(static_cast<int>(groups_after.size()), groups_after.data());
  CHECK(groups_after == groups_before);
}

TEST_CASE("for another user root goes through no link of /proc into a process") {
  if (::geteuid() != 0) {
    skip_case("not root: opening files as another user is not tested");
    return;
  }
  const TemporaryDirectory directory;
  const FileOwner nobody{65534, 65534, "nobody"};
  REQUIRE(::chmod(directory.path().c_str(), 0700) == 0);  // nobody cannot walk to what is in it
  const std::string file = directory.path() + "/file";
  std::ofstream(file) << "theirs";
  REQUIRE(::chmod(file.c_str(), 0666) == 0);
  const int open = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  const std::string own = "/proc/" + std::to_string(::getpid());
  const std::vector<std::string> ways{own + "/root" + file,
                                      "/proc/1/root" + file,
                                      "/proc/self/root" + file,
                                      "/proc/thread-self/root" + file,
                                      own + "/cwd/../../../" + file,
                                      "/dev/fd/" + std::to_string(open),
                                      own + "/fd/" + std::to_string(open)};
  for (const std::string& way : ways) {
    CAPTURE(way);
    CHECK_THROWS_AS(open_input_file(way, nobody), std::system_error);
    CHECK_THROWS_AS(open_output_file(way, OpenMode::append, nobody), std::system_error);
  }
  CHECK_THROWS_WITH(open_input_file("/proc/self/root" + file, nobody),
                    Catch::Contains("of /proc into a process"));
  ::close(open_input_file("/proc/self/root" + file, kMyself));  // root may

  const int before = ::dup(STDIN_FILENO);
  REQUIRE(::chmod(directory.path().c_str(), 0755) == 0);
  REQUIRE(::dup2(open, STDIN_FILENO) == STDIN_FILENO);
  ::close(open_input_file("/dev/stdin", nobody));
  ::dup2(before, STDIN_FILENO);
  ::close(before);
  ::close(open);
}

TEST_CASE("what is the kernel's own is refused, as input, as output and to be read") {
  const std::string own = "/proc/" + std::to_string(::getpid());
  for (const std::string& path :
       {own + "/maps", std::string("/proc/cpuinfo"), std::string("/sys/kernel/notes")}) {
    CAPTURE(path);
    CHECK_THROWS_WITH(open_input_file(path, kMyself), Catch::Contains("kernel's own"));
    CHECK_THROWS_WITH(open_output_to_read(path, kMyself), Catch::Contains("kernel's own"));
  }
  CHECK_THROWS_WITH(open_output_file(own + "/comm", OpenMode::append, kMyself),
                    Catch::Contains("kernel's own"));
}

TEST_CASE("root reads and writes what is open with the owner's rights and gets its own back") {
  if (::geteuid() != 0) {
    skip_case("not root: acting as another user is not tested");
    return;
  }
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/program";
  const FileOwner nobody{65534, 65534, "nobody"};
  const auto mode_after_writing = [&](const FileOwner& owner) {
    const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0777);
    REQUIRE(::fchmod(file, 04777) == 0);
    {
      const AsOwner as_owner(owner);
      CHECK(::write(file, "x", 1) == 1);
    }
    struct stat status {};
    REQUIRE(::fstat(file, &status) == 0);
    ::close(file);
    return status.st_mode & 07777U;
  };
  const std::string before = capabilities_in_effect();
  CHECK(mode_after_writing(kMyself) == 04777U);
  CHECK(mode_after_writing(nobody) == 0777U);
  CHECK(mode_after_writing(kMyself) == 04777U);
  CHECK(capabilities_in_effect() == before);
}

}  // namespace
}  // namespace berth
