// TerminalBridge: the user's terminal at one end, the terminal of the one job of `berth run --pty` at the
// other: keys, window changes, raw mode. What the job prints comes through the executor, as all output does.
//
// Single-threaded; never blocks. Must exist before the executor forks, as SIGWINCH is blocked from then on.
#pragma once

#include <poll.h>

#include <optional>
#include <string>
#include <vector>

#include "executor/os/unique_fd.h"
#include "scheduler/terminal.h"

namespace berth {

class TerminalBridge {
 public:
  TerminalBridge();

  TerminalWindow window() const { return terminal_window().value_or(TerminalWindow{}); }
  /// The job has its terminal: from now on keys go there. `master` is non-blocking.
  void open(UniqueFd master);
  /// The job has ended: the user's terminal is as it was.
  void close();
  void add_descriptors(std::vector<pollfd>& descriptors) const;
  /// Does what is ready, as far as it goes without waiting.
  void handle();

 private:
  void read_keys();
  void write_keys();

  UniqueFd signals_;
  UniqueFd master_;
  std::optional<RawTerminal> raw_;
  std::string unsent_;
  bool reading_ = true;
};

}  // namespace berth
