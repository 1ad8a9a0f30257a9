#include "schemas/dependency.h"

#include <array>
#include <charconv>
#include <set>
#include <stdexcept>

namespace berth {
namespace {

/// Each is looked up when the job is submitted.
constexpr std::size_t kMostConditions = 10'000;
constexpr std::size_t kLongestText = std::size_t{256} * 1024;

constexpr std::array kTypes{
    std::pair{"after", Dependency::Type::after},
    std::pair{"afterany", Dependency::Type::afterany},
    std::pair{"afterok", Dependency::Type::afterok},
    std::pair{"afternotok", Dependency::Type::afternotok},
    std::pair{"singleton", Dependency::Type::singleton},
};

std::string_view take_until(std::string_view& rest, const char* separators) {
  const std::size_t end = rest.find_first_of(separators);
  const std::string_view part = rest.substr(0, end);
  rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  return part;
}

[[noreturn]] void refuse(const std::string& why) {
  throw std::invalid_argument("is no dependency: " + why + " (use afterok:12:13, afterany:14 or singleton)");
}

template <typename Number>
bool read_number(std::string_view text, Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

/// "12", or "12_3": task 3 of array 12.
Dependency::Condition read_condition(Dependency::Type type, std::string_view id) {
  if (id.find('+') != std::string_view::npos) {
    refuse("\"" + std::string(id) + "\": a delay is not supported; use a begin time");
  }
  Dependency::Condition condition{type, 0};
  const std::size_t underscore = id.find('_');
  bool is_id = read_number(id.substr(0, underscore), condition.job) && condition.job >= 1;
  if (underscore != std::string_view::npos) {
    is_id = is_id && read_number(id.substr(underscore + 1), condition.task.emplace());
  }
  if (!is_id) {
    refuse("\"" + std::string(id) + "\" is no job id");
  }
  return condition;
}

/// What is said twice counts once.
void add(const Dependency::Condition& condition, Dependency& dependency,
         std::set<Dependency::Condition>& seen) {
  if (seen.insert(condition).second) {
    dependency.conditions.push_back(condition);
  }
}

void read_part(std::string_view part, Dependency& dependency, std::set<Dependency::Condition>& seen) {
  const std::size_t length = part.size();
  const std::string_view name = take_until(part, ":");
  for (const auto& [word, type] : kTypes) {
    if (name != word) {
      continue;
    }
    if (type == Dependency::Type::singleton) {
      if (name.size() != length) {
        refuse("\"singleton\" names no job");
      }
      add({type, 0}, dependency, seen);
      return;
    }
    if (part.empty() || part.ends_with(':')) {
      refuse("\"" + std::string(name) + "\" names no job");
    }
    while (!part.empty()) {
      add(read_condition(type, take_until(part, ":")), dependency, seen);
    }
    return;
  }
  if (name == "aftercorr") {
    refuse("\"aftercorr\" is not supported; use afterok with the array, or with each task (afterok:12_3)");
  }
  refuse("\"" + std::string(name) + "\" is none of after, afterany, afterok, afternotok, singleton");
}

}  // namespace

Dependency parse_dependency(std::string_view text) {
  Dependency dependency;
  std::set<Dependency::Condition> seen;
  dependency.any = text.find('?') != std::string_view::npos;
  if (dependency.any && text.find(',') != std::string_view::npos) {
    refuse("\",\" (all) and \"?\" (any) cannot be mixed");
  }
  do {
    read_part(take_until(text, ",?"), dependency, seen);
  } while (!text.empty());
  return dependency;
}

Dependency parse_new_dependency(std::string_view text) {
  if (text.size() > kLongestText) {
    refuse("it is longer than " + std::to_string(kLongestText / 1024) +
           " KiB; make the jobs an array and depend on that");
  }
  Dependency dependency = parse_dependency(text);
  if (dependency.conditions.size() > kMostConditions) {
    refuse("it depends on more than " + std::to_string(kMostConditions) +
           " jobs; make them an array and depend on that");
  }
  return dependency;
}

Fulfilment fulfilment(Dependency::Type type, JobState state) {
  switch (type) {
    case Dependency::Type::after:
      return state == JobState::pending || state == JobState::configuring ? Fulfilment::no : Fulfilment::yes;
    case Dependency::Type::afterok:
      return !is_final(state)               ? Fulfilment::no
             : state == JobState::completed ? Fulfilment::yes
                                            : Fulfilment::never;
    case Dependency::Type::afternotok:
      return !is_final(state)               ? Fulfilment::no
             : state == JobState::completed ? Fulfilment::never
                                            : Fulfilment::yes;
    default:
      return is_final(state) ? Fulfilment::yes : Fulfilment::no;
  }
}

}  // namespace berth
