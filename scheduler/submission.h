// From the text of a request to the jobs that it submits: everything that can be refused is refused here,
// before anything is committed.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "scheduler/runner_protocol.h"
#include "schemas/job_spec.h"
#include "store/job_store.h"

namespace berth {

struct Submitter {
  unsigned user_id = 0;
  unsigned group_id = 0;
  std::string name;
  bool administrator = false;
};

/// What a waiting job is scheduled by, as its spec says.
QueueFacts queue_facts(const JobSpec& spec);

/// Throws InputError for a limit that the machine cannot enforce, and a network that is not permitted.
void check_submission(const JobSpec& spec, const ControllerReport& controllers,
                      const NetworkSettings& network);

/// `text` is a job file (one job or an array of jobs); relative paths start at `directory`. Throws InputError
/// with every fault. Safe from any thread.
std::vector<NewJob> parse_submission(std::string_view text, const std::string& file_name,
                                     const std::string& directory, const Submitter& submitter,
                                     const ControllerReport& controllers, const NetworkSettings& network,
                                     Timestamp now);

}  // namespace berth
