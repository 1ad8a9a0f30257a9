// The columns themselves: one row of the table per column, one lambda per cell.
#include <algorithm>
#include <array>

#include "scheduler/listing.h"

namespace berth {
namespace {

using Record = const AccountingRecord&;
using Time = const ListingTime&;
using Micros = std::chrono::microseconds;

Milliseconds to_milliseconds(Micros duration) {
  return std::chrono::duration_cast<Milliseconds>(duration);
}

std::string duration_cell(const std::optional<Micros>& duration) {
  return duration ? format_duration(to_milliseconds(*duration)) : "";
}
std::string seconds_cell(const std::optional<Micros>& duration) {
  return duration ? std::to_string(std::chrono::duration_cast<std::chrono::seconds>(*duration).count()) : "";
}
/// Before the start it is zero.
std::optional<Micros> since_start(Record record, const std::optional<Micros>& duration) {
  return record.start ? duration : Micros(0);
}
std::string cpu_cell(const std::optional<Micros>& duration) {
  return duration ? format_cpu_time(*duration) : "";
}
std::string size_cell(const std::optional<Bytes>& size) {
  return size ? format_size_human(*size) : "";
}
std::string count_cell(const std::optional<Usage::Count>& count) {
  return count ? std::to_string(*count) : "";
}
std::string instant_cell(const std::optional<Timestamp>& instant, Time time) {
  return instant ? format_instant(*instant, time) : "Unknown";
}

std::string limit_cell(Record record, std::string LimitHit::*member) {
  return record.outcome && record.outcome->limit ? (*record.outcome->limit).*member : "";
}

/// sacct has 0:0 of what has not ended. Of the tasks of an array that did not complete each has its own.
std::string exit_code_cell(Record record, Time) {
  if (record.outcome) {
    return exit_code_field(*record.outcome);
  }
  return is_final(record.state) && record.state != JobState::completed ? "" : "0:0";
}

/// Of the tasks of an array each has its own.
std::string message_cell(Record record, Time) {
  if (record.outcome) {
    return record.outcome->message;
  }
  return is_array_of_tasks(record) && is_final(record.state) ? where_tasks_are(record) : "";
}

std::string command_cell(Record record, Time) {
  std::string text = record.spec->script.empty() ? "" : "(script)";
  for (const std::string& argument : record.spec->argv) {
    text += (text.empty() ? "" : " ") + argument;
  }
  return text;
}

// Widths are sacct's where it has the column, so that scripts that cut columns go on working.
constexpr std::array kListingColumns{
    ListingColumn{"JobID", -12, "Number of the job; ARRAY_TASK of a task of an array",
                  [](Record r, Time) { return shown_id(r); }},
    ListingColumn{"JobIDRaw", -12, "Number of the job, also of a task",
                  [](Record r, Time) { return std::to_string(r.job_id); }},
    ListingColumn{"Attempt", 7, "Which attempt of the job, from 1; 0: it never started",
                  [](Record r, Time) { return std::to_string(r.attempt); }},
    ListingColumn{"JobName", 10, "Name of the job", [](Record r, Time) { return r.spec->name; }},
    ListingColumn{"User", 9, "Who submitted it", [](Record r, Time) { return r.user; }},
    ListingColumn{"UID", 6, "The submitter's user id",
                  [](Record r, Time) { return std::to_string(r.user_id); }},
    ListingColumn{"JobUser", 9, "Who it ran as, outside its user namespace",
                  [](Record r, Time) { return r.job_user; }},
    ListingColumn{"Account", 10, "Account that it was charged to",
                  [](Record r, Time) { return r.spec->account; }},
    ListingColumn{"Partition", 10, "Empty: there are no partitions yet",
                  [](Record, Time) { return std::string(); }},
    ListingColumn{"Priority", 10, "Priority that was asked for; larger is first",
                  [](Record r, Time) { return std::to_string(r.spec->priority); }},
    ListingColumn{"State", 13, "State of the attempt",
                  [](Record r, Time) { return std::string(to_string(r.state)); }},
    ListingColumn{"Reason", 22, "Why it is PENDING",
                  [](Record r, Time) { return r.reason.empty() ? "None" : r.reason; }},
    ListingColumn{"ExitCode", 8, "Exit code : signal", exit_code_cell},
    ListingColumn{"DerivedExitCode", 15, "The same: a job is one step", exit_code_cell},
    ListingColumn{"Cause", 17, "What ended it: exited, signalled, wall_time, out_of_memory …",
                  [](Record r, Time) { return r.outcome ? std::string(to_string(r.outcome->cause)) : ""; }},
    ListingColumn{"LimitHit", 16, "Job-file field of the limit that ended it",
                  [](Record r, Time) { return limit_cell(r, &LimitHit::name); }},
    ListingColumn{"LimitValue", 12, "That limit as it was applied",
                  [](Record r, Time) { return limit_cell(r, &LimitHit::value); }},
    ListingColumn{"LimitCgroup", -30, "Cgroup whose limit it was",
                  [](Record r, Time) { return limit_cell(r, &LimitHit::cgroup); }},
    ListingColumn{"Message", -40, "How it ended, in one sentence", message_cell},

    ListingColumn{"Submit", 19, "When it was submitted",
                  [](Record r, Time time) { return format_instant(r.submit, time); }},
    ListingColumn{"Eligible", 19, "When it could first have started: as Submit",
                  [](Record r, Time time) { return format_instant(r.submit, time); }},
    ListingColumn{"Start", 19, "When its first instruction ran",
                  [](Record r, Time time) { return instant_cell(r.start, time); }},
    ListingColumn{"End", 19,
                  "When its main process ended; of NODE_FAIL, when it can have ended at the latest",
                  [](Record r, Time time) { return instant_cell(r.end, time); }},
    ListingColumn{
        "Elapsed", 10, "Wall time, [D-]HH:MM:SS",
        [](Record r, Time time) { return duration_cell(since_start(r, elapsed_time(r, time.now))); }},
    ListingColumn{
        "ElapsedRaw", 10, "Wall time in seconds",
        [](Record r, Time time) { return seconds_cell(since_start(r, elapsed_time(r, time.now))); }},
    ListingColumn{"Timelimit", 10, "Wall time limit, [D-]HH:MM:SS",
                  [](Record r, Time) {
                    return r.spec->time_limit ? format_duration(*r.spec->time_limit) : "UNLIMITED";
                  }},

    ListingColumn{"AllocCPUS", 10, "CPUs that were granted",
                  [](Record r, Time) {
                    return r.allocation ? std::to_string(r.allocation->cpus.size())
                           : r.start    ? std::string()  // nobody knows
                                        : std::string("0");
                  }},
    ListingColumn{"ReqCPUS", 8, "CPUs that were asked for",
                  [](Record r, Time) { return std::to_string(r.spec->cpus_per_task); }},
    ListingColumn{"ReqMem", 10, "Memory that was asked for",
                  [](Record r, Time) { return size_cell(r.spec->memory_per_node); }},
    ListingColumn{"AllocMem", 10, "Memory that was granted: the limit, where berth can set one",
                  [](Record r, Time) {
                    return r.allocation ? format_size_human(r.allocation->memory) : std::string();
                  }},
    ListingColumn{"NNodes", 8, "Machines: 1", [](Record, Time) { return std::string("1"); }},
    ListingColumn{
        "NodeList", 15, "Machine that it ran on",
        [](Record r, Time) { return r.allocation || r.start ? r.host : std::string("None assigned"); }},
    ListingColumn{"Slot", -12, "Slot that it was given",
                  [](Record r, Time) { return r.allocation ? r.allocation->slot : ""; }},
    ListingColumn{"CPUList", -12, "Numbers of its CPUs",
                  [](Record r, Time) { return r.allocation ? r.allocation->cpus.to_list() : ""; }},
    ListingColumn{"MemNodes", -8, "Numbers of its memory nodes",
                  [](Record r, Time) { return r.allocation ? r.allocation->memory_nodes.to_list() : ""; }},
    ListingColumn{"WorkDir", -30, "Working directory",
                  [](Record r, Time) { return r.spec->current_working_directory; }},
    ListingColumn{"Command", -30, "The command and its arguments", command_cell},
    ListingColumn{"Comment", 14, "Comment of the job", [](Record r, Time) { return r.spec->comment; }},

    ListingColumn{"TotalCPU", 10, "CPU time, user and system, [D-][HH:]MM:SS[.mmm]",
                  [](Record r, Time) { return cpu_cell(r.usage.cpu_total); }},
    ListingColumn{"UserCPU", 10, "CPU time in user mode",
                  [](Record r, Time) { return cpu_cell(r.usage.cpu_user); }},
    ListingColumn{"SystemCPU", 10, "CPU time in the kernel",
                  [](Record r, Time) { return cpu_cell(r.usage.cpu_system); }},
    ListingColumn{
        "CPUTime", 10, "Elapsed times AllocCPUS, [D-]HH:MM:SS",
        [](Record r, Time time) { return duration_cell(since_start(r, granted_cpu_time(r, time.now))); }},
    ListingColumn{
        "CPUTimeRAW", 10, "Elapsed times AllocCPUS, in seconds",
        [](Record r, Time time) { return seconds_cell(since_start(r, granted_cpu_time(r, time.now))); }},
    ListingColumn{"Throttled", 10, "Time for which limits.cpu_quota held it back",
                  [](Record r, Time) { return cpu_cell(r.usage.throttled_time); }},
    ListingColumn{"ThrottledPeriods", 16, "Quota periods in which it was held back",
                  [](Record r, Time) { return count_cell(r.usage.throttled_periods); }},

    ListingColumn{"MaxRSS", 10, "Highest memory charged to it, page cache included",
                  [](Record r, Time) { return size_cell(r.usage.memory_peak); }},
    ListingColumn{"MaxAnon", 10, "Highest anonymous memory seen",
                  [](Record r, Time) { return size_cell(r.usage.memory_anon_peak); }},
    ListingColumn{"MaxCache", 10, "Highest page cache seen",
                  [](Record r, Time) { return size_cell(r.usage.memory_file_peak); }},
    ListingColumn{"MaxSwap", 10, "Highest swap seen",
                  [](Record r, Time) { return size_cell(r.usage.swap_peak); }},
    ListingColumn{"MemLimitHits", 12, "How often it reached its memory limit",
                  [](Record r, Time) { return count_cell(r.usage.memory_limit_hits); }},
    ListingColumn{"OOMKills", 8, "Processes of it that the kernel killed for memory",
                  [](Record r, Time) { return count_cell(r.usage.oom_kills); }},
    ListingColumn{"PageFaults", 10, "Page faults, major ones included",
                  [](Record r, Time) { return count_cell(r.usage.page_faults); }},
    ListingColumn{"MajorFaults", 11, "Page faults that had to read",
                  [](Record r, Time) { return count_cell(r.usage.major_page_faults); }},
    ListingColumn{"VolSwitches", 11, "Voluntary context switches",
                  [](Record r, Time) { return count_cell(r.usage.voluntary_switches); }},
    ListingColumn{"InvolSwitches", 13, "Involuntary context switches",
                  [](Record r, Time) { return count_cell(r.usage.involuntary_switches); }},
    ListingColumn{"MaxPids", 7, "Most tasks at once",
                  [](Record r, Time) { return count_cell(r.usage.pids_peak); }},
    ListingColumn{"PidsLimitHits", 13, "Forks that limits.pids refused",
                  [](Record r, Time) { return count_cell(r.usage.pids_limit_hits); }},

    ListingColumn{"IORead", 10, "Bytes read from block devices",
                  [](Record r, Time) { return size_cell(r.usage.io_read_bytes); }},
    ListingColumn{"IOWrite", 10, "Bytes written to block devices",
                  [](Record r, Time) { return size_cell(r.usage.io_write_bytes); }},
    ListingColumn{"IOReadOps", 10, "Reads from block devices",
                  [](Record r, Time) { return count_cell(r.usage.io_read_operations); }},
    ListingColumn{"IOWriteOps", 10, "Writes to block devices",
                  [](Record r, Time) { return count_cell(r.usage.io_write_operations); }},
    ListingColumn{"NetIn", 10, "Bytes received on its own network devices",
                  [](Record r, Time) { return size_cell(r.usage.network_receive_bytes); }},
    ListingColumn{"NetOut", 10, "Bytes sent on them",
                  [](Record r, Time) { return size_cell(r.usage.network_transmit_bytes); }},
    ListingColumn{"NetInPackets", 12, "Packets received",
                  [](Record r, Time) { return count_cell(r.usage.network_receive_packets); }},
    ListingColumn{"NetOutPackets", 13, "Packets sent",
                  [](Record r, Time) { return count_cell(r.usage.network_transmit_packets); }},
    ListingColumn{"NetDenied", 9, "Packets and name queries that its egress policy refused",
                  [](Record r, Time) { return count_cell(r.usage.network_denied_packets); }},
    ListingColumn{"MaxConnections", 14, "Most connections at once on a private or shared network",
                  [](Record r, Time) { return count_cell(r.usage.network_connections_peak); }},
    ListingColumn{"OutputBytes", 11, "Bytes of its standard output and error",
                  [](Record r, Time) { return size_cell(r.usage.output_bytes); }},
    ListingColumn{"CPUStall", 10, "Time in which a task of it waited for a CPU (PSI)",
                  [](Record r, Time) { return cpu_cell(r.usage.cpu_stall); }},
    ListingColumn{"MemStall", 10, "Time in which a task of it waited for memory (PSI)",
                  [](Record r, Time) { return cpu_cell(r.usage.memory_stall); }},
    ListingColumn{"IOStall", 10, "Time in which a task of it waited for I/O (PSI)",
                  [](Record r, Time) { return cpu_cell(r.usage.io_stall); }},
};

}  // namespace

std::span<const ListingColumn> listing_columns() {
  return kListingColumns;
}

std::optional<std::chrono::microseconds> elapsed_time(const AccountingRecord& record, Timestamp now) {
  if (record.usage.wall) {
    return record.usage.wall;
  }
  if (!record.start || record.end) {
    return std::nullopt;  // the end of one that was not measured is the latest that is possible
  }
  // The wall clock may have been set back in between.
  return std::max(now - *record.start - record.suspended, Micros(0));
}

std::optional<std::chrono::microseconds> granted_cpu_time(const AccountingRecord& record, Timestamp now) {
  const auto elapsed = elapsed_time(record, now);
  if (!elapsed || !record.allocation) {
    return std::nullopt;
  }
  return *elapsed * static_cast<std::int64_t>(record.allocation->cpus.size());
}

}  // namespace berth
