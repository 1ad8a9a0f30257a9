#include "scheduler/runner_streams.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "executor/os/syscall.h"
#include "executor/os/unix_socket.h"
#include "scheduler/log.h"

namespace berth {
namespace {

UniqueFd non_blocking(UniqueFd fd) {
  check(::fcntl(fd.get(), F_SETFL, O_NONBLOCK), "fcntl", "pipe");
  return fd;
}

/// Of one user, at all its jobs here.
constexpr unsigned kMostOfUser = 128;

/// Who has connected; berthd hands over sockets alone.
uid_t user_of(const UniqueFd& client) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  check(::getsockopt(client.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &size), "getsockopt",
        "SO_PEERCRED");
  return credentials.uid;
}

/// As berth run's: the command's own, 128 + n for a signal, 126 and 127 when it could not be executed.
int exit_status_of(const CommandEnded& ended) {
  if (ended.error_number != 0) {
    const bool exec = ended.stage == "exec";
    return !exec ? 125 : ended.error_number == ENOENT ? 127 : 126;
  }
  return WIFEXITED(ended.wait_status) ? WEXITSTATUS(ended.wait_status) : 128 + WTERMSIG(ended.wait_status);
}

}  // namespace

RunnerStreams::RunnerStreams(Executor& executor, std::string socket_path,
                             std::function<AttemptView(AttemptId)> look)
    : executor_(executor),
      path_(std::move(socket_path)),
      look_(std::move(look)),
      // A new descriptor has the lowest free number: one from here on says that those below are taken.
      first_reserved_(static_cast<int>(::sysconf(_SC_OPEN_MAX) / 4 * 3)),
      attachments_(loop_, [this](JobId job, int number) { executor_.signal(job, number); }),
      // Only root may write to it: who hands a connection over has found out whose it is.
      socket_(bind_private(path_, SOCK_DGRAM)),
      packet_(4 * kLargestStreamRequest) {
  loop_.watch(socket_.get(), EPOLLIN, [this](std::uint32_t) { take_over(); });
}

RunnerStreams::~RunnerStreams() {
  ::unlink(path_.c_str());
}

void RunnerStreams::dispatch() {
  loop_.dispatch();
  sweep();
}

/// All that there are: a job that is started next may have several that wait for it.
void RunnerStreams::take_over() {
  while (true) {
    Descriptors descriptors;
    const ssize_t size =
        receive_message(socket_.get(), packet_.data(), packet_.size(), descriptors, MessageWait::poll);
    if (size <= 0) {
      return;
    }
    if (!descriptors.empty()) {
      take_over(static_cast<std::size_t>(size), descriptors);
    }
  }
}

void RunnerStreams::take_over(std::size_t size, Descriptors& descriptors) {
  try {
    const StreamRequest request = parse_handed_over({packet_.data(), size});
    UniqueFd client = descriptors.take(0);
    const uid_t user = user_of(client);
    unsigned& of_user = of_users_[user];
    if (const std::string why = refusal(user, client); !why.empty()) {
      StreamSession(loop_, std::move(client), of_user, {}).end(125, why);
    } else if (request.attach) {
      attachments_.add(request, look_(request.id), std::move(client), of_user);
    } else {
      run(request, std::move(client), of_user);
    }
  } catch (const std::exception& error) {
    log_error(std::string("berthd handed over what is no request: ") + error.what());
  }
}

/// Why this client is one too many; empty: it is not.
std::string RunnerStreams::refusal(uid_t user, const UniqueFd& client) {
  if (of_users_[user] >= kMostOfUser) {
    return "you have " + std::to_string(kMostOfUser) +
           " commands (berth exec) and attached clients at this runner, which are the most; end one";
  }
  if (user != 0 && client.get() >= first_reserved_) {
    return "the runner needs the descriptors that it has left for jobs (LimitNOFILE=); try again later";
  }
  return "";
}

void RunnerStreams::run(const StreamRequest& request, UniqueFd client, unsigned& of_user) {
  const auto id = std::make_shared<CommandId>();
  const auto session = std::make_shared<StreamSession>(
      loop_, std::move(client), of_user,
      StreamSession::Requests{[this, id](int number) { executor_.signal_command(*id, number); },
                              [this, id](TerminalWindow window) {
                                const auto found = commands_.find(*id);
                                if (found != commands_.end() && found->second.master) {
                                  const winsize size{window.rows, window.columns, 0, 0};
                                  ::ioctl(found->second.master.get(), TIOCSWINSZ, &size);
                                }
                              }});
  try {
    start(request, session, *id);
  } catch (const std::exception& error) {
    session->end(125, "job " + std::to_string(request.id.job_id) + ": " + error.what());
    ending_.push_back(session);
  }
}

void RunnerStreams::start(const StreamRequest& request, const std::shared_ptr<StreamSession>& session,
                          CommandId& id) {
  if (look_(request.id).state != AttemptView::State::runs) {
    throw LaunchError("command", ESRCH, "it has ended");
  }
  CommandRequest command{
      request.argv, request.environment, request.current_working_directory, std::nullopt, -1, -1, -1};
  if (request.terminal) {
    command.terminal = TerminalSize{request.terminal->rows, request.terminal->columns};
    id = executor_.start_command(request.id.job_id, command);
    commands_[id].session = session;  // connected when the terminal is there
    return;
  }
  FdPair input = make_pipe();
  FdPair output = make_pipe();
  FdPair error = make_pipe();
  command.standard_input = input.first.get();
  command.standard_output = output.second.get();
  command.standard_error = error.second.get();
  id = executor_.start_command(request.id.job_id, command);
  commands_[id].session = session;
  session->connect(non_blocking(std::move(input.second)), non_blocking(std::move(output.first)),
                   non_blocking(std::move(error.first)));
}

void RunnerStreams::take(TerminalOpened terminal) {
  if (terminal.id.number == 0) {
    attachments_.open_terminal(terminal.id.job_id, std::move(terminal.master));
    return;
  }
  const auto found = commands_.find(terminal.id);
  if (found == commands_.end() || found->second.session == nullptr) {
    return;  // closing its only master hangs the terminal up
  }
  found->second.master = duplicate(terminal.master);
  UniqueFd writer = duplicate(terminal.master);
  found->second.session->connect(std::move(writer), std::move(terminal.master), UniqueFd{});
}

void RunnerStreams::take(const CommandEnded& ended) {
  const auto found = commands_.find(ended.id);
  if (found == commands_.end()) {
    return;
  }
  if (const std::shared_ptr<StreamSession> session = found->second.session) {
    session->end(exit_status_of(ended), ended.message);
    ending_.push_back(session);
  }
  commands_.erase(found);
}

void RunnerStreams::sweep() {
  attachments_.sweep();
  std::erase_if(ending_, [](const auto& session) { return session->is_finished(); });
  for (auto& [id, command] : commands_) {
    if (command.session != nullptr && command.session->is_finished()) {
      // As when a terminal's line is dropped; who wants to go on, ignores it (nohup).
      executor_.signal_command(id, SIGHUP);
      executor_.signal_command(id, SIGCONT);
      command.session.reset();
      command.master.reset();
    }
  }
}

}  // namespace berth
