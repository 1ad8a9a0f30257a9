// Processes: bombs, daemons, signals and exit codes.
#include <dirent.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cctype>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "payload.h"

namespace payload {
namespace {

[[noreturn]] void bomb() {
  while (true) {
    fork();
  }
}

// The main process ends after a while, so that a test also proves that the rest goes with it.
int fork_bomb(const Arguments& arguments) {
  if (fork() == 0) {
    bomb();
  }
  sleep_seconds(number(arguments, 0, 1));
  return 0;
}

int fork_children(const Arguments& arguments) {
  int made = 0;
  int error_number = 0;
  for (int i = 0; i < static_cast<int>(number(arguments, 0, 1)); ++i) {
    const pid_t child = fork();
    if (child == 0) {
      pause();
      _exit(0);
    }
    if (child < 0) {
      error_number = errno;
      break;
    }
    ++made;
  }
  std::printf("children %d %s\n", made, error_number == 0 ? "ok" : errno_name(error_number).c_str());
  return 0;
}

int daemon(const Arguments& arguments) {
  const pid_t child = fork();
  if (child == 0) {
    setsid();
    if (fork() != 0) {
      _exit(0);
    }
    // The grandchild keeps standard output open, as careless daemons do.
    std::signal(SIGHUP, SIG_IGN);
    std::signal(SIGTERM, SIG_IGN);
    sleep_seconds(number(arguments, 0, 1000));
    _exit(0);
  }
  waitpid(child, nullptr, 0);
  std::printf("daemon left\n");
  return 0;
}

int ignore_term(const Arguments& arguments) {
  std::signal(SIGTERM, SIG_IGN);
  std::signal(SIGINT, SIG_IGN);
  std::printf("ignoring\n");
  std::fflush(stdout);
  sleep_seconds(number(arguments, 0, 1000));
  return 0;
}

void say_signal(int signal_number) {
  const char text[] = {'s',
                       'i',
                       'g',
                       'n',
                       'a',
                       'l',
                       ' ',
                       static_cast<char>('0' + signal_number / 10),
                       static_cast<char>('0' + signal_number % 10),
                       '\n'};
  [[maybe_unused]] const ssize_t written = write(STDOUT_FILENO, text, sizeof(text));
}

volatile sig_atomic_t term_exit_code = -1;

void leave(int signal_number) {
  say_signal(signal_number);
  _exit(term_exit_code);
}

int trap_term(const Arguments& arguments) {
  term_exit_code = static_cast<int>(number(arguments, 0, 0));
  std::signal(SIGTERM, leave);
  std::signal(SIGUSR1, say_signal);
  std::printf("trapping\n");
  std::fflush(stdout);
  sleep_seconds(number(arguments, 1, 1000));
  return 99;
}

int close_stdout(const Arguments& arguments) {
  close(STDOUT_FILENO);
  close(STDERR_FILENO);
  sleep_seconds(number(arguments, 0, 1));
  return static_cast<int>(number(arguments, 1, 0));
}

int kill_self(const Arguments& arguments) {
  kill(getpid(), static_cast<int>(number(arguments, 0, SIGKILL)));
  sleep_seconds(10);
  return 99;
}

int leave_with(const Arguments& arguments) {
  return static_cast<int>(number(arguments, 0, 0));
}

int hold(const Arguments& arguments) {
  sleep_seconds(number(arguments, 0, 1));
  return 0;
}

int send_signal(const Arguments& arguments) {
  for (std::size_t i = 1; i < arguments.size(); ++i) {
    print_result(arguments[i], kill(static_cast<pid_t>(number(arguments, i, 0)),
                                    static_cast<int>(number(arguments, 0, 0))));
  }
  return 0;
}

// Orphans that end are init's to reap: says how many zombies are left a moment later.
int orphans(const Arguments& arguments) {
  for (int i = 0; i < static_cast<int>(number(arguments, 0, 10)); ++i) {
    const pid_t child = fork();
    if (child == 0) {
      if (fork() == 0) {
        sleep_seconds(0.05);
      }
      _exit(0);
    }
    waitpid(child, nullptr, 0);
  }
  sleep_seconds(0.5);
  int others = 0;
  DIR* processes = opendir("/proc");
  while (const dirent* entry = processes != nullptr ? readdir(processes) : nullptr) {
    if (std::isdigit(static_cast<unsigned char>(entry->d_name[0])) != 0 && std::atoi(entry->d_name) != 1 &&
        std::atoi(entry->d_name) != getpid()) {
      ++others;
    }
  }
  std::printf("others %d\n", others);
  return 0;
}

int list_processes(const Arguments&) {
  DIR* processes = opendir("/proc");
  while (const dirent* entry = processes != nullptr ? readdir(processes) : nullptr) {
    if (std::isdigit(static_cast<unsigned char>(entry->d_name[0])) != 0) {
      std::printf("%s\n", entry->d_name);
    }
  }
  return 0;
}

}  // namespace

Commands process_commands() {
  return {{"fork_bomb", "[SECONDS]: a child forks without end; this process ends after SECONDS", fork_bomb},
          {"fork", "N: start N children, say how many there are", fork_children},
          {"daemon", "[SECONDS]: leave a double-forked process that holds standard output", daemon},
          {"ignore_term", "[SECONDS]: sleep, deaf to SIGTERM and SIGINT", ignore_term},
          {"trap_term", "CODE [SECONDS]: sleep; on SIGTERM say so and exit CODE; say SIGUSR1", trap_term},
          {"close_stdout", "[SECONDS] [CODE]: close standard output and error, sleep", close_stdout},
          {"kill_self", "SIGNAL", kill_self},
          {"exit", "CODE", leave_with},
          {"hold", "SECONDS: sleep in silence", hold},
          {"signal", "SIGNAL PID…: probe", send_signal},
          {"orphans", "N: make N orphans, say how many processes are left beside init", orphans},
          {"processes", "the numbers in /proc", list_processes}};
}

}  // namespace payload
