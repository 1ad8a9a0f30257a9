#include "schemas/cpu_set.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <stdexcept>
#include <utility>

namespace berth {

namespace {

constexpr unsigned kWordBits = 64;

std::uint64_t bit_of(unsigned cpu) {
  return std::uint64_t{1} << (cpu % kWordBits);
}

[[noreturn]] void refuse(std::string_view list, const std::string& why) {
  std::string message = "\"" + std::string(list) + "\" is not a list of CPUs: " + why + " (use 0-3,8)";
  for (char& c : message) {
    if (static_cast<unsigned char>(c) < 0x20U || c == '\x7f') {
      c = '?';  // a NUL byte would cut the message short
    }
  }
  throw std::invalid_argument(message);
}

/// Takes a decimal number off the front of `rest`.
unsigned take_number(std::string_view list, std::string_view& rest) {
  unsigned number = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), number);
  if (error == std::errc::invalid_argument) {
    refuse(list, rest.empty() ? "a number is missing at its end"
                              : "a number is missing before \"" + std::string(rest) + "\"");
  }
  if (error == std::errc::result_out_of_range || number > CpuSet::kMaximumCpu) {
    refuse(list, "numbers end at " + std::to_string(CpuSet::kMaximumCpu));
  }
  rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
  return number;
}

bool take_character(std::string_view& rest, char character) {
  if (rest.empty() || rest.front() != character) {
    return false;
  }
  rest.remove_prefix(1);
  return true;
}

}  // namespace

CpuSet::CpuSet(std::initializer_list<unsigned> cpus) {
  for (const unsigned cpu : cpus) {
    insert(cpu);
  }
}

CpuSet CpuSet::parse(std::string_view list) {
  std::string_view rest = list;
  while (!rest.empty() && (rest.back() == '\n' || rest.back() == ' ')) {
    rest.remove_suffix(1);  // control files end in a newline
  }
  const std::string_view shown = rest;
  CpuSet set;
  if (rest.empty()) {
    return set;
  }
  do {
    const unsigned first = take_number(shown, rest);
    unsigned last = first;
    unsigned stride = 1;
    if (take_character(rest, '-')) {
      last = take_number(shown, rest);
      if (last < first) {
        refuse(shown, "a range runs backwards");
      }
      if (take_character(rest, ':')) {
        stride = take_number(shown, rest);
        if (stride == 0) {
          refuse(shown, "a stride is 0");
        }
      }
    }
    for (unsigned cpu = first; cpu <= last; cpu += stride) {
      set.insert(cpu);
    }
  } while (take_character(rest, ','));
  if (!rest.empty()) {
    refuse(shown, "\"" + std::string(rest) + "\" is unexpected");
  }
  return set;
}

CpuSet CpuSet::range(unsigned first, unsigned last) {
  CpuSet set;
  for (unsigned cpu = first; cpu <= last; ++cpu) {
    set.insert(cpu);
  }
  return set;
}

void CpuSet::insert(unsigned cpu) {
  if (cpu > kMaximumCpu) {
    throw std::invalid_argument("CPU " + std::to_string(cpu) + " is beyond the highest number, " +
                                std::to_string(kMaximumCpu));
  }
  const std::size_t word = cpu / kWordBits;
  if (word >= words_.size()) {
    words_.resize(word + 1);
  }
  words_[word] |= bit_of(cpu);
}

void CpuSet::erase(unsigned cpu) {
  const std::size_t word = cpu / kWordBits;
  if (word >= words_.size()) {
    return;
  }
  words_[word] &= ~bit_of(cpu);
  while (!words_.empty() && words_.back() == 0) {
    words_.pop_back();
  }
}

bool CpuSet::contains(unsigned cpu) const {
  const std::size_t word = cpu / kWordBits;
  return word < words_.size() && (words_[word] & bit_of(cpu)) != 0;
}

bool CpuSet::intersects(const CpuSet& other) const {
  return !(*this & other).words_.empty();
}

std::size_t CpuSet::size() const {
  std::size_t count = 0;
  for (const std::uint64_t word : words_) {
    count += static_cast<std::size_t>(std::popcount(word));
  }
  return count;
}

CpuSet CpuSet::operator|(const CpuSet& other) const {
  CpuSet result = words_.size() >= other.words_.size() ? *this : other;
  const CpuSet& shorter = words_.size() >= other.words_.size() ? other : *this;
  for (std::size_t word = 0; word < shorter.words_.size(); ++word) {
    result.words_[word] |= shorter.words_[word];
  }
  return result;
}

CpuSet CpuSet::operator&(const CpuSet& other) const {
  CpuSet result;
  result.words_.resize(std::min(words_.size(), other.words_.size()));
  for (std::size_t word = 0; word < result.words_.size(); ++word) {
    result.words_[word] = words_[word] & other.words_[word];
  }
  while (!result.words_.empty() && result.words_.back() == 0) {
    result.words_.pop_back();
  }
  return result;
}

CpuSet CpuSet::operator-(const CpuSet& other) const {
  CpuSet result = *this;
  for (std::size_t word = 0; word < std::min(words_.size(), other.words_.size()); ++word) {
    result.words_[word] &= ~other.words_[word];
  }
  while (!result.words_.empty() && result.words_.back() == 0) {
    result.words_.pop_back();
  }
  return result;
}

bool CpuSet::operator==(const CpuSet& other) const {
  return words_ == other.words_;
}

std::vector<unsigned> CpuSet::members() const {
  std::vector<unsigned> cpus;
  cpus.reserve(size());
  for (std::size_t word = 0; word < words_.size(); ++word) {
    for (std::uint64_t bits = words_[word]; bits != 0; bits &= bits - 1) {
      cpus.push_back(static_cast<unsigned>(word) * kWordBits + static_cast<unsigned>(std::countr_zero(bits)));
    }
  }
  return cpus;
}

std::string CpuSet::to_list() const {
  const std::vector<unsigned> cpus = members();
  std::string list;
  for (std::size_t first = 0; first < cpus.size();) {
    std::size_t last = first;
    while (last + 1 < cpus.size() && cpus[last + 1] == cpus[last] + 1) {
      ++last;
    }
    list += (list.empty() ? "" : ",") + std::to_string(cpus[first]);
    if (last != first) {
      list += "-" + std::to_string(cpus[last]);
    }
    first = last + 1;
  }
  return list;
}

}  // namespace berth
