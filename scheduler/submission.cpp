#include "scheduler/submission.h"

#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <future>
#include <iterator>
#include <map>
#include <system_error>
#include <thread>

#include "executor/executor.h"
#include "scheduler/job_queue.h"
#include "schemas/index_list.h"
#include "schemas/input_error.h"
#include "schemas/job_file.h"

namespace berth {
namespace {

/// From this size on several threads parse a text, so many jobs each at a time.
constexpr std::size_t kLargeText = std::size_t{64} << 10U;
constexpr std::size_t kJobsOfPiece = 250;
constexpr std::size_t kMostThreads = 4;
/// Of one job, as it is kept: read again for each listing that shows it.
constexpr std::size_t kLargestJob = std::size_t{4} << 20U;

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
    spec.standard_output = escape_pattern(folder) + (folder.ends_with('/') ? "" : "/") +
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

std::string first_task(const StoredJob& job) {
  const std::string name = std::to_string(job.job_id);
  const JobSpec spec = parse_stored_job(job.spec_text, "job " + name);
  if (job.array_job_id || spec.array.empty()) {
    return "";
  }
  return name + "_" + std::to_string(parse_array(spec.array).tasks.take_first().value_or(0));
}

void require_suspension(const ControllerReport& controllers) {
  try {
    check_suspension(controllers);
  } catch (const LaunchError& error) {
    throw InputError("suspend", "", error.what());
  }
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

namespace {

/// What the jobs of one request have in common.
struct Request {
  const std::string& file_name;
  const std::string& directory;
  const Submitter& submitter;
  const ControllerReport& controllers;
  const NetworkSettings& network;
  IdentityCache& identities;
  Timestamp now;
  std::string host;
};

NewJob new_job(JobSpec spec, const IdentityCache::Entry& runs_as, const Request& request) {
  check_limits(spec, request.controllers);
  check_network_permission(spec, request.network);
  if (!request.submitter.administrator && (spec.priority > 0 || spec.nice < 0)) {
    throw LaunchError("priority", EPERM,
                      "only administrators raise a priority; use \"nice\" to put it behind your others");
  }
  complete(spec);
  NewJob job;
  job.user = request.submitter.name;
  job.user_id = request.submitter.user_id;
  job.group_id = request.submitter.group_id;
  job.job_user = runs_as.name;
  job.job_user_id = runs_as.user_id;
  job.host = request.host;
  job.submit = request.now;
  job.queue = queue_facts(spec);
  job.spec_text = to_json_text(spec);
  if (job.spec_text.size() > kLargestJob) {
    throw LaunchError("text", E2BIG,
                      "it is longer than 4 MiB, as berthd writes it; put long arguments and variables into a "
                      "file that the job reads");
  }
  job.spec = std::move(spec);
  return job;
}

std::vector<NewJob> parse(std::string_view text, const Request& request) {
  const Caller caller{request.submitter.user_id, request.submitter.group_id, request.submitter.name};
  std::map<std::string, IdentityCache::Entry> run_as;  // by isolation.user
  std::vector<InputFault> faults;
  std::vector<NewJob> jobs;
  std::vector<JobSpec> specs = parse_many_jobs(text, request.file_name, request.directory);
  jobs.reserve(specs.size());
  for (std::size_t index = 0; index < specs.size(); ++index) {
    JobSpec& spec = specs[index];
    const std::string name = spec.name;
    try {
      auto known = run_as.find(spec.isolation.user);
      if (known == run_as.end()) {
        known =
            run_as.emplace(spec.isolation.user, request.identities.find(spec.isolation.user, caller)).first;
      }
      jobs.push_back(new_job(std::move(spec), known->second, request));
    } catch (const LaunchError& error) {
      faults.push_back({request.file_name, specs.size() > 1 ? "/" + std::to_string(index) : "",
                        "job \"" + name + "\": " + error.what()});
      if (faults.size() >= kMostFaults) {
        faults.push_back(too_many_faults(request.file_name));
        break;
      }
    }
  }
  if (!faults.empty()) {
    throw InputError(std::move(faults));
  }
  return jobs;
}

/// By this thread and others, as far as there are CPUs. Throws InputError when a piece has a fault.
std::vector<NewJob> parse_at_once(const std::vector<std::string>& pieces, const Request& request) {
  std::vector<std::vector<NewJob>> parsed(pieces.size());
  std::atomic<std::size_t> next = 0;
  const auto work = [&] {
    for (std::size_t index = next++; index < pieces.size(); index = next++) {
      parsed[index] = parse(pieces[index], request);
    }
  };
  {
    std::vector<std::future<void>> helpers;
    const std::size_t threads =
        std::min<std::size_t>({std::thread::hardware_concurrency(), pieces.size(), kMostThreads});
    try {
      while (helpers.size() + 1 < threads) {
        helpers.push_back(std::async(std::launch::async, work));
      }
    } catch (const std::system_error&) {
      // No thread more can be had.
    }
    work();
    for (std::future<void>& helper : helpers) {
      helper.get();
    }
  }
  std::vector<NewJob> jobs;
  jobs.reserve(pieces.size() * kJobsOfPiece);
  for (std::vector<NewJob>& some : parsed) {
    std::move(some.begin(), some.end(), std::back_inserter(jobs));
  }
  return jobs;
}

}  // namespace

std::vector<NewJob> parse_submission(std::string_view text, const std::string& file_name,
                                     const std::string& directory, const Submitter& submitter,
                                     const ControllerReport& controllers, const NetworkSettings& network,
                                     IdentityCache& identities, Timestamp now) {
  const Request request{file_name, directory, submitter, controllers, network, identities, now, host_name()};
  if (text.size() >= kLargeText) {
    const std::vector<std::string> pieces = split_job_array(text, kJobsOfPiece);
    try {
      if (pieces.size() > 1) {
        return parse_at_once(pieces, request);
      }
    } catch (const InputError&) {
      // The whole tells all its faults, by their places in it.
    }
  }
  return parse(text, request);
}

}  // namespace berth
