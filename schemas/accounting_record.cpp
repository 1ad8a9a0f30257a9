#include "schemas/accounting_record.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include "schemas/job_json.h"
#include "schemas/record_json.h"
#include "schemas/terminal_text.h"
#include "schemas/usage_fields.h"

namespace berth {

namespace {

using Json = nlohmann::ordered_json;

/// Messages and paths may hold any bytes; what is not UTF-8 becomes U+FFFD.
std::string dump(const Json& value, int indent = -1) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

std::uint64_t to_number(std::uint64_t value) {
  return value;
}
std::int64_t to_number(Usage::Micros value) {
  return value.count();
}

Json usage_value(const Usage& usage) {
  Json object = Json::object();
  for_each_described_usage_field(usage, [&](const auto& field, const auto& member) {
    if (member) {
      object[std::string(field.key)] = to_number(*member);
    }
  });
  return object;
}

template <typename Value>
Value read_counter(std::string_view digits) {
  using Number = std::conditional_t<std::is_same_v<Value, Usage::Micros>, std::int64_t, std::uint64_t>;
  Number number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc() || end != digits.data() + digits.size()) {
    throw std::invalid_argument("counters: \"" + std::string(digits) + "\" is not a number");
  }
  return Value(number);
}

Json outcome_value(const Outcome& outcome) {
  Json object{{"state", to_string(outcome.state)}, {"cause", to_string(outcome.cause)}};
  if (outcome.exit_code) {
    object["exit_code"] = *outcome.exit_code;
    object["signal"] = outcome.signal;
  }
  object["exit_status"] = exit_status(outcome);
  object["core_dumped"] = outcome.core_dumped;
  if (outcome.limit) {
    object["limit"] = {{"name", outcome.limit->name}, {"value", outcome.limit->value}};
    if (!outcome.limit->cgroup.empty()) {
      object["limit"]["cgroup"] = outcome.limit->cgroup;
    }
  }
  if (!outcome.stage.empty() || outcome.error_number != 0) {
    object["stage"] = outcome.stage;
    object["error_number"] = outcome.error_number;
  }
  object["message"] = outcome.message;
  return object;
}

Json allocation_value(const Allocation& allocation) {
  return {{"slot", allocation.slot},
          {"cpus", allocation.cpus.to_list()},
          {"cpu_count", allocation.cpus.size()},
          {"memory_nodes", allocation.memory_nodes.to_list()},
          {"memory", allocation.memory}};
}

/// Runs `read` on the parsed object and turns the parser's exceptions into ours.
template <typename Reader>
auto read_object(std::string_view text, const char* what, Reader read) {
  try {
    const Json object = Json::parse(text);
    if (!object.is_object()) {
      throw std::invalid_argument("not an object");
    }
    return read(object);
  } catch (const std::exception& error) {
    throw std::invalid_argument(std::string(what) + ": " + error.what());
  }
}

template <typename Enum>
Enum require_known(const std::optional<Enum>& value, const std::string& word) {
  if (!value) {
    throw std::invalid_argument("\"" + word + "\" is not known");
  }
  return *value;
}

Outcome outcome_from(const Json& object) {
  Outcome outcome;
  const auto state = object.at("state").get<std::string>();
  outcome.state = require_known(parse_job_state(state), state);
  const auto cause = object.at("cause").get<std::string>();
  outcome.cause = require_known(parse_cause(cause), cause);
  if (const auto code = object.find("exit_code"); code != object.end()) {
    outcome.exit_code = code->get<int>();
  }
  outcome.signal = object.value("signal", 0);
  outcome.core_dumped = object.value("core_dumped", false);
  if (const auto limit = object.find("limit"); limit != object.end()) {
    outcome.limit = LimitHit{limit->value("name", ""), limit->value("value", ""), limit->value("cgroup", "")};
  }
  outcome.stage = object.value("stage", "");
  outcome.error_number = object.value("error_number", 0);
  outcome.message = object.value("message", "");
  return outcome;
}

Usage usage_from(const Json& object) {
  Usage usage;
  for_each_described_usage_field(usage, [&](const auto& field, auto& member) {
    if (const auto found = object.find(std::string(field.key)); found != object.end()) {
      using Value = typename std::remove_reference_t<decltype(member)>::value_type;
      if (!found->is_number_integer()) {
        throw std::invalid_argument(std::string(field.key) + " is not an integer");
      }
      if constexpr (std::is_same_v<Value, Usage::Micros>) {
        member = Usage::Micros(found->template get<std::int64_t>());
      } else {
        member = found->template get<std::uint64_t>();
      }
    }
  });
  return usage;
}

}  // namespace

std::string to_json_text(const Usage& usage) {
  return dump(usage_value(usage));
}
std::string to_json_text(const Outcome& outcome) {
  return dump(outcome_value(outcome));
}
std::string to_json_text(const Allocation& allocation) {
  return dump(allocation_value(allocation));
}

std::string to_counters(const Usage& usage) {
  std::string text;
  text.reserve(std::size_t{24} * kUsageFieldCount);
  for_each_usage_field(usage, [&](std::string_view name, const auto& member) {
    if (member) {
      text += text.empty() ? "" : " ";
      text += name;
      text += '=';
      text += std::to_string(to_number(*member));
    }
  });
  return text;
}

Usage parse_counters(std::string_view text) {
  std::vector<std::pair<std::string_view, std::string_view>> pairs;
  pairs.reserve(kUsageFieldCount);
  while (!text.empty()) {
    const std::string_view pair = text.substr(0, text.find(' '));
    const std::size_t equals = pair.find('=');
    if (equals == std::string_view::npos) {
      throw std::invalid_argument("counters: \"" + std::string(pair) + "\" is not NAME=NUMBER");
    }
    pairs.emplace_back(pair.substr(0, equals), pair.substr(equals + 1));
    text.remove_prefix(std::min(text.size(), pair.size() + 1));
  }
  Usage usage;
  std::size_t next = 0;  // they come in the order of the fields, unless a newer berth has written them
  for_each_usage_field(usage, [&](std::string_view name, auto& member) {
    for (std::size_t tried = 0; tried < pairs.size(); ++tried) {
      const auto& [key, digits] = pairs[(next + tried) % pairs.size()];
      if (key == name) {
        member = read_counter<typename std::remove_reference_t<decltype(member)>::value_type>(digits);
        next = (next + tried + 1) % pairs.size();
        return;
      }
    }
  });
  return usage;
}

Usage parse_usage(std::string_view json_text) {
  return read_object(json_text, "usage", usage_from);
}
Outcome parse_outcome(std::string_view json_text) {
  return read_object(json_text, "outcome", outcome_from);
}

Allocation parse_allocation(std::string_view json_text) {
  return read_object(json_text, "allocation", [](const Json& object) {
    Allocation allocation;
    allocation.slot = object.value("slot", "");
    allocation.cpus = CpuSet::parse(object.value("cpus", ""));
    allocation.memory_nodes = CpuSet::parse(object.value("memory_nodes", ""));
    allocation.memory = object.value("memory", Bytes{0});
    return allocation;
  });
}

std::string shown_id(const AccountingRecord& record) {
  return record.array_job_id
             ? std::to_string(*record.array_job_id) + "_" + std::to_string(record.array_task_id.value_or(0))
             : std::to_string(record.job_id);
}

std::string to_json_text(const AccountingRecord& record, int indent) {
  Json object{{"job_id", record.job_id},           {"attempt", record.attempt},
              {"state", to_string(record.state)},  {"user", record.user},
              {"user_id", record.user_id},         {"job_user", record.job_user},
              {"job_user_id", record.job_user_id}, {"host", record.host}};
  if (record.array_job_id) {
    object["array_job_id"] = *record.array_job_id;
    object["array_task_id"] = record.array_task_id.value_or(0);
  }
  if (!record.reason.empty()) {
    object["reason"] = record.reason;
  }
  object["submit"] = format_instant_utc(record.submit);
  if (record.start) {
    object["start"] = format_instant_utc(*record.start);
  }
  if (record.end) {
    object["end"] = format_instant_utc(*record.end);
  }
  object["spec"] = to_json(*record.spec);
  if (record.allocation) {
    object["allocation"] = allocation_value(*record.allocation);
  }
  if (record.outcome) {
    object["outcome"] = outcome_value(*record.outcome);
  }
  object["usage"] = usage_value(record.usage);
  return json_with_controls_escaped(dump(object, indent));
}

}  // namespace berth
