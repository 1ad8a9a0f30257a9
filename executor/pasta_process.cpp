#include "executor/pasta_process.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <string_view>

#include "executor/os/syscall.h"

namespace berth {
namespace {

constexpr const char* kPaths = "/usr/bin:/usr/local/bin:/bin";

/// In the child: from here to exec nothing allocates.
[[noreturn]] void become(const char* program, char* const* arguments, int log, pid_t parent) {
  // A group of its own: Ctrl-C is for berth, which ends the job in order and then this.
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) {
    ::_exit(1);
  }
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  // What is ignored stays so over exec, and an ignored SIGPIPE makes pasta give up.
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  for (int number = 1; number < NSIG; ++number) {
    ::sigaction(number, &standard, nullptr);
  }
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  ::dup2(null, STDIN_FILENO);
  ::dup2(null, STDOUT_FILENO);
  ::dup2(log, STDERR_FILENO);
  ::close_range(STDERR_FILENO + 1, ~0U, 0);
  ::execve(program, arguments, environ);
  ::_exit(127);
}

}  // namespace

std::string PastaProcess::find_program() {
  const char* path = std::getenv("PATH");
  const std::string folders = (path != nullptr ? std::string(path) + ":" : "") + kPaths;
  for (std::size_t start = 0; start < folders.size();) {
    const std::size_t end = std::min(folders.find(':', start), folders.size());
    std::string program = folders.substr(start, end - start) + "/pasta";
    if (program.starts_with('/') && ::access(program.c_str(), X_OK) == 0) {
      return program;
    }
    start = end + 1;
  }
  return "";
}

PastaProcess::PastaProcess(const std::string& program, const std::vector<std::string>& arguments)
    : log_(check(::memfd_create("berth-pasta", MFD_CLOEXEC), "memfd_create", "pasta")) {
  std::vector<std::string> words = arguments;
  words.insert(words.begin(), program);
  std::vector<char*> pointers;
  pointers.reserve(words.size() + 1);
  for (std::string& word : words) {
    pointers.push_back(word.data());
  }
  pointers.push_back(nullptr);
  const pid_t parent = ::getpid();
  pid_ = check(::fork(), "fork", "pasta");
  if (pid_ == 0) {
    become(program.c_str(), pointers.data(), log_.get(), parent);
  }
}

PastaProcess::~PastaProcess() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    retry_eintr([&] { return ::waitpid(pid_, nullptr, 0); });
  }
}

bool PastaProcess::has_ended() {
  if (pid_ > 0 && ::waitpid(pid_, nullptr, WNOHANG) != 0) {
    pid_ = -1;
  }
  return pid_ < 0;
}

std::string PastaProcess::last_words() const {
  std::string text(4096, '\0');
  const ssize_t size = ::pread(log_.get(), text.data(), text.size(), 0);
  text.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
  std::string last;
  for (std::size_t start = 0; start < text.size();) {
    const std::size_t end = std::min(text.find('\n', start), text.size());
    const std::string line = text.substr(start, end - start);
    if (!line.empty() && !line.starts_with("Failed to send")) {  // that, it says of a missing syslog
      last = line;
    }
    start = end + 1;
  }
  return last.empty() ? "it gave no reason" : last;
}

}  // namespace berth
