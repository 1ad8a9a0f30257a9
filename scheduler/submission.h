// From the text of a request to the jobs that it submits: everything that can be refused is refused here,
// before anything is committed.
#pragma once

#include <chrono>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "scheduler/runner_protocol.h"
#include "schemas/job_spec.h"
#include "store/queue_store.h"

namespace berth {

struct Caller;

struct Submitter {
  unsigned user_id = 0;
  unsigned group_id = 0;
  std::string name;
  bool administrator = false;
};

/// Who jobs of a caller run as, believed for some seconds: asking the user database takes longer than all the
/// rest of a submission. Only for the record: the runner asks again when it starts the job. Safe from any
/// thread.
class IdentityCache {
 public:
  struct Entry {
    unsigned user_id = 0;
    std::string name;
  };
  /// Throws LaunchError as resolve_identity() does.
  Entry find(const std::string& isolation_user, const Caller& caller);

 private:
  static constexpr std::chrono::seconds kLifetime{30};
  static constexpr std::size_t kMost = 1000;

  using Key = std::tuple<std::string, unsigned, unsigned>;
  struct Known {
    Entry entry;
    std::chrono::steady_clock::time_point asked;
  };
  std::mutex mutex_;
  std::map<Key, Known> known_;
};

/// What a waiting job is scheduled by, as its spec says.
QueueFacts queue_facts(const JobSpec& spec);

/// "36_0", the first task, of an array, which itself has no streams; empty for any other job.
std::string first_task(const StoredJob& job);

/// Throws InputError for a limit that the machine cannot enforce, and a network that is not permitted.
void check_submission(const JobSpec& spec, const ControllerReport& controllers,
                      const NetworkSettings& network);

/// Throws InputError when the machine cannot freeze a job.
void require_suspension(const ControllerReport& controllers);

/// `text` is a job file (one job or an array of jobs); relative paths start at `directory`. Throws InputError
/// with every fault. Safe from any thread.
std::vector<NewJob> parse_submission(std::string_view text, const std::string& file_name,
                                     const std::string& directory, const Submitter& submitter,
                                     const ControllerReport& controllers, const NetworkSettings& network,
                                     IdentityCache& identities, Timestamp now);

}  // namespace berth
