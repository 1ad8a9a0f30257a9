// Memory: allocate and hold, or take all there is.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "payload.h"

namespace payload {
namespace {

constexpr std::size_t kMebibyte = std::size_t{1024} * 1024;

// Maps and touches every page; returns false when the kernel says no.
bool take(std::size_t bytes, int flags = 0) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
  if (memory == MAP_FAILED) {
    return false;
  }
  for (std::size_t i = 0; i < bytes; i += 4096) {
    static_cast<volatile char*>(memory)[i] = 1;
  }
  return true;
}

int allocate(const Arguments& arguments) {
  const auto mebibytes = static_cast<std::size_t>(number(arguments, 0, 16));
  if (!take(mebibytes * kMebibyte)) {
    print_result("allocate", -1);
    return 1;
  }
  std::printf("allocated %zu\n", mebibytes);
  std::fflush(stdout);
  sleep_seconds(number(arguments, 1, 0));
  return 0;
}

int bomb(const Arguments&) {
  while (take(kMebibyte)) {
  }
  return 1;
}

int bomb_in_child(const Arguments& arguments) {
  const pid_t child = fork();
  if (child == 0) {
    _exit(bomb(arguments));
  }
  int status = 0;
  waitpid(child, &status, 0);
  std::printf("child signal %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
  return 0;
}

// Where the kernel put the anonymous pages: "N0 4096", one line for each mapping and node, from
// /proc/self/numa_maps (proc_pid_numa_maps(5)).
int numa(const Arguments& arguments) {
  const auto bytes = static_cast<std::size_t>(number(arguments, 0, 16)) * kMebibyte;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    print_result("numa", -1);
    return 1;
  }
  std::memset(memory, 1, bytes);
  FILE* file = std::fopen("/proc/self/numa_maps", "re");
  if (file == nullptr) {
    print_result("numa_maps", -1);
    return 1;
  }
  char line[4096];
  while (std::fgets(line, sizeof(line), file) != nullptr) {
    char* rest = nullptr;
    std::strtoull(line, &rest, 16);
    // Pages of a file are where its first reader was.
    const bool has_pages = std::strstr(rest, "anon=") != nullptr && std::strstr(rest, "file=") == nullptr;
    for (char* word = std::strtok(rest, " \n"); has_pages && word != nullptr;
         word = std::strtok(nullptr, " \n")) {
      unsigned node = 0;
      unsigned long pages = 0;
      if (std::sscanf(word, "N%u=%lu", &node, &pages) == 2) {
        std::printf("N%u %lu\n", node, pages);
      }
    }
  }
  std::fclose(file);
  return 0;
}

int hugepages(const Arguments& arguments) {
  const bool taken = take(static_cast<std::size_t>(number(arguments, 0, 2)) * kMebibyte, MAP_HUGETLB);
  print_result("hugepages", taken ? 0 : -1);
  return 0;
}

int lock(const Arguments& arguments) {
  const auto bytes = static_cast<std::size_t>(number(arguments, 0, 1)) * kMebibyte;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  print_result("mlock", memory == MAP_FAILED ? -1 : mlock(memory, bytes));
  return 0;
}

}  // namespace

Commands memory_commands() {
  return {{"allocate", "MB [SECONDS]: touch MB, then hold them", allocate},
          {"memory_bomb", "touch memory without end", bomb},
          {"memory_bomb_child", "a child does; this process exits 0", bomb_in_child},
          {"numa", "MB: touch them, then tell on which memory nodes all anonymous pages are", numa},
          {"hugepages", "MB: from the hugetlb pool", hugepages},
          {"mlock", "MB", lock}};
}

}  // namespace payload
