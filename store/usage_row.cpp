#include "store/usage_row.h"

#include <algorithm>
#include <limits>
#include <string_view>
#include <type_traits>

#include "schemas/usage_fields.h"

namespace berth {
namespace {

std::int64_t to_column(Usage::Micros value) {
  return value.count();
}

/// SQLite's integers are signed; a counter beyond them (no limit, as some kernels write it) saturates.
std::int64_t to_column(Usage::Count value) {
  constexpr Usage::Count kLargest = std::numeric_limits<std::int64_t>::max();
  return static_cast<std::int64_t>(std::min(value, kLargest));
}

template <typename Counter>
Counter from_column(std::int64_t value) {
  if constexpr (std::is_same_v<Counter, Usage::Micros>) {
    return Usage::Micros(value);
  } else {
    return static_cast<Counter>(value);
  }
}

}  // namespace

std::string usage_columns(const std::string& prefix) {
  std::string list;
  const Usage none;
  for_each_usage_field(none, [&](std::string_view name, const auto&) {
    list += (list.empty() ? "" : ", ") + prefix + std::string(name);
  });
  return list;
}

std::string usage_parameters() {
  std::string list;
  const Usage none;
  for_each_usage_field(none, [&](std::string_view, const auto&) { list += list.empty() ? "?" : ", ?"; });
  return list;
}

void bind_usage(Query& query, const Usage& usage) {
  for_each_usage_field(usage, [&](std::string_view, const auto& counter) {
    if (counter) {
      query.bind(to_column(*counter));
    } else {
      query.bind_null();
    }
  });
}

Usage read_usage(const Query& query, int first_column) {
  Usage usage;
  int column = first_column;
  for_each_usage_field(usage, [&](std::string_view, auto& counter) {
    if (const auto value = query.optional_integer(column++)) {
      counter = from_column<typename std::remove_reference_t<decltype(counter)>::value_type>(*value);
    }
  });
  return usage;
}

}  // namespace berth
