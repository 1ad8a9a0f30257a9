// Files: probes of what may be read and written.
#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "payload.h"

namespace payload {
namespace {

int read_files(const Arguments& arguments) {
  for (const auto& path : arguments) {
    char block[256];
    const int fd = open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    const ssize_t size = fd < 0 ? -1 : read(fd, block, sizeof(block));
    if (size == 0) {
      std::printf("%s empty\n", path.c_str());
    } else {
      print_result(path, size);
    }
    if (fd >= 0) {
      close(fd);
    }
  }
  return 0;
}

int write_files(const Arguments& arguments) {
  for (const auto& path : arguments) {
    const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0644);
    print_result(path, fd < 0 ? -1 : write(fd, "berth\n", 6));
    if (fd >= 0) {
      close(fd);
    }
  }
  return 0;
}

int open_to_write(const Arguments& arguments) {
  for (const auto& path : arguments) {
    const int fd = open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    print_result(path, fd);
    if (fd >= 0) {
      close(fd);
    }
  }
  return 0;
}

int write_text(const Arguments& arguments) {
  const int fd = open(arguments.at(0).c_str(), O_WRONLY | O_CLOEXEC);
  print_result(arguments[0], fd < 0 ? -1 : write(fd, arguments.at(1).data(), arguments[1].size()));
  return 0;
}

int show(const Arguments& arguments) {
  for (const auto& path : arguments) {
    FILE* file = std::fopen(path.c_str(), "re");
    if (file == nullptr) {
      print_result(path, -1);
      continue;
    }
    char block[4096];
    std::size_t size = 0;
    while ((size = std::fread(block, 1, sizeof(block), file)) > 0) {
      std::fwrite(block, 1, size, stdout);
    }
    std::fclose(file);
  }
  return 0;
}

int fill(const Arguments& arguments) {
  const int fd = open((arguments.at(0) + "/fill").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) {
    print_result("fill", -1);
    return 1;
  }
  static char block[65536];
  std::size_t total = 0;
  ssize_t written = 0;
  while ((written = write(fd, block, sizeof(block))) > 0) {
    total += static_cast<std::size_t>(written);
  }
  std::printf("filled %zu %s\n", total, errno_name(errno).c_str());
  return 3;
}

Arguments exclusions;
long writable_count = 0;

int look(const char* path, const struct stat* status, int, struct FTW* walk) {
  for (const auto& excluded : exclusions) {
    if (excluded == path) {
      return FTW_SKIP_SUBTREE;
    }
  }
  // A node's own mode says nothing of the file system for devices, sockets and pipes: those are probed by
  // name.
  if ((S_ISREG(status->st_mode) || S_ISDIR(status->st_mode)) && access(path, W_OK) == 0) {
    ++writable_count;
    std::printf("writable %s\n", path);
  }
  return walk->level > 12 ? FTW_SKIP_SUBTREE : FTW_CONTINUE;
}

// Everything below a folder that this process might write, except below the excluded paths.
int find_writable(const Arguments& arguments) {
  exclusions.assign(arguments.begin() + 1, arguments.end());
  nftw(arguments.at(0).c_str(), look, 64, FTW_PHYS | FTW_ACTIONRETVAL);
  std::printf("count %ld\n", writable_count);
  return 0;
}

int list(const Arguments& arguments) {
  for (const auto& path : arguments) {
    exclusions.clear();
    const int result = nftw(
        path.c_str(),
        [](const char* name, const struct stat*, int, struct FTW* walk) -> int {
          std::printf("%s\n", name);
          return walk->level >= 1 ? FTW_SKIP_SUBTREE : FTW_CONTINUE;
        },
        16, FTW_PHYS | FTW_ACTIONRETVAL);
    if (result < 0) {
      print_result(path, -1);
    }
  }
  return 0;
}

int stat_files(const Arguments& arguments) {
  for (const auto& path : arguments) {
    struct stat status {};
    struct statvfs system {};
    if (stat(path.c_str(), &status) != 0 || statvfs(path.c_str(), &system) != 0) {
      print_result(path, -1);
      continue;
    }
    std::printf("%s mode=%o uid=%u gid=%u rdev=%u:%u read_only=%d size=%llu\n", path.c_str(), status.st_mode,
                status.st_uid, status.st_gid, major(status.st_rdev), minor(status.st_rdev),
                (system.f_flag & ST_RDONLY) != 0 ? 1 : 0,
                static_cast<unsigned long long>(system.f_blocks) * system.f_frsize);
  }
  return 0;
}

int make_node(const Arguments& arguments) {
  const bool block = arguments.at(1) == "b";
  const int result = mknod(arguments[0].c_str(), (block ? S_IFBLK : S_IFCHR) | 0666U,
                           makedev(static_cast<unsigned>(number(arguments, 2, 0)),
                                   static_cast<unsigned>(number(arguments, 3, 0))));
  print_result("mknod", result);
  return 0;
}

}  // namespace

Commands file_commands() {
  return {{"read", "PATH…: probe; RESULT may also be \"empty\"", read_files},
          {"write", "PATH…: create or open, and write: probe", write_files},
          {"open", "PATH…: open what is there for writing, write nothing: probe", open_to_write},
          {"write_text", "PATH TEXT: probe", write_text},
          {"show", "PATH…: print", show},
          {"fill", "FOLDER: write a file until it fails; exit 3", fill},
          {"find_writable", "FOLDER [EXCEPT…]: what access(2) says may be written", find_writable},
          {"list", "FOLDER…", list},
          {"stat", "PATH…", stat_files},
          {"mknod", "PATH b|c MAJOR MINOR: probe", make_node}};
}

}  // namespace payload
