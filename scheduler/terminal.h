// The terminal that berth itself was started from, while it stands in for the one of a job.
#pragma once

#include <termios.h>

#include <optional>

#include "scheduler/stream_frame.h"

namespace berth {

/// End of file as a terminal's line discipline takes it (VEOF, termios(3)).
inline constexpr char kEndOfInput = '\x04';

/// Of the first of standard input, output and error that is a terminal; nothing when none is.
std::optional<TerminalWindow> terminal_window();

/// Standard input in raw mode (termios(3), cfmakeraw) while this lives: every key goes to the job, also
/// Ctrl-C. Does nothing where standard input is no terminal. Restored by the destructor, by restore(), and by
/// exit(3).
class RawTerminal {
 public:
  RawTerminal();
  ~RawTerminal();
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;

  bool is_terminal() const { return saved_.has_value(); }
  void restore();
  /// After restore(): raw again.
  void enter();

 private:
  std::optional<termios> saved_;
};

}  // namespace berth
