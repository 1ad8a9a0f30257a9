#include "schemas/index_list.h"

#include <algorithm>
#include <charconv>
#include <stdexcept>

namespace berth {
namespace {

unsigned parse_index(std::string_view text) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size() ||
      value > IndexList::kMaximum) {
    throw std::invalid_argument("is no list of array indexes (use 0-15, 1,3,5-7 or 0-20:4, up to " +
                                std::to_string(IndexList::kMaximum) + ")");
  }
  return value;
}

}  // namespace

IndexList IndexList::parse(std::string_view text) {
  IndexList list;
  while (!text.empty()) {
    const std::size_t comma = text.find(',');
    std::string_view part = text.substr(0, comma);
    text.remove_prefix(comma == std::string_view::npos ? text.size() : comma + 1);
    Range range;
    if (const std::size_t colon = part.find(':'); colon != std::string_view::npos) {
      range.step = parse_index(part.substr(colon + 1));
      if (range.step == 0) {
        throw std::invalid_argument("is no list of array indexes: the step after : is at least 1");
      }
      part = part.substr(0, colon);
    }
    const std::size_t dash = part.find('-');
    range.first = parse_index(part.substr(0, dash));
    range.last = dash == std::string_view::npos ? range.first : parse_index(part.substr(dash + 1));
    if (range.last < range.first) {
      throw std::invalid_argument("is no list of array indexes: a range ends before it begins");
    }
    range.last = range.first + (range.last - range.first) / range.step * range.step;
    list.ranges_.push_back(range);
  }
  std::sort(list.ranges_.begin(), list.ranges_.end(),
            [](const Range& a, const Range& b) { return a.first < b.first; });
  for (std::size_t index = 1; index < list.ranges_.size(); ++index) {
    if (list.ranges_[index].first <= list.ranges_[index - 1].last) {
      throw std::invalid_argument("is no list of array indexes: its ranges overlap");
    }
  }
  return list;
}

unsigned IndexList::step() const {
  unsigned least = kMaximum + 1;
  for (std::size_t index = 0; index < ranges_.size(); ++index) {
    const Range& range = ranges_[index];
    if (range.last > range.first) {
      least = std::min(least, range.step);
    }
    if (index > 0) {
      least = std::min(least, range.first - ranges_[index - 1].last);
    }
  }
  return least > kMaximum ? 1 : least;
}

std::size_t IndexList::size() const {
  std::size_t total = 0;
  for (const Range& range : ranges_) {
    total += (range.last - range.first) / range.step + 1;
  }
  return total;
}

std::optional<unsigned> IndexList::take_first() {
  if (ranges_.empty()) {
    return std::nullopt;
  }
  const unsigned index = ranges_.front().first;
  erase(index);
  return index;
}

bool IndexList::contains(unsigned index) const {
  const auto range = std::ranges::lower_bound(ranges_, index, {}, &Range::last);
  return range != ranges_.end() && index >= range->first && (index - range->first) % range->step == 0;
}

bool IndexList::erase(unsigned index) {
  for (auto range = ranges_.begin(); range != ranges_.end(); ++range) {
    if (index < range->first || index > range->last || (index - range->first) % range->step != 0) {
      continue;
    }
    const Range before{range->first, index - std::min(index, range->step), range->step};
    const Range after{index + range->step, range->last, range->step};
    const bool has_before = index > range->first;
    const bool has_after = index < range->last;
    if (has_before && has_after) {
      *range = before;
      ranges_.insert(range + 1, after);
    } else if (has_before || has_after) {
      *range = has_before ? before : after;
    } else {
      ranges_.erase(range);
    }
    return true;
  }
  return false;
}

void IndexList::insert(unsigned index) {
  if (!contains(index)) {
    const auto next = std::find_if(ranges_.begin(), ranges_.end(),
                                   [index](const Range& range) { return range.first > index; });
    ranges_.insert(next, {index, index, 1});
  }
}

std::string IndexList::to_text() const {
  std::string text;
  for (const Range& range : ranges_) {
    text += (text.empty() ? "" : ",") + std::to_string(range.first);
    if (range.last > range.first) {
      text += "-" + std::to_string(range.last) + (range.step > 1 ? ":" + std::to_string(range.step) : "");
    }
  }
  return text;
}

ArraySpec parse_array(std::string_view text) {
  const std::size_t percent = text.find('%');
  ArraySpec array{IndexList::parse(text.substr(0, percent)), 0};
  if (percent != std::string_view::npos) {
    array.limit = parse_index(text.substr(percent + 1));
    if (array.limit == 0) {
      throw std::invalid_argument("would never run a task: the number after % is at least 1");
    }
  }
  if (array.tasks.empty()) {
    throw std::invalid_argument("names no task (use 0-15, 1,3,5-7 or 0-20:4)");
  }
  return array;
}

ArraySpec parse_new_array(std::string_view text) {
  ArraySpec array = parse_array(text);
  if (array.tasks.ranges() > IndexList::kMostRanges) {
    throw std::invalid_argument("has more than " + std::to_string(IndexList::kMostRanges) +
                                " ranges and single tasks (use steps, such as 0-20000:2, or several arrays)");
  }
  return array;
}

}  // namespace berth
