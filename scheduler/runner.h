// Runner: what berth-runner does: holds jobs for berthd, and goes on holding them when berthd is gone.
//
// One process and one thread: an Executor, a listening socket and at most one connection, of berthd. It opens
// the jobs' files as their submitters, supervises the jobs' limits (Executor) and reports. Reports that
// nobody takes go into the spool. It ends when it is told to retire, has no job, and clients of
// its streams have got everything, or when it has had neither a job nor a berthd that gives it any for
// kLinger.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "executor/executor.h"
#include "executor/os/unique_fd.h"
#include "scheduler/cpu_locks.h"
#include "scheduler/record_spool.h"
#include "scheduler/runner_protocol.h"
#include "scheduler/runner_streams.h"

namespace berth {

struct RunnerOptions {
  std::string socket_folder;  ///< where its socket is made, as "<cgroup name>.sock"
  std::string spool_folder;
  unsigned armed_ahead = 0;
};

class Runner {
 public:
  static constexpr std::chrono::seconds kLinger{600};
  /// Within which berthd answers that it sends no more jobs.
  static constexpr std::chrono::seconds kFarewell{2};

  /// Forks the executor's launcher and listens. Throws std::system_error and LaunchError.
  Runner(const RunnerOptions& options, Supervisor self);
  ~Runner();
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;

  const std::string& socket_path() const { return socket_path_; }
  /// Returns when the runner has nothing to live for. SIGTERM, which comes when the machine is shut down,
  /// ends its jobs as NODE_FAIL and then the runner; berthd sends it no more, and those that it had sent by
  /// then wait again.
  void run();

 private:
  /// The files of a running job.
  struct Job {
    AttemptId id;
    std::chrono::milliseconds grace{0};
    std::optional<Timestamp> started_at;
    std::string detail;  ///< of its RUNNING event
    UniqueFd input;
    std::vector<UniqueFd> outputs;
    bool terminal = false;
    CpuSet cpus;
    std::string canceller;    ///< who cancelled it first
    std::string lost_output;  ///< what became of its output where the file could not take it all
  };

  void end_jobs();
  void accept_connection();
  void drop_connection();
  void read_connection();
  void flush();
  void send(const RunnerMessage& message);
  void handle(const RunnerMessage& message);
  void try_to_handle(const RunnerMessage& message);
  void pause(const RunnerMessage& message);
  void start(const RunnerMessage& message);
  void launch(const RunnerMessage& message, Job& job);
  /// How an output file is opened.
  struct SinkFile {
    OpenMode mode = OpenMode::truncate;
    std::optional<unsigned> umask;
    const Caller& caller;
  };
  OutputSink open_sink(Job& job, StreamFrame::Kind stream, const std::string& path, const SinkFile& file);
  void refuse(AttemptId id, const Outcome& outcome);
  void report(ExecutorEvent& event);
  void report_started(const Started& started);
  void report_ended(const Ended& ended);
  void send_samples(const RunnerMessage& asked);
  void finish(RunnerMessage ended);
  void spool(const RunnerMessage& ended);
  void occupy(Job& job, const CpuSet& cpus);
  void forget(std::map<JobId, Job>::iterator job);
  Job* find(AttemptId id);
  AttemptView look(AttemptId id);
  void send_leaving();
  int longest_sleep() const;
  bool is_idle() const;
  bool may_end() const;

  Supervisor self_;
  RecordSpool spool_;
  std::string socket_path_;
  UniqueFd listener_;
  UniqueFd signals_;
  Executor executor_;
  std::unique_ptr<CpuLocks> cpus_;  // null: not kept apart from other berths'
  RunnerStreams streams_;
  UniqueFd connection_;
  FrameReader reader_;
  std::string unsent_;
  std::map<JobId, Job> jobs_;
  std::map<AttemptId, RunnerMessage> unacknowledged_;
  std::set<AttemptId> spooled_;
  bool counters_ = false;  // this connection's berthd reads them
  bool retiring_ = false;
  std::optional<std::chrono::steady_clock::time_point> terminated_;  ///< SIGTERM came
  std::chrono::steady_clock::time_point idle_since_;
};

}  // namespace berth
