#include "scheduler/job_output.h"

#include <limits.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "scheduler/log.h"

namespace berth {
namespace {

/// Above this much unread output a write waits a moment for the reader, which slows the job down as a
/// full pipe would, but keeps time limits and Ctrl-C alive.
constexpr std::size_t kPatientPending = std::size_t{16} * 1024 * 1024;
constexpr int kPatience = 100;  // milliseconds

}  // namespace

OutputTarget::OutputTarget(int descriptor, std::string description)
    : descriptor_(descriptor), description_(std::move(description)) {
  struct stat status {};
  regular_file_ = ::fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
}

void OutputTarget::write(std::string_view data) {
  if (closed_ || data.empty()) {
    return;
  }
  if (before_write_) {
    before_write_();
  }
  if (pending_.empty()) {
    data.remove_prefix(write_some(data));
  }
  if (closed_ || data.empty()) {
    return;
  }
  pending_.append(data);
  if (pending_.size() > kPatientPending) {
    pollfd poll_descriptor{descriptor_, POLLOUT, 0};
    (void)::poll(&poll_descriptor, 1, kPatience);
    flush_some();
  }
}

void OutputTarget::flush_some() {
  if (!pending_.empty() && !closed_) {
    pending_.erase(0, write_some(pending_));
  }
}

void OutputTarget::flush_all(int interrupt) {
  while (!pending_.empty() && !closed_) {
    pollfd descriptors[] = {{descriptor_, POLLOUT, 0}, {interrupt, POLLIN, 0}};
    if (::poll(descriptors, 2, -1) < 0 || descriptors[1].revents != 0) {
      return;  // a signal asks for the end
    }
    flush_some();
  }
}

std::size_t OutputTarget::writable_now(std::size_t wanted) const {
  if (regular_file_) {
    return wanted;
  }
  pollfd poll_descriptor{descriptor_, POLLOUT, 0};
  if (::poll(&poll_descriptor, 1, 0) <= 0) {
    return 0;
  }
  // A pipe that polls writable takes at least PIPE_BUF bytes without blocking (pipe(7)).
  return std::min<std::size_t>(wanted, PIPE_BUF);
}

std::size_t OutputTarget::write_some(std::string_view data) {
  std::size_t done = 0;
  while (done < data.size()) {
    const std::size_t size = writable_now(data.size() - done);
    if (size == 0) {
      break;
    }
    const ssize_t written = ::write(descriptor_, data.data() + done, size);
    if (written >= 0) {
      done += static_cast<std::size_t>(written);
    } else if (errno == EAGAIN) {
      break;
    } else if (errno != EINTR) {
      close_after(errno);
      break;
    }
  }
  return done;
}

void OutputTarget::close_after(int error_number) {
  closed_ = true;
  pending_.clear();
  // A reader that went away (`berth run … | head -1`) is no fault.
  if (error_number != EPIPE) {
    failed_ = true;
    log_error("cannot write to " + description_ + ": " + std::generic_category().message(error_number) +
              "; the rest is dropped");
  }
}

LinePrefixer::LinePrefixer(OutputTarget& target, std::string prefix)
    : target_(target), prefix_(std::move(prefix)) {}

void LinePrefixer::write(std::string_view data) {
  std::string lines;
  while (!data.empty()) {
    const std::size_t newline = data.find('\n');
    const bool complete = newline != std::string_view::npos;
    const std::size_t size = complete ? newline : data.size();
    line_.append(data.substr(0, size));
    data.remove_prefix(complete ? size + 1 : size);
    if (complete || line_.size() >= kLongestLine) {
      lines += prefix_ + line_ + '\n';
      line_.clear();
    }
  }
  target_.write(lines);
}

void LinePrefixer::finish() {
  if (!line_.empty()) {
    target_.write(prefix_ + std::exchange(line_, {}) + '\n');
  }
}

}  // namespace berth
