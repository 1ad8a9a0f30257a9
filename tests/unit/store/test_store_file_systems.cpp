// Full and read-only file systems, on mounts of this process's own mount namespace.
#include <sched.h>
#include <sys/mount.h>

#include <cerrno>
#include <cstring>

#include "tests/unit/store/store_fixtures.h"

namespace berth {
namespace {

using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

[[noreturn]] void skip(const char* what) {
  std::fprintf(stderr, "SKIPPED: %s: %s: run as root to test full and read-only file systems\n", what,
               std::strerror(errno));
  std::exit(77);
}

/// A tmpfs that only this process sees, and that goes with it.
class PrivateMount {
 public:
  PrivateMount(const TemporaryFolder& folder, const std::string& options) : target_(folder.path()) {
    static const bool kIsPrivate = [] {
      if (::unshare(CLONE_NEWNS) < 0) {
        skip("unshare(CLONE_NEWNS)");
      }
      return ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
    }();
    REQUIRE(kIsPrivate);
    if (::mount("tmpfs", target_.c_str(), "tmpfs", MS_NOSUID | MS_NODEV, options.c_str()) < 0) {
      skip("mount tmpfs");
    }
  }
  PrivateMount(const PrivateMount&) = delete;
  PrivateMount& operator=(const PrivateMount&) = delete;
  ~PrivateMount() { ::umount2(target_.c_str(), MNT_DETACH); }

  void make_read_only() {
    REQUIRE(::mount("none", target_.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) == 0);
  }

 private:
  std::string target_;
};

}  // namespace

TEST_CASE("a full disk refuses a submit, keeps what was acknowledged, and goes on when there is room") {
  const TemporaryFolder folder;
  const PrivateMount mount(folder, "size=2m");
  const std::string path = folder.file("berth.db");
  const auto store = JobStore::open(path);
  std::size_t acknowledged = 0;
  store->submit({sample_job()}, sample_supervisor());
  ++acknowledged;

  const std::string ballast = folder.file("ballast");
  std::ofstream(ballast) << std::string(4 << 20, 'x');  // as much as fits
  std::string message;
  for (int attempt = 0; attempt < 1000 && message.empty(); ++attempt) {
    try {
      store->submit({sample_job()}, sample_supervisor());
      ++acknowledged;
    } catch (const StoreError& error) {
      message = error.what();
    }
  }
  CHECK_THAT(message, StartsWith(path) && Contains("disk is full") && Contains("free space"));
  CHECK(store->history({}).size() == acknowledged);

  std::filesystem::remove(ballast);
  store->submit({sample_job()}, sample_supervisor());
  CHECK(store->history({}).size() == acknowledged + 1);
  CHECK(store->check_integrity().empty());
}

TEST_CASE("no room for a new database is said with the remedy") {
  const TemporaryFolder folder;
  const PrivateMount mount(folder, "size=64k");
  std::ofstream(folder.file("ballast")) << std::string(1 << 20, 'x');
  CHECK_THAT(store_error([&] { JobStore::open(folder.file("berth.db")); }),
             StartsWith(folder.file("berth.db")) && Contains("free space"));
}

TEST_CASE("on a read-only file system history can be read and nothing can be submitted") {
  const TemporaryFolder folder;
  PrivateMount mount(folder, "size=4m");
  const std::string path = folder.file("berth.db");
  JobStore::open(path)->submit({sample_job()}, sample_supervisor());
  mount.make_read_only();
  CHECK_THAT(store_error([&] { JobStore::open(path); }), StartsWith(path) && Contains("only be read"));
  CHECK_THAT(store_error([&] { JobStore::open(folder.file("new.db")); }), Contains("Read-only file system"));
  const auto store = JobStore::open_existing(path);
  REQUIRE(store);
  CHECK(store->history({}).size() == 1);
  CHECK_THAT(store_error([&] { store->submit({sample_job()}, sample_supervisor()); }),
             Contains("only be read"));
}

TEST_CASE("a log without its index cannot be read where the index cannot be made, and that is said") {
  const TemporaryFolder folder;
  PrivateMount mount(folder, "size=4m");
  const std::string path = folder.file("berth.db");
  JobStore::open(path)->submit({sample_job()}, sample_supervisor());
  REQUIRE(std::filesystem::file_size(path + "-wal") > 0);
  std::filesystem::remove(path + "-shm");
  mount.make_read_only();
  CHECK_THAT(store_error([&] { JobStore::open_existing(path); }),
             StartsWith(path) && Contains("copy it, with its -wal if it has one, to a writable folder"));
}

TEST_CASE("another user's database is refused with who may not read it") {
  if (::geteuid() != 0) {
    errno = EPERM;
    skip("seteuid");
  }
  const TemporaryFolder folder;
  const std::string path = folder.file("berth.db");
  JobStore::open(path);
  REQUIRE(::chmod(folder.path().c_str(), 0755) == 0);
  const pid_t other = start_process([&] {
    if (::seteuid(65534) < 0) {
      throw StoreError("seteuid failed");
    }
    const std::string message = [&] {
      try {
        JobStore::open_existing(path);
      } catch (const StoreError& error) {
        return std::string(error.what());
      }
      return std::string("opened");
    }();
    if (message !=
        path +
            ": cannot read the database: Permission denied: user 65534 may not: run as its owner or "
            "choose another file with --database (berthd: state_directory)") {
      throw StoreError(message);
    }
  });
  CHECK(wait_status(other) == 0);
}

TEST_CASE("a database by a symbolic link can be written where its own folder can") {
  if (::geteuid() != 0) {
    errno = EPERM;
    skip("seteuid");
  }
  const TemporaryFolder folder;  // root's, where others make nothing
  REQUIRE(::chmod(folder.path().c_str(), 0755) == 0);
  std::filesystem::create_directory(folder.file("disk"));
  std::filesystem::create_symlink("disk/berth.db", folder.file("berth.db"));
  REQUIRE(::chown(folder.file("disk").c_str(), 65534, 65534) == 0);
  const pid_t other = start_process([&] {
    if (::seteuid(65534) < 0) {
      throw StoreError("seteuid failed");
    }
    JobStore::open(folder.file("disk/berth.db"));
    JobStore::open(folder.file("berth.db"))->submit({sample_job()}, sample_supervisor());
  });
  CHECK(wait_status(other) == 0);
}

}  // namespace berth
