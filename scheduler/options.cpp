// The option tables. Wording: descriptions complete "this option …" in the third person or name the thing;
// letters and names are sbatch's and sacct's where they have the option (sbatch(1), sacct(1)).
#include <algorithm>
#include <array>

#include "scheduler/command.h"

namespace berth {
namespace {

using namespace std::string_view_literals;

template <std::size_t... Sizes>
constexpr auto join(const std::array<Option, Sizes>&... parts) {
  std::array<Option, (Sizes + ...)> all{};
  std::size_t next = 0;
  const auto append = [&](const auto& part) {
    for (const Option& option : part) {
      all[next++] = option;
    }
  };
  (append(parts), ...);
  return all;
}

// -- every command --------------------------------------------------------------------------------------

constexpr std::array kGlobalOptions{
    Option{.name = "help", .letter = 'h', .description = "Prints this help and exits"},
    Option{.name = "version", .description = "Prints the version and exits"},
    Option{.name = "verbose",
           .letter = 'v',
           .description = "Logs more to standard error: -v tells when jobs start and end, -vv what berth "
                          "uses and each step",
           .repeatable = true},
    Option{.name = "quiet",
           .letter = 'q',
           .description = "Logs errors only, and leaves out progress and the usage table",
           .repeatable = true},
    Option{.name = "log-level",
           .argument = "LEVEL",
           .description = "Sets how much is logged by name; stronger than -v and -q",
           .fallback = "warning",
           .completion = Completion::words,
           .words = "trace debug info warning error critical off"},
    Option{.name = "database",
           .argument = "FILE",
           .description =
               "The job database of berth run; history, report, show and efficiency read it instead of "
               "asking berthd. Other commands refuse it",
           .fallback = "$XDG_STATE_HOME/berth/berth.db, as root /var/lib/berth/berth.db",
           .completion = Completion::file},
    Option{.name = "socket",
           .argument = "FILE",
           .description = "berthd's socket",
           .fallback = "$BERTH_SOCKET, else /run/berth/berthd.sock",
           .completion = Completion::file},
};

// -- run ------------------------------------------------------------------------------------------------

constexpr auto kSectionJob = "The job"sv;
constexpr auto kSectionLimits = "Limits"sv;
constexpr auto kSectionIsolation = "Isolation"sv;
constexpr auto kSectionPool = "The pool that jobs are run from"sv;
constexpr auto kSectionReport = "Output and results"sv;

constexpr std::array kJobOptions{
    Option{.name = "job-name",
           .letter = 'J',
           .argument = "NAME",
           .description = "Name of the job",
           .fallback = "the command's base name",
           .section = kSectionJob,
           .field = "/name"},
    Option{.name = "chdir",
           .letter = 'D',
           .argument = "DIR",
           .description = "Working directory of the job; it is writable inside",
           .fallback = "the current directory",
           .section = kSectionJob,
           .field = "/current_working_directory",
           .completion = Completion::directory},
    Option{.name = "export",
           .argument = "LIST",
           .description =
               "Environment variables that the job gets: ALL, NONE, or a comma-separated list of NAME and "
               "NAME=VALUE; ALL may be one of the list. ALL leaves out what describes the calling session "
               "and not the job (HOME, USER, LOGNAME, SHELL, PWD, TMPDIR, SUDO_*, XDG_RUNTIME_DIR …), "
               "unless the list names it",
           .fallback = "ALL",
           .section = kSectionJob,
           .completion = Completion::words,
           .words = "ALL NONE"},
    Option{.name = "env",
           .argument = "NAME[=VALUE]",
           .description =
               "Sets one environment variable, or passes the caller's on; stronger than --export, and the "
               "value may hold commas",
           .section = kSectionJob,
           .field = "/environment",
           .repeatable = true},
};

constexpr std::array kRunStreamOptions{
    Option{
        .name = "input",
        .letter = 'i',
        .argument = "FILE",
        .description = "File for the job's standard input",
        .fallback = "berth's own standard input when it is no terminal and there is one job, else /dev/null",
        .section = kSectionJob,
        .field = "/standard_input",
        .completion = Completion::file},
    Option{.name = "pty",
           .description =
               "Gives the job a terminal of its own, joined to the caller's: keys go to it as they are "
               "typed, Ctrl-C too, and it follows the window's size. For one command or script",
           .section = kSectionJob},
    Option{.name = "stdin",
           .description = "Passes berth's own standard input to the job even when it is a terminal",
           .section = kSectionJob},
    Option{.name = "output",
           .letter = 'o',
           .argument = "FILE",
           .description =
               "File for the job's standard output and, without --error, its standard error. Patterns: %j "
               "job id, %A job id, %x job name, %u user, %% a per cent sign; %5j pads with zeros. Opened as "
               "the calling user; folders are not made",
           .fallback = "berth's own standard output and error",
           .section = kSectionJob,
           .field = "/standard_output",
           .completion = Completion::file},
    Option{.name = "error",
           .letter = 'e',
           .argument = "FILE",
           .description = "File for the job's standard error; patterns as for --output",
           .section = kSectionJob,
           .field = "/standard_error",
           .completion = Completion::file},
};

constexpr std::array kSubmitStreamOptions{
    Option{.name = "pty",
           .description =
               "Gives the job a terminal of its own, kept while nobody looks: berth attach joins it. What is "
               "printed on it goes to --output too",
           .section = kSectionJob,
           .field = "/terminal"},
    Option{.name = "input",
           .letter = 'i',
           .argument = "FILE",
           .description = "File for the job's standard input",
           .fallback = "/dev/null",
           .section = kSectionJob,
           .field = "/standard_input",
           .completion = Completion::file},
    Option{.name = "output",
           .letter = 'o',
           .argument = "FILE",
           .description =
               "File for the job's standard output and, without --error, its standard error. Patterns: %j "
               "job id, %A the array's or else the job's id, %x job name, %u user, %% a per cent sign. "
               "Opened as "
               "the submitting user; folders are not made",
           .fallback = "berth-%j.out in the working directory; of an array berth-%A_%a.out",
           .section = kSectionJob,
           .field = "/standard_output",
           .completion = Completion::file},
    Option{.name = "error",
           .letter = 'e',
           .argument = "FILE",
           .description = "File for the job's standard error; patterns as for --output",
           .fallback = "with standard output",
           .section = kSectionJob,
           .field = "/standard_error",
           .completion = Completion::file},
};

constexpr std::array kMoreJobOptions{
    Option{
        .name = "nodes",
        .letter = 'N',
        .argument = "1",
        .description = "For scripts of sbatch: a job runs on this machine alone; another number is refused",
        .section = kSectionJob},
    Option{.name = "ntasks",
           .letter = 'n',
           .argument = "1",
           .description = "Likewise: a job is one task, which may have several CPUs (-c)",
           .section = kSectionJob},
    Option{.name = "ntasks-per-node", .argument = "1", .description = "Likewise", .section = kSectionJob},
    Option{.name = "open-mode",
           .argument = "MODE",
           .description = "How --output and --error open a file that exists: truncate or append",
           .fallback = "truncate",
           .section = kSectionJob,
           .field = "/open_mode",
           .completion = Completion::words,
           .words = "truncate append"},
    Option{.name = "account",
           .letter = 'A',
           .argument = "ACCOUNT",
           .description = "Account that the record is kept under",
           .section = kSectionJob,
           .field = "/account"},
    Option{.name = "comment",
           .argument = "TEXT",
           .description = "Free text kept with the record",
           .section = kSectionJob,
           .field = "/comment"},
    Option{.name = "priority",
           .argument = "N",
           .description = "Larger runs first among the jobs of this run",
           .fallback = "0",
           .section = kSectionJob,
           .field = "/priority"},
    Option{.name = "nice",
           .argument = "N",
           .description = "Lowers the priority by N; without a number by 100",
           .fallback = "0",
           .section = kSectionJob,
           .field = "/nice",
           .bare = "100"},

    Option{.name = "cpus-per-task",
           .letter = 'c',
           .argument = "N",
           .description = "Whole CPUs that the job has to itself",
           .fallback = "1",
           .section = kSectionLimits,
           .field = "/cpus_per_task"},
    Option{.name = "mem",
           .argument = "SIZE",
           .description =
               "Memory of the job (512M, 2GiB; a bare number is MiB, as in Slurm); more ends it as "
               "OUT_OF_MEMORY",
           .fallback = "the pool's memory shared out by CPUs",
           .section = kSectionLimits,
           .field = "/memory_per_node"},
    Option{.name = "mem-per-cpu",
           .argument = "SIZE",
           .description = "The same for each of its CPUs",
           .section = kSectionLimits,
           .field = "/memory_per_node"},
    Option{.name = "time",
           .letter = 't',
           .argument = "TIME",
           .description =
               "Wall time ([D-]HH:MM:SS, 90s, 10min; a bare number is minutes, as in Slurm); more ends it "
               "as TIMEOUT",
           .section = kSectionLimits,
           .field = "/time_limit"},
    Option{.name = "signal",
           .argument = "[B:]SIG[@SECONDS]",
           .description = "Sends a warning signal that long before the time limit; with B: to the job's main "
                          "process (the script) alone, not to all its processes",
           .fallback = "none; SECONDS 60",
           .section = kSectionLimits,
           .field = "/kill_warning",
           .completion = Completion::words,
           .words = "HUP INT USR1 USR2 TERM"},
    Option{.name = "grace",
           .argument = "TIME",
           .description =
               "Time between SIGTERM and the kill of everything that the job started (a bare number is "
               "seconds)",
           .fallback = "5s",
           .section = kSectionLimits,
           .field = "/grace_period"},
    Option{.name = "no-output-timeout",
           .argument = "TIME",
           .description = "Ends the job when it wrote nothing for this long (a bare number is seconds)",
           .section = kSectionLimits,
           .field = "/no_output_timeout"},
    Option{.name = "output-limit",
           .argument = "SIZE",
           .description = "Ends the job when it wrote more to standard output and error together",
           .section = kSectionLimits,
           .field = "/limits/output"},
    Option{.name = "cpu-time",
           .argument = "TIME",
           .description = "CPU time of all the job's processes together (a bare number is seconds)",
           .section = kSectionLimits,
           .field = "/limits/cpu_time"},
    Option{.name = "cpu-quota",
           .argument = "CPUS",
           .description = "CPUs' worth of time, for example 0.5",
           .section = kSectionLimits,
           .field = "/limits/cpu_quota"},
    Option{.name = "cpu-weight",
           .argument = "N",
           .description = "Share of contended CPU time, 1 to 10000",
           .fallback = "100",
           .section = kSectionLimits,
           .field = "/limits/cpu_weight"},
    Option{.name = "swap",
           .argument = "SIZE",
           .description = "Swap space beside --mem",
           .fallback = "0",
           .section = kSectionLimits,
           .field = "/limits/swap"},
    Option{.name = "memory-high",
           .argument = "SIZE",
           .description = "Memory beyond which the job is slowed down, not killed (cgroup v2)",
           .section = kSectionLimits,
           .field = "/limits/memory_high"},
    Option{.name = "oom-group",
           .description = "Running out of memory ends the whole job, not one process of it (cgroup v2)",
           .section = kSectionLimits,
           .field = "/limits/oom_group"},
    Option{.name = "pids",
           .argument = "N",
           .description = "Processes and threads at once",
           .fallback = "4096",
           .section = kSectionLimits,
           .field = "/limits/pids"},
    Option{.name = "tmpfs",
           .argument = "SIZE",
           .description = "Size of the private /tmp, /var/tmp, /run, /dev/shm and home together",
           .section = kSectionLimits,
           .field = "/limits/tmpfs"},
    Option{.name = "open-files",
           .argument = "N",
           .description = "Open descriptors of one process (RLIMIT_NOFILE)",
           .section = kSectionLimits,
           .field = "/limits/open_files"},
    Option{.name = "file-size",
           .argument = "SIZE",
           .description = "Largest file that a process may write (RLIMIT_FSIZE)",
           .section = kSectionLimits,
           .field = "/limits/file_size"},
    Option{.name = "core-size",
           .argument = "SIZE",
           .description = "Largest core dump (RLIMIT_CORE)",
           .fallback = "0",
           .section = kSectionLimits,
           .field = "/limits/core_size"},
    Option{.name = "stack-size",
           .argument = "SIZE",
           .description = "Stack of a process (RLIMIT_STACK)",
           .section = kSectionLimits,
           .field = "/limits/stack_size"},
    Option{.name = "locked-memory",
           .argument = "SIZE",
           .description = "Memory that a process may lock (RLIMIT_MEMLOCK)",
           .section = kSectionLimits,
           .field = "/limits/locked_memory"},
    Option{.name = "io",
           .argument = "DEVICE:KEY=VALUE,…",
           .description =
               "Bandwidth and operations per second of one block device: read_bps, write_bps, read_iops, "
               "write_iops",
           .section = kSectionLimits,
           .field = "/limits/io",
           .repeatable = true,
           .completion = Completion::file},
    Option{.name = "hugetlb",
           .argument = "PAGESIZE=SIZE",
           .description = "Huge pages of one page size, for example 2MB=64M",
           .section = kSectionLimits,
           .field = "/limits/hugetlb",
           .repeatable = true},
    Option{.name = "net-class",
           .argument = "ID",
           .description =
               "Class of the job's packets for tc(8) and iptables(8), a number or MAJOR:MINOR in hexadecimal "
               "(net_cls.classid)",
           .section = kSectionLimits,
           .field = "/limits/net_class"},

    Option{.name = "network",
           .argument = "MODE",
           .description =
               "private: an address of its own and NAT out as --egress permits; shared:NAME: that, and "
               "the caller's other jobs of this network by job name; loopback: nothing but a loopback "
               "of its own; none: not even that up; host: the host's own, where the administrator "
               "allows it",
           .fallback = "loopback",
           .section = kSectionIsolation,
           .field = "/isolation/network",
           .completion = Completion::words,
           .words = "none loopback private shared: host"},
    Option{.name = "egress",
           .argument = "POLICY",
           .description =
               "What the job may connect to: public, deny, allow, or a rule such as "
               "10.1.0.0/16:5432/tcp, [fd00::/8]:443, example.org:80,443 or *.example.org; with rules, "
               "what none of them names is denied. Needs --network private or shared:NAME",
           .fallback = "public",
           .section = kSectionIsolation,
           .field = "/isolation/egress",
           .repeatable = true,
           .completion = Completion::words,
           .words = "public deny allow"},
    Option{.name = "publish",
           .letter = 'p',
           .argument = "PORTS",
           .description = "Leads a port of the host to one of the job: [ADDRESS:]HOST_PORT:PORT[/tcp|/udp]; "
                          "HOST_PORT 0 takes a free one, told in berth show",
           .section = kSectionIsolation,
           .field = "/isolation/publish",
           .repeatable = true},
    Option{.name = "rate",
           .argument = "LIMIT",
           .description = "Bytes per second that may pass, in=SIZE,out=SIZE or one of them",
           .section = kSectionIsolation,
           .field = "/isolation/rate"},
    Option{.name = "dns",
           .argument = "ADDRESS",
           .description = "A name server that is asked for the job's queries",
           .fallback = "the host's",
           .section = kSectionIsolation,
           .field = "/isolation/dns",
           .repeatable = true},
    Option{.name = "dns-search",
           .argument = "DOMAIN",
           .description = "A domain for names without a dot",
           .section = kSectionIsolation,
           .field = "/isolation/dns/search",
           .repeatable = true},
    Option{.name = "add-host",
           .argument = "NAME:ADDRESS",
           .description = "A further line of the job's /etc/hosts",
           .section = kSectionIsolation,
           .field = "/isolation/dns/hosts",
           .repeatable = true},
    Option{.name = "mount",
           .argument = "MOUNT",
           .description = "Shows a host path inside, read-only unless it says rw: PATH[:INSIDE][:ro|:rw], or "
                          "type=bind,source=PATH,target=INSIDE[,rw], or type=tmpfs,target=INSIDE,size=SIZE",
           .section = kSectionIsolation,
           .field = "/isolation/mounts",
           .repeatable = true,
           .completion = Completion::file},
    Option{.name = "root",
           .argument = "DIR",
           .description = "Root directory of the job",
           .fallback = "the host's, read-only",
           .section = kSectionIsolation,
           .field = "/isolation/root",
           .completion = Completion::directory},
    Option{.name = "root-writable",
           .description = "Lets the job write in the directory that --root names",
           .section = kSectionIsolation,
           .field = "/isolation/root/writable"},
    Option{.name = "overlay",
           .description = "Lets the job write anywhere in its root and throws the writes away at its end",
           .section = kSectionIsolation,
           .field = "/isolation/overlay"},
    Option{.name = "user",
           .argument = "USER",
           .description = "Who the job runs as: a name, a uid or uid:gid",
           .fallback = "the invoking user",
           .section = kSectionIsolation,
           .field = "/isolation/user",
           .completion = Completion::users},
    Option{.name = "hostname",
           .argument = "NAME",
           .description = "Host name inside",
           .fallback = "the job's name",
           .section = kSectionIsolation,
           .field = "/isolation/hostname"},
    Option{.name = "device",
           .argument = "PATH",
           .description = "Lets the job use a further device node, for example /dev/fuse",
           .section = kSectionIsolation,
           .field = "/isolation/devices",
           .repeatable = true,
           .completion = Completion::file},
    Option{.name = "seccomp",
           .argument = "PROFILE",
           .description = "System-call filter: default or none",
           .fallback = "default",
           .section = kSectionIsolation,
           .field = "/isolation/seccomp",
           .completion = Completion::words,
           .words = "default none"},
    Option{.name = "time-offset",
           .argument = "CLOCK=SECONDS,…",
           .description = "Moves the job's monotonic or boottime clock (time_namespaces(7))",
           .section = kSectionIsolation,
           .field = "/isolation/time_offset"},
};

constexpr std::array kRunOwnOptions{
    Option{.name = "test-only",
           .description =
               "Runs and records nothing: checks the jobs as for a run, and says whether each would "
               "start now; with --json as JSON",
           .section = kSectionReport},
    Option{.name = "network-pool",
           .argument = "RANGES",
           .description =
               "IPv4 range of /8 to /24, IPv6 range of /48 in fd00::/8, or both with a comma, that private "
               "networks take their addresses from",
           .fallback = "network.pool of /etc/berth/berthd.json, or 198.18.0.0/15,fd62:6572:7468::/48",
           .section = kSectionPool},
    Option{.name = "slots",
           .argument = "N",
           .description = "Jobs at once, at most",
           .fallback = "as many as fit",
           .section = kSectionPool},
    Option{.name = "overlap",
           .argument = "WHEN",
           .description = "When jobs get CPUs that jobs of other berths on this machine have: never (they "
                          "wait in line), last (when there are no others), or always (whoever has them)",
           .fallback = "last; with --slots-partition never",
           .section = kSectionPool,
           .completion = Completion::words,
           .words = "never last always"},
    Option{.name = "cpus",
           .argument = "LIST",
           .description =
               "Numbers of the CPUs that jobs may be given, in the kernel's list format (0-3,8); how many "
               "one job gets is --cpus-per-task",
           .fallback = "all that berth itself may use",
           .section = kSectionPool},
    Option{.name = "memory",
           .argument = "SIZE",
           .description =
               "Memory that all jobs together may be promised (a bare number is MiB); one job's is --mem",
           .fallback = "the machine's",
           .section = kSectionPool},
    Option{.name = "slots-smt",
           .argument = "SHARING",
           .description =
               "Whether two jobs may have hardware threads of one core: shared, or exclusive, which "
               "rounds each job's CPUs up to whole cores",
           .fallback = "shared",
           .section = kSectionPool,
           .completion = Completion::words,
           .words = "shared exclusive"},
    Option{.name = "slots-partition",
           .argument = "KIND",
           .description =
               "Make the CPUs of each job a cpuset partition of its own, root or isolated (without load "
               "balancing): nothing else of the machine runs there. Needs cgroup v2 and a CPU outside "
               "the pool; else plain cpusets are used, with a warning",
           .fallback = "none",
           .section = kSectionPool,
           .completion = Completion::words,
           .words = "none root isolated"},

    Option{
        .name = "result",
        .argument = "FILE",
        .description = "Writes the accounting record as JSON: one object for one job, an array for several",
        .section = kSectionReport,
        .completion = Completion::file},
    Option{.name = "json",
           .description =
               "Prints the accounting record as JSON on standard output at the end, in place of the usage "
               "table; the job's own output then goes to standard error",
           .section = kSectionReport},
    Option{.name = "no-prefix",
           .description = "With several jobs: leaves the job's name off its output lines",
           .section = kSectionReport},
    Option{.name = "progress",
           .argument = "WHEN",
           .description = "Progress of several jobs: auto, live (lines rewritten in place), plain or none",
           .fallback = "auto: live on a terminal, else plain",
           .section = kSectionReport,
           .completion = Completion::words,
           .words = "auto live plain none"},
};

constexpr auto kRunOptions = join(kJobOptions, kRunStreamOptions, kMoreJobOptions, kRunOwnOptions);

constexpr std::array kRunUsage{"run [OPTION…] -- COMMAND [ARGUMENT…]"sv, "run [OPTION…] JOB.json…"sv,
                               "run [OPTION…] SCRIPT [ARGUMENT…]"sv};
constexpr std::array kRunDescription{
    "Runs jobs to their end, each in its own namespaces and cgroups and under its limits, without a daemon; "
    "records "
    "them in the database; prints what they used; and exits as the job did."sv,
    "A job is a command after \"--\", a script that begins with #!, or the jobs of one or more JSON files "
    "(\"-\" is "
    "standard input). Options describe the job of the first two forms, and a script's lines \"#SBATCH "
    "OPTION…\" "
    "do, where the command line does not say otherwise. What follows a script's name are the script's "
    "arguments. With JSON files only the options of the pool "
    "and of output and results are taken: a job file says itself what its jobs are."sv,
    "Jobs start in order of priority and then as they were given, as many at once as the pool has CPUs and "
    "memory "
    "for. A job that can never fit, or that asks for what this machine cannot enforce, is refused before "
    "anything "
    "runs."sv,
    "The output of one job is passed on byte for byte. With several jobs each complete line is prefixed with "
    "the "
    "job's name. A job whose output nobody reads any more gets SIGPIPE when it writes."sv,
    "Ctrl-C, SIGTERM and SIGHUP cancel: SIGTERM to each job, its grace period, then a kill of everything "
    "that it "
    "started. A second one, or SIGQUIT, kills at once."sv,
};
constexpr std::array kRunExamples{
    Example{"berth run -- make -j2 test",
            "Runs a command as its own job, in this directory, and exits as it did."},
    Example{"berth run -c 2 --mem 2G -t 10 --network none -- ./tests.sh",
            "Two CPUs, 2 GiB, ten minutes, and no network."},
    Example{"berth run --pty -c 2 -- bash", "A shell inside, on a terminal of its own."},
    Example{"berth run --overlay -- sh -c 'echo 127.0.0.1 db >> /etc/hosts.new; ls /etc'",
            "Writes go to a layer that is thrown away."},
    Example{"berth run --mount /srv/data:/data --result record.json -- ./train --data /data",
            "A host folder inside, read-only, and the structured record in a file."},
    Example{"berth run --slots 4 nightly.json", "The jobs of a file, at most four at once."},
    Example{"berth run --test-only nightly.json",
            "Whether this machine takes them, and which would start now."},
    Example{"generate-jobs | berth run -", "Jobs from standard input."},
};
constexpr std::array kRunSeeAlso{"berth-check(1)"sv, "berth-show(1)"sv, "berth-history(1)"sv,
                                 "berth-doctor(1)"sv};
constexpr CommandSpec kRun{.name = "run",
                           .summary = "Run jobs to their end and exit as they did",
                           .usage = kRunUsage,
                           .description = kRunDescription,
                           .options = kRunOptions,
                           .operands = {"FILE", false, true, Completion::file},
                           .takes_command = true,
                           .takes_script = true,
                           .takes_database = true,
                           .examples = kRunExamples,
                           .see_also = kRunSeeAlso,
                           .usage_status = 125};

// -- check ----------------------------------------------------------------------------------------------

constexpr std::array kCheckOptions{
    Option{.name = "schema", .description = "Prints the JSON Schema of job files (draft 7) and exits"},
};
constexpr std::array kCheckUsage{"check FILE…"sv, "check --schema"sv};
constexpr std::array kCheckDescription{
    "Validates job files and scripts (as berth submit takes them) without running anything and prints every "
    "fault of every file, one line each: file, JSON pointer, what is wrong, and what to do."sv,
    "Exits with 0 when all files are valid and with 1 otherwise."sv,
};
constexpr std::array kCheckExamples{
    Example{"berth check nightly.json", "Prints \"nightly.json: ok, 3 jobs\", or what is wrong."},
    Example{"generate-jobs | berth check -", "Validates standard input."},
    Example{"berth check --schema > job.schema.json", "The schema, for editors and other tools."},
};
constexpr std::array kCheckSeeAlso{"berth-run(1)"sv};
constexpr CommandSpec kCheck{.name = "check",
                             .summary = "Validate job files and scripts without running them",
                             .usage = kCheckUsage,
                             .description = kCheckDescription,
                             .options = kCheckOptions,
                             .operands = {"FILE", false, true, Completion::file},
                             .examples = kCheckExamples,
                             .see_also = kCheckSeeAlso};

// -- history --------------------------------------------------------------------------------------------

constexpr auto kSectionFilter = "Which jobs"sv;
constexpr auto kSectionFormat = "How they are printed"sv;

constexpr std::array kHistoryOptions{
    Option{.name = "starttime",
           .letter = 'S',
           .argument = "WHEN",
           .description =
               "Jobs in any state after this instant: 2026-11-23, 2026-11-23T17:00, 17:30, today, now-1hour",
           .fallback = "jobs of any age",
           .section = kSectionFilter},
    Option{.name = "endtime",
           .letter = 'E',
           .argument = "WHEN",
           .description = "Jobs in any state before this instant",
           .fallback = "now",
           .section = kSectionFilter},
    Option{.name = "user",
           .letter = 'u',
           .argument = "LIST",
           .description = "Jobs that these users submitted",
           .section = kSectionFilter,
           .repeatable = true,
           .completion = Completion::users},
    Option{.name = "state",
           .letter = 's',
           .argument = "LIST",
           .description = "Jobs in these states, by name or two-letter code (FAILED, TO)",
           .section = kSectionFilter,
           .repeatable = true,
           .completion = Completion::states},
    Option{.name = "accounts",
           .letter = 'A',
           .argument = "LIST",
           .description = "Jobs of these accounts",
           .section = kSectionFilter,
           .repeatable = true},
    Option{.name = "name",
           .argument = "LIST",
           .description = "Jobs of these names",
           .section = kSectionFilter,
           .repeatable = true},
    Option{.name = "jobs",
           .letter = 'j',
           .argument = "LIST",
           .description = "These job ids, 36-40 for five; the same as naming them without an option",
           .section = kSectionFilter,
           .repeatable = true,
           .completion = Completion::jobs},
    Option{.name = "last", .argument = "N", .description = "Only the newest N", .section = kSectionFilter},
    Option{.name = "allocations",
           .letter = 'X',
           .description = "For scripts of sacct: jobs have no steps, so that none are listed anyhow",
           .section = kSectionFilter},
    Option{.name = "allusers",
           .letter = 'a',
           .description = "Likewise: all jobs that one may see are listed anyhow",
           .section = kSectionFilter},
    Option{.name = "duplicates",
           .letter = 'D',
           .description = "Likewise: every attempt of a job is listed anyhow",
           .section = kSectionFilter},
    Option{
        .name = "format",
        .letter = 'o',
        .argument = "LIST",
        .description =
            "Columns, each optionally with a width (JobName%20, a negative width aligns left); --helpformat "
            "lists them",
        .section = kSectionFormat,
        .completion = Completion::columns},
    Option{.name = "long", .letter = 'l', .description = "Prints every column", .section = kSectionFormat},
    Option{
        .name = "noheader", .letter = 'n', .description = "Leaves the header out", .section = kSectionFormat},
    Option{.name = "parsable2",
           .letter = 'P',
           .description = "Columns separated by |, full width",
           .section = kSectionFormat},
    Option{.name = "parsable",
           .letter = 'p',
           .description = "As -P, with a | at the end of each line too",
           .section = kSectionFormat},
    Option{.name = "delimiter",
           .argument = "TEXT",
           .description = "Separator for -P and -p",
           .fallback = "|",
           .section = kSectionFormat},
    Option{.name = "json",
           .description = "Prints the complete records as JSON: {\"jobs\":[…]}",
           .section = kSectionFormat},
    Option{.name = "helpformat", .description = "Lists the columns and exits", .section = kSectionFormat},
};
constexpr std::array kHistoryUsage{"history [OPTION…] [JOBID…]"sv};
constexpr std::array kHistoryDescription{
    "Lists jobs from the database with sacct's columns: every attempt that was made, how it ended and what "
    "it used. "
    "The newest comes last."sv,
    "A counter that the kernel did not offer is printed as nothing, never as 0."sv,
};
constexpr std::array kHistoryExamples{
    Example{"berth history -S today", "Today's jobs."},
    Example{"berth history -S now-7days -s FAILED,OUT_OF_MEMORY", "What failed in the last week."},
    Example{"berth history -n -P -o JobID,State,MaxRSS", "For scripts."},
    Example{"berth history --last 1 --json", "The newest job's complete record."},
};
constexpr std::array kHistorySeeAlso{"berth-show(1)"sv, "berth-efficiency(1)"sv};
constexpr CommandSpec kHistory{.name = "history",
                               .summary = "List jobs with what they used",
                               .usage = kHistoryUsage,
                               .description = kHistoryDescription,
                               .options = kHistoryOptions,
                               .operands = {"JOBID", false, true, Completion::jobs, "", true},
                               .takes_database = true,
                               .examples = kHistoryExamples,
                               .see_also = kHistorySeeAlso};

// -- report ----------------------------------------------------------------------------------------------

constexpr std::array kReportOptions{
    Option{.name = "by",
           .argument = "KEY",
           .description = "One row for each user, account, name (of a job) or day (on which jobs ended)",
           .fallback = "user",
           .section = kSectionFilter,
           .completion = Completion::words,
           .words = "user account name day"},
    Option{.name = "starttime",
           .letter = 'S',
           .argument = "WHEN",
           .description = "What ended at this instant or later: 2026-11-01, today, now-7days",
           .fallback = "all",
           .section = kSectionFilter},
    Option{.name = "endtime",
           .letter = 'E',
           .argument = "WHEN",
           .description = "What ended before this instant",
           .fallback = "now",
           .section = kSectionFilter},
    Option{.name = "user",
           .letter = 'u',
           .argument = "LIST",
           .description = "Of these users alone",
           .section = kSectionFilter,
           .repeatable = true,
           .completion = Completion::users},
    Option{.name = "accounts",
           .letter = 'A',
           .argument = "LIST",
           .description = "Of these accounts alone",
           .section = kSectionFilter,
           .repeatable = true},
    Option{.name = "format",
           .letter = 'o',
           .argument = "LIST",
           .description = "Columns, each optionally with a width (Jobs%12); --helpformat lists them",
           .section = kSectionFormat,
           .completion = Completion::columns,
           .words = "Key Jobs Attempts Completed Failed Timeout OutOfMemory Cancelled NodeFail Other Elapsed "
                    "CPUTime TotalCPU CPUEff MemGiBh OOMKills MaxElapsed MaxRSS"},
    Option{
        .name = "noheader", .letter = 'n', .description = "Leaves the header out", .section = kSectionFormat},
    Option{.name = "parsable2",
           .letter = 'P',
           .description = "Columns separated by |, full width",
           .section = kSectionFormat},
    Option{.name = "parsable",
           .letter = 'p',
           .description = "As -P, with a | at the end of each line too",
           .section = kSectionFormat},
    Option{.name = "delimiter",
           .argument = "TEXT",
           .description = "Separator for -P and -p",
           .fallback = "|",
           .section = kSectionFormat},
    Option{.name = "json", .description = "Prints the sums as JSON", .section = kSectionFormat},
    Option{.name = "helpformat", .description = "Lists the columns and exits", .section = kSectionFormat},
};
constexpr std::array kReportUsage{"report [--by KEY] [OPTION…]"sv};
constexpr std::array kReportDescription{
    "Sums up what jobs used and how they ended, by user, account, job name or day: jobs, attempts by state, "
    "wall "
    "time, CPU time that was granted and used, memory times hours; and the longest wall time and the highest "
    "memory of an attempt, by which the next one's limits can be chosen. An attempt counts whole, at the "
    "instant "
    "of its "
    "end; what still runs is not in it. Users get their own jobs, administrators everybody's."sv,
};
constexpr std::array kReportExamples{
    Example{"berth report -S now-30days", "Who used how much in the last thirty days?"},
    Example{"berth report --by day -S now-7days -o Day,Jobs,Failed,TotalCPU", "A week, day by day."},
    Example{"berth report --by name -o JobName%20,Jobs,MaxElapsed,MaxRSS,Timeout,OutOfMemory",
            "What -t and --mem do jobs of each name need?"},
    Example{"berth report --by account -S 2026-11-01 -E 2026-12-01 -P", "A month's bill, for a spreadsheet."},
};
constexpr std::array kReportSeeAlso{"berth-history(1)"sv, "berth-efficiency(1)"sv};
constexpr CommandSpec kReport{.name = "report",
                              .summary = "Sum up what jobs used, by user, account, name or day",
                              .usage = kReportUsage,
                              .description = kReportDescription,
                              .options = kReportOptions,
                              .operands = {},
                              .takes_database = true,
                              .examples = kReportExamples,
                              .see_also = kReportSeeAlso};

// -- show -----------------------------------------------------------------------------------------------

constexpr std::array kShowOptions{
    Option{.name = "json",
           .description = "Prints the complete records (one per attempt) and events as JSON: "
                          "{\"jobs\":[…],\"events\":[…]}"},
};
constexpr std::array kShowUsage{"show [--json] JOBID…"sv};
constexpr std::array kShowDescription{
    "Prints everything that is known about a job: what was asked for, what was granted, how each attempt "
    "ended and "
    "why, what it used, and its events in order."sv,
};
constexpr std::array kShowExamples{
    Example{"berth show 36", "Why did job 36 end, and what did it use?"},
    Example{"berth show --json 36 | jq '.jobs[].outcome'", "The verdict alone, for a program."},
};
constexpr std::array kShowSeeAlso{"berth-history(1)"sv, "berth-efficiency(1)"sv};
constexpr CommandSpec kShow{.name = "show",
                            .summary = "Show everything about a job",
                            .usage = kShowUsage,
                            .description = kShowDescription,
                            .options = kShowOptions,
                            .operands = {"JOBID", true, true, Completion::jobs, "", true},
                            .takes_database = true,
                            .examples = kShowExamples,
                            .see_also = kShowSeeAlso};

// -- efficiency -----------------------------------------------------------------------------------------

constexpr std::array kEfficiencyOptions{
    Option{.name = "json", .description = "Prints the figures as JSON"},
};
constexpr std::array kEfficiencyUsage{"efficiency [--json] JOBID…"sv};
constexpr std::array kEfficiencyDescription{
    "Sets what a job used against what it was granted, with seff's formulas: CPU time against CPUs times "
    "wall time, "
    "and peak memory against the memory limit."sv,
};
constexpr std::array kEfficiencyExamples{
    Example{"berth efficiency 36", "Did job 36 need the CPUs and the memory that it had?"},
};
constexpr std::array kEfficiencySeeAlso{"berth-show(1)"sv, "berth-history(1)"sv};
constexpr CommandSpec kEfficiency{
    .name = "efficiency",
    .summary = "Set what a job used against what it was granted",
    .usage = kEfficiencyUsage,
    .description = kEfficiencyDescription,
    .options = kEfficiencyOptions,
    .operands = {"JOBID", true, true, Completion::jobs, "RUNNING,SUSPENDED", true},
    .takes_database = true,
    .examples = kEfficiencyExamples,
    .see_also = kEfficiencySeeAlso};

// -- doctor ---------------------------------------------------------------------------------------------

constexpr std::array kDoctorOptions{
    Option{.name = "json", .description = "Prints the findings as a JSON array"},
};
constexpr std::array kDoctorUsage{"doctor [--json]"sv};
constexpr std::array kDoctorDescription{
    "Tells what this machine offers to jobs, each found by trying or reading it: every namespace, every "
    "controller and "
    "its version, swap accounting, pressure figures, delegation, subordinate ids; with a remedy for each "
    "lack. Nothing "
    "is changed and nothing is left behind."sv,
    "Exits with 0 when jobs can be run here, with 1 when something that every job needs is missing. A limit "
    "that cannot be enforced here is limited: jobs that ask for it are refused."sv,
};
constexpr std::array kDoctorExamples{
    Example{"berth doctor", "What works here, and what to do about the rest."},
    Example{"berth doctor --json | jq '.[] | select(.level != \"ok\")'", "Only what is limited or missing."},
};
constexpr std::array kDoctorSeeAlso{"berth-run(1)"sv};
constexpr CommandSpec kDoctor{.name = "doctor",
                              .summary = "Tell what this machine offers to jobs",
                              .usage = kDoctorUsage,
                              .description = kDoctorDescription,
                              .options = kDoctorOptions,
                              .operands = {},
                              .examples = kDoctorExamples,
                              .see_also = kDoctorSeeAlso};

// -- berthd's jobs ---------------------------------------------------------------------------------------

constexpr auto kSectionSubmit = "Submitting"sv;

constexpr auto kSectionQueue = "In the queue"sv;

constexpr std::array kQueueingOptions{
    Option{.name = "array",
           .letter = 'a',
           .argument = "LIST",
           .description =
               "Runs a task for each index (0-15, 1,3,5-7, 0-20:4), with %N at most N at once. Tasks find "
               "theirs in SLURM_ARRAY_TASK_ID",
           .section = kSectionQueue,
           .field = "/array"},
    Option{.name = "begin",
           .letter = 'b',
           .argument = "WHEN",
           .description = "Not before this instant: 2026-11-24T06:00, 17:30, tomorrow, now+2hours",
           .section = kSectionQueue,
           .field = "/begin_time"},
    Option{.name = "deadline",
           .argument = "WHEN",
           .description = "Ends as DEADLINE when it could not have ended by then",
           .section = kSectionQueue,
           .field = "/deadline"},
    Option{.name = "dependency",
           .letter = 'd',
           .argument = "LIST",
           .description =
               "Waits for other jobs: afterok:12:13,afterany:14 (all of them), with ? in place of , (any); "
               "after, afterany, afterok, afternotok, singleton",
           .section = kSectionQueue,
           .field = "/dependency"},
    Option{.name = "hold",
           .letter = 'H',
           .description = "Waits until berth release",
           .section = kSectionQueue,
           .field = "/hold"},
    Option{.name = "requeue",
           .description = "Runs again after NODE_FAIL",
           .section = kSectionQueue,
           .field = "/requeue"},
    Option{.name = "no-requeue",
           .description = "Does not, which is the default; against a script's #SBATCH --requeue",
           .section = kSectionQueue},
    Option{.name = "exclusive",
           .description = "Takes all CPUs of the pool, so that no other job runs beside it",
           .section = kSectionQueue,
           .field = "/cpus_per_task"},
    Option{.name = "retry",
           .argument = "N",
           .description = "Runs again after a failure, at most N times; a job file's retry says more",
           .section = kSectionQueue,
           .field = "/retry"},
    Option{.name = "retry-backoff",
           .argument = "TIME",
           .description =
               "Time before the next attempt, doubled with each, up to seven days (a bare number is seconds)",
           .section = kSectionQueue,
           .field = "/retry/backoff"},
    Option{.name = "memory-factor",
           .argument = "FACTOR",
           .description = "With --retry: multiplies the memory after OUT_OF_MEMORY",
           .section = kSectionQueue,
           .field = "/retry/memory_factor"},
};

constexpr std::array kSubmitOwnOptions{
    Option{.name = "wrap",
           .argument = "COMMAND",
           .description = "Runs a command line with sh -c, as sbatch's --wrap",
           .section = kSectionSubmit},
    Option{.name = "parsable", .description = "Prints job ids alone, one a line", .section = kSectionSubmit},
    Option{.name = "test-only",
           .description = "Submits nothing: checks the jobs, and says when each would start at the latest",
           .section = kSectionSubmit},
    Option{.name = "wait",
           .letter = 'W',
           .description = "Waits until the jobs have ended and exits as the first that did not complete; "
                          "of an array with the highest status of its tasks",
           .section = kSectionSubmit},
};
constexpr auto kSubmitOptions =
    join(kJobOptions, kSubmitStreamOptions, kMoreJobOptions, kQueueingOptions, kSubmitOwnOptions);
constexpr std::array kSubmitUsage{"submit [OPTION…] -- COMMAND [ARGUMENT…]"sv, "submit [OPTION…] JOB.json…"sv,
                                  "submit [OPTION…] SCRIPT [ARGUMENT…]"sv,
                                  "submit [OPTION…] --wrap COMMAND"sv};
constexpr std::array kSubmitDescription{
    "Hands jobs to berthd, prints their ids and returns at once. When it has returned the jobs are on the "
    "disk: "
    "neither a crash nor a power cut loses them."sv,
    "A job runs as the user who submits it. Its output goes to a file, berth-JOBID.out in its working "
    "directory "
    "unless options or the job file name another; berth logs prints it. A root without a job file's "
    "isolation.user runs as an id that owns nothing."sv,
    "A script's lines \"#SBATCH OPTION…\", before its first command, are options too; those of the command "
    "line, which come before the script's name, override them: what follows it are the script's arguments. "
    "Without a file and without a command the script or job file is read from standard "
    "input, as it is for \"-\", unless that is a terminal."sv,
    "A job that can never fit, or that asks for what this machine cannot enforce, is refused at once, and "
    "with "
    "it all jobs of the same command."sv,
};
constexpr std::array kSubmitExamples{
    Example{"berth submit -c 2 --mem 2G -t 1h -- make -j2 test", "Prints \"Submitted batch job 36\"."},
    Example{"berth submit nightly.json", "The jobs of a file: all are taken, or none."},
    Example{"id=$(berth submit --parsable --wrap 'sort big | uniq -c > counts')", "For scripts."},
    Example{"berth submit --pty -- bash", "A terminal that waits for its turn; berth attach joins it."},
    Example{"berth submit --wait -- ./tests.sh", "Waits for its turn and its end, and exits as it did."},
};
constexpr std::array kSubmitSeeAlso{"berth-queue(1)"sv, "berth-logs(1)"sv, "berth-wait(1)"sv,
                                    "berth-run(1)"sv};
constexpr CommandSpec kSubmit{.name = "submit",
                              .summary = "Hand jobs to berthd",
                              .usage = kSubmitUsage,
                              .description = kSubmitDescription,
                              .options = kSubmitOptions,
                              .operands = {"FILE", false, true, Completion::file},
                              .takes_command = true,
                              .takes_script = true,
                              .examples = kSubmitExamples,
                              .see_also = kSubmitSeeAlso,
                              .usage_status = 125};

constexpr std::array kQueueOptions{
    Option{.name = "user",
           .letter = 'u',
           .argument = "LIST",
           .description = "Jobs of these users, by name or number (administrators; others see their own)",
           .repeatable = true,
           .completion = Completion::users},
    Option{.name = "me", .description = "One's own jobs, for administrators"},
    Option{.name = "state",
           .letter = 't',
           .argument = "LIST",
           .description = "Jobs in these states; all: in any",
           .fallback = "all that are not over",
           .repeatable = true,
           .completion = Completion::states},
    Option{.name = "jobs",
           .letter = 'j',
           .argument = "LIST",
           .description = "These jobs, 36-40 for five; of an array its tasks too",
           .repeatable = true,
           .completion = Completion::jobs},
    Option{.name = "name", .argument = "LIST", .description = "Jobs of these names", .repeatable = true},
    Option{.name = "account",
           .letter = 'A',
           .argument = "LIST",
           .description = "Jobs of these accounts",
           .repeatable = true},
    Option{.name = "limit", .argument = "N", .description = "At most this many jobs", .fallback = "10000"},
    Option{
        .name = "format",
        .letter = 'o',
        .argument = "LIST",
        .description =
            "Columns, each optionally with a width (JobName%20): JobID, JobName, User, State, Time, CPUs, "
            "Memory, Place; JobIDRaw, UID, Account, Attempt, Priority, Reason, Slot, Submit, Start, EndTime "
            "(when its time limit is over, or it has ended), TimeLimit and TimeLeft (of jobs that run), "
            "Begin, "
            "Deadline, Dependency",
        .fallback = "the first eight",
        .completion = Completion::columns,
        .words =
            "JobID JobName User State Time CPUs Memory Place JobIDRaw UID Account Attempt Priority Reason "
            "Slot Submit Start EndTime TimeLimit TimeLeft Begin Deadline Dependency"},
    Option{.name = "noheader", .letter = 'n', .description = "Leaves the header out"},
    Option{.name = "parsable2", .letter = 'P', .description = "Columns separated by |, full width"},
    Option{.name = "delimiter", .argument = "TEXT", .description = "Separator for -P", .fallback = "|"},
    Option{.name = "json", .description = "Prints the jobs as JSON: {\"jobs\":[…],\"truncated\":false}"},
};
constexpr std::array kQueueUsage{"queue [OPTION…]"sv};
constexpr std::array kQueueDescription{
    "Lists berthd's jobs that wait or run, oldest first, with squeue's columns. The last column says where a "
    "job runs or, in parentheses, why it waits: Resources (it is next, and waits for CPUs, memory or a "
    "slot), "
    "Priority (others come first), JobHeldUser, JobHeldAdmin, NodeDown (berthd is drained) and so on."sv,
};
constexpr std::array kQueueExamples{
    Example{"berth queue", "Your jobs; as an administrator everybody's."},
    Example{"berth queue -t PD", "Only those that wait."},
    Example{"berth queue -t R -o JobID,JobName%20,TimeLeft,EndTime", "How long what runs may go on."},
};
constexpr std::array kQueueSeeAlso{"berth-submit(1)"sv, "berth-history(1)"sv};
constexpr CommandSpec kQueue{.name = "queue",
                             .summary = "List the jobs that wait or run",
                             .usage = kQueueUsage,
                             .description = kQueueDescription,
                             .options = kQueueOptions,
                             .operands = {},
                             .examples = kQueueExamples,
                             .see_also = kQueueSeeAlso};

constexpr std::array kCancelOptions{
    Option{.name = "now", .description = "Kills at once, without SIGTERM and the grace period"},
    Option{
        .name = "user",
        .letter = 'u',
        .argument = "LIST",
        .description = "Jobs of these users, by name or number (administrators; others have their own alone)",
        .repeatable = true,
        .completion = Completion::users},
    Option{.name = "me", .description = "One's own jobs"},
    Option{.name = "name",
           .letter = 'n',
           .argument = "LIST",
           .description = "Jobs of these names",
           .repeatable = true},
    Option{.name = "account",
           .letter = 'A',
           .argument = "LIST",
           .description = "Jobs of these accounts",
           .repeatable = true},
    Option{.name = "state",
           .letter = 't',
           .argument = "LIST",
           .description = "Jobs in these states, such as PENDING",
           .repeatable = true,
           .completion = Completion::states},
    Option{.name = "signal",
           .letter = 's',
           .argument = "SIGNAL",
           .description = "Ends nothing, but sends a signal to those that run, as berth signal does",
           .completion = Completion::words,
           .words = "HUP INT USR1 USR2 TERM"},
    Option{.name = "batch",
           .letter = 'b',
           .description = "With --signal: to each job's main process (the script) alone"},
};
constexpr std::array kCancelUsage{"cancel [--now] JOBID…"sv, "cancel [--now] SELECTION… [JOBID…]"sv,
                                  "cancel --signal SIGNAL [--batch] [SELECTION…] [JOBID…]"sv};
constexpr std::array kCancelDescription{
    "JOBID is a job's number, 36_4 for task 4 of array 36, 36_[1-3,7] for several, 36 for the whole array, "
    "or "
    "36-40 for five jobs. Options that select end every job, of those that are named, that fits all of them; "
    "of an array, each task by its own state."sv,
    "Ends jobs: one that waits never starts; one that runs gets SIGTERM and, after its grace period, a kill "
    "of "
    "everything that it started. Both end as CANCELLED."sv,
};
constexpr std::array kCancelExamples{
    Example{"berth cancel 36 37", "Returns when it is under way; berth wait waits for the end."},
    Example{"berth cancel '36_[4-9]'", "Some tasks of an array; the others go on."},
    Example{"berth cancel --me --state PENDING", "What has not started."}};
constexpr std::array kCancelSeeAlso{"berth-wait(1)"sv, "berth-signal(1)"sv};
constexpr CommandSpec kCancel{.name = "cancel",
                              .summary = "End jobs",
                              .usage = kCancelUsage,
                              .description = kCancelDescription,
                              .options = kCancelOptions,
                              .operands = {"JOBID", false, true, Completion::jobs},
                              .examples = kCancelExamples,
                              .see_also = kCancelSeeAlso};

constexpr std::array kWaitOptions{
    Option{.name = "timeout",
           .argument = "TIME",
           .description =
               "Waits no longer, and exits with 124 when a job is not over then; jobs go on (a bare number "
               "is seconds)",
           .fallback = "as long as it takes"},
    Option{.name = "json", .description = "Prints how each ended, one JSON object a line"},
};
constexpr std::array kWaitUsage{"wait [--timeout TIME] [--json] JOBID…"sv};
constexpr std::array kWaitDescription{
    "Waits until jobs have ended and exits as the first of them that did not "
    "complete: "
    "with its own status, 124 after a time limit, 128 + n after signal n, 125 when it could not be started. "
    "An "
    "array has the highest status of its tasks."sv,
};
constexpr std::array kWaitExamples{
    Example{"berth wait 36 && deploy", "Goes on when job 36 has completed."},
    Example{"berth wait --timeout 10min 36", "Gives up after ten minutes; the job goes on."},
};
constexpr std::array kWaitSeeAlso{"berth-submit(1)"sv, "berth-logs(1)"sv};
constexpr CommandSpec kWait{.name = "wait",
                            .summary = "Wait for the end of jobs",
                            .usage = kWaitUsage,
                            .description = kWaitDescription,
                            .options = kWaitOptions,
                            .operands = {"JOBID", true, true, Completion::jobs},
                            .examples = kWaitExamples,
                            .see_also = kWaitSeeAlso,
                            .usage_status = 125};

constexpr std::array kLogsOptions{
    Option{.name = "follow", .letter = 'f', .description = "Goes on until the job is over"},
    Option{.name = "error", .letter = 'e', .description = "Standard error, where it has a file of its own"},
    Option{.name = "offset",
           .argument = "BYTES",
           .description =
               "Begins there; with -f at the beginning of a file that is shorter, as it was truncated",
           .fallback = "0"},
};
constexpr std::array kLogsUsage{"logs [-f] [-e] JOBID"sv};
constexpr std::array kLogsDescription{
    "Prints what a job has written, byte for byte, from its output file, which is read with your rights."sv,
};
constexpr std::array kLogsExamples{
    Example{"berth logs -f 36", "Everything so far, and what comes, to its end."}};
constexpr std::array kLogsSeeAlso{"berth-show(1)"sv, "berth-wait(1)"sv};
constexpr CommandSpec kLogs{.name = "logs",
                            .summary = "Print a job's output",
                            .usage = kLogsUsage,
                            .description = kLogsDescription,
                            .options = kLogsOptions,
                            .operands = {"JOBID", true, false, Completion::jobs, "RUNNING,SUSPENDED", true},
                            .examples = kLogsExamples,
                            .see_also = kLogsSeeAlso};

constexpr std::array kControlSeeAlso{"berth-queue(1)"sv, "berth-show(1)"sv};

constexpr std::array kHoldUsage{"hold JOBID…"sv};
constexpr std::array kHoldDescription{
    "Keeps jobs that wait from starting until they are released. What an administrator holds of somebody "
    "else's, "
    "only an administrator releases."sv};
constexpr std::array kHoldExamples{Example{"berth hold 36", "It shows as (JobHeldUser)."}};
constexpr CommandSpec kHold{.name = "hold",
                            .summary = "Keep waiting jobs from starting",
                            .usage = kHoldUsage,
                            .description = kHoldDescription,
                            .options = {},
                            .operands = {"JOBID", true, true, Completion::jobs, "PENDING"},
                            .examples = kHoldExamples,
                            .see_also = kControlSeeAlso};

constexpr std::array kReleaseUsage{"release JOBID…"sv};
constexpr std::array kReleaseDescription{"Lets jobs that are held start."sv};
constexpr std::array kReleaseExamples{
    Example{"berth release 36", "It takes its place by priority and age again."}};
constexpr CommandSpec kRelease{.name = "release",
                               .summary = "Let held jobs start",
                               .usage = kReleaseUsage,
                               .description = kReleaseDescription,
                               .options = {},
                               .operands = {"JOBID", true, true, Completion::jobs, "PENDING"},
                               .examples = kReleaseExamples,
                               .see_also = kControlSeeAlso};

constexpr std::array kRequeueUsage{"requeue JOBID…"sv};
constexpr std::array kRequeueDescription{
    "Puts jobs back into the queue under their ids. One that runs is ended first, as PREEMPTED; one that has "
    "ended "
    "waits again. The new attempt appends to the job's output file, and has a record of its own."sv};
constexpr std::array kRequeueExamples{Example{"berth requeue 36", "Runs job 36 again."}};
constexpr CommandSpec kRequeue{.name = "requeue",
                               .summary = "Run jobs again",
                               .usage = kRequeueUsage,
                               .description = kRequeueDescription,
                               .options = {},
                               .operands = {"JOBID", true, true, Completion::jobs, "RUNNING,SUSPENDED", true},
                               .examples = kRequeueExamples,
                               .see_also = kControlSeeAlso};

constexpr std::array kSuspendUsage{"suspend JOBID…"sv};
constexpr std::array kSuspendDescription{
    "Freezes every process of running jobs. They keep their CPUs and memory; the time does not count against "
    "their time limits."sv};
constexpr std::array kSuspendExamples{Example{"berth suspend 36", "Until berth resume 36."}};
constexpr CommandSpec kSuspend{.name = "suspend",
                               .summary = "Freeze running jobs",
                               .usage = kSuspendUsage,
                               .description = kSuspendDescription,
                               .options = {},
                               .operands = {"JOBID", true, true, Completion::jobs, "RUNNING"},
                               .examples = kSuspendExamples,
                               .see_also = kControlSeeAlso};

constexpr std::array kResumeUsage{"resume JOBID…"sv};
constexpr std::array kResumeDescription{"Lets suspended jobs go on."sv};
constexpr std::array kResumeExamples{Example{"berth resume 36", "It goes on where it was."}};
constexpr CommandSpec kResume{.name = "resume",
                              .summary = "Let suspended jobs go on",
                              .usage = kResumeUsage,
                              .description = kResumeDescription,
                              .options = {},
                              .operands = {"JOBID", true, true, Completion::jobs, "SUSPENDED"},
                              .examples = kResumeExamples,
                              .see_also = kControlSeeAlso};

constexpr std::array kSignalOptions{
    Option{.name = "batch",
           .letter = 'b',
           .description = "To each job's main process (the script) alone, which sees to the others itself"},
};
constexpr std::array kSignalUsage{"signal [--batch] SIGNAL JOBID…"sv};
constexpr std::array kSignalDescription{
    "Sends a signal to every process of running jobs: a name (USR1, SIGUSR1) or a number. A suspended job "
    "gets it "
    "when it is resumed, once, however often it was sent; berth cancel need not wait for that."sv};
constexpr std::array kSignalExamples{
    Example{"berth signal USR1 36", "For programs that write a checkpoint on SIGUSR1."},
    Example{"berth signal --batch TERM 36", "A script that traps SIGTERM ends its programs in order."}};
constexpr CommandSpec kSignal{.name = "signal",
                              .summary = "Send a signal to running jobs",
                              .usage = kSignalUsage,
                              .description = kSignalDescription,
                              .options = kSignalOptions,
                              .operands = {"SIGNAL JOBID", true, true, Completion::jobs, "RUNNING"},
                              .examples = kSignalExamples,
                              .see_also = kControlSeeAlso};

constexpr std::array kExecOptions{
    Option{.name = "pty",
           .letter = 't',
           .description =
               "Gives the command a terminal of the job's own; keys go to it as they are typed, Ctrl-C too, "
               "and it follows the window's size"},
    Option{.name = "no-stdin", .letter = 'n', .description = "Passes no standard input on: it is empty"},
    Option{.name = "env",
           .argument = "NAME[=VALUE]",
           .description = "Sets one environment variable over the job's, or passes the caller's on",
           .repeatable = true},
    Option{.name = "chdir",
           .letter = 'D',
           .argument = "DIR",
           .description = "Working directory, an absolute path inside the job",
           .fallback = "the job's"},
};
constexpr std::array kExecUsage{"exec [-t] [--env NAME[=VALUE]] [-D DIR] JOBID -- COMMAND [ARGUMENT…]"sv};
constexpr std::array kExecDescription{
    "Runs a further command beside a running job of yours, or as an administrator of anybody's: in all its "
    "namespaces, its root and its cgroup, as its user, with its environment, its seccomp filter and nothing "
    "more. What the command uses counts against the job's limits and in its record; it ends when the job "
    "ends."sv,
    "Standard input, output and error are the caller's. SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and "
    "SIGUSR2 "
    "are passed on; a second one of the first four kills the command. When the caller goes away the command "
    "gets SIGHUP."sv,
    "Exits with the command's status, 128+n when signal n ended it (137 when the job ended), 127 when it was "
    "not found, 126 when it could not be executed, 125 when berth refused."sv,
};
constexpr std::array kExecExamples{
    Example{"berth exec 36 -- ps aux", "What runs inside job 36?"},
    Example{"berth exec -t 36 -- bash", "A shell beside it."},
    Example{"berth exec 36 -- tar c results | tar x", "Files out of its private /tmp."},
    Example{"berth exec 36_4 -- kill -USR1 2", "Task 4 of array 36; process 2 is the job's first."},
};
constexpr CommandSpec kExec{.name = "exec",
                            .summary = "Run a further command inside a running job",
                            .usage = kExecUsage,
                            .description = kExecDescription,
                            .options = kExecOptions,
                            .operands = {"JOBID", true, false, Completion::jobs, "RUNNING"},
                            .takes_command = true,
                            .examples = kExecExamples,
                            .see_also = kControlSeeAlso,
                            .usage_status = 125};

constexpr std::array kAttachOptions{
    Option{
        .name = "detach-keys",
        .argument = "KEYS",
        .description =
            "Keys that leave the job, typed one after the other: characters and ctrl- with a letter or one "
            "of @ [ \\ ] ^ _, separated by commas; none: there are none",
        .fallback = "ctrl-p,ctrl-q"},
    Option{.name = "no-stdin", .letter = 'n', .description = "Types nothing: only shows what the job writes"},
    Option{.name = "no-wait", .description = "Refuses when the job does not run now"},
    Option{.name = "sig-proxy",
           .description =
               "Passes SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 on to the job's processes "
               "instead of leaving the job"},
};
constexpr std::array kAttachUsage{"attach [-n] [--detach-keys KEYS] [--no-wait] [--sig-proxy] JOBID"sv};
constexpr std::array kAttachDescription{
    "Shows what a running job of yours, or as an administrator of anybody's, writes from now on. A job that "
    "waits is attached to when it starts, from its first byte. What was written before is in berth logs, as "
    "is "
    "everything that is shown here."sv,
    "Where the job has a terminal (berth submit --pty) keys go to it as they are typed, Ctrl-C too, and it "
    "follows the window's size; Ctrl-P Ctrl-Q, or --detach-keys, leaves it, and the job goes on. Several may "
    "be "
    "attached at once: all see the same, all may type, and the window that changed last sets the size."sv,
    "A job without a terminal has its standard output and error shown, where it has two, and reads nothing. "
    "Ctrl-C leaves it, and it goes on, unless --sig-proxy passes signals on."sv,
    "When a job runs again, after a retry or a requeue, its next attempt is attached to. Exits at the job's "
    "end, "
    "as berth wait does; with 0 after the detach keys, with 128+n when signal n left the job, with 125 when "
    "berth "
    "refused."sv,
};
constexpr std::array kAttachExamples{
    Example{"berth submit --pty -- bash", "A shell in the queue: \"Submitted batch job 36\"."},
    Example{"berth attach 36", "Waits for it to start, and joins it; Ctrl-P Ctrl-Q leaves it running."},
    Example{"berth attach --no-stdin 36", "Looks on."},
};
constexpr std::array kAttachSeeAlso{"berth-submit(1)"sv, "berth-logs(1)"sv, "berth-exec(1)"sv};
constexpr CommandSpec kAttach{.name = "attach",
                              .summary = "Join a running job: its terminal, or what it writes",
                              .usage = kAttachUsage,
                              .description = kAttachDescription,
                              .options = kAttachOptions,
                              .operands = {"JOBID", true, false, Completion::jobs},
                              .examples = kAttachExamples,
                              .see_also = kAttachSeeAlso,
                              .usage_status = 125};

constexpr std::array kTopOptions{
    Option{.name = "delay",
           .letter = 'd',
           .argument = "SECONDS",
           .description = "Time between two looks",
           .fallback = "2"},
    Option{.name = "iterations",
           .letter = 'n',
           .argument = "N",
           .description = "Ends after N looks",
           .fallback = "on a terminal none, else 1"},
    Option{.name = "once", .description = "Looks once, and prints plainly"},
    Option{.name = "json", .description = "Prints one JSON object for each look, one a line"},
};
constexpr std::array kTopUsage{"top [-d SECONDS] [-n N] [--once] [--json]"sv};
constexpr std::array kTopDescription{
    "Shows what running jobs use, each against what it was granted: CPU time in per cent of one CPU since "
    "the last "
    "look (at the first since the job's start), memory, processes, wall time. On a terminal it is shown "
    "again and "
    "again until Ctrl-C; elsewhere it is printed once. Users see their own jobs, administrators everybody's."sv};
constexpr std::array kTopExamples{
    Example{"berth top", "What is going on?"},
    Example{"berth top -n 2 -d 10 --json | tail -1 | jq '.jobs[] | {id, cpu_percent}'",
            "Load over ten seconds, for a program."}};
constexpr CommandSpec kTop{.name = "top",
                           .summary = "Show what running jobs use, live",
                           .usage = kTopUsage,
                           .description = kTopDescription,
                           .options = kTopOptions,
                           .operands = {},
                           .examples = kTopExamples,
                           .see_also = kControlSeeAlso};

constexpr std::array kWhyOptions{
    Option{.name = "json", .description = "Prints one JSON object for each job"}};
constexpr std::array kWhyUsage{"why [--json] JOBID…"sv};
constexpr std::array kWhyDescription{
    "Says what keeps a job waiting, by name and in a sentence, and when it starts at the latest if all jobs "
    "before it use their whole time limits. A job without one makes that unknowable, and so does one that "
    "may come "
    "before it by then: at its begin time, or when what it depends on is over. Of a job with a begin time "
    "that is not "
    "said, but that it starts no sooner. Of a job that has ended it says why."sv};
constexpr std::array kWhyExamples{Example{"berth why 36", "Why does job 36 not start?"}};
constexpr CommandSpec kWhy{.name = "why",
                           .summary = "Say what keeps a job waiting",
                           .usage = kWhyUsage,
                           .description = kWhyDescription,
                           .options = kWhyOptions,
                           .operands = {"JOBID", true, true, Completion::jobs, "PENDING"},
                           .examples = kWhyExamples,
                           .see_also = kControlSeeAlso};

constexpr std::array kUpdateOptions{
    Option{.name = "job-name",
           .letter = 'J',
           .argument = "NAME",
           .description = "Name of the job; \"none\" for that of its command"},
    Option{.name = "comment",
           .argument = "TEXT",
           .description = "Free text kept with the record; \"none\" for none"},
    Option{
        .name = "account", .letter = 'A', .argument = "ACCOUNT", .description = "Account; \"none\" for none"},
    Option{.name = "priority",
           .argument = "N",
           .description = "Larger runs first; raised by administrators alone"},
    Option{.name = "nice", .argument = "N", .description = "Lowers the priority by N"},
    Option{.name = "begin",
           .letter = 'b',
           .argument = "WHEN",
           .description = "Not before this instant; \"now\", or \"none\" for none"},
    Option{
        .name = "deadline",
        .argument = "WHEN",
        .description =
            "Ends as DEADLINE when not started by then, or when it would not end by then; \"none\" for none"},
    Option{.name = "dependency",
           .letter = 'd',
           .argument = "LIST",
           .description = "Waits for other jobs, as in berth submit; \"none\" for no more"},
    Option{.name = "time",
           .letter = 't',
           .argument = "TIME",
           .description = "Wall time; UNLIMITED for no limit"},
    Option{.name = "cpus-per-task", .letter = 'c', .argument = "N", .description = "Whole CPUs"},
    Option{.name = "mem", .argument = "SIZE", .description = "Memory; \"none\" for the default"},
};
constexpr std::array kUpdateUsage{"update OPTION… JOBID…"sv};
constexpr std::array kUpdateDescription{
    "Changes jobs that wait. A job that runs has got what it asked for, and keeps it: it is refused, and the "
    "others are changed all the same."sv};
constexpr std::array kUpdateExamples{
    Example{"berth update -t 2h --mem 4G 36", "Twice the time, more memory."},
    Example{"berth update --nice 100 37", "Lets your other jobs go first."}};
constexpr CommandSpec kUpdate{.name = "update",
                              .summary = "Change jobs that wait",
                              .usage = kUpdateUsage,
                              .description = kUpdateDescription,
                              .options = kUpdateOptions,
                              .operands = {"JOBID", true, true, Completion::jobs, "PENDING"},
                              .examples = kUpdateExamples,
                              .see_also = kControlSeeAlso};

constexpr std::array kSlotsOptions{
    Option{.name = "format",
           .letter = 'o',
           .argument = "LIST",
           .description = "Columns: Slot, JobID, CPUs, Memory, Runner; the jobs alone",
           .completion = Completion::columns,
           .words = "Slot JobID CPUs Memory Runner"},
    Option{.name = "noheader", .letter = 'n', .description = "The jobs alone, without a header"},
    Option{.name = "parsable2", .letter = 'P', .description = "The jobs alone, columns separated by |"},
    Option{.name = "delimiter", .argument = "TEXT", .description = "Separator for -P", .fallback = "|"},
    Option{.name = "json", .description = "Prints the pool as JSON"}};
constexpr std::array kSlotsUsage{"slots [OPTION…]"sv};
constexpr std::array kSlotsDescription{
    "Shows what berthd's pool has, what is free, and which job has which CPUs: of one's own jobs; as an "
    "administrator of all."sv};
constexpr std::array kSlotsExamples{Example{"berth slots", "Is anything free?"}};
constexpr CommandSpec kSlots{.name = "slots",
                             .summary = "Show the pool and who has what of it",
                             .usage = kSlotsUsage,
                             .description = kSlotsDescription,
                             .options = kSlotsOptions,
                             .operands = {},
                             .examples = kSlotsExamples,
                             .see_also = kControlSeeAlso};

constexpr std::array kDrainUsage{"drain"sv};
constexpr std::array kDrainDescription{
    "Starts no further job until undrain; running ones go on, and jobs are still taken into the queue. It "
    "lasts over "
    "restarts of berthd. For administrators."sv};
constexpr std::array kDrainExamples{
    Example{"berth drain", "Before maintenance; berth slots tells when all have ended."}};
constexpr CommandSpec kDrain{.name = "drain",
                             .summary = "Start no further jobs",
                             .usage = kDrainUsage,
                             .description = kDrainDescription,
                             .options = {},
                             .operands = {},
                             .examples = kDrainExamples,
                             .see_also = kControlSeeAlso};
constexpr std::array kUndrainUsage{"undrain"sv};
constexpr std::array kUndrainDescription{"Lets jobs start again after drain. For administrators."sv};
constexpr std::array kUndrainExamples{Example{"berth undrain", "After maintenance."}};
constexpr CommandSpec kUndrain{.name = "undrain",
                               .summary = "Start jobs again",
                               .usage = kUndrainUsage,
                               .description = kUndrainDescription,
                               .options = {},
                               .operands = {},
                               .examples = kUndrainExamples,
                               .see_also = kControlSeeAlso};

constexpr std::array kEventsOptions{
    Option{.name = "follow", .letter = 'f', .description = "Goes on with what happens"},
    Option{.name = "after",
           .argument = "N",
           .description = "Events after this sequence number; \"now\": only new ones",
           .fallback = "0: all"},
};
constexpr std::array kEventsUsage{"events [-f] [--after N]"sv};
constexpr std::array kEventsDescription{
    "Prints what happened to jobs, one JSON object a line, oldest first: every change of state that is in "
    "the "
    "database, each with a sequence number from which a reader can go on later."sv};
constexpr std::array kEventsExamples{Example{"berth events -f --after now", "What happens from now on."}};
constexpr CommandSpec kEvents{.name = "events",
                              .summary = "Print what happened to jobs",
                              .usage = kEventsUsage,
                              .description = kEventsDescription,
                              .options = kEventsOptions,
                              .operands = {},
                              .examples = kEventsExamples,
                              .see_also = kControlSeeAlso};

// -- version, help --------------------------------------------------------------------------------------

constexpr std::array kVersionOptions{
    Option{.name = "json", .description = "Prints the versions of berth and its libraries as JSON"},
};
constexpr std::array kVersionUsage{"version [--json]"sv};
constexpr std::array kVersionDescription{"Prints the version."sv};
constexpr std::array kVersionExamples{
    Example{"berth version", "One line, for people."},
    Example{"berth version --json", "With the versions of the libraries, for bug reports."},
};
constexpr CommandSpec kVersion{.name = "version",
                               .summary = "Print the version",
                               .usage = kVersionUsage,
                               .description = kVersionDescription,
                               .options = kVersionOptions,
                               .operands = {},
                               .examples = kVersionExamples,
                               .see_also = {}};

constexpr std::array kHelpUsage{"help [COMMAND]"sv};
constexpr std::array kHelpDescription{"Prints the help of berth or of one command."sv};
constexpr std::array kHelpExamples{Example{"berth help run", "The same as \"berth run --help\"."}};
constexpr CommandSpec kHelp{.name = "help",
                            .summary = "Print help",
                            .usage = kHelpUsage,
                            .description = kHelpDescription,
                            .options = {},
                            .operands = {"COMMAND", false, false, Completion::commands},
                            .examples = kHelpExamples,
                            .see_also = {}};

// -- for the build --------------------------------------------------------------------------------------

constexpr std::array kGenerateUsage{"generate man DIRECTORY"sv, "generate completion FILE"sv,
                                    "generate reference FILE"sv};
constexpr std::array kGenerateDescription{
    "Writes the manual pages to a directory and the bash completion to a file, for the build; and "
    "docs/commands.md, for scripts/docs."sv};
constexpr CommandSpec kGenerate{.name = "generate",
                                .summary = "Write what is made from the option tables",
                                .usage = kGenerateUsage,
                                .description = kGenerateDescription,
                                .options = {},
                                .operands = {"WHAT", true, true, Completion::file},
                                .examples = {},
                                .see_also = {},
                                .hidden = true};

constexpr std::array<const CommandSpec*, 30> kCommands{
    &kRun,     &kCheck,      &kSubmit,  &kQueue,   &kCancel,  &kWait,    &kLogs,    &kHold,
    &kRelease, &kRequeue,    &kSuspend, &kResume,  &kSignal,  &kExec,    &kAttach,  &kTop,
    &kWhy,     &kUpdate,     &kSlots,   &kDrain,   &kUndrain, &kEvents,  &kHistory, &kReport,
    &kShow,    &kEfficiency, &kDoctor,  &kVersion, &kHelp,    &kGenerate};

constexpr std::array kAbsentOptions{
    AbsentOption{"acctg-freq", 0, "the kernel counts what jobs use; leave it out"},
    AbsentOption{"array", 'a', "use berth submit"},
    AbsentOption{"bb", 0, "there are no burst buffers; leave it out"},
    AbsentOption{"begin", 'b', "use berth submit"},
    AbsentOption{"clusters", 'M', "there is this machine alone"},
    AbsentOption{"constraint", 'C', "there is this machine alone; leave it out"},
    AbsentOption{"container", 0, "use --root for a root directory"},
    AbsentOption{"contiguous", 0, "there is this machine alone; leave it out"},
    AbsentOption{"core-spec", 'S', "CPUs are exclusive, and chosen by topology; leave it out"},
    AbsentOption{"cores-per-socket", 0, "CPUs are chosen by topology; use -c"},
    AbsentOption{"cpu-freq", 0, "the administrator sets it; leave it out"},
    AbsentOption{"cpus-per-gpu", 0, "use -c, and --device for a device node"},
    AbsentOption{"deadline", 0, "use berth submit, or --time"},
    AbsentOption{"delay-boot", 0, "there is this machine alone; leave it out"},
    AbsentOption{"dependency", 'd', "use berth submit, or: berth run -- A && berth run -- B"},
    AbsentOption{"distribution", 'm', "a job is one task; leave it out (a job's memory is --mem)"},
    AbsentOption{"exclude", 'x', "there is this machine alone; leave it out"},
    AbsentOption{"exclusive", 0, "CPUs are exclusive anyhow; use -c"},
    AbsentOption{"export-file", 0, "use --env, once for each variable"},
    AbsentOption{"extra-node-info", 'B', "CPUs are chosen by topology; use -c"},
    AbsentOption{"get-user-env", 0, "the caller's environment is taken; see --export"},
    AbsentOption{"gid", 0, "use --user UID:GID"},
    AbsentOption{"gpus", 'G', "use --device for a device node"},
    AbsentOption{"gpus-per-node", 0, "use --device for a device node"},
    AbsentOption{"gpus-per-task", 0, "use --device for a device node"},
    AbsentOption{"gres", 0, "use --device for a device node"},
    AbsentOption{"hint", 0, "use --slots-smt of berth run"},
    AbsentOption{"hold", 'H', "use berth submit"},
    AbsentOption{"ignore-pbs", 0, "#PBS lines are comments anyhow; leave it out"},
    AbsentOption{"kill-on-invalid-dep", 0, "such a job waits as DependencyNeverSatisfied; use berth cancel"},
    AbsentOption{"licenses", 'L', "bound the jobs at once with --slots"},
    AbsentOption{"mail-type", 0, "no mail is sent; use: berth wait JOB; mail …"},
    AbsentOption{"mail-user", 0, "no mail is sent; use: berth wait JOB; mail …"},
    AbsentOption{"mem-bind", 0, "memory nodes follow the CPUs; leave it out"},
    AbsentOption{"mem-per-gpu", 0, "use --mem"},
    AbsentOption{"mincpus", 0, "use -c"},
    AbsentOption{"no-kill", 'k', "there is this machine alone; leave it out"},
    AbsentOption{"no-requeue", 0, "nothing runs again anyhow"},
    AbsentOption{"nodefile", 'F', "there is this machine alone; leave it out"},
    AbsentOption{"nodelist", 'w', "there is this machine alone; leave it out (the working directory is -D)"},
    AbsentOption{"ntasks-per-core", 0, "a job is one task; use -c for its CPUs"},
    AbsentOption{"ntasks-per-socket", 0, "a job is one task; use -c for its CPUs"},
    AbsentOption{"overcommit", 'O', "CPUs are exclusive; use --cpu-quota for less than one"},
    AbsentOption{"oversubscribe", 's', "CPUs are exclusive; use --cpu-quota for less than one"},
    AbsentOption{"partition", 0, "there are no partitions; leave it out. The administrator bounds the pool"},
    AbsentOption{"power", 0, "leave it out"},
    AbsentOption{"prefer", 0, "there is this machine alone; leave it out"},
    AbsentOption{"profile", 0, "berth show tells what a job used; leave it out"},
    AbsentOption{"propagate", 0, "limits are options: --open-files, --stack-size, --core-size …"},
    AbsentOption{"qos", 0, "use --nice, or as an administrator --priority"},
    AbsentOption{"reboot", 0, "leave it out"},
    AbsentOption{"requeue", 0, "use berth submit"},
    AbsentOption{"reservation", 0, "bound the pool with --cpus and --memory"},
    AbsentOption{"retry", 0, "use berth submit"},
    AbsentOption{"sockets-per-node", 0, "CPUs are chosen by topology; use -c"},
    AbsentOption{"spread-job", 0, "there is this machine alone; leave it out"},
    AbsentOption{"switches", 0, "there is this machine alone; leave it out"},
    AbsentOption{"thread-spec", 0, "CPUs are exclusive, and chosen by topology; leave it out"},
    AbsentOption{"threads-per-core", 0, "use --slots-smt of berth run"},
    AbsentOption{"time-min", 0, "use --time"},
    AbsentOption{"tmp", 0, "use --tmpfs"},
    AbsentOption{"tres-per-task", 0, "use -c and --mem"},
    AbsentOption{"uid", 'u', "use --user"},
    AbsentOption{"use-min-nodes", 0, "there is this machine alone; leave it out"},
    AbsentOption{"wait", 'W', "berth run waits anyhow"},
    AbsentOption{"wckey", 0, "use --account or --comment"},
    AbsentOption{"workdir", 0, "use --chdir"},
    AbsentOption{"wrap", 0, "use berth submit, or: berth run -- sh -c 'COMMAND'"},
    // Docker's and podman's.
    AbsentOption{"cap-add", 0, "no job has capabilities; leave it out"},
    AbsentOption{"cap-drop", 0, "no job has capabilities; leave it out"},
    AbsentOption{"cpu-shares", 0, "use --cpu-weight"},
    AbsentOption{"cpuset-cpus", 0, "use --cpus"},
    AbsentOption{"detach", 0, "use berth submit"},
    AbsentOption{"entrypoint", 0, "name the program after \"--\""},
    AbsentOption{"env-file", 0, "use --env, once for each variable"},
    AbsentOption{"init", 0, "every job has an init; leave it out"},
    AbsentOption{"interactive", 0, "use --stdin of berth run, or --pty for a terminal"},
    AbsentOption{"memory-swap", 0, "use --swap, which is what comes beside --mem"},
    AbsentOption{"name", 0, "use --job-name"},
    AbsentOption{"net", 0, "use --network"},
    AbsentOption{"pids-limit", 0, "use --pids"},
    AbsentOption{"privileged", 0, "no job has privileges; a device node is --device"},
    AbsentOption{"read-only", 0, "the root is read-only unless --overlay is given; leave it out"},
    AbsentOption{"restart", 0, "use berth submit with --retry"},
    AbsentOption{"rm", 0, "nothing of a job but its record is left; leave it out"},
    AbsentOption{"security-opt", 0, "use --seccomp"},
    AbsentOption{"shm-size", 0, "use --tmpfs, which /dev/shm is a part of"},
    AbsentOption{"tty", 0, "use --pty"},
    AbsentOption{"ulimit", 0, "limits are options: --open-files, --stack-size, --core-size …"},
    AbsentOption{"volume", 0, "use --mount PATH[:INSIDE][:rw]"},
    // nsjail's.
    AbsentOption{"bindmount", 0, "use --mount PATH[:INSIDE]:rw"},
    AbsentOption{"bindmount_ro", 'R', "use --mount PATH[:INSIDE]"},
    AbsentOption{"cgroup_mem_max", 0, "use --mem"},
    AbsentOption{"cgroup_pids_max", 0, "use --pids"},
    AbsentOption{"chroot", 0, "use --root"},
    AbsentOption{"cwd", 0, "use --chdir"},
    AbsentOption{"disable_clone_newnet", 0, "use --network host, where the administrator allows it"},
    AbsentOption{"rlimit_as", 0, "use --mem, for all processes of the job together"},
    AbsentOption{"rlimit_core", 0, "use --core-size"},
    AbsentOption{"rlimit_cpu", 0, "use --cpu-time, for all processes of the job together"},
    AbsentOption{"rlimit_fsize", 0, "use --file-size"},
    AbsentOption{"rlimit_nofile", 0, "use --open-files"},
    AbsentOption{"rlimit_nproc", 0, "use --pids"},
    AbsentOption{"rlimit_stack", 0, "use --stack-size"},
    AbsentOption{"time_limit", 0, "use --time"},
    AbsentOption{"tmpfsmount", 0, "use --mount type=tmpfs,target=PATH,size=SIZE"},
    AbsentOption{"Format", 'O', "use -o JobID%20,JobName,State", "queue"},
    AbsentOption{"all", 'a', "all jobs that you may see are listed anyhow; leave it out", "queue"},
    AbsentOption{"array", 'r', "a task has a row of its own when it has started; leave it out", "queue"},
    AbsentOption{"iterate", 'i', "use watch(1), or berth top", "queue"},
    AbsentOption{"long", 'l', "name the columns: -o JobID,State,Submit,Start", "queue"},
    AbsentOption{"nodelist", 'w', "there is this machine alone; leave it out", "queue"},
    AbsentOption{"partition", 'p', "there are no partitions; leave it out", "queue"},
    AbsentOption{"sort", 'S', "jobs are in order of submission; sort(1) sorts what -P prints", "queue"},
    AbsentOption{"start", 0, "use berth why, or -o JobID,Start,Begin,Reason", "queue"},
    AbsentOption{"steps", 's', "a job is one step; leave it out", "queue"},
    AbsentOption{"allclusters", 'L', "there is this machine alone; leave it out", "history"},
    AbsentOption{"brief", 'b', "use -o JobID,State,ExitCode", "history"},
    AbsentOption{"clusters", 'M', "there is this machine alone; leave it out", "history"},
    AbsentOption{"noconvert", 0, "--json has plain numbers", "history"},
    AbsentOption{"nodelist", 'N', "there is this machine alone; leave it out", "history"},
    AbsentOption{"partition", 'r', "there are no partitions; leave it out", "history"},
    AbsentOption{"truncate", 'T', "times are those of whole jobs; leave it out", "history"},
    AbsentOption{"units", 0, "--json has plain numbers", "history"},
    AbsentOption{"detach", 'd', "use: berth exec JOB -- sh -c 'COMMAND &'", "exec"},
    AbsentOption{"interactive", 'i', "standard input is passed on anyhow; leave it out (a terminal is -t)",
                 "exec"},
    AbsentOption{"privileged", 0, "no command has more rights than its job; leave it out", "exec"},
    AbsentOption{"setenv", 'e', "use --env", "exec"},
    AbsentOption{"user", 'u', "it runs as the job's user; leave it out", "exec"},
    AbsentOption{"workdir", 'w', "use -D (--chdir)", "exec"},
    AbsentOption{"signal", 's', "the signal comes first: berth signal USR1 36", "signal"},
    AbsentOption{"full", 'f', "every process of a job gets the signal anyhow; leave it out", "cancel"},
    AbsentOption{"interactive", 'i', "look first: berth queue takes -u, -t, --name and -A too", "cancel"},
    AbsentOption{"jobname", 0, "use --name", "cancel"},
    AbsentOption{"nodelist", 'w', "there is this machine alone; leave it out", "cancel"},
    AbsentOption{"partition", 'p', "there are no partitions; leave it out", "cancel"},
};

}  // namespace

std::span<const CommandSpec* const> commands() {
  return kCommands;
}

const CommandSpec* find_command(std::string_view name) {
  const auto* const found = std::find_if(kCommands.begin(), kCommands.end(),
                                         [&](const auto* command) { return command->name == name; });
  return found == kCommands.end() ? nullptr : *found;
}

std::span<const Option> global_options() {
  return kGlobalOptions;
}

std::span<const AbsentOption> absent_options() {
  return kAbsentOptions;
}

const Option* option_of_field(const CommandSpec& command, std::string_view pointer) {
  const Option* best = nullptr;
  for (const Option& option : command.options) {
    const bool covers = !option.field.empty() && pointer.starts_with(option.field) &&
                        (pointer.size() == option.field.size() || pointer[option.field.size()] == '/' ||
                         pointer[option.field.size()] == '_');
    if (covers && (best == nullptr || option.field.size() > best->field.size())) {
      best = &option;
    }
  }
  return best;
}

}  // namespace berth
