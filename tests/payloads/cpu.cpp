// CPU time: in threads or in child processes.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <thread>

#include "payload.h"

namespace payload {
namespace {

void burn(double seconds) {
  timespec now{};
  do {
    for (int i = 0; i < 20'000; ++i) {
      asm volatile("");
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  } while (static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9 < seconds);
}

int spin(const Arguments& arguments) {
  const double seconds = number(arguments, 0, 1);
  std::vector<std::thread> threads;
  for (int i = 1; i < static_cast<int>(number(arguments, 1, 1)); ++i) {
    threads.emplace_back(burn, seconds);
  }
  burn(seconds);
  for (auto& thread : threads) {
    thread.join();
  }
  return 0;
}

int spin_processes(const Arguments& arguments) {
  const double seconds = number(arguments, 0, 1);
  for (int i = 0; i < static_cast<int>(number(arguments, 1, 2)); ++i) {
    if (fork() == 0) {
      burn(seconds);
      _exit(0);
    }
  }
  while (wait(nullptr) > 0) {
  }
  return 0;
}

int spin_for(const Arguments& arguments) {
  timespec start{};
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &start);
  do {
    clock_gettime(CLOCK_MONOTONIC, &now);
  } while (static_cast<double>(now.tv_sec - start.tv_sec) +
               static_cast<double>(now.tv_nsec - start.tv_nsec) / 1e9 <
           number(arguments, 0, 1));
  return 0;
}

}  // namespace

Commands cpu_commands() {
  return {{"spin", "SECONDS [THREADS]: of CPU time in each thread", spin},
          {"spin_processes", "SECONDS [PROCESSES]: of CPU time in each child", spin_processes},
          {"spin_for", "SECONDS: of wall time", spin_for}};
}

}  // namespace payload
