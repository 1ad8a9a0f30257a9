// RunPreparation: what berth run needs of its executor before it takes jobs, made ready by a thread of its
// own while the caller opens the database.
//
//   thread: the executor's cgroups, its launcher, what the machine refuses ─► refused() ─► the first sandbox
//   caller: topology, pool ─► expect() ─► database ─► refused() ─► the commit ─► wait()
//
// Until refused() has returned the caller must not use the executor, and before wait() only as
// Executor::expect() permits.
#pragma once

#include <future>
#include <optional>
#include <thread>
#include <vector>

#include "executor/executor.h"
#include "scheduler/run_jobs_input.h"
#include "scheduler/side_thread.h"
#include "schemas/accounting_record.h"
#include "schemas/input_error.h"

namespace berth {

class RunPreparation {
 public:
  /// `executor` was made with ExecutorOptions::complete_later. `jobs` must not change before refused().
  RunPreparation(Executor& executor, const std::vector<RequestedJob>& jobs, const Caller& caller);
  /// Waits, without a first sandbox if none was asked for.
  ~RunPreparation();
  RunPreparation(const RunPreparation&) = delete;
  RunPreparation& operator=(const RunPreparation&) = delete;

  struct ExpectedJob {
    JobSpec spec;
    Allocation allocation;
    Identity identity;
  };
  /// Once, at most: the job that is likely to be launched first.
  void expect(std::optional<ExpectedJob> first);
  /// Once. What this machine cannot do for the jobs. Throws what stands in the way of all jobs: CgroupError,
  /// and InputError when the kernel permits no sandboxes.
  std::vector<InputFault> refused();
  /// For the first sandbox.
  void wait();

 private:
  void prepare(const std::vector<RequestedJob>& jobs, const Caller& caller);

  Executor& executor_;
  std::thread::id maker_ = std::this_thread::get_id();
  bool is_told_ = false;
  std::promise<std::optional<ExpectedJob>> first_;
  std::promise<std::vector<InputFault>> refused_;
  SideThread thread_;  // last: it uses the others
};

}  // namespace berth
