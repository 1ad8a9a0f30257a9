#include "executor/executor.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <deque>
#include <limits>
#include <map>

#include "executor/armed_sandboxes.h"
#include "executor/attempt.h"
#include "executor/cgroup.h"
#include "executor/job_limits.h"
#include "executor/launcher_process.h"
#include "executor/network_pool.h"
#include "executor/nft_tables.h"
#include "executor/os/syscall.h"
#include "executor/own_cpus.h"
#include "executor/plan.h"
#include "executor/sandbox.h"
#include "executor/standard_input.h"
#include "executor/user_network.h"

namespace berth {
namespace {

using Time = Attempt::Time;

/// What an epoll event is about: a token in the upper bits, the kind below.
enum class Source : std::uint64_t { launcher, timer, channel, pidfd, output, error, network };
constexpr unsigned kSourceBits = 3;

/// A launch this soon after an end is one of many: what can be done ahead is done beside the jobs.
constexpr std::chrono::milliseconds kBackToBack{5};
/// Else it waits until a short job, whose caller waits for it, has ended undisturbed.
constexpr std::chrono::milliseconds kPrepareLater{3};

std::uint64_t tag(std::uint64_t token, Source source) {
  return token << kSourceBits | static_cast<std::uint64_t>(source);
}

/// Cgroups of ended jobs are removed when nothing else was to be done for as long, a few at a time.
constexpr Time::duration kRemoveLater = std::chrono::milliseconds(5);
/// Between attempts at those that stay busy.
constexpr Time::duration kRemoveAtLast = std::chrono::seconds(1);
constexpr std::size_t kRemovedAtOnce = 16;
/// In one dispatch().
constexpr std::size_t kEventsAtOnce = 64;

/// Of ended jobs, on their way out at once.
constexpr std::size_t kMostExiting = 8;

std::string job_cgroup_name(JobId job, unsigned attempt) {
  return "job-" + std::to_string(job) + "." + std::to_string(attempt);
}

/// With v2 controllers a job is born in its own cgroup by clone3 at no cost, and a cgroup cannot be renamed
/// there: nothing is armed.
bool uses_unified_controllers(const CgroupMachine& machine) {
  return machine.at(Controller::memory).version == 2;  // a hybrid machine may have hugetlb alone in v2
}

/// What a job is given, and berth's ends of it.
struct JobStreams {
  UniqueFd input;  ///< /dev/null, opened for this job alone
  FdPair output;
  FdPair error;
};

JobStreams make_job_streams() {
  JobStreams streams{open_at(AT_FDCWD, "/dev/null", O_RDONLY), make_pipe(), make_pipe()};
  for (const UniqueFd* end : {&streams.output.first, &streams.error.first}) {
    check(::fcntl(end->get(), F_SETFL, O_NONBLOCK), "fcntl", "pipe");
  }
  return streams;
}

/// A job holds some twenty descriptors of ours (cgroup files, pipes, pidfd), and some forty with those that
/// are opened ahead, which happens only while there are many more. Jobs get their own limit.
constexpr std::size_t kPlentyOfDescriptors = 128;

/// Below this not even one job can be run and recorded.
constexpr rlim_t kFewestDescriptors = 64;

rlimit enough_descriptors() {
  const rlimit limit = descriptor_limit();
  if (limit.rlim_max < kFewestDescriptors) {
    throw LaunchError("open files", EMFILE,
                      "berth may open only " + std::to_string(limit.rlim_max) + " files at once and needs " +
                          std::to_string(kFewestDescriptors) +
                          "; raise the limit (ulimit -Hn, LimitNOFILE=)");
  }
  return limit;
}

}  // namespace

LaunchError::LaunchError(std::string stage, int error_number, const std::string& message)
    : std::runtime_error(message), stage_(std::move(stage)), error_number_(error_number) {}

std::string Started::detail() const {
  std::string list;
  for (const std::string& port : published) {  // its words need no escaping
    list += (list.empty() ? "\"" : ", \"") + port + "\"";
  }
  return list.empty() ? "" : "{\"published\": [" + list + "]}";
}

namespace {

/// berth itself binds them, as root.
void check_published_ports(const std::vector<PublishedPort>& published) {
  constexpr const char* kFirstFree = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
  if (published.empty() || ::geteuid() != 0) {
    return;  // the kernel asks
  }
  const auto first = static_cast<unsigned>(std::atoi(read_file_at(AT_FDCWD, kFirstFree).c_str()));
  for (const PublishedPort& port : published) {
    if (port.host_port != 0 && port.host_port < first) {
      throw LaunchError("isolation.publish", EACCES,
                        "isolation.publish: " + port.to_text() + ": ports of the host below " +
                            std::to_string(first) +
                            " are root's. Use a higher one, or 0 for a free one; or the administrator allows "
                            "it with \"network\": {\"allow_privileged_ports\": true} in "
                            "/etc/berth/berthd.json");
    }
  }
}

}  // namespace

void check_network_permission(const JobSpec& spec, const NetworkSettings& settings) {
  if (!settings.allow_privileged_ports) {
    check_published_ports(spec.isolation.network.publish);
  }
  if (spec.isolation.network.mode == NetworkMode::host && !settings.allow_host) {
    throw LaunchError(
        "isolation.network", EPERM,
        "isolation.network: \"host\" is not permitted: on the host's own network a job reaches "
        "everything that the host does. Use \"private\" with \"egress\" and \"publish\"; or the "
        "administrator allows it with \"network\": {\"allow_host\": true} in "
        "/etc/berth/berthd.json");
  }
}

std::shared_ptr<LauncherProcess> fork_launcher() {
  return std::make_shared<LauncherProcess>(enough_descriptors());
}

namespace {

/// It may move this process to a scope of its own. A launcher that was forked before is not there: another
/// one takes its place.
CgroupMachine enter_machine(ExecutorOptions& options) {
  const CgroupMachine found = detect_cgroups();
  CgroupMachine machine = enter_own_scope(found, options.own_scope);
  if (machine.unified.own_path != found.unified.own_path) {
    options.launcher.reset();
  }
  return machine;
}

}  // namespace

class Executor::Implementation {
 public:
  explicit Implementation(ExecutorOptions options)
      : options_(std::move(options)),
        inherited_limit_(enough_descriptors()),
        machine_(enter_machine(options_)),
        launcher_(options_.launcher ? std::move(options_.launcher) : fork_launcher()),
        epoll_(check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")),
        timer_(check(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), "timerfd_create")) {
    tree_ = CgroupTree::begin(machine_, options_.cgroup);
    watch(launcher_->descriptor(), tag(0, Source::launcher));
    if (options_.first_spec != nullptr) {
      begin_first(profile_of(*options_.first_spec, *options_.first_identity));
    }
    descriptor_limit_ = raise_descriptor_limit().rlim_max;
    NftTables::keep_descriptors();
    watch(timer_.get(), tag(0, Source::timer));
    if (!options_.complete_later) {
      complete();
    }
  }

  void complete() { tree_->complete(); }

  ~Implementation() {
    if (begun_) {
      await_spawned(*begun_);
      begun_.reset();
    }
    armed_.clear();
    for (auto& [token, attempt] : attempts_) {
      attempt->stop(Cause::cancelled, std::chrono::milliseconds::zero(), Attempt::Clock::now());
    }
    for (auto& [token, attempt] : attempts_) {
      await_spawned(attempt->sandbox());
    }
    attempts_.clear();
    launcher_->dismiss();  // it ends beside what follows
    exiting_.clear();
    remove_finished(std::chrono::seconds(2));
  }

  void wait_until_ready() { launcher_->wait_until_ready(); }
  std::string use_partition(CpuPartition kind, const CpuSet& cpus) {
    return tree_->use_partition(kind, cpus);
  }
  std::vector<std::string> other_supervisors() const { return tree_->siblings(); }
  void set_database(const std::string& file) { tree_->set_owner(file); }
  LeftoverOwner owner_of(const std::string& cgroup, const std::string& own) const {
    return tree_->owner_of(cgroup, own);
  }
  void remove_empty_leftover(const std::string& cgroup) const {
    if (tree_->holds_job(cgroup)) {
      return;  // as all that are left for long; to look everywhere takes as long as a short job
    }
    const std::vector<std::string> names = list_leftover_jobs(detect_cgroups(), cgroup);
    if (std::none_of(names.begin(), names.end(), is_jobs_cgroup)) {  // they tell nobody anything
      remove_leftover(cgroup);
    }
  }

  ControllerReport controllers() const { return report_controllers(*tree_); }
  void use_network(const NetworkSettings& settings) { options_.network = settings; }

  void check_supported(const JobSpec& spec, const Caller& caller) {
    check_limits(spec, *tree_);
    check_network_permission(spec, options_.network);
    check_mount_points(spec, caller);
    check_time_offsets(spec.isolation);
    if (spec.isolation.network.is_connected() && host_view()) {
      UserNetwork::check_supported(spec.isolation.network);
    }
  }

  void expect(const JobSpec& spec, const Allocation& allocation, const Identity& identity) {
    if (launcher_lost_ || launcher_->has_ended()) {
      return;  // another one would die with this thread
    }
    try {
      const SandboxProfile profile = profile_of(spec, identity);
      if (can_be_armed(profile)) {
        arm_one(profile, job_cgroup_limits(spec, allocation, *tree_));
      }
    } catch (const std::exception&) {
      return;  // the launch itself will tell what is wrong
    }
  }

  void launch(LaunchRequest request) {
    begun_.reset();
    const JobId job = request.job_id;
    try {
      begin(std::move(request));
    } catch (const LaunchError& error) {
      refuse(job, {error.stage(), error.error_number(), error.what()});
    } catch (const CgroupError& error) {
      refuse(job, {"cgroup", error.code().value(), error.what()});
    } catch (const std::system_error& error) {
      refuse(job, {"set-up", error.code().value(), error.what()});
    }
    arm_timer();
  }

  void stop(JobId job, Cause cause, std::chrono::milliseconds grace) {
    if (Attempt* attempt = find(job)) {
      attempt->stop(cause, grace, Attempt::Clock::now());
      arm_timer();
    }
  }

  void signal(JobId job, int signal_number, bool batch_job) {
    if (Attempt* attempt = find(job)) {
      attempt->signal(signal_number, batch_job, Attempt::Clock::now());
      arm_timer();
    }
  }

  void signal_all(int signal_number) {
    const Time now = Attempt::Clock::now();
    for (auto& [token, attempt] : attempts_) {
      if (attempt->started()) {
        attempt->signal(signal_number, false, now);
      }
    }
    arm_timer();
  }

  bool freeze(JobId job, bool frozen) {
    Attempt* attempt = find(job);
    const bool is_so = attempt != nullptr && attempt->freeze(frozen, Attempt::Clock::now());
    arm_timer();
    return is_so;
  }

  void freeze_all(bool frozen) {
    const Time now = Attempt::Clock::now();
    for (auto& [token, attempt] : attempts_) {
      try {
        attempt->freeze(frozen, now);
      } catch (const CgroupError&) {
        continue;  // without the controller it runs on
      }
    }
    arm_timer();
  }

  CommandId start_command(JobId job, const CommandRequest& request) {
    Attempt* attempt = find(job);
    if (attempt == nullptr) {
      throw LaunchError("command", ESRCH, "the job does not run");
    }
    return attempt->start_command(request, plan_context());
  }

  void signal_command(CommandId id, int signal_number) {
    if (Attempt* attempt = find(id.job_id)) {
      attempt->signal_command(id.number, signal_number, Attempt::Clock::now());
      arm_timer();
    }
  }

  std::optional<Executor::Sample> sample(JobId job) {
    Attempt* attempt = find(job);
    if (attempt == nullptr || !attempt->started()) {
      return std::nullopt;
    }
    JobCgroup& cgroup = attempt->sandbox().cgroup();
    const std::size_t processes = cgroup.processes().size();
    return Executor::Sample{cgroup.cpu_time(), cgroup.read().memory_current,
                            processes > 0 ? processes - 1 : 0};
  }

  void resume_output() {
    for (auto& [token, attempt] : attempts_) {
      for (const auto& [stream, source] :
           {std::pair{Attempt::Stream::output, Source::output}, {Attempt::Stream::error, Source::error}}) {
        if (attempt->resume(stream)) {
          watch(attempt->descriptor(stream), tag(token, source));
        }
      }
    }
  }

  int event_descriptor() const { return epoll_.get(); }
  std::size_t running() const { return attempts_.size(); }

  std::vector<ExecutorEvent> dispatch() {
    std::array<epoll_event, kEventsAtOnce> ready{};
    const int count = retry_eintr(
        [&] { return ::epoll_wait(epoll_.get(), ready.data(), static_cast<int>(ready.size()), 0); });
    const Time now = Attempt::Clock::now();
    note_unheard(static_cast<std::size_t>(std::max(count, 0)));
    if (launcher_->has_received()) {
      receive_spawned(now);
    }
    for (int index = 0; index < count; ++index) {
      handle(ready[static_cast<std::size_t>(index)].data.u64, now);
    }
    if (unheard_ == 0) {
      handle_times(now);
    }
    if (prepare_at_ && *prepare_at_ <= now) {
      prepare();
    } else if (remove_at_ && *remove_at_ <= now) {
      remove_finished(std::chrono::milliseconds::zero(), kRemovedAtOnce);
    }
    std::vector<ExecutorEvent> events = std::exchange(events_, {});
    arm_timer();
    return events;
  }

 private:
  /// Deadlines wait until all have been heard who had something to tell: a job may have ended in time and
  /// wait behind many others for its turn, which epoll_wait(2) gives to one after the other.
  void note_unheard(std::size_t heard) {
    constexpr std::size_t kOfAttempt = 4;  // descriptors: its channel, pidfd and streams
    constexpr std::size_t kOfAll = 3;      // launcher, timer, network
    if (heard < kEventsAtOnce) {
      unheard_ = 0;
      return;
    }
    if (unheard_ == 0) {
      unheard_ = kOfAttempt * attempts_.size() + exiting_.size() + kOfAll;
    }
    unheard_ -= std::min(unheard_, heard);
  }

  void watch(int fd, std::uint64_t data) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = data;
    check(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
  }
  void unwatch(int fd) { ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr); }

  bool host_view() const { return launcher_->view() == LauncherProcess::View::host_tree; }

  PlanContext plan_context() const {
    return {host_view(), options_.hostname, tree_->usable(Controller::cpuset)};
  }

  std::unique_ptr<Sandbox> begin_sandbox(const std::string& cgroup_name, const SandboxProfile& profile) {
    notice_end_of_launcher();
    if (launcher_lost_) {
      replace_launcher();
    }
    return std::make_unique<Sandbox>(++last_token_, profile, *tree_, cgroup_name, *launcher_);
  }

  void complete(Sandbox& sandbox, const CgroupLimits& limits, UniqueFd own_root) {
    sandbox.complete(*tree_, limits, std::move(own_root), *launcher_);
  }

  /// Of which nobody has heard yet. Sandboxes that it was making fail.
  void notice_end_of_launcher() {
    if (!launcher_lost_ && launcher_->has_ended()) {
      receive_spawned(Attempt::Clock::now());
    }
  }

  /// Somebody killed it, or the machine's OOM killer did. Throws LaunchError when there can be no other one.
  void replace_launcher() {
    launcher_ = std::make_shared<LauncherProcess>(inherited_limit_);
    launcher_->wait_until_ready();
    watch(launcher_->descriptor(), tag(0, Source::launcher));
    launcher_lost_ = false;
  }

  std::unique_ptr<Sandbox> new_sandbox(const LaunchRequest& request, const std::string& cgroup_name,
                                       const SandboxProfile& profile, const CgroupLimits& limits) {
    UniqueFd own_root;
    if (profile.own_root && !host_view()) {
      own_root = open_own_root(request, profile);
    }
    std::unique_ptr<Sandbox> sandbox = begin_sandbox(cgroup_name, profile);
    complete(*sandbox, limits, std::move(own_root));
    return sandbox;
  }

  void begin(LaunchRequest request) {
    await_exits();
    notice_end_of_launcher();  // before an armed sandbox is taken that it was making
    const CgroupLimits limits = job_cgroup_limits(request.spec, request.allocation, *tree_);
    check_time_offsets(request.spec.isolation);
    const SandboxProfile profile = profile_of(request.spec, request.identity);
    PreparedPlan plan = prepare_plan(request, plan_context());
    JobStreams streams = take_streams();
    if (request.standard_input >= 0) {
      streams.input = confine_input(request.standard_input, caller_of(request));
    }
    if (request.terminal) {  // the job opens it itself, in place of the streams that it is given
      streams.output = FdPair{};
      streams.error = FdPair{};
    }
    if (profile.network == NetworkMode::host && !profile.own_root) {
      add_host_network_files(plan);
    }
    const std::string cgroup_name = job_cgroup_name(request.job_id, request.attempt);
    std::unique_ptr<Sandbox> sandbox = armed_.take(profile, limits);
    const bool was_armed = sandbox != nullptr;
    if (!was_armed) {
      sandbox = new_sandbox(request, cgroup_name, profile, limits);
    }
    const int job_input = streams.input.get();
    const int job_output = request.terminal ? job_input : streams.output.second.get();
    const int job_error = request.terminal || request.join_streams ? job_output : streams.error.second.get();
    // A sandbox that died already has told why, or the launcher has; that arrives as an event.
    if (is_connected(profile)) {
      sandbox->hold_plan(std::move(plan), job_input, job_output, job_error);
      if (sandbox->network() != nullptr) {
        sandbox->send_held_plan(request.spec, hostname_of(request.spec, options_.hostname));
      }
    } else {
      sandbox->send_plan(plan, job_input, job_output, job_error);
    }
    const std::uint64_t token = sandbox->token();
    if (!request.terminal) {
      watch(streams.output.first.get(), tag(token, Source::output));
      watch(streams.error.first.get(), tag(token, Source::error));
    }
    watch(sandbox->channel(), tag(token, Source::channel));
    if (sandbox->pidfd() >= 0) {
      watch(sandbox->pidfd(), tag(token, Source::pidfd));
    }
    last_profile_ = profile;
    last_limits_ = limits;
    launches_left_ -= launches_left_ > 0 ? 1 : 0;
    const Time now = Attempt::Clock::now();
    Attempt& attempt = *attempts_
                            .emplace(token, std::make_unique<Attempt>(std::move(request), std::move(sandbox),
                                                                      std::move(streams.output.first),
                                                                      std::move(streams.error.first), now))
                            .first->second;
    // The job is on its way: time for what it need not wait for.
    own_cpus_.lease(attempt.cpus());
    if (was_armed) {
      rename_cgroup(attempt, cgroup_name);
    } else {
      open_counters_ahead(attempt.sandbox());
    }
    const bool back_to_back = now - last_end_ < kBackToBack;
    if (back_to_back) {
      prepare();  // there will be no better time
    } else if (!prepare_at_) {
      prepare_at_ = now + kPrepareLater;
    }
  }

  JobStreams take_streams() {
    JobStreams streams = spare_streams_ ? std::move(*spare_streams_) : make_job_streams();
    spare_streams_.reset();
    return streams;
  }

  void open_counters_ahead(Sandbox& sandbox) {
    if (attempts_.size() < descriptor_limit_ / kPlentyOfDescriptors) {
      sandbox.cgroup().open_counters();
    }
  }

  static void rename_cgroup(Attempt& attempt, const std::string& name) {
    try {
      attempt.sandbox().cgroup().rename(name);
    } catch (const CgroupError& error) {
      attempt.fail({"cgroup", error.code().value(), error.what()});
      attempt.sandbox().kill_init();
    }
  }

  /// Does ahead what the next launch would wait for, and what is left to do behind the last one.
  void prepare() {
    prepare_at_.reset();
    for (auto& [token, sandbox] : exiting_) {
      sandbox->dismiss();
      sandbox->cgroup().close_counters();
    }
    arm_ahead();
    remove_finished(std::chrono::milliseconds::zero(), 2);
  }

  /// The attempt never came to be: its end is the only event.
  void refuse(JobId job, const LaunchFailure& failure) {
    Observation observation;
    observation.launch_failure = failure;
    Ended ended;
    ended.job_id = job;
    ended.at = wall_clock_at(Attempt::Clock::now());
    ended.outcome = decide_outcome(observation, JobSpec{}, 0);
    events_.emplace_back(std::move(ended));  // which arm_timer() sees
  }

  bool can_be_armed(const SandboxProfile& profile) const {
    // A shared network is there for its jobs and not longer.
    return !profile.own_root && !host_view() && profile.network != NetworkMode::shared &&
           !uses_unified_controllers(machine_);
  }

  void begin_first(const SandboxProfile& profile) {
    try {
      if (can_be_armed(profile)) {
        begun_ = begin_sandbox(kArmedPrefix + std::to_string(last_token_ + 1), profile);
      }
    } catch (const std::exception&) {
      return;  // the launch itself will tell what is wrong
    }
  }

  void arm_one(const SandboxProfile& profile, const CgroupLimits& limits) {
    if (!spare_streams_) {
      spare_streams_ = make_job_streams();
    }
    std::unique_ptr<Sandbox> sandbox = std::exchange(begun_, nullptr);
    if (!sandbox || !(sandbox->profile() == profile)) {
      sandbox = begin_sandbox(kArmedPrefix + std::to_string(last_token_ + 1), profile);
    }
    complete(*sandbox, limits, UniqueFd{});
    open_counters_ahead(*sandbox);
    armed_.add(std::move(sandbox), limits);
  }

  /// Keeps sandboxes ready for jobs like the last one.
  void arm_ahead() {
    if (options_.armed_ahead == 0 || !can_be_armed(last_profile_)) {
      return;
    }
    armed_.keep_fitting(last_profile_, last_limits_);
    try {
      while (armed_.size() < std::min<std::size_t>(options_.armed_ahead, launches_left_)) {
        arm_one(last_profile_, last_limits_);
      }
    } catch (const std::exception&) {
      return;  // arming is an optimisation; the launch itself will tell what is wrong
    }
  }

  Attempt* find(JobId job) {
    for (auto& [token, attempt] : attempts_) {
      if (attempt->job_id() == job) {
        return attempt.get();
      }
    }
    return nullptr;
  }

  void handle(std::uint64_t data, Time now) {
    const std::uint64_t token = data >> kSourceBits;
    const auto source = static_cast<Source>(data & ((1u << kSourceBits) - 1));
    if (source == Source::launcher) {
      receive_spawned(now);
      return;
    }
    if (source == Source::timer) {
      std::uint64_t expirations;
      (void)!::read(timer_.get(), &expirations, sizeof expirations);
      timer_at_.reset();
      return;
    }
    if (source == Source::network) {
      network_->dispatch();
      return;
    }
    const auto found = attempts_.find(token);
    if (found == attempts_.end()) {
      if (const auto exiting = exiting_.find(token); exiting != exiting_.end() && source == Source::pidfd) {
        discard(std::move(exiting->second));
        exiting_.erase(exiting);
      }
      return;
    }
    Attempt& attempt = *found->second;
    switch (source) {
      case Source::channel:
        if (attempt.handle_reports(now)) {
          events_.emplace_back(started(attempt));
        }
        take_command_events(attempt);
        if (attempt.take_new_output()) {
          watch(attempt.descriptor(Attempt::Stream::output), tag(token, Source::output));
        }
        if (attempt.gone() && uses_unified_controllers(machine_)) {
          // Its cgroup must be empty first: it may hold CPUs of its own (slots.partition).
          unwatch(attempt.sandbox().channel());
          attempt.sandbox().dismiss();
        } else if (attempt.gone()) {
          finish(found, now);
        } else if (attempt.channel_closed()) {
          unwatch(attempt.sandbox().channel());
        }
        break;
      case Source::output:
        read_output(attempt, Attempt::Stream::output, now);
        break;
      case Source::error:
        read_output(attempt, Attempt::Stream::error, now);
        break;
      case Source::pidfd:
        finish(found, now);
        break;
      default:
        break;
    }
  }

  static Started started(Attempt& attempt) {
    // Its first instruction ran before we heard of it.
    Started event{attempt.job_id(), wall_clock_at(attempt.started_at()), {}};
    if (NetworkEndpoint* network = attempt.sandbox().network()) {
      for (const PublishedPort& port : network->published()) {
        event.published.push_back(published_text(port));
      }
    }
    return event;
  }

  void read_output(Attempt& attempt, Attempt::Stream stream, Time now) {
    const int fd = attempt.descriptor(stream);
    const SinkState state = attempt.handle_output(stream, now);
    if (state == SinkState::wait) {
      unwatch(fd);
    } else if (state == SinkState::closed && attempt.has_terminal()) {
      unwatch(fd);  // closing it would not: it was duplicated (epoll(7), "Questions and answers")
      attempt.close_output();
    }
  }

  void take_command_events(Attempt& attempt) {
    for (ExecutorEvent& event : attempt.take_command_events()) {
      events_.emplace_back(std::move(event));
    }
  }

  void receive_spawned(Time now) {
    try {
      while (std::optional<Spawned> spawned = launcher_->receive()) {
        take_spawned(std::move(*spawned), now);
      }
    } catch (const LaunchError& error) {
      unwatch(launcher_->descriptor());
      launcher_lost_ = true;
      fail_unspawned({error.stage(), error.error_number(), error.what()});
    }
  }

  /// The launch failed after its sandbox had been asked for: nobody else would reap its init.
  static void abandon(const Spawned& spawned) {
    if (spawned.pidfd) {
      siginfo_t information{};
      ::syscall(SYS_pidfd_send_signal, spawned.pidfd.get(), SIGKILL, nullptr, 0);
      retry_eintr(
          [&] { return ::waitid(P_PID, static_cast<id_t>(spawned.pid), &information, WEXITED | __WALL); });
    }
  }

  void take_spawned(Spawned spawned, Time now) {
    const auto found = attempts_.find(spawned.token);
    if (begun_ && begun_->token() == spawned.token) {  // the job that it was made for still waits
      abandon(spawned);
      begun_.reset();
      return;
    }
    if (found == attempts_.end()) {
      if (!armed_.receive(spawned, [this](Sandbox& sandbox) { connect(sandbox); })) {
        abandon(spawned);
      }
      return;
    }
    Attempt& attempt = *found->second;
    const int error_number = spawned.error_number;
    const std::string step = spawned.step;
    const bool has_process = static_cast<bool>(spawned.pidfd);
    attempt.sandbox().take(std::move(spawned));
    attempt.sandbox().cgroup().close_attach_descriptors();  // init has its own by now
    if (error_number != 0) {
      attempt.fail({step, error_number, ""});
    }
    if (!has_process) {
      end_unspawned(found, now);
      return;
    }
    watch(attempt.sandbox().pidfd(), tag(found->first, Source::pidfd));
    if (attempt.stopping()) {
      attempt.sandbox().kill_init();  // it was stopped before there was anything to kill
    } else if (is_connected(attempt.sandbox().profile())) {
      start_in_network(attempt);
    }
  }

  JobNetworks& network() {
    if (!network_) {
      if (host_view()) {
        network_ = std::make_unique<UserNetwork>();
      } else {
        network_ = std::make_unique<NetworkPool>(options_.cgroup, options_.network);
      }
      watch(network_->event_descriptor(), tag(0, Source::network));
    }
    return *network_;
  }

  /// Gives a new sandbox its device, if it is to have one.
  void connect(Sandbox& sandbox) {
    const SandboxProfile& profile = sandbox.profile();
    if (is_connected(profile) && sandbox.network() == nullptr) {
      sandbox.set_network(
          network().attach(sandbox.pid(), profile.shared_network, profile.identity.outside_uid));
    }
  }

  void start_in_network(Attempt& attempt) {
    try {
      connect(attempt.sandbox());
      attempt.sandbox().send_held_plan(attempt.spec(), hostname_of(attempt.spec(), options_.hostname));
      return;
    } catch (const LaunchError& error) {
      attempt.fail({error.stage(), error.error_number(), error.what()});
    } catch (const std::system_error& error) {
      attempt.fail({"network", error.code().value(), error.what()});
    }
    attempt.sandbox().kill_init();
  }

  using Attempts = std::map<std::uint64_t, std::unique_ptr<Attempt>>;

  /// Where a kill has to wait (JobCgroup::kill_all), what others have to tell comes before the next one.
  void handle_times(Time now) {
    const Time begin = Attempt::Clock::now();
    auto next = attempts_.upper_bound(last_timed_);
    for (std::size_t left = attempts_.size(); left > 0 && Attempt::Clock::now() - begin < kKillPatience;
         --left) {
      next = next == attempts_.end() ? attempts_.begin() : next;
      last_timed_ = next->first;
      next++->second->handle_time(now);
    }
  }

  void finish(Attempts::iterator found, Time now) {
    Attempt& attempt = *found->second;
    const bool was_started = attempt.started();
    Ended ended = attempt.finish(now);
    if (!was_started && attempt.started()) {
      events_.emplace_back(started(attempt));
    }
    take_command_events(attempt);
    if (attempt.has_terminal() && attempt.descriptor(Attempt::Stream::output) >= 0) {
      unwatch(attempt.descriptor(Attempt::Stream::output));
    }
    events_.emplace_back(std::move(ended));
    std::unique_ptr<Sandbox> sandbox = attempt.release_sandbox();
    if (sandbox->reaped() || sandbox->pidfd() < 0) {
      retire(sandbox->release_cgroup());
    } else {
      unwatch(sandbox->channel());
      sandbox->set_network(nullptr);
      if (options_.armed_ahead == 0) {
        sandbox->dismiss();  // no row of jobs: it ends beside what the caller does with the record
      }
      exiting_.emplace(found->first, std::move(sandbox));
    }
    forget(found);
    last_end_ = now;
    if (!prepare_at_) {
      prepare_at_ = now + kPrepareLater;
    }
  }

  void forget(Attempts::iterator found) {
    own_cpus_.release(found->second->cpus());
    attempts_.erase(found);
  }

  void discard(std::unique_ptr<Sandbox> sandbox) {
    unwatch(sandbox->pidfd());
    sandbox->reap();
    retire(sandbox->release_cgroup());
  }

  /// Removed later; until then it holds few descriptors.
  void retire(std::unique_ptr<JobCgroup> cgroup) {
    cgroup->close_counters();
    finished_.push_back(std::move(cgroup));
    remove_pause_ = kRemoveLater;
    const Time soon = Attempt::Clock::now() + kRemoveLater;
    remove_at_ = remove_at_ ? std::min(*remove_at_, soon) : soon;
  }

  /// A machine that does not keep up with the ends of inits waits for them, before they hold all descriptors.
  void await_exits() {
    while (exiting_.size() > kMostExiting) {
      const auto oldest = exiting_.begin();
      oldest->second->dismiss();
      discard(std::move(oldest->second));
      exiting_.erase(oldest);
    }
  }

  /// clone itself failed: there is no process to wait for.
  void end_unspawned(Attempts::iterator found, Time now) {
    events_.emplace_back(found->second->finish(now));
    retire(found->second->release_sandbox()->release_cgroup());
    forget(found);
  }

  void fail_unspawned(const LaunchFailure& failure) {
    for (auto entry = attempts_.begin(); entry != attempts_.end();) {
      const auto current = entry++;
      if (current->second->sandbox().pidfd() < 0) {
        current->second->fail(failure);
        end_unspawned(current, Attempt::Clock::now());
      }
    }
    begun_.reset();
    armed_.clear();
  }

  /// Before destruction: a sandbox whose making is under way must be known to be killed and reaped.
  void await_spawned(Sandbox& sandbox) {
    try {
      while (sandbox.is_asked_for()) {
        std::optional<Spawned> spawned = launcher_->receive(true);
        if (!spawned) {
          continue;
        }
        const auto found = attempts_.find(spawned->token);
        if (spawned->token == sandbox.token()) {
          sandbox.take(std::move(*spawned));
        } else if (found != attempts_.end()) {
          found->second->sandbox().take(std::move(*spawned));
        } else {
          abandon(*spawned);
        }
      }
    } catch (const std::exception&) {
      // The launcher is gone; its sandboxes' channels close with us.
    }
  }

  /// rmdir costs some hundred microseconds, so it happens while a job starts, or when nothing else is to be
  /// done. One that is still busy waits behind the others for its next turn, longer when all are.
  void remove_finished(std::chrono::milliseconds patience,
                       std::size_t most = std::numeric_limits<std::size_t>::max()) {
    const std::size_t before = finished_.size();
    for (std::size_t left = std::min(finished_.size(), most); left > 0; --left) {
      std::unique_ptr<JobCgroup> cgroup = std::move(finished_.front());
      finished_.pop_front();
      const auto traceless =
          options_.armed_ahead > 0 ? JobCgroup::Traceless::keep : JobCgroup::Traceless::remove;
      if (!cgroup->remove(patience, traceless) && patience == std::chrono::milliseconds::zero()) {
        finished_.push_back(std::move(cgroup));
      }
    }
    remove_at_.reset();
    if (!finished_.empty()) {
      remove_at_ = Attempt::Clock::now() + remove_pause_;
      remove_pause_ = finished_.size() < before ? kRemoveLater : std::min(remove_pause_ * 2, kRemoveAtLast);
    }
  }

  void arm_timer() {
    std::optional<Time> next;
    for (const auto& [token, attempt] : attempts_) {
      const std::optional<Time> deadline = attempt->next_deadline();
      if (deadline && (!next || *deadline < *next)) {
        next = deadline;
      }
    }
    for (const std::optional<Time>& later : {prepare_at_, remove_at_}) {
      if (later && (!next || *later < *next)) {
        next = later;
      }
    }
    if (!events_.empty() || launcher_->has_received()) {
      next = Attempt::Clock::now();
    }
    if (next == timer_at_) {
      return;
    }
    timer_at_ = next;
    itimerspec setting{};
    if (next) {
      const std::int64_t nanoseconds = std::max<std::int64_t>(1, next->time_since_epoch().count());
      setting.it_value = {nanoseconds / 1'000'000'000, nanoseconds % 1'000'000'000};
    }
    ::timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &setting, nullptr);
  }

  ExecutorOptions options_;
  rlimit inherited_limit_;
  CgroupMachine machine_;                      // first: the launcher is where this process is
  std::shared_ptr<LauncherProcess> launcher_;  // then, while this process is small; never null
  bool launcher_lost_ = false;
  UniqueFd epoll_;
  UniqueFd timer_;
  std::unique_ptr<CgroupTree> tree_;  // never null
  std::size_t descriptor_limit_ = 0;
  std::unique_ptr<JobNetworks> network_;  // outlives the sandboxes
  Attempts attempts_;
  std::map<std::uint64_t, std::unique_ptr<Sandbox>>
      exiting_;  ///< of jobs that have ended, until init has too
  OwnCpus own_cpus_;
  std::unique_ptr<Sandbox> begun_;  ///< for the job that will be expected
  ArmedSandboxes armed_;
  std::optional<JobStreams> spare_streams_;
  std::deque<std::unique_ptr<JobCgroup>> finished_;
  std::vector<ExecutorEvent> events_;
  std::optional<Time> timer_at_;
  std::optional<Time> prepare_at_;
  std::optional<Time> remove_at_;  ///< set while there are finished_
  Time::duration remove_pause_ = kRemoveLater;
  std::size_t unheard_ = 0;       ///< descriptors that may have something to tell still; 0: deadlines count
  std::uint64_t last_timed_ = 0;  ///< the token of whose deadlines were looked at last
  Time last_end_;
  SandboxProfile last_profile_;
  CgroupLimits last_limits_;
  std::size_t launches_left_ = options_.launches;
  std::uint64_t last_token_ = 0;
};

Executor::Executor(ExecutorOptions options)
    : implementation_(std::make_unique<Implementation>(std::move(options))) {}
Executor::~Executor() = default;

void Executor::check_supported(const JobSpec& spec, const Caller& caller) const {
  implementation_->check_supported(spec, caller);
}
ControllerReport Executor::controllers() const {
  return implementation_->controllers();
}
void Executor::use_network(const NetworkSettings& settings) {
  implementation_->use_network(settings);
}
void Executor::close() {
  implementation_.reset();
}
void Executor::complete() {
  implementation_->complete();
}
void Executor::wait_until_ready() {
  implementation_->wait_until_ready();
}
std::string Executor::use_partition(CpuPartition kind, const CpuSet& cpus) {
  return implementation_->use_partition(kind, cpus);
}
std::vector<std::string> Executor::other_supervisors() const {
  return implementation_->other_supervisors();
}
void Executor::set_database(const std::string& file) {
  implementation_->set_database(file);
}
LeftoverOwner Executor::owner_of(const std::string& supervisor_cgroup, const std::string& own) const {
  return implementation_->owner_of(supervisor_cgroup, own);
}
void Executor::remove_empty_leftover(const std::string& supervisor_cgroup) const {
  implementation_->remove_empty_leftover(supervisor_cgroup);
}
void Executor::expect(const JobSpec& spec, const Allocation& allocation, const Identity& identity) {
  implementation_->expect(spec, allocation, identity);
}
void Executor::launch(LaunchRequest request) {
  implementation_->launch(std::move(request));
}
void Executor::stop(JobId job_id, Cause cause, std::chrono::milliseconds grace) {
  implementation_->stop(job_id, cause, grace);
}
void Executor::signal(JobId job_id, int signal_number, bool batch_job) {
  implementation_->signal(job_id, signal_number, batch_job);
}
bool Executor::freeze(JobId job_id, bool frozen) {
  return implementation_->freeze(job_id, frozen);
}
void Executor::signal_all(int signal_number) {
  implementation_->signal_all(signal_number);
}
void Executor::freeze_all(bool frozen) {
  implementation_->freeze_all(frozen);
}
CommandId Executor::start_command(JobId job_id, const CommandRequest& request) {
  return implementation_->start_command(job_id, request);
}
void Executor::signal_command(CommandId id, int signal_number) {
  implementation_->signal_command(id, signal_number);
}
std::optional<Executor::Sample> Executor::sample(JobId job_id) {
  return implementation_->sample(job_id);
}
void Executor::resume_output() {
  implementation_->resume_output();
}
int Executor::event_descriptor() const {
  return implementation_->event_descriptor();
}
std::vector<ExecutorEvent> Executor::dispatch() {
  return implementation_->dispatch();
}
std::size_t Executor::running() const {
  return implementation_->running();
}

std::optional<Usage> collect_leftover(const std::string& supervisor_cgroup, JobId job_id, unsigned attempt,
                                      std::chrono::milliseconds patience) {
  const std::unique_ptr<JobCgroup> cgroup =
      open_leftover_job(detect_cgroups(), supervisor_cgroup, job_cgroup_name(job_id, attempt));
  if (!cgroup) {
    return std::nullopt;
  }
  const Deadline deadline(patience);
  cgroup->kill_all(std::min(kKillPatience, deadline.left()));
  Usage usage = cgroup->read().usage;
  leave_init_out(usage);
  cgroup->remove(deadline.left());  // or else with its supervisor's
  return usage;
}

void remove_leftover(const std::string& supervisor_cgroup, std::chrono::milliseconds patience) {
  const CgroupMachine machine = detect_cgroups();
  const Deadline deadline(patience);
  for (const std::string& name : list_leftover_jobs(machine, supervisor_cgroup)) {
    if (const std::unique_ptr<JobCgroup> cgroup = open_leftover_job(machine, supervisor_cgroup, name)) {
      cgroup->kill_all(std::min(kKillPatience, deadline.left()));
      cgroup->remove(deadline.left());
    }
  }
  if (!remove_leftover_tree(machine, supervisor_cgroup, deadline.left())) {
    throw CgroupError(EBUSY,
                      "cgroup berth/" + supervisor_cgroup +
                          ": a process in it does not end (is a file system hanging?), or it is another's",
                      "");
  }
}

}  // namespace berth
