// The commands that ask berthd: queue, cancel, wait, logs, hold, release, requeue, suspend, resume, signal,
// why, update, slots, drain, undrain, events.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "scheduler/api_client.h"
#include "scheduler/command_line.h"
#include "scheduler/log.h"
#include "schemas/job.h"
#include "schemas/quantities.h"

namespace berth {

/// Each returns the exit status and throws UsageError, InputError, ApiRefusal, NoDaemon.
int run_queue(const CommandLine& line);
int run_wait(const CommandLine& line);
int run_logs(const CommandLine& line);
int run_slots(const CommandLine& line);
int run_why(const CommandLine& line);
int run_update(const CommandLine& line);
int run_drain(const CommandLine& line);
int run_events(const CommandLine& line);
int run_cancel(const CommandLine& line);
/// hold, release, requeue, suspend, resume, signal: one request for each job; goes on after a
/// refusal.
int run_job_action(const CommandLine& line);

/// The jobs that operands name, each as "36" or "36_4": ids, tasks of arrays, "36_[1-3]" for several, and
/// ranges "36-40". Throws InputError.
std::vector<std::string> job_ids(const std::vector<std::string>& operands);
/// The first operand, one job's id. Throws InputError.
std::string job_id(const CommandLine& line);

/// On standard error, after "berth: "; what others have put into it as a terminal may have it.
void tell(const std::string& text);

/// The exit status of the first that did not complete, else 0; `as_json` prints each end. 124, and says which
/// is not over, when `timeout` passes before.
int wait_for_jobs(ApiClient& client, const std::vector<std::string>& jobs, bool as_json,
                  std::optional<Milliseconds> timeout = std::nullopt);

/// Does it again when berthd goes away meanwhile, as it does to be upgraded: its jobs go on. Throws NoDaemon
/// when it does not come back, or was not there.
template <typename Action>
auto through_restarts(Action action) {
  constexpr std::chrono::seconds kPatience{60};
  constexpr std::chrono::milliseconds kPause{200};
  std::optional<std::chrono::steady_clock::time_point> gone_since;
  for (;;) {
    try {
      return action();
    } catch (const DaemonGone& error) {
      log_warning(std::string(error.what()) + "; waiting for it to come back");
      gone_since = std::chrono::steady_clock::now();
    } catch (const NoDaemon&) {
      if (!gone_since || std::chrono::steady_clock::now() - *gone_since >= kPatience) {
        throw;
      }
    }
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace berth
