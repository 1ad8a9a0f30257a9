#include "scheduler/cli_show.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

#include "scheduler/listing.h"
#include "schemas/input_error.h"
#include "schemas/job_file.h"
#include "schemas/terminal_text.h"
#include "schemas/usage_fields.h"

namespace berth {
namespace {

using Json = nlohmann::ordered_json;

/// "  Name:            value", or nothing for an empty value.
std::string line(std::string name, const std::string& value) {
  constexpr std::size_t kNameWidth = 26;
  if (value.empty()) {
    return "";
  }
  name += ":";
  name.resize(std::max(kNameWidth, name.size() + 1), ' ');
  return "  " + name + printable(value) + "\n";
}

std::string indented(const std::string& text) {
  std::string result = "  ";
  for (const char character : text) {
    result += character;
    if (character == '\n') {
      result += "  ";
    }
  }
  return result + "\n";
}

std::string who(const std::string& name, unsigned id) {
  return name + " (" + std::to_string(id) + ")";
}

std::string size_text(Bytes bytes) {
  const std::string rounded = format_size_human(bytes);
  const std::string exact = std::to_string(bytes);
  return rounded == exact ? exact + " bytes" : rounded + " (" + exact + " bytes)";
}

std::string seconds_text(std::chrono::microseconds duration) {
  char text[32];
  const int length =
      std::snprintf(text, sizeof text, "%.6f s", std::chrono::duration<double>(duration).count());
  return {text, static_cast<std::size_t>(length)};
}

std::string counter_text(UsageUnit, std::chrono::microseconds value) {
  return seconds_text(value);
}
std::string counter_text(UsageUnit unit, std::uint64_t value) {
  return unit == UsageUnit::bytes ? size_text(value) : std::to_string(value);
}

/// What was not measured is said once, at the end, rather than as lines without a value.
std::string usage_text(const Usage& usage) {
  std::string text;
  std::string absent;
  for_each_described_usage_field(usage, [&](const auto& field, const auto& counter) {
    const std::string name(field.name);
    if (counter) {
      text += line(name, counter_text(field.unit, *counter));
    } else {
      absent += (absent.empty() ? "" : ", ") + name;
    }
  });
  return text + line("not measured", absent);
}

std::string outcome_text(const Outcome& outcome) {
  std::string text = line("Message", outcome.message);
  text += line("Cause", std::string(to_string(outcome.cause)));
  text += line("ExitCode", exit_code_field(outcome) + (outcome.core_dumped ? " (core dumped)" : ""));
  if (outcome.limit) {
    text += line("Limit", outcome.limit->name + " = " + outcome.limit->value);
    text += line("LimitingCgroup", outcome.limit->cgroup);
  }
  if (!outcome.stage.empty()) {
    text += line("FailedStep", outcome.stage + " (errno " + std::to_string(outcome.error_number) + ")");
  }
  return text;
}

std::string attempt_text(const AccountingRecord& record, const ListingTime& time) {
  std::string text = line("State", std::string(to_string(record.state)));
  text += line("Reason", record.reason);
  if (record.outcome) {
    text += outcome_text(*record.outcome);
  }
  text += line("Start", record.start ? format_instant(*record.start, time) : "");
  text += line("End", record.end ? format_instant(*record.end, time) : "");
  if (const auto elapsed = elapsed_time(record, time.now)) {
    text += line("Elapsed", format_duration(std::chrono::duration_cast<Milliseconds>(*elapsed)));
  }
  if (record.allocation) {
    text += line("Slot", record.allocation->slot);
    text += line("CPUs", record.allocation->cpus.to_list());
    text += line("MemoryNodes", record.allocation->memory_nodes.to_list());
    text += line("MemoryLimit", size_text(record.allocation->memory));
  }
  if (record.outcome && record.start) {
    text += "\n Usage\n" + usage_text(record.usage);
  }
  return text;
}

std::string events_text(const std::vector<JobEvent>& events) {
  std::string text;
  for (const JobEvent& event : events) {
    std::string state(to_string(event.state));
    state.resize(std::max<std::size_t>(state.size(), 14), ' ');
    std::string entry = "  " + format_instant_utc(event.at) + "  " + state + printable(event.detail);
    entry.erase(entry.find_last_not_of(' ') + 1);
    text += entry + "\n";
  }
  return text;
}

Json event_value(const JobEvent& event) {
  Json object{{"sequence", event.sequence},
              {"job_id", event.job_id},
              {"attempt", event.attempt},
              {"at", format_instant_utc(event.at)},
              {"state", to_string(event.state)}};
  if (!event.detail.empty()) {
    Json detail = Json::parse(event.detail, nullptr, false);
    object["detail"] = detail.is_discarded() ? Json(event.detail) : std::move(detail);
  }
  return object;
}

}  // namespace

ShownJob load_job(JobStore& store, JobId job) {
  HistoryFilter filter;
  filter.job_ids = {job};
  return load_job(store, filter);
}

ShownJob load_job(JobStore& store, const HistoryFilter& filter) {
  const JobId job = filter.job_ids.at(0);
  ShownJob shown{store.history(filter), store.events(job)};
  if (shown.records.empty()) {
    throw InputError(
        "", "",
        "there is no job " + std::to_string(job) +
            " in this database (`berth history` lists those there are; --database names another one)");
  }
  return shown;
}

std::string show_text(const ShownJob& job, const ListingTime& time) {
  const AccountingRecord& first = job.records.front();
  std::string text = "Job " + std::to_string(first.job_id) + "\n";
  text += line("ArrayTask", first.array_job_id ? shown_id(first) : "");
  text += line("JobName", first.spec->name);
  text += line("User", who(first.user, first.user_id));
  text += line("JobUser", who(first.job_user, first.job_user_id));
  text += line("Account", first.spec->account);
  text += line("Comment", first.spec->comment);
  text += line("Host", first.host);
  text += line("Submit", format_instant(first.submit, time));
  for (const AccountingRecord& record : job.records) {
    const std::string unstarted = is_array_of_tasks(record) ? "Array; " + where_tasks_are(record)
                                  : record.outcome          ? "Never started"
                                                            : "Not started yet";
    text += "\n" + (record.attempt == 0 ? unstarted : "Attempt " + std::to_string(record.attempt)) + "\n";
    text += attempt_text(record, time);
  }
  text += "\nEvents (UTC)\n" + events_text(job.events);
  text += "\nSpec\n" + indented(printable_json(Json::parse(to_json_text(*first.spec)), 2));
  return text;
}

std::string show_json(std::span<const ShownJob> jobs) {
  Json records = Json::array();
  Json events = Json::array();
  for (const ShownJob& job : jobs) {
    for (const AccountingRecord& record : job.records) {
      records.push_back(Json::parse(to_json_text(record)));
    }
    for (const JobEvent& event : job.events) {
      events.push_back(event_value(event));
    }
  }
  return printable_json(Json{{"jobs", std::move(records)}, {"events", std::move(events)}}, 2) + "\n";
}

}  // namespace berth
