// berthd: takes jobs from everybody on this machine and loses none. Builds the objects, runs the loop, maps
// errors to exit statuses: 0 asked to stop, 1 cannot serve, 2 wrong usage or configuration.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "executor/executor.h"
#include "executor/os/syscall.h"
#include "scheduler/api.h"
#include "scheduler/api_server.h"
#include "scheduler/daemon.h"
#include "scheduler/log.h"
#include "schemas/daemon_config.h"
#include "schemas/input_error.h"

namespace berth {
namespace {

constexpr const char* kHelp =
    "Usage: berthd [--config FILE] [--check-config]\n"
    "\n"
    "Takes jobs from the users of this machine over a Unix socket, runs each in its own namespaces and\n"
    "cgroups, and records what it used. Its jobs survive it: killed or upgraded, the next berthd takes them "
    "over.\n"
    "\n"
    "  --config FILE   the configuration (default: /etc/berth/berthd.json; without it every key has its "
    "default)\n"
    "  --check-config  prints what is wrong with the configuration, and exits with 2 when something is\n"
    "  --help          prints this help and exits\n"
    "  --version       prints the version and exits\n"
    "\n"
    "SIGHUP reads the configuration again, SIGTERM and SIGINT stop berthd and leave the jobs running.\n";

struct Arguments {
  std::string config = kDefaultDaemonConfig;
  bool config_given = false;
  bool check = false;
};

/// Tells systemd that berthd serves (sd_notify(3), Type=notify); does nothing without systemd.
void notify_ready() {
  const char* path = std::getenv("NOTIFY_SOCKET");
  sockaddr_un address{};
  if (path == nullptr || std::strlen(path) >= sizeof address.sun_path) {
    return;
  }
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, path);
  if (path[0] == '@') {
    address.sun_path[0] = '\0';
  }
  const UniqueFd socket{::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
  constexpr std::string_view kReady = "READY=1";
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + std::strlen(path));
  (void)::sendto(socket.get(), kReady.data(), kReady.size(), MSG_NOSIGNAL,
                 reinterpret_cast<const sockaddr*>(&address), size);
}

/// One berthd for one state directory.
UniqueFd lock_state(const std::string& directory) {
  UniqueFd lock = open_at(AT_FDCWD, directory + "/berthd.lock", O_RDWR | O_CREAT, 0600);
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    throw std::runtime_error(directory + ": another berthd uses it; stop that one, or set state_directory");
  }
  return lock;
}

void make_folders(const DaemonConfig& config) {
  for (const auto& [path, mode] : {std::pair<std::string, mode_t>{config.runtime_directory, 0755},
                                   {config.runtime_directory + "/runners", 0700},
                                   {config.state_directory, 0700},
                                   {config.state_directory + "/spool", 0700}}) {
    const std::filesystem::path parent = std::filesystem::path(path).parent_path();
    std::filesystem::create_directories(parent);
    if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST) {
      throw_system_error(errno, "mkdir", path);
    }
  }
}

std::string find_runner_program(const std::string& configured) {
  if (!configured.empty()) {
    return configured;
  }
  std::error_code ignored;
  const std::filesystem::path own = std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
  // Beside this program in a build, below libexec when installed.
  for (const std::filesystem::path& path :
       {own / "berth-runner", own / ".." / BERTH_LIBEXEC / "berth-runner"}) {
    if (::access(path.c_str(), X_OK) == 0) {
      return std::filesystem::weakly_canonical(path).string();
    }
  }
  throw std::runtime_error("berth-runner is not where it was installed; set runner_program");
}

DaemonConfig load(const Arguments& arguments) {
  DaemonConfig config = load_daemon_config(arguments.config, !arguments.config_given);
  config.runner_program = find_runner_program(config.runner_program);
  return config;
}

void set_level(const DaemonConfig& config) {
  LogLevel level = LogLevel::info;
  parse_log_level(config.log_level, level);
  set_log_level(level);
}

/// SIGHUP. What cannot be read changes nothing.
void read_again(const Arguments& arguments, Daemon& daemon, Api& api, ApiServer& server) {
  try {
    const DaemonConfig next = load(arguments);
    set_level(next);
    daemon.reconfigure(next);
    server.set_limits(next.api);
    api.forget_users();
    log_info("the configuration was read again");
  } catch (const std::exception& failure) {
    log_error(std::string("the configuration stays as it was: ") + failure.what());
  }
}

int serve(const Arguments& arguments) {
  const DaemonConfig config = load(arguments);
  set_level(config);
  if (::geteuid() != 0) {
    throw std::runtime_error("berthd must be started as root: it runs jobs as the users who submit them");
  }
  ::signal(SIGPIPE, SIG_IGN);
  make_folders(config);
  const UniqueFd lock = lock_state(config.state_directory);
  const std::string database = config.state_directory + "/berthd.db";

  boost::asio::io_context loop(1);
  const SystemClock clock;
  std::unique_ptr<QueueStore> writer = QueueStore::open(database);
  const std::unique_ptr<QueueStore> reader = QueueStore::open_existing(database);
  const LeftoverActions leftovers{[](const Supervisor& runner, JobId job, unsigned attempt) {
                                    return collect_leftover(runner.cgroup, job, attempt);
                                  },
                                  [](const Supervisor& runner) { remove_leftover(runner.cgroup); }};
  Daemon daemon(loop, config, std::move(writer), *reader, clock, leftovers);
  Api api(loop, daemon, *reader, database, clock);
  ApiServer server(
      loop, config.socket, config.api,
      [&api](const ApiRequest& request, const ApiRespond& respond) { api.handle(request, respond); });

  boost::asio::signal_set stop(loop, SIGTERM, SIGINT);
  stop.async_wait([&loop](const boost::system::error_code&, int) { loop.stop(); });
  boost::asio::signal_set reload(loop, SIGHUP);
  const std::function<void()> await_reload = [&] {
    reload.async_wait([&](const boost::system::error_code& error, int) {
      if (!error) {
        read_again(arguments, daemon, api, server);
        await_reload();
      }
    });
  };
  await_reload();
  notify_ready();
  log_info("serving at " + config.socket + ": " + std::to_string(daemon.pool().total_cpus()) + " CPUs, " +
           format_size(daemon.pool().total_memory()) + ", " + std::to_string(daemon.runners()) +
           " runners, " + std::to_string(daemon.waiting()) + " jobs waiting");
  while (!loop.stopped()) {
    try {
      loop.run();
    } catch (const StoreError& error) {
      log_error(error.what());  // of one request or job; the others go on
    }
  }
  log_info("stopping; running jobs go on");
  return 0;
}

int check_config(const Arguments& arguments) {
  (void)load(arguments);
  std::printf("%s: ok\n", arguments.config.c_str());
  return 0;
}

int wrong_usage(const std::string& word) {
  (void)std::fprintf(stderr, "berthd: \"%s\" is not an option (try berthd --help)\n", word.c_str());
  return 2;
}

int run(const std::vector<std::string>& words) {
  Arguments arguments;
  for (std::size_t index = 0; index < words.size(); ++index) {
    const std::string& word = words[index];
    if (word == "--help" || word == "-h") {
      std::fputs(kHelp, stdout);
      return 0;
    }
    if (word == "--version") {
      std::puts("berthd " BERTH_VERSION);
      return 0;
    }
    if (word == "--check-config") {
      arguments.check = true;
    } else if (word == "--config" && index + 1 < words.size()) {
      arguments.config = words[++index];
      arguments.config_given = true;
    } else if (word.starts_with("--config=")) {
      arguments.config = word.substr(std::strlen("--config="));
      arguments.config_given = true;
    } else {
      return wrong_usage(word);
    }
  }
  try {
    return arguments.check ? check_config(arguments) : serve(arguments);
  } catch (const StoreError& error) {
    (void)std::fprintf(
        stderr,
        "berthd: %s\n"
        "berthd: to go on without it, move berthd.db, berthd.db-wal and berthd.db-shm away; to go on with a "
        "copy, put that in their place (berthd.db.vN.backup is one from before a newer berthd); "
        "another state_directory chooses another database\n",
        error.what());
    return 1;
  } catch (const InputError& error) {
    (void)std::fprintf(stderr, "%s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    (void)std::fprintf(stderr, "berthd: %s\n", error.what());
    return 1;
  }
}

}  // namespace
}  // namespace berth

int main(int argc, char** argv) {
  berth::occupy_standard_streams();
  return berth::run(std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
}
