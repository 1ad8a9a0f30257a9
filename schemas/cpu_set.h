// CpuSet: a set of CPU (or memory node) numbers and the kernel's list format for it.
//
// A value; copies are independent. Source of the format: cpuset(7), "List format".
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace berth {

class CpuSet {
 public:
  CpuSet() = default;
  CpuSet(std::initializer_list<unsigned> cpus);

  /// Parses "0-3,8,10-14:2"; the empty string is the empty set. Throws std::invalid_argument that
  /// says what is wrong. Numbers above kMaximumCpu are refused.
  static CpuSet parse(std::string_view list);
  static CpuSet range(unsigned first, unsigned last);

  static constexpr unsigned kMaximumCpu = 65535;

  void insert(unsigned cpu);
  void erase(unsigned cpu);
  bool contains(unsigned cpu) const;
  bool intersects(const CpuSet& other) const;
  std::size_t size() const;
  bool empty() const { return size() == 0; }

  CpuSet operator|(const CpuSet& other) const;
  CpuSet operator&(const CpuSet& other) const;
  CpuSet operator-(const CpuSet& other) const;
  bool operator==(const CpuSet& other) const;

  /// Ascending.
  std::vector<unsigned> members() const;
  /// "0-3,8"; "" for the empty set.
  std::string to_list() const;

 private:
  std::vector<std::uint64_t> words_;  // never ends in a zero word, so that == compares sets
};

}  // namespace berth
