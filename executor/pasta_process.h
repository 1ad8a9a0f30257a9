// PastaProcess: pasta(1), which carries the connections of one network namespace through sockets of its own.
//
// A child of this process in its foreground mode, killed by the destructor and, should this process die, by
// the kernel. Single-threaded.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "executor/os/unique_fd.h"

namespace berth {

class PastaProcess {
 public:
  /// Where pasta is: in PATH, else where Debian has it; empty when it is not installed.
  static std::string find_program();

  /// Starts it. Throws std::system_error.
  PastaProcess(const std::string& program, const std::vector<std::string>& arguments);
  ~PastaProcess();
  PastaProcess(const PastaProcess&) = delete;
  PastaProcess& operator=(const PastaProcess&) = delete;

  bool has_ended();
  /// What it said last, for a message.
  std::string last_words() const;

 private:
  UniqueFd log_;
  pid_t pid_ = -1;
};

}  // namespace berth
