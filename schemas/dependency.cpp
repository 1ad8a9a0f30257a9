#include "schemas/dependency.h"

#include <array>
#include <charconv>
#include <stdexcept>

namespace berth {
namespace {

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

void read_part(std::string_view part, Dependency& dependency) {
  const std::string_view name = take_until(part, ":");
  for (const auto& [word, type] : kTypes) {
    if (name != word) {
      continue;
    }
    if (type == Dependency::Type::singleton) {
      dependency.conditions.push_back({type, 0});
      return;
    }
    if (part.empty()) {
      refuse("\"" + std::string(name) + "\" names no job");
    }
    while (!part.empty()) {
      const std::string_view id = take_until(part, ":");
      JobId job = 0;
      const auto [end, error] = std::from_chars(id.data(), id.data() + id.size(), job);
      if (error != std::errc() || end != id.data() + id.size() || job < 1) {
        refuse("\"" + std::string(id) + "\" is no job id");
      }
      dependency.conditions.push_back({type, job});
    }
    return;
  }
  refuse("\"" + std::string(name) + "\" is none of after, afterany, afterok, afternotok, singleton");
}

}  // namespace

Dependency parse_dependency(std::string_view text) {
  Dependency dependency;
  dependency.any = text.find('?') != std::string_view::npos;
  if (dependency.any && text.find(',') != std::string_view::npos) {
    refuse("\",\" (all) and \"?\" (any) cannot be mixed");
  }
  do {
    read_part(take_until(text, ",?"), dependency);
  } while (!text.empty());
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
