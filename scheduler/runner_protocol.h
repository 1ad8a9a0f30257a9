// What berthd and berth-runner say to each other over a Unix stream socket: frames of a JSON header and a
// body of bytes.
//
//   frame: u32 size of the header, u32 size of the body (host byte order: one machine), header, body
//
// berthd sends `start` (body: the job's spec), `stop`, `signal`, `suspend`, `resume`, `acknowledge`, `retire`
// and `sample`; the runner sends `hello` once per connection, then `started` and `ended`, and `samples` and
// `paused` when asked. At SIGTERM it sends `retire` too, which is to say that it takes no more jobs, and
// berthd answers by the same, behind the starts that it had sent (older builds do not). An `ended` is sent
// again on the next connection until it is acknowledged, and berthd takes only the first: at least once here,
// exactly once in the database. A runner that has no connection puts each `ended` into the spool, as a file
// of one frame.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "schemas/accounting_record.h"
#include "schemas/controller_report.h"
#include "schemas/network_settings.h"
#include "store/job_store.h"

namespace berth {

struct AttemptId {
  JobId job_id = 0;
  unsigned attempt = 0;
  auto operator<=>(const AttemptId&) const = default;
};

/// What a running attempt uses at this moment; absent where its cgroup does not tell.
struct RunningSample {
  AttemptId id;
  std::optional<std::chrono::microseconds> cpu_time;
  std::optional<Bytes> memory;
  std::uint64_t processes = 0;
};

struct RunnerMessage {
  enum class Kind {
    start,
    stop,
    signal,
    suspend,
    resume,
    acknowledge,
    retire,
    sample,  ///< id.job_id: a number that comes back with the answer
    hello,
    started,
    ended,
    samples,
    paused,  ///< what became of a suspend or resume
  };
  Kind kind = Kind::hello;
  AttemptId id;
  // start
  std::string user;
  unsigned user_id = 0;
  unsigned group_id = 0;
  std::string spec_text;
  std::optional<JobId> array_job_id;
  std::optional<unsigned> array_task_id;
  Allocation allocation;
  NetworkSettings network;
  /// start: this berthd reads to_counters(); ended: it is written so. An older berthd knows only JSON.
  bool counters = false;
  /// suspend, resume: `paused` is to tell what became of it; hello: this runner's build can.
  bool tells_pauses = false;
  /// hello: this runner's build knows the job field `umask`; an older one refuses a job that has it.
  bool knows_umask = false;
  /// hello: program_identity() of what it runs; empty from builds that do not tell.
  std::string program;
  // stop
  Cause cause = Cause::cancelled;
  bool at_once = false;  ///< without SIGTERM and grace period
  std::string by;        ///< who asked for it; the record says so of a cancelled job
  // signal
  int signal_number = 0;
  bool batch_job = false;  ///< to the main process alone
  // hello
  Supervisor runner;
  ControllerReport controllers;
  std::vector<AttemptId> jobs;  ///< that it runs, or whose end it will send
  // started, ended, paused
  Timestamp at;
  std::optional<Timestamp> started_at;  ///< ended: when it had started, if it had
  std::string detail;                   ///< of the RUNNING event; paused: why not, else empty
  Outcome outcome;
  Usage usage;
  // samples
  std::vector<RunningSample> samples;
};

std::string to_frame(const RunnerMessage& message);

/// Of the file that a runner runs: another one after an upgrade, which puts a new file in its place, the same
/// for as long as it is left alone. Empty when there is no such file.
std::string program_identity(const std::string& path);

/// Adds to the message of what was cancelled by whom it was, if that is known and not told yet: runners of
/// older builds do not.
void name_canceller(Outcome& outcome, const std::string& by);
/// Of a start that came too late to a runner that ends its jobs: berthd lets the job wait again.
Outcome refused_by_leaving_runner();

/// Takes frames out of a stream of bytes.
class FrameReader {
 public:
  void append(const char* data, std::size_t size) { buffer_.append(data, size); }
  /// The next whole message; nothing when more bytes are needed. Throws std::runtime_error on what is no
  /// frame.
  std::optional<RunnerMessage> next();
  bool empty() const { return buffer_.size() == position_; }

 private:
  std::string buffer_;
  std::size_t position_ = 0;
};

}  // namespace berth
