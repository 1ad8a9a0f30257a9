#include "scheduler/daemon_options.h"

#include <array>

namespace berth {
namespace {

using namespace std::string_view_literals;

constexpr std::array kDaemonUsage{"[--config FILE] [--check-config | --restore [COPY]]"sv};
constexpr std::array kDaemonDescription{
    "Takes jobs from the users of this machine over a Unix socket, runs each in its own namespaces and "
    "cgroups, and "
    "records what it used. Its jobs survive it: killed or upgraded, the next berthd takes them over."sv,
};
constexpr std::array kDaemonOptions{
    Option{.name = "config",
           .argument = "FILE",
           .description = "The configuration; without the default one every key has its default",
           .fallback = "/etc/berth/berthd.json"},
    Option{.name = "check-config",
           .description = "Prints what is wrong with the configuration, and exits with 2 when something is"},
    Option{.name = "restore",
           .argument = "COPY",
           .description =
               "Puts a copy of the database in the place of a damaged one, which is kept; no job starts "
               "until `berth undrain`. Stop berthd first",
           .fallback = "the newest copy"},
    Option{.name = "help", .letter = 'h', .description = "Prints this help and exits"},
    Option{.name = "version", .description = "Prints the version and exits"},
};
constexpr std::array kDaemonExamples{
    Example{"berthd --check-config && systemctl reload berthd", "Takes a changed configuration into use."},
    Example{"berthd --config berthd.json",
            "In the foreground, with another configuration; logs to standard error."},
    Example{"systemctl stop berthd && berthd --restore",
            "Goes on with the newest copy of a damaged database."},
};
constexpr std::array kDaemonSeeAlso{"berth(1)"sv, "berth-submit(1)"sv, "berth-queue(1)"sv,
                                    "berth-drain(1)"sv};
constexpr CommandSpec kDaemon{.name = "berthd",
                              .summary = "Take jobs from everybody on a machine, and lose none",
                              .usage = kDaemonUsage,
                              .description = kDaemonDescription,
                              .options = kDaemonOptions,
                              .examples = kDaemonExamples,
                              .see_also = kDaemonSeeAlso};

constexpr std::array kDaemonSignals{
    Meaning{"SIGHUP", "Reads the configuration again."},
    Meaning{"SIGTERM, SIGINT", "Stop berthd; running jobs go on."},
};
constexpr std::array kDaemonExitStatus{
    Meaning{"0", "It was asked to stop, or did what it was asked."},
    Meaning{"1", "It cannot serve; standard error says why."},
    Meaning{"2", "Wrong usage or configuration."},
};
constexpr std::array kDaemonFiles{
    Meaning{"/etc/berth/berthd.json", "The configuration."},
    Meaning{"/run/berth/berthd.sock", "The socket (socket)."},
    Meaning{"/run/berth", "The runners' sockets (runtime_directory)."},
    Meaning{"/var/lib/berth",
            "The database berthd.db, its copies, records that wait for a berthd (state_directory)."},
};

}  // namespace

const CommandSpec& daemon_command() {
  return kDaemon;
}

std::span<const Meaning> daemon_signals() {
  return kDaemonSignals;
}

std::span<const Meaning> daemon_exit_status() {
  return kDaemonExitStatus;
}

std::span<const Meaning> daemon_files() {
  return kDaemonFiles;
}

}  // namespace berth
