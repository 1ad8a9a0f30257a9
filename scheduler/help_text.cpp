#include "scheduler/help_text.h"

#include <array>

namespace berth {
namespace {

using namespace std::string_view_literals;

constexpr std::array kProgramDescription{
    "berth runs batch jobs on Linux, each as though it had the machine to itself: its own CPUs and memory, "
    "its own namespaces (user, pid, mount, network, IPC, UTS, cgroup, time) and cgroups, limits that hold, "
    "and a "
    "record of what it used."sv,
    "Job states, options and columns have the names that Slurm gave them."sv,
};

constexpr std::array kProgramExamples{
    Example{"berth run -- make test", "A command as a job of its own."},
    Example{"berth run -c 2 --mem 2G -t 10 -- ./tests.sh", "Two CPUs, 2 GiB and ten minutes."},
    Example{"berth run nightly.json", "The jobs of a file."},
    Example{"berth history", "What ran and what it used."},
    Example{"berth doctor", "What this machine offers to jobs."},
};

constexpr std::array kRunExitStatus{
    Meaning{
        "0-123",
        "The job's own exit status (125 to 255 too, when the job exits so). With several jobs: 0 when all "
        "COMPLETED, else the status of the first, in submit order, that did not."},
    Meaning{"124", "The job ran out of time: wall time, CPU time, or no output for too long."},
    Meaning{"125", "berth failed or refused; the job did not run, or berth could not see it to its end."},
    Meaning{"126", "The command could not be executed."},
    Meaning{"127", "The command was not found."},
    Meaning{
        "128+N",
        "Signal N ended the job: 137 (SIGKILL) when it ran out of memory. When Ctrl-C or a signal to berth "
        "cancelled the run: 130 (SIGINT), 143 (SIGTERM), 129 (SIGHUP), 131 (SIGQUIT)."},
};

constexpr std::array kSubmitExitStatus{
    Meaning{"0", "All jobs were taken; with --wait: all of them ended COMPLETED."},
    Meaning{"125", "berth or berthd refused or failed, and no job was taken unless it says otherwise."},
    Meaning{"1-255", "With --wait: what berth wait exits with for these jobs."},
};

constexpr std::array kWaitExitStatus{
    Meaning{"0", "All jobs ended COMPLETED."},
    Meaning{
        "1-255",
        "What berth run exits with for the first job, in the order of the command line, that did not: its "
        "own status, 124 when it ran out of time, 125 when it could not be launched or its runner died, "
        "126 and 127 when its command could not be executed or found, 128+N for signal N."},
    Meaning{"125", "Also: berth or berthd refused or failed, for example because there is no such job."},
};

constexpr std::array kAttachExitStatus{
    Meaning{"0-255", "The job ended: what berth wait exits with for it."},
    Meaning{"0", "Also: the detach keys left the job, which goes on."},
    Meaning{"125", "Also: berth or berthd refused or failed, for example because there is no such job."},
    Meaning{"128+N", "Also: signal N left the job, which goes on."},
};

constexpr std::array kExecExitStatus{
    Meaning{"0-255", "The command's own exit status."},
    Meaning{"125", "berth or berthd refused or failed; the command did not run."},
    Meaning{"126", "The command could not be executed."},
    Meaning{"127", "The command was not found."},
    Meaning{"128+N", "Signal N ended the command: 137 (SIGKILL) when its job ended."},
};

constexpr std::array kOtherExitStatus{
    Meaning{"0", "Success."},
    Meaning{"1",
            "The answer is no: a faulty job file, no such job, something that jobs need is missing; or berth "
            "failed. Standard error says which."},
    Meaning{"2", "Wrong usage."},
};

constexpr std::array kEnvironment{
    Meaning{"BERTH_SOCKET", "berthd's socket when --socket does not name it."},
    Meaning{"XDG_STATE_HOME",
            "Where the database is when --database does not say so; ~/.local/state when unset."},
    Meaning{"SUDO_UID, SUDO_GID", "As root: whom jobs run as by default and who is recorded."},
    Meaning{"TERM", "Is passed on to what runs on a terminal of its own."},
    Meaning{"COLUMNS", "Width of --help."},
};

constexpr std::array kFiles{
    Meaning{"~/.local/state/berth/berth.db", "The database of a user."},
    Meaning{"/var/lib/berth/berth.db", "The database of root."},
    Meaning{"/run/berth/berthd.sock", "berthd's socket."},
    Meaning{
        "/run/berth/topology, $XDG_RUNTIME_DIR/berth/topology",
        "Which CPUs share cores, caches and memory, as found at the first start after boot, by root and by a "
        "user. It may be deleted at any time."},
    Meaning{"/run/berth/cpus, $XDG_RUNTIME_DIR/berth/cpus",
            "Locks by which root's berths, and those of a user, keep off each other's CPUs. It is empty; to "
            "delete "
            "it parts those that run from those that come."},
    Meaning{"/etc/berth/berthd.json",
            "berthd's configuration; what it says of networks holds for berth run too."},
};

}  // namespace

std::span<const std::string_view> program_description() {
  return kProgramDescription;
}

std::span<const Example> program_examples() {
  return kProgramExamples;
}

std::span<const Meaning> exit_status_of(const CommandSpec& command) {
  if (command.name == "run") {
    return kRunExitStatus;
  }
  if (command.name == "submit") {
    return kSubmitExitStatus;
  }
  if (command.name == "wait") {
    return kWaitExitStatus;
  }
  if (command.name == "attach") {
    return kAttachExitStatus;
  }
  return command.name == "exec" ? std::span<const Meaning>(kExecExitStatus) : common_exit_status();
}

std::span<const Meaning> common_exit_status() {
  return kOtherExitStatus;
}

std::span<const Meaning> environment_variables() {
  return kEnvironment;
}

std::span<const Meaning> files_of_berth() {
  return kFiles;
}

std::string option_text(const Option& option) {
  std::string text{option.description};
  if (option.repeatable && !option.argument.empty()) {
    text += "; may be given several times";
  }
  if (!option.fallback.empty()) {
    text += " (default: " + std::string(option.fallback) + ")";
  }
  return text;
}

}  // namespace berth
