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
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "executor/executor.h"
#include "executor/os/syscall.h"
#include "scheduler/api.h"
#include "scheduler/api_server.h"
#include "scheduler/backup_keeper.h"
#include "scheduler/config_check.h"
#include "scheduler/daemon.h"
#include "scheduler/help.h"
#include "scheduler/log.h"
#include "scheduler/number_mark.h"
#include "scheduler/socket_place.h"
#include "schemas/daemon_config.h"
#include "schemas/input_error.h"
#include "store/backup.h"

namespace berth {
namespace {

struct Arguments {
  std::string config = kDefaultDaemonConfig;
  bool config_given = false;
  bool check = false;
  bool restore = false;
  std::string copy;  ///< to restore; empty: the newest
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

/// One berthd for one folder; `key` names it.
UniqueFd lock_folder(const std::string& directory, const std::string& key) {
  UniqueFd lock = open_at(AT_FDCWD, directory + "/berthd.lock", O_RDWR | O_CREAT, 0600);
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    throw std::runtime_error(directory + ": another berthd uses it; stop that one, or set " + key);
  }
  return lock;
}

/// Of the database and of the runners, which would else be another berthd's too.
std::vector<UniqueFd> lock_folders(const DaemonConfig& config) {
  std::vector<UniqueFd> locks;
  locks.push_back(lock_folder(config.state_directory, "state_directory"));
  if (!std::filesystem::equivalent(config.state_directory, config.runtime_directory)) {
    locks.push_back(lock_folder(config.runtime_directory, "runtime_directory"));
  }
  return locks;
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

DaemonConfig load(const Arguments& arguments) {
  DaemonConfig config = load_daemon_config(arguments.config, !arguments.config_given, check_config_here);
  config.runner_program = runner_program_of(config);
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

/// Larger files are not read whole before berthd serves: some tenths of a second. Their copies are
/// (write_backup).
constexpr Bytes kCheckedAtStart = Bytes{64} << 20U;

/// Header and schema are checked when the database is opened; this looks at its pages.
void refuse_damage(const std::string& database) {
  std::error_code missing;
  const auto size = std::filesystem::file_size(database, missing);
  if (missing || size > kCheckedAtStart) {
    return;
  }
  if (const std::string faults = check_quickly(database); !faults.empty()) {
    throw StoreError(database + ": the database is damaged: " + faults, StoreError::Kind::damaged);
  }
}

/// Where there is a copy there was a database: a new one would take the place of the copy soon.
void refuse_missing(const DaemonConfig& config) {
  std::error_code ignored;
  if (!std::filesystem::exists(config.database(), ignored) &&
      !find_backups(config.database(), config.backup_file()).empty()) {
    throw StoreError(config.database() +
                         ": is missing, and there are copies of it: move these away too if a new "
                         "one is to be begun",
                     StoreError::Kind::damaged);
  }
}

/// SQLite takes an older copy, an empty file, or a log that is short of its end for sound.
void refuse_loss(const DaemonConfig& config, QueueStore& store) {
  const std::optional<GivenNumbers> mark = read_number_mark(config.number_file());
  const GivenNumbers own = store.given_numbers();
  if (mark && (own.job < mark->job || own.event < mark->event)) {
    throw StoreError(
        config.database() + ": has lost its newest jobs: it ends with job " + std::to_string(own.job) +
            " and event " + std::to_string(own.event) + ", and job " + std::to_string(mark->job) +
            " and event " + std::to_string(mark->event) +
            " were there. Is it an older copy, or was its log (-wal) damaged or removed? To go on "
            "with what is left, remove " +
            config.number_file(),
        StoreError::Kind::damaged);
  }
}

/// After it has become one of the newest schema.
void refuse_missing_parts(const std::string& database) {
  if (const std::string missing = missing_parts(database); !missing.empty()) {
    throw StoreError(database + ": the database is damaged: it lacks " + missing, StoreError::Kind::damaged);
  }
}

int serve(const Arguments& arguments, const DaemonConfig& config) {
  set_level(config);
  if (::geteuid() != 0) {
    throw std::runtime_error("berthd must be started as root: it runs jobs as the users who submit them");
  }
  ::signal(SIGPIPE, SIG_IGN);
  make_folders(config);
  const std::vector<UniqueFd> locks = lock_folders(config);
  clear_socket_place(config.socket);  // before anything is taken over
  const std::string database = config.database();
  refuse_missing(config);
  refuse_damage(database);
  const bool is_new = !std::filesystem::exists(database);

  boost::asio::io_context loop(1);
  const SystemClock clock;
  std::unique_ptr<QueueStore> writer = QueueStore::open(database);
  if (!is_new) {
    refuse_loss(config, *writer);
  }
  refuse_missing_parts(database);
  const std::unique_ptr<QueueStore> reader = QueueStore::open_existing(database);
  // On the event loop, the first for each job of a dead runner; what is left is tried again.
  static constexpr std::chrono::milliseconds kPatienceForOne{20};
  static constexpr std::chrono::milliseconds kPatience{200};
  const LeftoverActions leftovers{
      [](const Supervisor& runner, JobId job, unsigned attempt) {
        return collect_leftover(runner.cgroup, job, attempt, kPatienceForOne);
      },
      [](const Supervisor& runner) { remove_leftover(runner.cgroup, kPatience); }};
  Daemon daemon(loop, config, std::move(writer), *reader, clock, leftovers,
                raise_descriptor_limit().rlim_cur);
  BackupKeeper backups(loop, config, clock,
                       [&daemon](const std::exception_ptr& error) { daemon.note_damage(error); });
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
        backups.reconfigure(daemon.config());
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
    } catch (const std::exception& error) {
      log_error(error.what());  // of one request or job; the others go on
      daemon.note_damage(std::current_exception());
    }
  }
  log_info("stopping; running jobs go on");
  return 0;
}

int serve(const Arguments& arguments) {
  const DaemonConfig config = load(arguments);
  try {
    return serve(arguments, config);
  } catch (const StoreError& error) {
    if (error.kind() != StoreError::Kind::damaged) {
      throw;
    }
    throw StoreError(std::string(error.what()) + "\n" + remedy_for_damage(config, SystemClock().system_now()),
                     StoreError::Kind::damaged);
  }
}

/// Puts a copy in the place of the database. What has happened since is in nobody's memory but people's, so
/// nothing starts until an administrator says so.
int restore(const Arguments& arguments) {
  const DaemonConfig config = load_daemon_config(arguments.config, !arguments.config_given);
  make_folders(config);
  const UniqueFd lock = lock_folder(config.state_directory, "state_directory");
  std::string copy = arguments.copy;
  if (copy.empty()) {
    const std::vector<BackupFile> copies = find_backups(config.database(), config.backup_file());
    if (copies.empty()) {
      throw std::runtime_error("there is no copy of " + config.database() +
                               "; name one: berthd --restore COPY");
    }
    copy = copies.front().path;
  }
  const bool was_draining = std::filesystem::exists(config.drain_file());
  if (!std::ofstream(config.drain_file()).flush()) {
    throw std::runtime_error(config.drain_file() + ": cannot be made: jobs would start at once");
  }
  std::string kept;
  bool is_in_place = false;
  try {
    kept = restore_backup(config.database(), copy, SystemClock().system_now());
    is_in_place = true;
    if (const std::optional<GivenNumbers> mark = read_number_mark(config.number_file())) {
      QueueStore::open(config.database())->leave_out(*mark);
    }
  } catch (...) {
    if (!was_draining && !is_in_place) {
      std::filesystem::remove(config.drain_file());
    }
    throw;
  }
  std::printf(
      "%s: restored from %s%s\n"
      "Start berthd. Jobs that waited when the copy was made wait again, also those that have run since: "
      "cancel\n"
      "these (berth queue, berth cancel). No job starts until `berth undrain`.\n",
      config.database().c_str(), copy.c_str(),
      kept.empty() ? "" : ("; what was there is kept as " + kept).c_str());
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
      std::fputs(daemon_help(help_width()).c_str(), stdout);
      return 0;
    }
    if (word == "--version") {
      std::puts("berthd " BERTH_VERSION);
      return 0;
    }
    if (word == "--check-config") {
      arguments.check = true;
    } else if (word == "--restore") {
      arguments.restore = true;
      if (index + 1 < words.size() && !words[index + 1].starts_with("-")) {
        arguments.copy = std::filesystem::absolute(words[++index]).string();
      }
    } else if (word.starts_with("--restore=")) {
      arguments.restore = true;
      arguments.copy = std::filesystem::absolute(word.substr(std::strlen("--restore="))).string();
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
    if (arguments.restore) {
      return restore(arguments);
    }
    return arguments.check ? check_config(arguments) : serve(arguments);
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
