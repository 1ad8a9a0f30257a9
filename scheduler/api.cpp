#include "scheduler/api.h"

#include <grp.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/post.hpp>
#include <charconv>
#include <nlohmann/json.hpp>
#include <utility>

#include "scheduler/answer_bound.h"
#include "scheduler/api_attach.h"
#include "scheduler/api_metrics.h"
#include "scheduler/api_routes.h"
#include "scheduler/api_streams.h"
#include "scheduler/cli_efficiency.h"
#include "scheduler/cli_history.h"
#include "scheduler/cli_report.h"
#include "scheduler/cli_show.h"
#include "scheduler/command_line.h"
#include "scheduler/listing.h"
#include "scheduler/log.h"
#include "scheduler/stream_hand_over.h"
#include "scheduler/submission.h"
#include "schemas/input_error.h"
#include "schemas/job_file.h"
#include "schemas/json_text.h"
#include "schemas/record_json.h"
#include "schemas/signals.h"
#include "schemas/terminal_text.h"

namespace berth {
namespace {

using Json = nlohmann::ordered_json;

/// How long group membership is believed.
constexpr std::chrono::seconds kActorLifetime{30};
/// Bodies up to this size are parsed at once.
constexpr std::size_t kSmallBody = std::size_t{16} * 1024;
constexpr std::uint64_t kListed = 10'000;
/// What an event takes as JSON in memory, roughly.
constexpr std::size_t kBytesOfEvent = 1024;
/// Of waiting jobs among records: each takes some microseconds of the event loop.
constexpr std::size_t kReasonsTold = 10'000;
/// Of jobs that are tested: each takes up to some milliseconds of it.
constexpr std::size_t kStartsTold = 100;
constexpr std::uint64_t kMostListed = 1'000'000;

/// What a waiting job's owner may change.
constexpr std::array<std::string_view, 12> kChangeable{
    "name",       "comment",    "account",       "priority",        "nice", "begin_time", "deadline",
    "dependency", "time_limit", "cpus_per_task", "memory_per_node", "retry"};

void refuse_excess(std::string_view body) {
  if (const std::string excess = excess_of_request(body); !excess.empty()) {
    throw ApiError(413, excess);
  }
}

/// Of one job: read on the event loop, and copied.
Json parse_changes(std::string_view body) {
  constexpr std::size_t kMost = std::size_t{512} * 1024;
  constexpr TextKind kChanges{"a change of a job", "three", "write an object of fields to change"};
  if (body.size() > kMost) {
    throw ApiError(413, "a change of a job is at most 512 KiB");
  }
  Json changes = require_json(body, "request", kChanges);
  if (!changes.is_object()) {
    throw ApiError(400, "the body is no JSON object of fields to change");
  }
  return changes;
}

std::string_view explanation(WaitReason reason) {
  switch (reason) {
    case WaitReason::resources:
      return "it is next, and waits until enough CPUs, memory and a slot are free";
    case WaitReason::priority:
      return "jobs of higher priority, or submitted earlier, come first";
    case WaitReason::job_held_user:
      return "its user holds it; berth release lets it start";
    case WaitReason::job_held_admin:
      return "an administrator holds it, and alone can release it";
    case WaitReason::begin_time:
      return "its begin time has not come";
    case WaitReason::dependency:
      return "what it depends on is not over";
    case WaitReason::dependency_never_satisfied:
      return "what it depends on can never be fulfilled any more; cancel it, or change it with berth update";
    case WaitReason::array_task_limit:
      return "as many tasks of its array run as its limit after % allows";
    case WaitReason::user_limit:
      return "its user's running jobs have as much as user_limits allows";
    case WaitReason::draining:
      return "an administrator has drained the pool: no job starts";
    case WaitReason::never_fits:
      return "it asks for more than the pool has now; change it with berth update, or cancel it";
  }
  return "";
}

ApiResponse json_response(const Json& body, unsigned status = 200) {
  ApiResponse response;
  response.status = status;
  response.body = printable_json(body) + "\n";
  return response;
}

ApiResponse text_response(std::string body, const std::string& type) {
  ApiResponse response;
  response.body = std::move(body);
  response.type = type;
  return response;
}

std::string parameter(const ApiRequest& request, const std::string& name, const std::string& fallback = "") {
  const auto found = request.query.find(name);
  return found == request.query.end() ? fallback : found->second;
}

std::optional<std::string> optional_parameter(const ApiRequest& request, const std::string& name) {
  std::string value = parameter(request, name);
  return value.empty() ? std::nullopt : std::optional(std::move(value));
}

/// The parameters of those that berth has as options.
struct OptionParameter {
  std::string_view option;
  std::string_view parameter;
};
constexpr std::array kOptionParameters{
    OptionParameter{"--starttime", "start"},     OptionParameter{"--endtime", "end"},
    OptionParameter{"--user", "users"},          OptionParameter{"--state", "states"},
    OptionParameter{"--accounts", "accounts"},   OptionParameter{"--name", "names"},
    OptionParameter{"--jobs", "jobs"},           OptionParameter{"--last", "last"},
    OptionParameter{"--format", "format"},       OptionParameter{"--by", "by"},
    OptionParameter{"--delimiter", "delimiter"},
};

std::string in_terms_of_parameters(std::string text) {
  for (const OptionParameter& known : kOptionParameters) {
    for (std::size_t at = text.find(known.option); at != std::string::npos; at = text.find(known.option)) {
      text.replace(at, known.option.size(), known.parameter);
    }
  }
  return text;
}

/// A filter that berth's options and the API's parameters are read into alike.
template <typename Make>
auto from_parameters(Make make) {
  try {
    return make();
  } catch (const InputError& error) {
    std::string text;
    for (InputFault fault : error.faults()) {
      fault.file.clear();
      text += (text.empty() ? "" : "\n") + in_terms_of_parameters(fault.to_string());
    }
    throw ApiError(400, text);
  }
}

/// A slip in a parameter's name would otherwise select everything.
void refuse_unknown_parameters(const ApiRequest& request, const std::vector<std::string_view>& known) {
  for (const auto& [name, value] : request.query) {
    if (name.empty() || std::find(known.begin(), known.end(), name) != known.end()) {
      continue;
    }
    std::string names;
    for (const std::string_view one : known) {
      names += (names.empty() ? "" : ", ") + std::string(one);
    }
    const std::string near = nearest_word(name, known);
    throw ApiError(400, "there is no parameter \"" + name + "\" here" +
                            (near.empty() ? "" : "; did you mean \"" + near + "\"?") +
                            (names.empty() ? " (there are none)" : " (there are " + names + ")"));
  }
}

JobReference job_reference(const std::string& text) {
  try {
    return parse_job_reference(text, "path");
  } catch (const InputError&) {
    throw ApiError(400, "\"" + text + "\" is no job (use 36, or 36_4 for task 4 of array 36)");
  }
}

bool flag(const ApiRequest& request, const std::string& name, bool fallback = false) {
  const std::string value = parameter(request, name, fallback ? "1" : "0");
  if (value == "1" || value == "true" || value == "0" || value == "false") {
    return value == "1" || value == "true";
  }
  throw ApiError(400, name + ": \"" + value + "\" is neither 1 nor 0");
}

/// The first word is what holds without the parameter.
std::string one_of(const ApiRequest& request, const std::string& name,
                   std::initializer_list<std::string_view> known) {
  std::string value = parameter(request, name, std::string(*known.begin()));
  if (std::find(known.begin(), known.end(), value) != known.end()) {
    return value;
  }
  std::string words;
  for (const std::string_view word : known) {
    words += (words.empty() ? "" : ", ") + std::string(word);
  }
  throw ApiError(400, name + ": \"" + value + "\" is none of " + words);
}

std::uint64_t number(const ApiRequest& request, const std::string& name, std::uint64_t fallback) {
  const std::string text = parameter(request, name);
  std::uint64_t value = fallback;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (!text.empty() && (error != std::errc() || end != text.data() + text.size())) {
    throw ApiError(400, name + ": \"" + text + "\" is not a number");
  }
  return value;
}

std::vector<std::string> words(const ApiRequest& request, const std::string& name) {
  const std::string text = parameter(request, name);
  return text.empty() ? std::vector<std::string>() : std::vector<std::string>{text};
}

Json facts_value(const QueueFacts& facts) {
  Json value{{"priority", facts.priority}, {"cpus", facts.cpus}};
  if (facts.memory) {
    value["memory"] = *facts.memory;
  }
  if (facts.stay < kUnlimited) {
    value["longest_stay_msec"] = facts.stay.count();
  }
  if (facts.begin) {
    value["begin_time"] = format_instant_utc(*facts.begin);
  }
  if (facts.deadline) {
    value["deadline"] = format_instant_utc(*facts.deadline);
  }
  if (!facts.dependency.empty()) {
    value["dependency"] = facts.dependency;
  }
  if (!facts.array_tasks.empty()) {
    value["array_tasks"] = facts.array_tasks;
    value["array_limit"] = facts.array_limit;
  }
  return value;
}

Json summary_value(const JobSummary& job) {
  Json value{{"job_id", job.job_id},   {"name", job.name},
             {"user", job.user},       {"user_id", job.user_id},
             {"account", job.account}, {"state", std::string(to_string(job.state))},
             {"attempt", job.attempt}, {"submit", format_instant_utc(job.submit)}};
  if (job.array_job_id) {
    value["array_job_id"] = *job.array_job_id;
    value["array_task_id"] = job.array_task_id.value_or(0);
  }
  if (job.start) {
    value["start"] = format_instant_utc(*job.start);
  }
  if (job.end) {
    value["end"] = format_instant_utc(*job.end);
  }
  if (job.wall) {
    value["wall_usec"] = job.wall->count();
  }
  if (job.time_limit) {
    value["time_limit_usec"] = std::chrono::microseconds(*job.time_limit).count();
  }
  if (!job.slot.empty()) {
    value["slot"] = job.slot;
    value["allocated_cpus"] = job.cpus;
    value["allocated_memory"] = job.memory.value_or(0);
  }
  if (job.queue) {
    value["queue"] = facts_value(*job.queue);
  }
  return value;
}

std::vector<JobState> states_of(const std::string& list) {
  std::vector<JobState> states;
  for (int state = 0; list == "all" && state <= static_cast<int>(JobState::deadline); ++state) {
    states.push_back(static_cast<JobState>(state));
  }
  std::string_view rest = list == "all" ? std::string_view() : std::string_view(list);
  while (!rest.empty()) {
    const std::size_t comma = rest.find(',');
    const std::string_view word = rest.substr(0, comma);
    rest.remove_prefix(comma == std::string_view::npos ? rest.size() : comma + 1);
    const std::optional<JobState> state = parse_job_state(word);
    if (!state) {
      throw ApiError(400, "\"" + std::string(word) + "\" is no job state (use PENDING, RUNNING, CD …)");
    }
    states.push_back(*state);
  }
  return states;
}

/// Throws ApiError of a `state` that is none: whoever left a variable empty did not mean every state.
Cancellation cancellation_of(const ApiRequest& request) {
  const std::string states = parameter(request, "state");
  if (states.empty() && request.query.contains("state")) {
    throw ApiError(400, "\"state\" is empty: name states (PENDING, RUNNING, CD …), or leave it out");
  }
  return {flag(request, "at_once"), states == "all" ? std::vector<JobState>() : states_of(states)};
}

Json pool_value(Daemon& daemon) {
  const SlotPool& pool = daemon.current_pool();
  return {{"cpus", pool.total_cpus()},         {"memory", pool.total_memory()},
          {"slots", pool.total_slots()},       {"free_cpus", pool.free_cpus()},
          {"free_memory", pool.free_memory()}, {"free_slots", pool.free_slots()},
          {"withheld_cpus", pool.withheld()},  {"waiting", daemon.waiting()},
          {"runners", daemon.runners()},       {"draining", daemon.draining()}};
}

/// `sample` is null when its runner has not told.
Json top_value(const JobSummary& job, const JobSpec& spec, const RunningSample* sample,
               Timestamp::duration elapsed) {
  const std::string id = job.array_job_id ? std::to_string(*job.array_job_id) + "_" +
                                                std::to_string(job.array_task_id.value_or(0))
                                          : std::to_string(job.job_id);
  Json value{{"job_id", job.job_id},
             {"attempt", job.attempt},
             {"id", id},
             {"name", job.name},
             {"user", job.user},
             {"state", std::string(to_string(job.state))},
             {"start", format_instant_utc(*job.start)},
             {"elapsed_usec", elapsed.count()},
             {"slot", job.slot},
             {"cpus", CpuSet::parse(job.cpus).size()}};
  if (spec.time_limit) {
    value["time_limit_usec"] = std::chrono::microseconds(*spec.time_limit).count();
  }
  if (job.memory) {
    value["memory_limit"] = *job.memory;
  }
  if (sample != nullptr) {
    value["processes"] = sample->processes;
    if (sample->cpu_time) {
      value["cpu_total_usec"] = sample->cpu_time->count();
    }
    if (sample->memory) {
      value["memory"] = *sample->memory;
    }
  }
  return value;
}

ListingStyle listing_style(const ApiRequest& request, const std::string& as) {
  ListingStyle style;
  style.form = as == "parsable"    ? ListingStyle::Form::parsable
               : as == "parsable2" ? ListingStyle::Form::parsable2
                                   : ListingStyle::Form::table;
  style.header = !flag(request, "noheader");
  style.delimiter = from_parameters([&] { return checked_delimiter(parameter(request, "delimiter", "|")); });
  style.most_bytes = most_of_answer();
  return style;
}

/// The zone of the times in an answer: the caller's, or berthd's own.
std::optional<TimeZone> zone_of(const ApiRequest& request) {
  const auto text = optional_parameter(request, "zone");
  try {
    return text ? std::optional(TimeZone::parse(*text)) : std::nullopt;
  } catch (const std::invalid_argument& error) {
    throw ApiError(400, "zone: \"" + *text + "\" " + error.what());
  }
}

ShownJob job_of(QueueStore& store, JobId job, bool with_specs) {
  HistoryFilter filter;
  filter.job_ids = {job};
  filter.most_bytes = most_of_answer();
  filter.counts_each_spec = with_specs;
  const std::string number = std::to_string(job);
  try {
    ShownJob shown = load_job(store, filter);
    if (shown.events.size() > most_of_answer() / kBytesOfEvent) {
      throw ApiError(413, "job " + number + " has " + std::to_string(shown.events.size()) +
                              " events, more than one answer has room for (use berth history -j " + number +
                              ", which leaves them out)");
    }
    return shown;
  } catch (const InputError&) {
    throw ApiError(404, "there is no job " + number + " any more");
  } catch (const TooMuch&) {
    throw ApiError(413, "the attempts of job " + number + " take more than " +
                            std::to_string(most_of_answer() >> 20U) + " MiB" +
                            (with_specs ? " as JSON, which has the spec with each (use berth show " + number +
                                              " without --json, as=text, or "
                                        : " (use ") +
                            "berth history -j " + number + " --last 10, for the newest)");
  }
}

}  // namespace

ApiResponse api_failure(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const ApiError& failure) {
    return api_failure(failure.status(), failure.what());
  } catch (const InputError& failure) {
    Json faults = Json::array();
    for (const InputFault& fault : failure.faults()) {
      faults.push_back({{"file", fault.file}, {"pointer", fault.pointer}, {"message", fault.message}});
    }
    return json_response({{"error", failure.what()}, {"faults", faults}}, 422);
  } catch (const TooMuch& failure) {
    return api_failure(413, failure.what());
  } catch (const StoreError& failure) {
    return api_failure(failure.kind() == StoreError::Kind::refused ? 409 : 507, failure.what());
  } catch (const std::exception& failure) {
    log_error(failure.what());
    return api_failure(500, failure.what());
  }
}

Api::Api(boost::asio::io_context& loop, Daemon& daemon, QueueStore& reader, const std::string& database,
         const Clock& clock)
    : loop_(loop),
      daemon_(daemon),
      reader_(reader),
      clock_(clock),
      slow_reader_(QueueStore::open_existing(database)) {
  daemon_.on_commit([this] {
    for (const auto& follower : std::exchange(followers_, {})) {
      if (const auto callback = follower.lock()) {
        (*callback)();
      }
    }
  });
}

void Api::when_changed(std::weak_ptr<std::function<void()>> callback) {
  followers_.push_back(std::move(callback));
}

const Actor& Api::actor_of(const Peer& peer) {
  const SteadyTime now = clock_.steady_now();
  Known& known = users_[peer.user_id];
  if (known.until > now && known.actor.group_id == peer.group_id) {
    return known.actor;
  }
  known.until = now + kActorLifetime;
  Actor& actor = known.actor;
  actor = {peer.user_id, peer.group_id, std::to_string(peer.user_id), peer.user_id == 0};
  std::array<char, 16384> buffer{};
  passwd entry{};
  passwd* found = nullptr;
  if (::getpwuid_r(peer.user_id, &entry, buffer.data(), buffer.size(), &found) == 0 && found != nullptr) {
    actor.name = entry.pw_name;
  }
  const std::string& administrators = daemon_.config().administrators;
  std::array<char, 16384> group_buffer{};
  group group_entry{};
  group* group_found = nullptr;
  if (!administrators.empty() &&
      ::getgrnam_r(administrators.c_str(), &group_entry, group_buffer.data(), group_buffer.size(),
                   &group_found) == 0 &&
      group_found != nullptr) {
    std::array<gid_t, 1024> groups{};
    int count = static_cast<int>(groups.size());
    if (::getgrouplist(actor.name.c_str(), peer.group_id, groups.data(), &count) >= 0) {
      actor.administrator = actor.administrator || std::find(groups.begin(), groups.begin() + count,
                                                             group_entry.gr_gid) != groups.begin() + count;
    }
  }
  return actor;
}

void Api::handle(const ApiRequest& request, const ApiRespond& respond) {
  try {
    route(request, actor_of(request.peer), respond);
  } catch (...) {
    daemon_.note_damage(std::current_exception());
    respond(api_failure(std::current_exception()));
  }
}

void Api::route(const ApiRequest& request, const Actor& actor, const ApiRespond& respond) {
  const ApiMatch match = match_route(request.method, request.path);
  if (match.methods.empty()) {
    throw ApiError(
        404,
        "there is nothing here; every path but /metrics begins with /v1/, and docs/berthd.md lists them");
  }
  if (!match.call) {
    const bool is_options = request.method == "OPTIONS";
    ApiResponse response =
        is_options ? ApiResponse{}
                   : api_failure(405, "this path has no " + request.method + "; it has " + match.methods);
    response.status = is_options ? 204 : 405;
    response.allow = match.methods;
    respond(std::move(response));
    return;
  }
  refuse_unknown_parameters(request, match.parameters);
  if (request.path.size() < 3) {
    call(*match.call, request, actor, respond);
    return;
  }
  const JobReference asked = job_reference(request.path[2]);
  const std::optional<JobId> job = asked.task ? reader_.find_task(asked.job, *asked.task) : asked.job;
  job ? call_of_job(*match.call, request, *job, actor, respond)
      : call_of_waiting_task(*match.call, request, {asked.job, *asked.task}, actor, respond);
}

/// A task that waits in its array is shown as the array; it gets a number of its own when it is to be
/// changed.
void Api::call_of_waiting_task(ApiCall call, const ApiRequest& request, const WaitingTask& task,
                               const Actor& actor, const ApiRespond& respond) {
  const std::string name = std::to_string(task.array) + "_" + std::to_string(task.index);
  daemon_.require(task.array, actor);
  const bool is_on_its_way = daemon_.is_task_on_its_way(task.array, task.index);
  if (!is_on_its_way && !daemon_.has_waiting_task(task.array, task.index)) {
    respond(never_started(call, task));
    return;
  }
  const auto then = [this, call, request, actor, respond](JobId job) {
    try {
      call_of_job(call, request, job, actor, respond);
    } catch (...) {
      respond(api_failure(std::current_exception()));
    }
  };
  // What is refused is to leave the task in its array.
  if (call == ApiCall::cancel && !is_on_its_way && !cancellation_of(request).concerns(JobState::pending)) {
    throw ApiError(409, "job " + name + " is PENDING: it is in none of these states");
  }
  switch (is_on_its_way ? ApiCall::wait : call) {
    case ApiCall::show:
    case ApiCall::why:
      return then(task.array);
    case ApiCall::cancel:
    case ApiCall::hold:
    case ApiCall::release:
    case ApiCall::update:
      return daemon_.separate_task(task.array, task.index,
                                   [then, respond](const std::exception_ptr& error, JobId job) {
                                     error ? respond(api_failure(error)) : then(job);
                                   });
    case ApiCall::wait:
      break;
    case ApiCall::output:
      if (flag(request, "follow")) {
        break;
      }
      throw ApiError(404, "job " + name + " has no output: it has not started");
    case ApiCall::attach:
      if (flag(request, "wait", true)) {
        break;
      }
      [[fallthrough]];
    default:
      throw ApiError(409, "job " + name + " is PENDING and does not run");
  }
  const std::uint64_t number = daemon_.wait_for_task(
      task.array, task.index, [this, call, request, task, actor, then, respond](JobId job) {
        if (job != 0) {
          then(job);
          return;
        }
        try {
          if (daemon_.has_waiting_task(task.array, task.index)) {
            call_of_waiting_task(call, request, task, actor, respond);  // it is where it was before
          } else {
            respond(never_started(call, task));
          }
        } catch (...) {
          respond(api_failure(std::current_exception()));
        }
      });
  request.interest->when_lost(
      [this, array = task.array, number] { daemon_.cancel_wait_for_task(array, number); });
}

/// Throws ApiError 404 where there is no such task.
ApiResponse Api::never_started(ApiCall call, const WaitingTask& task) {
  const std::string name = std::to_string(task.array) + "_" + std::to_string(task.index);
  const std::optional<Outcome> outcome = daemon_.never_started(task.array, task.index);
  if (!outcome) {
    throw ApiError(404, "there is no job " + name);
  }
  const std::string message = "job " + name +
                              (outcome->state == JobState::cancelled
                                   ? " was cancelled with its array before it started"
                                   : " ended with its array before it started: " + outcome->message);
  if (call != ApiCall::wait) {
    throw ApiError(409, message);
  }
  return json_response({{"job_id", task.array},
                        {"state", std::string(to_string(outcome->state))},
                        {"exit_status", exit_status(*outcome)},
                        {"message", message}});
}

void Api::call(ApiCall call, const ApiRequest& request, const Actor& actor, const ApiRespond& respond) {
  switch (call) {
    case ApiCall::submit:
      return submit(request, actor, respond);
    case ApiCall::list:
      return list(request, actor, respond);
    case ApiCall::history:
      return history(request, actor, respond);
    case ApiCall::report:
      return report(request, actor, respond);
    case ApiCall::top:
      return top(actor, respond);
    case ApiCall::events:
      return events(request, actor, respond);
    case ApiCall::slots:
      return respond(slots(actor));
    case ApiCall::metrics:
      return respond(metrics_response(daemon_));
    default:
      break;
  }
  if (!actor.administrator) {
    throw ApiError(403, "only administrators (root and the group \"" + daemon_.config().administrators +
                            "\") may do this");
  }
  daemon_.drain(call == ApiCall::drain);
  respond(slots(actor));
}

void Api::call_of_job(ApiCall call, const ApiRequest& request, JobId job, const Actor& actor,
                      const ApiRespond& respond) {
  switch (call) {
    case ApiCall::show:
      return show(request, job, actor, respond);
    case ApiCall::update:
      return update(request, job, actor, respond);
    case ApiCall::wait:
      return wait(request, job, actor, respond);
    case ApiCall::why:
      return why(job, actor, respond);
    case ApiCall::output:
      return output(request, job, actor, respond);
    case ApiCall::exec:
      return stream(request, job, actor, respond);
    case ApiCall::attach:
      return attach_to_job(
          daemon_, request,
          {job, static_cast<unsigned>(number(request, "after_attempt", 0)), flag(request, "wait", true)},
          actor, respond);
    default:
      return act(call, request, job, actor, respond);
  }
}

void Api::show(const ApiRequest& request, JobId job, const Actor& actor, const ApiRespond& respond) {
  daemon_.require(job, actor);
  const std::string as = one_of(request, "as", {"json", "text", "efficiency", "efficiency-json"});
  read_records(
      actor, [job, as](QueueStore& store) { return job_of(store, job, as == "json"); },
      [as, now = clock_.system_now(), zone = zone_of(request)](const ShownJob& shown) {
        if (as == "text") {
          return text_response(show_text(shown, {now, zone}), "text/plain");
        }
        if (as == "efficiency" || as == "efficiency-json") {
          std::string text;
          for (const AccountingRecord& record : shown.records) {
            const bool first = text.empty();
            text += as == "efficiency" ? (first ? "" : "\n") + efficiency_text(record, now)
                                       : (first ? "" : ",\n") + efficiency_json(record, now);
          }
          return text_response(std::move(text), "text/plain");
        }
        return text_response(show_json(std::span(&shown, 1)), "application/json");
      },
      respond);
}

void Api::why(JobId job, const Actor& actor, const ApiRespond& respond) {
  const KnownJob stored = daemon_.require(job, actor);
  Json answer{{"job_id", job}, {"state", std::string(to_string(stored.state))}};
  if (const std::optional<WaitReason> reason = daemon_.reason(job)) {
    answer["reason"] = std::string(to_string(*reason));
    std::string text(explanation(*reason));
    if (const unsigned withheld = daemon_.pool().withheld();
        withheld > 0 && *reason == WaitReason::resources) {
      text += " (" + std::to_string(withheld) + " of the pool's CPUs: other berths' jobs on this machine)";
    }
    if (const std::string because =
            *reason == WaitReason::job_held_admin ? daemon_.held_because(job) : std::string();
        !because.empty()) {
      text = "berthd holds it, and an administrator alone can release it: " + because;
    }
    answer["explanation"] = text;
    const std::size_t before = daemon_.jobs_before(job);
    if (*reason == WaitReason::priority) {
      answer["jobs_before"] = before;
    }
    const bool is_eligible = *reason == WaitReason::priority || *reason == WaitReason::resources;
    if (const auto start = is_eligible ? daemon_.expected_start(job) : std::nullopt) {
      answer["expected_start"] = format_instant_utc(*start);
    }
    const std::optional<WaitingJob> waiting = daemon_.find_waiting(job);
    if (waiting && *reason == WaitReason::begin_time) {
      answer["begin_time"] = format_instant_utc(*waiting->facts.begin);
    }
    if (waiting && waiting->facts.deadline) {
      answer["deadline"] = format_instant_utc(*waiting->facts.deadline);
    }
    if (waiting && !waiting->facts.dependency.empty()) {
      answer["dependency"] = waiting->facts.dependency;
    }
  } else if (is_final(stored.state)) {
    const std::optional<Outcome> outcome = reader_.last_outcome(job);
    answer["explanation"] = outcome ? outcome->message : "all its tasks have ended";
  } else {
    answer["explanation"] = stored.state == JobState::pending ? "its tasks run"
                            : stored.state == JobState::suspended
                                ? "it is stopped; berth resume lets it go on"
                                : "it has a slot";
  }
  respond(json_response(answer));
}

void Api::update(const ApiRequest& request, JobId job, const Actor& actor, const ApiRespond& respond) {
  daemon_.require(job, actor);
  const Json changes = parse_changes(request.body);
  for (const auto& [name, value] : changes.items()) {
    if (std::find(kChangeable.begin(), kChangeable.end(), name) == kChangeable.end()) {
      throw ApiError(422,
                     "\"" + name + "\" of a waiting job cannot be changed; cancel it and submit another");
    }
  }
  const auto last = std::make_shared<ChangedSpec>();
  const auto looked_up = std::make_shared<Daemon::LookedUp>();
  daemon_.update(job, actor,
                 {[this, text = changes.dump(), actor, last, looked_up](JobId changed, QueueFacts& facts,
                                                                        std::string& spec_text) {
                    if (last->before_text != spec_text) {
                      *last = {};
                      last->before_text = spec_text;
                      try {
                        change_spec(*last, text);
                        check_submission(last->spec, daemon_.controllers(),
                                         daemon_.config().network.of_user(actor.user_id));
                      } catch (...) {
                        last->refusal = std::current_exception();
                      }
                    }
                    if (last->refusal) {
                      std::rethrow_exception(last->refusal);
                    }
                    apply_change(*last, actor, changed, facts, *looked_up);
                    spec_text = last->text;
                  },
                  true},
                 [respond, job](const std::exception_ptr& error) {
                   respond(error ? api_failure(error) : json_response({{"job_id", job}}));
                 });
}

void Api::change_spec(ChangedSpec& changed, const std::string& changes) {
  // Not ordered, which takes time in proportion to the square of an object's members.
  nlohmann::json spec = nlohmann::json::parse(changed.before_text);
  const nlohmann::json fields = nlohmann::json::parse(changes);
  for (const auto& [name, value] : fields.items()) {
    changed.fields.insert(name);
    value.is_null() ? spec.erase(name) : (spec[name] = value, 0U);
  }
  changed.spec = parse_job_file(spec.dump(), "request", "/").at(0);
  changed.before = parse_stored_job(changed.before_text, "job");
  changed.text = to_json_text(changed.spec);
}

/// What the change makes of what the job is scheduled by. Throws where it may not.
void Api::apply_change(const ChangedSpec& change, const Actor& actor, JobId changed, QueueFacts& facts,
                       Daemon::LookedUp& looked_up) {
  const std::int64_t most = std::max<std::int64_t>(0, effective_priority(change.before));
  if (!actor.administrator && effective_priority(change.spec) > most) {
    throw ApiError(403, "only administrators raise a priority");
  }
  const QueueFacts before = facts;
  facts = queue_facts(change.spec);
  facts.hold = before.hold;
  facts.array_tasks = before.array_tasks;
  // What is not changed stays as it has become: a dependency fulfilled, a retry put off, with more memory.
  facts.begin = change.fields.contains("begin_time") ? facts.begin : before.begin;
  facts.dependency = change.fields.contains("dependency") ? facts.dependency : before.dependency;
  facts.memory = change.fields.contains("memory_per_node") ? facts.memory : before.memory;
  if (const auto reason = daemon_.pool().never_fits({facts.cpus, facts.memory})) {
    throw ApiError(422, "the job " + *reason);
  }
  if (change.fields.contains("deadline") || change.fields.contains("begin_time") ||
      change.fields.contains("time_limit")) {
    daemon_.check_deadline(facts);
  }
  const bool has_new_dependency = facts.dependency != before.dependency;
  if (has_new_dependency) {
    daemon_.require_dependency(facts.dependency, actor, looked_up);
  }
  if (has_new_dependency || change.spec.name != change.before.name) {
    daemon_.refuse_circle(facts.dependency, changed, change.spec.name, looked_up);
  }
}

void Api::act(ApiCall call, const ApiRequest& request, JobId job, const Actor& actor,
              const ApiRespond& respond) {
  const Daemon::Reply reply = [respond, job](const std::exception_ptr& error) {
    respond(error ? api_failure(error) : json_response({{"job_id", job}}));
  };
  switch (call) {
    case ApiCall::cancel:
      return daemon_.cancel(job, actor, cancellation_of(request), reply);
    case ApiCall::hold:
      return daemon_.hold(job, actor, reply);
    case ApiCall::release:
      return daemon_.release(job, actor, reply);
    case ApiCall::requeue:
      return daemon_.requeue(job, actor, reply);
    case ApiCall::suspend:
      require_suspension(daemon_.controllers());
      [[fallthrough]];
    case ApiCall::resume:
      return daemon_.suspend(job, actor, call == ApiCall::suspend, reply);
    default:
      break;
  }
  const std::string name = parameter(request, "signal");
  const std::optional<int> signal_number = parse_signal(name);
  if (!signal_number) {
    throw ApiError(400, "\"" + name + "\" is not a signal (use USR1, SIGUSR1 or 10)");
  }
  daemon_.signal(job, actor, *signal_number, flag(request, "batch"), reply);
}

void Api::submit(const ApiRequest& request, const Actor& actor, const ApiRespond& respond) {
  if (!daemon_.store_trouble().empty()) {
    throw ApiError(507, "no job is taken while the database cannot be used: " + daemon_.store_trouble());
  }
  const std::string directory = parameter(request, "directory", "/");
  if (!directory.starts_with('/')) {
    throw ApiError(400, "directory: \"" + directory + "\" is not an absolute path");
  }
  if (request.body.size() > kSmallBody) {
    refuse_excess(request.body);
  }
  const auto parse = [body = request.body, file = parameter(request, "file", "request"), directory,
                      submitter = Submitter{actor.user_id, actor.group_id, actor.name, actor.administrator},
                      controllers = daemon_.controllers(),
                      network = daemon_.config().network.of_user(actor.user_id), now = clock_.system_now(),
                      this] {
    return std::make_shared<std::vector<NewJob>>(
        parse_submission(body, file, directory, submitter, controllers, network, identities_, now));
  };
  const auto commit = [this, actor, respond, file = parameter(request, "file", "request"),
                       test_only =
                           flag(request, "test_only")](const std::shared_ptr<std::vector<NewJob>>& jobs) {
    if (test_only) {
      respond(test(*jobs, actor, file));
      return;
    }
    daemon_.submit(std::move(*jobs), actor, file,
                   [respond](const std::exception_ptr& error, const std::vector<JobId>& ids) {
                     respond(error ? api_failure(error) : json_response({{"job_ids", ids}}, 201));
                   });
  };
  if (request.body.size() <= kSmallBody) {
    commit(parse());
    return;
  }
  // What holds the connection goes back to the event loop, to which it belongs, and leaves nothing here.
  reading_.post(
      actor.user_id, [this, parse, commit = std::function(commit), respond = ApiRespond(respond)]() mutable {
        std::exception_ptr error;
        std::shared_ptr<std::vector<NewJob>> jobs;
        try {
          jobs = parse();
        } catch (...) {
          error = std::current_exception();
        }
        boost::asio::post(loop_, [commit = std::move(commit), respond = std::move(respond), error, jobs] {
          try {
            error ? std::rethrow_exception(error) : commit(jobs);
          } catch (...) {
            respond(api_failure(std::current_exception()));
          }
        });
      });
}

/// What would become of jobs that are not submitted.
ApiResponse Api::test(const std::vector<NewJob>& jobs, const Actor& actor, const std::string& file) {
  daemon_.check(jobs, actor, file);
  Json answers = Json::array();
  for (const NewJob& job : jobs) {
    Json answer{{"name", job.spec.name}, {"cpus", job.queue->cpus}};
    if (job.queue->memory) {
      answer["memory"] = *job.queue->memory;
    }
    if (const auto start = answers.size() < kStartsTold ? daemon_.would_start(job) : std::nullopt) {
      answer["expected_start"] = format_instant_utc(*start);
    }
    if (job.queue->begin) {
      answer["begin_time"] = format_instant_utc(*job.queue->begin);
    }
    answers.push_back(std::move(answer));
  }
  return json_response({{"jobs", std::move(answers)}});
}

void Api::read(const Actor& actor, Work work, ApiRespond respond) {
  reading_.post(actor.user_id, reading(std::move(work), std::move(respond)));
}

std::function<void()> Api::reading(Work work, ApiRespond respond) {
  return [this, work = std::move(work), respond = std::move(respond)]() mutable {
    ApiResponse response;
    try {
      response = work(*slow_reader_);
    } catch (...) {
      response = api_failure(std::current_exception());
      boost::asio::post(loop_, [this, error = std::current_exception()] { daemon_.note_damage(error); });
    }
    boost::asio::post(loop_, [respond = std::move(respond), response = std::move(response)]() mutable {
      respond(std::move(response));
    });
  };
}

/// What is read gets what only the daemon knows before it is answered with.
void Api::read_records(const Actor& actor, const std::function<ShownJob(QueueStore&)>& look,
                       const std::function<ApiResponse(const ShownJob&)>& answer, const ApiRespond& respond) {
  const auto found = std::make_shared<ShownJob>();
  read(
      actor,
      [look, found](QueueStore& store) {
        *found = look(store);
        return ApiResponse{};
      },
      [this, actor, found, answer, respond](ApiResponse response) {
        if (response.status != 200) {
          respond(std::move(response));
          return;
        }
        std::size_t asked = 0;
        for (AccountingRecord& record : found->records) {
          const Told told = told_of(record.job_id, record.state, record.end.has_value(), asked);
          record.reason = told.reason ? to_string(*told.reason) : "";
          record.suspended = told.suspended;
        }
        reading_.post_next(actor.user_id,
                           reading([found, answer](QueueStore&) { return answer(*found); }, respond));
      });
}

Api::Told Api::told_of(JobId job, JobState state, bool is_over, std::size_t& asked) {
  Told told;
  if (state == JobState::pending && ++asked <= kReasonsTold) {
    told.reason = daemon_.reason(job);
  } else if (!is_over) {
    told.suspended = daemon_.suspended_time(job);
  }
  return told;
}

std::vector<Api::Told> Api::told_of(const std::vector<JobSummary>& jobs) {
  std::vector<Told> told;
  told.reserve(jobs.size());
  std::size_t asked = 0;
  for (const JobSummary& job : jobs) {
    told.push_back(told_of(job.job_id, job.state, job.end.has_value(), asked));
  }
  return told;
}

ApiResponse Api::listed(const std::vector<JobSummary>& jobs, const std::vector<Told>& told, bool truncated) {
  std::string text = R"({"jobs":[)";
  for (std::size_t index = 0; index < jobs.size(); ++index) {
    Json value = summary_value(jobs[index]);
    if (told[index].reason) {
      value["reason"] = std::string(to_string(*told[index].reason));
    }
    if (told[index].suspended.count() > 0) {
      value["suspended_usec"] = told[index].suspended.count();
    }
    text += (index == 0 ? "" : ",") + printable_json(value);
    if (text.size() > most_of_answer()) {
      throw ApiError(413, "this list takes more than " + std::to_string(most_of_answer() >> 20U) +
                              " MiB: ask for fewer jobs, by limit or state (berth queue --limit, -t)");
    }
  }
  text += std::string(R"(],"truncated":)") + (truncated ? "true" : "false") + "}\n";
  return text_response(std::move(text), "application/json");
}

void Api::list(const ApiRequest& request, const Actor& actor, const ApiRespond& respond) {
  SummaryFilter filter;
  filter.states = states_of(parameter(request, "state"));
  filter.limit = std::min(number(request, "limit", kListed), kMostListed) + 1;
  if (!actor.administrator) {
    filter.user_id = actor.user_id;
  } else if (const std::string user = parameter(request, "user"); !user.empty()) {
    filter.user_id = static_cast<unsigned>(number(request, "user", 0));
  }
  const auto found = std::make_shared<std::vector<JobSummary>>();
  read(
      actor,
      [filter, found](QueueStore& store) {
        *found = store.summaries(filter);
        return ApiResponse{};
      },
      [this, actor, filter, found, respond](ApiResponse response) {
        if (response.status != 200) {
          respond(std::move(response));
          return;
        }
        const bool truncated = found->size() == filter.limit;
        if (truncated) {
          found->pop_back();
        }
        reading_.post_next(actor.user_id,
                           reading([found, told = told_of(*found),
                                    truncated](QueueStore&) { return listed(*found, told, truncated); },
                                   respond));
      });
}

void Api::history(const ApiRequest& request, const Actor& actor, const ApiRespond& respond) {
  const Timestamp now = clock_.system_now();
  HistoryRequest asked;
  asked.start = optional_parameter(request, "start");
  asked.end = optional_parameter(request, "end");
  asked.last = optional_parameter(request, "last");
  asked.users = words(request, "users");
  asked.states = words(request, "states");
  asked.accounts = words(request, "accounts");
  asked.names = words(request, "names");
  asked.jobs = words(request, "jobs");
  HistoryFilter filter = from_parameters([&] { return make_history_filter(asked, now); });
  if (!actor.administrator) {
    filter.user_id = actor.user_id;
  }
  const std::string as = one_of(request, "as", {"json", "table", "parsable", "parsable2"});
  filter.most_bytes = most_of_answer();
  filter.counts_each_spec = as == "json";
  const auto format = optional_parameter(request, "format");
  const ListingStyle style = listing_style(request, as);
  const std::vector<ChosenColumn> columns = format ? from_parameters([&] { return parse_format(*format); })
                                            : flag(request, "long") ? long_format()
                                                                    : default_format();
  read_records(
      actor,
      [filter](QueueStore& store) {
        return ShownJob{store.history(filter), {}};
      },
      [=, time = ListingTime(now, zone_of(request))](const ShownJob& found) {
        return as == "json"
                   ? text_response(listing_json(found.records), "application/json")
                   : text_response(format_listing(found.records, columns, style, time), "text/plain");
      },
      respond);
}

void Api::report(const ApiRequest& request, const Actor& actor, const ApiRespond& respond) {
  ReportRequest asked;
  asked.by = optional_parameter(request, "by");
  asked.start = optional_parameter(request, "start");
  asked.end = optional_parameter(request, "end");
  asked.users = words(request, "users");
  asked.accounts = words(request, "accounts");
  ReportFilter filter = from_parameters([&] { return make_report_filter(asked, clock_.system_now()); });
  filter.zone = zone_of(request);
  filter.most_bytes = most_of_answer();
  if (!actor.administrator) {
    filter.user_id = actor.user_id;
  }
  const std::string as = one_of(request, "as", {"json", "table", "parsable", "parsable2"});
  const auto format = optional_parameter(request, "format");
  const ListingStyle style = listing_style(request, as);
  from_parameters([&] { return format_report({}, filter.key, format, style); });  // are there such columns?
  read(
      actor,
      [filter, as, format, style](QueueStore& store) {
        const std::vector<ReportRow> rows = store.report(filter);
        return as == "json" ? text_response(report_json(rows, filter.key, style), "application/json")
                            : text_response(format_report(rows, filter.key, format, style), "text/plain");
      },
      respond);
}

void Api::wait(const ApiRequest& request, JobId job, const Actor& actor, const ApiRespond& respond) {
  daemon_.require(job, actor);
  const auto answer = [job](const JobEnd& end) {
    return json_response(
        {{"job_id", job}, {"state", std::string(to_string(end.state))}, {"exit_status", end.exit_status}});
  };
  if (const std::optional<JobState> state = daemon_.ended_as(job)) {
    read(
        actor, [=](QueueStore& store) { return answer(Daemon::end_of(store, job, *state)); }, respond);
    return;
  }
  const std::uint64_t waiter =
      daemon_.wait_for(job, [respond, answer](const JobEnd& end) { respond(answer(end)); });
  request.interest->when_lost([this, job, waiter] { daemon_.cancel_wait(job, waiter); });
}

void Api::output(const ApiRequest& request, JobId job, const Actor& actor, const ApiRespond& respond) {
  const StoredJob stored = daemon_.require_stored(job, actor);
  if (const std::string task = first_task(stored); !task.empty()) {
    throw ApiError(409, "job " + std::to_string(job) +
                            " is an array, whose tasks have the output; ask for one: berth logs " + task);
  }
  ApiResponse response;
  response.type = "application/octet-stream";
  response.stream = make_output_stream(
      loop_, daemon_, stored, actor, one_of(request, "stream", {"output", "error"}) == "error",
      number(request, "offset", 0), flag(request, "follow"), *request.interest);
  respond(std::move(response));
}

void Api::events(const ApiRequest& request, const Actor& actor, const ApiRespond& respond) {
  ApiResponse response;
  response.type = "application/x-ndjson";
  const std::string after = parameter(request, "after", "0");
  const auto sequence =
      after == "now" ? reader_.last_event() : static_cast<std::int64_t>(number(request, "after", 0));
  response.after = sequence;
  response.stream = make_event_stream(
      *this,
      [this, user = actor.user_id](const std::function<void(QueueStore&)>& work,
                                   std::function<void(bool is_read)> done) {
        reading_.post(user, [this, work, done = std::move(done)]() mutable {
          bool is_read = true;
          try {
            work(*slow_reader_);
          } catch (const std::exception& error) {
            log_error(error.what());
            is_read = false;
          }
          boost::asio::post(loop_, [done = std::move(done), is_read] { done(is_read); });
        });
      },
      actor.administrator ? std::nullopt : std::optional(actor.user_id), sequence, flag(request, "follow"),
      *request.interest);
  respond(std::move(response));
}

/// The connection becomes a stream of frames (scheduler/stream_frame.h) to the job's runner.
void Api::stream(const ApiRequest& request, JobId job, const Actor& actor, const ApiRespond& respond) {
  if (request.upgrade != kStreamProtocol) {
    throw ApiError(426, "ask with the headers \"Connection: Upgrade\" and \"Upgrade: " +
                            std::string(kStreamProtocol) + "\"; docs/berthd.md describes the stream");
  }
  const Daemon::RunningAttempt attempt = daemon_.require_running(job, actor);
  StreamRequest asked = parse_stream_request(request.body);
  asked.id = attempt.id;
  const auto runner = std::make_shared<StreamHandOver>(daemon_.runner_folder(), attempt.runner);
  ApiResponse response;
  response.type = kStreamProtocol;
  response.take_over = [runner, asked](int descriptor) { runner->give(asked, descriptor); };
  respond(std::move(response));
}

void Api::top(const Actor& actor, const ApiRespond& respond) {
  daemon_.sample([this, actor, respond](const std::vector<RunningSample>& samples) {
    SummaryFilter filter;
    filter.states = {JobState::running, JobState::suspended};
    if (!actor.administrator) {
      filter.user_id = actor.user_id;
    }
    std::unordered_map<JobId, Timestamp::duration> suspended;
    for (const Daemon::RunningView& view : daemon_.running()) {
      suspended.emplace(view.job_id, daemon_.suspended_time(view.job_id));
    }
    read(
        actor,
        [samples, filter, suspended, pool = pool_value(daemon_),
         now = clock_.system_now()](QueueStore& store) {
          Json jobs = Json::array();
          for (const JobSummary& job : store.summaries(filter)) {
            const auto found = std::find_if(samples.begin(), samples.end(), [&](const RunningSample& sample) {
              return sample.id == AttemptId{job.job_id, job.attempt};
            });
            const std::optional<StoredJob> stored = store.find_stored(job.job_id);
            const auto paused = suspended.find(job.job_id);
            const auto pause = paused == suspended.end() ? Timestamp::duration(0) : paused->second;
            if (job.start && stored) {
              jobs.push_back(
                  top_value(job, parse_stored_job(stored->spec_text, "job " + std::to_string(job.job_id)),
                            found == samples.end() ? nullptr : &*found,
                            std::max(now - *job.start - pause, Timestamp::duration(0))));
            }
          }
          return json_response({{"at", format_instant_utc(now)},
                                {"at_usec", now.time_since_epoch().count()},
                                {"pool", pool},
                                {"jobs", std::move(jobs)}});
        },
        respond);
  });
}

/// Who has what is shown of one's own jobs alone; how much is free, to everybody.
ApiResponse Api::slots(const Actor& actor) const {
  Json running = Json::array();
  for (const Daemon::RunningView& view : daemon_.running()) {
    if (!actor.administrator && view.user_id != actor.user_id) {
      continue;
    }
    running.push_back({{"job_id", view.job_id},
                       {"slot", view.allocation.slot},
                       {"cpus", view.allocation.cpus.to_list()},
                       {"memory", view.allocation.memory},
                       {"runner", view.runner}});
  }
  Json value = pool_value(daemon_);
  value["running"] = std::move(running);
  return json_response(value);
}

}  // namespace berth
