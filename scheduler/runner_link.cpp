#include "scheduler/runner_link.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <new>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "scheduler/log.h"
#include "scheduler/loop_error.h"
#include "scheduler/recovery.h"
#include "scheduler/stream_request.h"

namespace berth {
namespace {

namespace asio = boost::asio;
using ErrorCode = boost::system::error_code;

constexpr std::chrono::seconds kPatience{10};
/// Until what there was no memory for is tried again.
constexpr std::chrono::milliseconds kMemoryRetry{500};

/// Fails of what berthd lacks, and tells nothing about a runner.
RunnerLink::Socket open_socket(asio::io_context& loop) {
  RunnerLink::Socket socket(loop);
  socket.open();
  ::fcntl(socket.native_handle(), F_SETFD, FD_CLOEXEC);
  return socket;
}

/// How long all of them may take together, and each at least, however long others took.
class Patience {
 public:
  explicit Patience(std::chrono::milliseconds all) : end_(std::chrono::steady_clock::now() + all) {}
  std::chrono::milliseconds left() const {
    const auto rest =
        std::chrono::duration_cast<std::chrono::milliseconds>(end_ - std::chrono::steady_clock::now());
    return std::max<std::chrono::milliseconds>(rest, std::chrono::seconds(1));
  }

 private:
  std::chrono::steady_clock::time_point end_;
};

void set_timeout(int socket, int option, std::chrono::milliseconds time) {
  const timeval value{time.count() / 1000, (time.count() % 1000) * 1000};
  ::setsockopt(socket, SOL_SOCKET, option, &value, sizeof value);
}

/// Waits for the greeting, without the loop: berthd does nothing else meanwhile.
std::shared_ptr<RunnerLink> greet_runner(RunnerLink::Socket socket, const std::string& path,
                                         const Patience& patience) {
  FrameReader reader;
  std::array<char, 4096> buffer{};
  while (true) {
    if (std::optional<RunnerMessage> message = reader.next()) {
      if (message->kind != RunnerMessage::Kind::hello) {
        throw std::runtime_error(path + ": it does not greet as a runner does");
      }
      set_timeout(socket.native_handle(), SO_RCVTIMEO, std::chrono::milliseconds(0));
      return std::make_shared<RunnerLink>(std::move(socket), std::move(*message), std::move(reader));
    }
    set_timeout(socket.native_handle(), SO_RCVTIMEO, patience.left());
    const ssize_t count = ::recv(socket.native_handle(), buffer.data(), buffer.size(), 0);
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count <= 0) {
      throw std::runtime_error(path + ": the runner does not answer");
    }
    reader.append(buffer.data(), static_cast<std::size_t>(count));
  }
}

void connect_runner(RunnerLink::Socket& socket, const std::string& path, const Patience& patience) {
  set_timeout(socket.native_handle(), SO_SNDTIMEO, patience.left());
  socket.connect(asio::local::stream_protocol::endpoint(path));
}

/// A descriptor of the process if it lived, and has been killed now; else -1.
int kill_runner(const std::string& cgroup) {
  const std::optional<Supervisor> runner = supervisor_of_cgroup(cgroup);
  if (!runner || runner->boot_id.empty()) {
    return -1;
  }
  const int process = static_cast<int>(::syscall(SYS_pidfd_open, static_cast<pid_t>(runner->pid), 0));
  if (process < 0) {
    return -1;
  }
  // The descriptor is of whoever has the number now, and stays so: it is compared before it is killed.
  if (supervisor_alive(*runner) && ::syscall(SYS_pidfd_send_signal, process, SIGKILL, nullptr, 0) == 0) {
    return process;
  }
  ::close(process);
  return -1;
}

std::string does_not_end(const std::string& cgroup) {
  return "runner " + cgroup + " was killed and does not end";
}

/// Its end closes the sockets that its jobs hang on.
void wait_for_end(int process, const std::string& cgroup, const Patience& patience) {
  pollfd end{process, POLLIN, 0};
  int ready = 0;
  do {
    ready = ::poll(&end, 1, static_cast<int>(patience.left().count()));
  } while (ready < 0 && errno == EINTR);
  if (ready <= 0) {
    log_error(does_not_end(cgroup));
  }
  ::close(process);
}

struct Actions {
  posix_spawn_file_actions_t value{};
  Actions() { ::posix_spawn_file_actions_init(&value); }
  ~Actions() { ::posix_spawn_file_actions_destroy(&value); }
  Actions(const Actions&) = delete;
  Actions& operator=(const Actions&) = delete;
};

/// What comes until the other end is closed; nothing when that takes too long.
std::optional<std::string> read_all(int pipe, const Patience& patience) {
  std::string text;
  std::array<char, 4096> buffer{};
  while (true) {
    pollfd readable{pipe, POLLIN, 0};
    const int ready = ::poll(&readable, 1, static_cast<int>(patience.left().count()));
    if (ready == 0) {
      return std::nullopt;
    }
    const ssize_t count = ready < 0 ? -1 : ::read(pipe, buffer.data(), buffer.size());
    if (count > 0) {
      text.append(buffer.data(), static_cast<std::size_t>(count));
    } else if (count == 0 || errno != EINTR) {
      return text;
    }
  }
}

/// What the runner prints: its socket's path; empty when it failed. One that takes too long is killed.
std::string spawn_runner(const RunnerPaths& paths) {
  std::array<int, 2> pipe{};
  if (::pipe2(pipe.data(), O_CLOEXEC) != 0) {
    throw std::system_error(errno, std::generic_category(), "pipe");
  }
  std::array<std::string, 5> words{paths.program, paths.socket_folder, paths.spool_folder,
                                   std::to_string(paths.armed_ahead), std::to_string(paths.descriptors)};
  std::array<char*, 6> arguments{words[0].data(), words[1].data(), words[2].data(),
                                 words[3].data(), words[4].data(), nullptr};
  Actions actions;
  ::posix_spawn_file_actions_addopen(&actions.value, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&actions.value, pipe[1], STDOUT_FILENO);
  ::posix_spawn_file_actions_addopen(&actions.value, STDERR_FILENO, paths.log_file.c_str(),
                                     O_WRONLY | O_CREAT | O_APPEND, 0600);
  pid_t pid = -1;
  const int error_number =
      ::posix_spawn(&pid, paths.program.c_str(), &actions.value, nullptr, arguments.data(), environ);
  ::close(pipe[1]);
  std::optional<std::string> text;
  if (error_number == 0) {
    text = read_all(pipe[0], Patience(kPatience));
    if (!text) {
      ::kill(pid, SIGKILL);  // what it has forked ends when nobody reads what it says
    }
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
  }
  ::close(pipe[0]);
  if (error_number != 0) {
    throw std::system_error(error_number, std::generic_category(), "run " + paths.program);
  }
  if (!text) {
    throw std::runtime_error("a runner did not listen within " + std::to_string(kPatience.count()) +
                             " s and was killed: does systemd (busctl) answer, and can cgroups be made?");
  }
  return *text;
}

}  // namespace

RunnerLink::RunnerLink(Socket socket, RunnerMessage hello, FrameReader reader)
    : jobs(hello.jobs.size()),
      socket_(std::move(socket)),
      retry_(socket_.get_executor()),
      hello_(std::move(hello)),
      reader_(std::move(reader)) {}

void RunnerLink::start(Handler handler, Gone gone) {
  handler_ = std::move(handler);
  gone_ = std::move(gone);
  // What came with the greeting.
  asio::post(socket_.get_executor(), [self = shared_from_this()] { self->go_on(); });
}

/// With what has been read, and then with reading. What there is no memory for is tried again, and nothing is
/// read meanwhile: a runner says everything once.
void RunnerLink::go_on() {
  try {
    reader_.append(buffer_.data(), unappended_);
    unappended_ = 0;
    deliver();
    read();
  } catch (const std::bad_alloc&) {
    throw_from(socket_.get_executor());
    retry_.expires_after(kMemoryRetry);
    retry_.async_wait([self = shared_from_this()](const ErrorCode&) { self->go_on(); });
  }
}

void RunnerLink::deliver() {
  while (open_) {
    try {
      if (!undelivered_) {
        undelivered_ = reader_.next();
      }
    } catch (const std::runtime_error& error) {
      log_error("runner " + runner().cgroup + ": " + error.what());
      fail();
    }
    if (!undelivered_) {
      return;
    }
    try {
      handler_(shared_from_this(), *undelivered_);
    } catch (const std::bad_alloc&) {
      throw;
    } catch (...) {
      throw_from(socket_.get_executor());  // no fault of the runner's
    }
    undelivered_.reset();
  }
}

void RunnerLink::read() {
  if (!open_) {
    return;
  }
  socket_.async_read_some(asio::buffer(buffer_),
                          [self = shared_from_this()](const ErrorCode& error, std::size_t size) {
                            if (error) {
                              self->fail();
                              return;
                            }
                            self->unappended_ = size;
                            self->go_on();
                          });
}

void RunnerLink::send(const RunnerMessage& message) {
  if (!open_) {
    return;
  }
  unsent_ += to_frame(message);
  if (sending_.empty()) {
    write();
  }
}

void RunnerLink::write() {
  sending_ = std::exchange(unsent_, {});
  asio::async_write(socket_, asio::buffer(sending_),
                    [self = shared_from_this()](const ErrorCode& error, std::size_t) {
                      self->sending_.clear();
                      if (error) {
                        self->fail();
                      } else if (!self->unsent_.empty()) {
                        self->write();
                      }
                    });
}

void RunnerLink::fail() {
  if (!open_) {
    return;
  }
  close();
  if (gone_) {
    gone_(shared_from_this());
  }
}

void RunnerLink::close() {
  open_ = false;
  ErrorCode ignored;
  socket_.close(ignored);
}

FoundRunners find_runners(asio::io_context& loop, const RunnerPaths& paths,
                          const std::set<std::string>& holding) {
  struct Candidate {
    std::string path;
    RunnerLink::Socket socket;
    std::string problem;
  };
  std::vector<Candidate> candidates;
  const Patience greeting(kPatience);
  for (const auto& entry : std::filesystem::directory_iterator(paths.socket_folder)) {
    if (entry.path().extension() == ".sock") {
      candidates.push_back({entry.path().string(), open_socket(loop), {}});
    }
  }
  for (const std::string& cgroup : holding) {
    const std::string path = paths.socket_folder + "/" + cgroup + ".sock";
    if (std::none_of(candidates.begin(), candidates.end(),
                     [&](const Candidate& candidate) { return candidate.path == path; })) {
      candidates.push_back({path, open_socket(loop), path + " is gone"});
    }
  }
  // All are connected to before one is waited for, so that they answer at the same time.
  for (Candidate& candidate : candidates) {
    try {
      if (!candidate.problem.empty()) {
        continue;
      }
      connect_runner(candidate.socket, candidate.path, greeting);
    } catch (const std::exception& error) {
      candidate.problem = error.what();
    }
  }
  FoundRunners found;
  std::vector<std::pair<int, std::string>> ending;
  for (Candidate& candidate : candidates) {
    if (candidate.problem.empty()) {
      try {
        found.alive.push_back(greet_runner(std::move(candidate.socket), candidate.path, greeting));
        continue;
      } catch (const std::exception& error) {
        candidate.problem = error.what();
      }
    }
    const std::string cgroup = std::filesystem::path(candidate.path).stem().string();
    if (const int process = kill_runner(cgroup); process >= 0) {
      log_warning("runner " + cgroup + " was killed: " + candidate.problem);
      ending.emplace_back(process, cgroup);
      found.killed.push_back(cgroup);
    } else {
      log_info("runner " + cgroup + " is gone: " + candidate.problem);
    }
    found.dead.push_back(cgroup);
    std::filesystem::remove(streams_socket_of(paths.socket_folder, cgroup));
    std::filesystem::remove(candidate.path);
  }
  const Patience end(kPatience);
  for (const auto& [process, cgroup] : ending) {
    wait_for_end(process, cgroup, end);
  }
  return found;
}

void end_runner(asio::io_context& loop, const std::string& cgroup, std::function<void()> ended) {
  const int process = kill_runner(cgroup);
  if (process < 0) {
    ended();
    return;
  }
  struct Wait {
    asio::posix::stream_descriptor process;
    asio::steady_timer patience;
    std::function<void()> ended;
  };
  const auto wait = std::make_shared<Wait>(Wait{asio::posix::stream_descriptor(loop, process),
                                                asio::steady_timer(loop, kPatience), std::move(ended)});
  // Whichever comes first cancels the other.
  wait->process.async_wait(asio::posix::stream_descriptor::wait_read, [wait](const ErrorCode& error) {
    if (!error && wait->ended) {
      wait->patience.cancel();
      std::exchange(wait->ended, nullptr)();
    }
  });
  wait->patience.async_wait([wait, cgroup](const ErrorCode& error) {
    if (!error && wait->ended) {
      wait->process.cancel();
      log_error(does_not_end(cgroup));
      std::exchange(wait->ended, nullptr)();
    }
  });
}

std::shared_ptr<RunnerLink> start_runner(asio::io_context& loop, const RunnerPaths& paths) {
  const std::string path = spawn_runner(paths);
  if (path.empty()) {
    throw std::runtime_error("a runner did not start: " + paths.log_file + " says why");
  }
  const Patience patience(kPatience);
  RunnerLink::Socket socket = open_socket(loop);
  try {
    connect_runner(socket, path, patience);
    return greet_runner(std::move(socket), path, patience);
  } catch (const std::exception&) {
    if (const int process = kill_runner(std::filesystem::path(path).stem().string()); process >= 0) {
      ::close(process);  // it has no job, so nobody waits for its end
    }
    std::filesystem::remove(path);
    throw;
  }
}

}  // namespace berth
