// Output: fast, slow, and input to output.
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "payload.h"

namespace payload {
namespace {

int print(const Arguments& arguments) {
  const int fd = arguments.size() > 1 && arguments[1] == "err" ? STDERR_FILENO : STDOUT_FILENO;
  auto left = static_cast<std::size_t>(number(arguments, 0, 1));
  char block[65536];
  std::memset(block, 'x', sizeof(block));
  for (std::size_t i = 63; i < sizeof(block); i += 64) {
    block[i] = '\n';
  }
  while (left > 0) {
    const ssize_t written = write(fd, block, left < sizeof(block) ? left : sizeof(block));
    if (written < 0) {
      return 1;
    }
    left -= static_cast<std::size_t>(written);
  }
  return 0;
}

int print_slowly(const Arguments& arguments) {
  for (int i = 0; i < static_cast<int>(number(arguments, 0, 10)); ++i) {
    std::printf("line %d\n", i);
    std::fflush(stdout);
    sleep_seconds(number(arguments, 1, 0.1));
  }
  return 0;
}

int print_both(const Arguments&) {
  std::printf("to output\n");
  std::fprintf(stderr, "to error\n");
  return 0;
}

int copy_input(const Arguments&) {
  char block[4096];
  ssize_t size = 0;
  while ((size = read(STDIN_FILENO, block, sizeof(block))) > 0) {
    if (write(STDOUT_FILENO, block, static_cast<std::size_t>(size)) != size) {
      return 1;
    }
  }
  return 0;
}

}  // namespace

Commands output_commands() {
  return {{"print", "BYTES [err]", print},
          {"print_slowly", "LINES SECONDS: a line every SECONDS", print_slowly},
          {"print_both", "a line to output, one to error", print_both},
          {"copy_input", "standard input to standard output", copy_input}};
}

}  // namespace payload
