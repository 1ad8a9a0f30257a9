// The fields of Usage as data, so that JSON, SQL and listings never spell them again.
//
// A field added to Usage belongs here too: a static_assert counts them.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>
#include <tuple>
#include <type_traits>

#include "schemas/usage.h"

namespace berth {

enum class UsageUnit { microseconds, bytes, count };

template <typename Value>
struct UsageField {
  std::string_view name;  ///< the member's name: "memory_peak", "wall"
  std::string_view key;   ///< in JSON: the name, with "_usec" after durations: "wall_usec"
  UsageUnit unit = UsageUnit::count;
  std::optional<Value> Usage::*member = nullptr;
};

#define BERTH_MICROSECONDS(name)                                \
  UsageField<Usage::Micros> {                                   \
#name, #name "_usec", UsageUnit::microseconds, &Usage::name \
  }
#define BERTH_BYTES(name)                        \
  UsageField<Bytes> {                            \
#name, #name, UsageUnit::bytes, &Usage::name \
  }
#define BERTH_COUNT(name)                        \
  UsageField<Usage::Count> {                     \
#name, #name, UsageUnit::count, &Usage::name \
  }

inline constexpr auto kUsageFields = std::tuple{
    BERTH_MICROSECONDS(wall),
    BERTH_MICROSECONDS(cpu_total),
    BERTH_MICROSECONDS(cpu_user),
    BERTH_MICROSECONDS(cpu_system),
    BERTH_COUNT(throttled_periods),
    BERTH_MICROSECONDS(throttled_time),
    BERTH_BYTES(memory_peak),
    BERTH_BYTES(memory_anon_peak),
    BERTH_BYTES(memory_file_peak),
    BERTH_BYTES(swap_peak),
    BERTH_COUNT(memory_limit_hits),
    BERTH_COUNT(page_faults),
    BERTH_COUNT(major_page_faults),
    BERTH_COUNT(voluntary_switches),
    BERTH_COUNT(involuntary_switches),
    BERTH_BYTES(io_read_bytes),
    BERTH_BYTES(io_write_bytes),
    BERTH_COUNT(io_read_operations),
    BERTH_COUNT(io_write_operations),
    BERTH_COUNT(pids_peak),
    BERTH_COUNT(pids_limit_hits),
    BERTH_COUNT(oom_kills),
    BERTH_MICROSECONDS(cpu_stall),
    BERTH_MICROSECONDS(memory_stall),
    BERTH_MICROSECONDS(io_stall),
    BERTH_BYTES(network_receive_bytes),
    BERTH_BYTES(network_transmit_bytes),
    BERTH_COUNT(network_receive_packets),
    BERTH_COUNT(network_transmit_packets),
    BERTH_COUNT(network_denied_packets),
    BERTH_COUNT(network_connections_peak),
    BERTH_BYTES(output_bytes),
};

#undef BERTH_MICROSECONDS
#undef BERTH_BYTES
#undef BERTH_COUNT

inline constexpr std::size_t kUsageFieldCount = std::tuple_size_v<decltype(kUsageFields)>;
// Every member is an optional of one 64-bit number, so the size tells how many there are.
static_assert(sizeof(Usage) == kUsageFieldCount * sizeof(std::optional<Usage::Count>),
              "kUsageFields names every member of Usage");

/// Calls visit(name, member) for every field in declaration order; members are
/// std::optional<std::chrono::microseconds> or std::optional<std::uint64_t>, const when `usage` is.
template <typename AnyUsage, typename Visitor>
requires std::is_same_v<std::remove_const_t<AnyUsage>, Usage>
constexpr void for_each_usage_field(AnyUsage& usage, Visitor&& visit) {
  std::apply([&](const auto&... field) { (visit(field.name, usage.*field.member), ...); }, kUsageFields);
}

/// Calls visit(field, member), for those that need the unit or the JSON key too.
template <typename AnyUsage, typename Visitor>
requires std::is_same_v<std::remove_const_t<AnyUsage>, Usage>
constexpr void for_each_described_usage_field(AnyUsage& usage, Visitor&& visit) {
  std::apply([&](const auto&... field) { (visit(field, usage.*field.member), ...); }, kUsageFields);
}

}  // namespace berth
