#include "scheduler/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>

namespace berth {
namespace {

/// What atexit(3) restores when the program ends without unwinding.
const termios* at_exit = nullptr;

void restore_at_exit() {
  if (at_exit != nullptr) {
    ::tcsetattr(STDIN_FILENO, TCSADRAIN, at_exit);
  }
}

}  // namespace

std::optional<TerminalWindow> terminal_window() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    winsize size{};
    if (::ioctl(fd, TIOCGWINSZ, &size) == 0) {
      return TerminalWindow{size.ws_row, size.ws_col};
    }
  }
  return std::nullopt;
}

RawTerminal::RawTerminal() {
  termios now{};
  if (::tcgetattr(STDIN_FILENO, &now) != 0) {
    return;
  }
  saved_ = now;
  static const int kRegistered = std::atexit(restore_at_exit);
  (void)kRegistered;
  at_exit = &*saved_;
  enter();
}

RawTerminal::~RawTerminal() {
  restore();
  at_exit = nullptr;
}

void RawTerminal::restore() {
  if (saved_) {
    ::tcsetattr(STDIN_FILENO, TCSADRAIN, &*saved_);
  }
}

void RawTerminal::enter() {
  if (saved_) {
    termios raw = *saved_;
    ::cfmakeraw(&raw);
    ::tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
  }
}

}  // namespace berth
