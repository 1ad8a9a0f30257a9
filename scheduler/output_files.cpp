#include "scheduler/output_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <system_error>
#include <vector>

#include "executor/os/act_as.h"
#include "executor/os/trusted_path.h"

namespace berth {
namespace {

/// While it lives, files that this process makes go without these bits.
class WithUmask {
 public:
  explicit WithUmask(std::optional<unsigned> mask)
      : before_(mask ? std::optional(::umask(*mask)) : std::nullopt) {}
  WithUmask(const WithUmask&) = delete;
  WithUmask& operator=(const WithUmask&) = delete;
  ~WithUmask() {
    if (before_) {
      ::umask(*before_);
    }
  }

 private:
  std::optional<mode_t> before_;
};

[[noreturn]] void fail(int error_number, const std::string& path, const std::string& remedy) {
  throw std::system_error(error_number, std::generic_category(),
                          "open " + path + (remedy.empty() ? "" : " (" + remedy + ")"));
}

std::string open_remedy(int error_number) {
  switch (error_number) {
    case ELOOP:
      return "a symbolic link, one of another user on the way to it, or one of /proc into a process is not "
             "followed; name the file itself";
    case EISDIR:
      return "it is a folder; name a file";
    case ENXIO:
      return "it is a FIFO or a socket; name a file";
    case EACCES:
      return "the calling user may not; choose another place";
    case EAGAIN:
      return "another process holds a lease on it; try again when it has let go";
    default:
      return {};
  }
}

/// With the rights that this thread has. Waits neither for the other end of a FIFO nor for who holds a lease
/// (fcntl(2)): the thread has other jobs too.
UniqueFd open_or_fail(const std::string& path, int flags, const FileOwner& owner,
                      const std::string& remedy_if_missing) {
  UniqueFd file = open_trusted(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0666, owner.uid);
  if (!file) {
    const int error_number = errno;
    fail(error_number, path, error_number == ENOENT ? remedy_if_missing : open_remedy(error_number));
  }
  if (is_kernels_own(file.get())) {
    fail(EINVAL, path,
         "it is the kernel's own, as all of /proc and /sys, where nothing is opened for a job; name another "
         "file, or use a pipe: cat FILE | berth run");
  }
  return file;
}

/// sbatch(1): "%5j" pads with zeros, to ten at most.
std::size_t width_of(std::string_view digits) {
  std::size_t width = 0;
  for (const char digit : digits) {
    width = std::min<std::size_t>(10, width * 10 + static_cast<std::size_t>(digit - '0'));
  }
  return width;
}

std::string zero_padded(const std::string& number, std::size_t width) {
  return (number.size() < width ? std::string(width - number.size(), '0') : "") + number;
}

}  // namespace

std::string expand_pattern(std::string_view pattern, const PatternValues& values) {
  std::string out;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const std::size_t at = pattern.find_first_not_of("0123456789", i + 1);
    const bool is_pattern = pattern[i] == '%' && at != std::string_view::npos;
    const char letter = is_pattern ? pattern[at] : '\0';
    const std::size_t width = is_pattern ? width_of(pattern.substr(i + 1, at - i - 1)) : 0;
    if (letter == 'j') {
      out += zero_padded(std::to_string(values.job_id), width);
    } else if (letter == 'A') {
      out += zero_padded(std::to_string(values.array_job_id.value_or(values.job_id)), width);
    } else if (letter == 'a') {
      out += values.array_task_id ? zero_padded(std::to_string(*values.array_task_id), width) : "";
    } else if (letter == 'x') {
      std::string name{values.job_name};
      std::replace(name.begin(), name.end(), '/', '_');
      out += name;
    } else if (letter == 'u') {
      out += values.user;
    } else if (letter == '%') {
      out += '%';
    } else {
      out += pattern[i];  // no pattern: validation refuses unknown ones, so this is ordinary text
      continue;
    }
    i = at;
  }
  return out;
}

int open_output_file(const std::string& path, OpenMode mode, const FileOwner& owner,
                     std::optional<unsigned> umask) {
  const ActAs as_owner(owner.uid, owner.gid, owner.name);
  const WithUmask with_umask(umask);
  // O_TRUNC only after the check, so that a refused file is not emptied.
  UniqueFd file = open_or_fail(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, owner,
                               "its folder does not exist; make it first");
  struct stat status {};
  const bool is_null =
      ::fstat(file.get(), &status) == 0 && S_ISCHR(status.st_mode) && status.st_rdev == makedev(1, 3);
  if (!S_ISREG(status.st_mode) && !is_null) {
    fail(EINVAL, path, "it is no regular file; name a file or /dev/null");
  }
  if (mode == OpenMode::truncate && !is_null && ::ftruncate(file.get(), 0) != 0) {
    fail(errno, path, "");
  }
  return file.release();
}

int open_output_to_read(const std::string& path, const FileOwner& owner) {
  const ActAs as_owner(owner.uid, owner.gid, owner.name);
  UniqueFd file = open_or_fail(path, O_RDONLY | O_NOFOLLOW, owner, "");
  struct stat status {};
  if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
    fail(EINVAL, path, "it is no regular file");
  }
  return file.release();
}

int open_input_file(const std::string& path, const FileOwner& owner) {
  const ActAs as_owner(owner.uid, owner.gid, owner.name);
  UniqueFd file = open_or_fail(path, O_RDONLY, owner, "there is no such file");
  struct stat status {};
  if (::fstat(file.get(), &status) == 0 && S_ISDIR(status.st_mode)) {
    fail(EISDIR, path, "it is a folder; name a file");
  }
  (void)::fcntl(file.get(), F_SETFL, ::fcntl(file.get(), F_GETFL) & ~O_NONBLOCK);  // for who reads
  return file.release();
}

}  // namespace berth
