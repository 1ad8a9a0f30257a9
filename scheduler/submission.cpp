#include "scheduler/submission.h"

#include <pwd.h>
#include <unistd.h>

#include <array>
#include <map>

#include "executor/executor.h"
#include "scheduler/job_queue.h"
#include "schemas/index_list.h"
#include "schemas/input_error.h"
#include "schemas/job_file.h"

namespace berth {
namespace {

std::string user_name(uid_t uid) {
  std::array<char, 16384> buffer{};
  passwd entry{};
  passwd* found = nullptr;
  return ::getpwuid_r(uid, &entry, buffer.data(), buffer.size(), &found) == 0 && found != nullptr
             ? entry.pw_name
             : std::to_string(uid);
}

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

/// Its name's default and what the daemon's jobs have instead of a caller's terminal.
void complete(JobSpec& spec) {
  if (spec.standard_output.empty()) {
    const std::string& folder = spec.current_working_directory;
    spec.standard_output = folder + (folder.ends_with('/') ? "" : "/") +
                           (spec.array.empty() ? "berth-%j.out" : "berth-%A_%a.out");
  }
}

}  // namespace

IdentityCache::Entry IdentityCache::find(const std::string& isolation_user, const Caller& caller) {
  const auto now = std::chrono::steady_clock::now();
  const Key key{isolation_user, caller.uid, caller.gid};
  {
    const std::lock_guard lock(mutex_);
    if (const auto known = known_.find(key); known != known_.end() && now - known->second.asked < kLifetime) {
      return known->second.entry;
    }
  }
  const uid_t uid = resolve_identity(isolation_user, caller).outside_uid;
  Entry entry{uid, user_name(uid)};
  const std::lock_guard lock(mutex_);
  if (known_.size() >= kMost) {
    known_.clear();
  }
  known_[key] = {entry, now};
  return entry;
}

QueueFacts queue_facts(const JobSpec& spec) {
  QueueFacts facts;
  facts.priority = effective_priority(spec);
  facts.cpus = spec.cpus_per_task;
  facts.memory = spec.memory_per_node;
  facts.stay = longest_stay(spec);
  facts.hold = spec.hold ? Hold::user : Hold::none;
  facts.begin = spec.begin_time;
  facts.deadline = spec.deadline;
  facts.dependency = spec.dependency;
  facts.shared_network = spec.isolation.network.shared_name;
  if (!spec.array.empty()) {
    const ArraySpec array = parse_array(spec.array);
    facts.array_tasks = array.tasks.to_text();
    facts.array_limit = array.limit;
  }
  return facts;
}

void check_submission(const JobSpec& spec, const ControllerReport& controllers,
                      const NetworkSettings& network) {
  try {
    check_limits(spec, controllers);
    check_network_permission(spec, network);
  } catch (const LaunchError& error) {
    throw InputError("job \"" + spec.name + "\"", "", error.what());
  }
}

std::vector<NewJob> parse_submission(std::string_view text, const std::string& file_name,
                                     const std::string& directory, const Submitter& submitter,
                                     const ControllerReport& controllers, const NetworkSettings& network,
                                     IdentityCache& identities, Timestamp now) {
  const Caller caller{submitter.user_id, submitter.group_id, submitter.name};
  const std::string host = host_name();
  std::map<std::string, IdentityCache::Entry> run_as;  // by isolation.user
  std::vector<InputFault> faults;
  std::vector<NewJob> jobs;
  std::vector<JobSpec> specs = parse_many_jobs(text, file_name, directory);
  jobs.reserve(specs.size());
  for (JobSpec& spec : specs) {
    try {
      auto known = run_as.find(spec.isolation.user);
      if (known == run_as.end()) {
        known = run_as.emplace(spec.isolation.user, identities.find(spec.isolation.user, caller)).first;
      }
      check_limits(spec, controllers);
      check_network_permission(spec, network);
      if (!submitter.administrator && (spec.priority > 0 || spec.nice < 0)) {
        throw LaunchError("priority", EPERM,
                          "only administrators raise a priority; use \"nice\" to put it behind your others");
      }
      complete(spec);
      NewJob& job = jobs.emplace_back();
      job.user = submitter.name;
      job.user_id = submitter.user_id;
      job.group_id = submitter.group_id;
      job.job_user = known->second.name;
      job.job_user_id = known->second.user_id;
      job.host = host;
      job.submit = now;
      job.queue = queue_facts(spec);
      job.spec_text = to_json_text(spec);
      job.spec = std::move(spec);
    } catch (const LaunchError& error) {
      faults.push_back({file_name, "", "job \"" + spec.name + "\": " + error.what()});
    }
  }
  if (!faults.empty()) {
    throw InputError(std::move(faults));
  }
  return jobs;
}

}  // namespace berth
