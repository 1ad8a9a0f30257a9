#include "schemas/json_reader.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "schemas/json_text.h"
#include "schemas/terminal_text.h"
#include "schemas/utf8.h"

namespace berth {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaximumPath = 4095;  // PATH_MAX without its NUL (limits.h)
constexpr std::size_t kMaximumShown = 60;
constexpr std::size_t kMaximumQuantity = 64;  // characters of a size or duration; also in the schema

std::vector<std::string_view> components(std::string_view path) {
  std::vector<std::string_view> parts;
  while (!path.empty()) {
    const std::size_t slash = std::min(path.find('/'), path.size());
    if (slash > 0 && path.substr(0, slash) != ".") {
      parts.push_back(path.substr(0, slash));
    }
    path.remove_prefix(std::min(slash + 1, path.size()));
  }
  return parts;
}

/// "a string", "an array" … for messages about the wrong type.
std::string type_phrase(const Json& value) {
  switch (value.type()) {
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "an array";
    case Json::value_t::string:
      return "a string";
    case Json::value_t::boolean:
      return "a boolean";
    case Json::value_t::number_float:
      return "a number with a fraction or exponent";
    default:
      return "a number";
  }
}

void refuse_type(const Field& field, const std::string& expected) {
  if (field.value().is_null()) {
    field.refuse("says nothing here; leave the field out or give " + expected);
  } else if (field.value().is_structured()) {
    field.refuse_plainly("is " + type_phrase(field.value()) + "; give " + expected);
  } else {
    field.refuse("is " + type_phrase(field.value()) + "; give " + expected);
  }
}

std::string unit_of(Bytes bare_unit) {
  return bare_unit == 1 ? "bytes" : "MiB";
}
std::string unit_of(Milliseconds bare_unit) {
  return bare_unit == std::chrono::minutes(1) ? "minutes" : "seconds";
}

/// A quantity as parse_size and parse_duration take it: the string, or the digits of the integer.
std::optional<std::string> quantity_text(const Field& field, const std::string& expected) {
  const Json& value = field.value();
  if (value.is_string()) {
    if (value.get_ref<const std::string&>().size() <= kMaximumQuantity) {
      return field.text(Emptiness::allowed);
    }
    field.refuse("is too long; give " + expected);
    return std::nullopt;
  }
  if (value.is_number_unsigned()) {
    return std::to_string(value.get<std::uint64_t>());
  }
  if (value.is_number_integer()) {
    field.refuse("is negative; give " + expected);
  } else {
    refuse_type(field, expected);
  }
  return std::nullopt;
}

/// Parses a quantity and refuses zero where the rule does.
template <typename Quantity, typename Rule, typename Parser>
std::optional<Quantity> read_quantity(const Field& field, const Rule& rule, const std::string& expected,
                                      Parser parse) {
  const std::optional<std::string> text = quantity_text(field, expected);
  if (!text) {
    return std::nullopt;
  }
  try {
    const Quantity quantity = parse(*text, rule.bare_unit);
    if (quantity == Quantity{} && !rule.zero_allowed) {
      field.refuse("is not greater than 0 (leave the field out for its default)");
      return std::nullopt;
    }
    return quantity;
  } catch (const std::invalid_argument& error) {
    field.refuse(error.what());
    return std::nullopt;
  }
}

}  // namespace

bool ReadContext::is_faulty(const std::string& pointer, std::size_t first) const {
  return std::any_of(faults.begin() + static_cast<std::ptrdiff_t>(first), faults.end(),
                     [&](const InputFault& fault) {
                       return fault.pointer == pointer || fault.pointer.starts_with(pointer + '/');
                     });
}

Field::Field(const Json& value, std::string pointer, ReadContext& context)
    : value_(&value), base_(std::move(pointer)), context_(&context) {}

std::string Field::pointer() const {
  return parent_ != nullptr ? child_pointer(parent_->pointer(), key_) : base_;
}

Field Field::child(std::string_view token, const Json& value) const {
  Field field(value, {}, *context_);
  field.parent_ = this;
  field.key_ = token;
  return field;
}

void Field::refuse(const std::string& message) const {
  refuse_plainly(shown(*value_) + " " + message);
}

void Field::refuse_plainly(const std::string& message) const {
  std::vector<InputFault>& faults = context_->faults;
  faults.push_back({context_->file, pointer(), message});
  if (faults.size() >= kMostFaults) {
    faults.push_back(too_many_faults(context_->file));
    throw InputError(std::move(faults));
  }
}

std::optional<std::string> Field::text(Emptiness empty) const {
  if (!value_->is_string()) {
    refuse_type(*this, "a string");
    return std::nullopt;
  }
  const auto& text = value_->get_ref<const std::string&>();
  if (!is_utf8(text)) {
    refuse("is not valid UTF-8, which a job file cannot hold; use a name in UTF-8");
  } else if (text.find('\0') != std::string::npos) {
    refuse("contains a NUL byte, which no argument, path or variable can hold; remove it");
  } else if (text.empty() && empty == Emptiness::refused) {
    refuse("is empty; leave the field out or give it a value");
  } else {
    return text;
  }
  return std::nullopt;
}

std::optional<std::string> Field::word() const {
  std::optional<std::string> result = text();
  if (result && !context_->is_stored && has_control(*result)) {
    refuse("contains a control or invisible character; remove it");
    result.reset();
  }
  return result;
}

std::optional<std::string> Field::host_path() const {
  const std::optional<std::string> path = text();
  if (!path) {
    return std::nullopt;
  }
  if (path->front() != '/' && context_->directory.empty()) {
    refuse("is relative, and the current directory is gone; begin it with /");
    return std::nullopt;
  }
  if (path->front() != '/' && !is_utf8(context_->directory.native())) {
    refuse("is relative to a folder whose name is not UTF-8, which a record cannot hold; begin it with /");
    return std::nullopt;
  }
  std::string absolute =
      tidy_absolute(path->front() == '/' ? *path : context_->directory.string() + '/' + *path);
  if (absolute.size() > kMaximumPath) {
    refuse("is longer than a path may be (" + std::to_string(kMaximumPath) + " bytes)");
    return std::nullopt;
  }
  return absolute;
}

std::optional<std::string> Field::inside_path() const {
  const std::optional<std::string> path = text();
  if (!path) {
    return std::nullopt;
  }
  const std::vector<std::string_view> parts = components(*path);
  if (path->front() != '/') {
    refuse("is not absolute; begin it with /");
  } else if (std::find(parts.begin(), parts.end(), "..") != parts.end()) {
    refuse("contains \"..\"; give the path without it");
  } else if (path->size() > kMaximumPath) {
    refuse("is longer than a path may be (" + std::to_string(kMaximumPath) + " bytes)");
  } else {
    return tidy_absolute(*path);
  }
  return std::nullopt;
}

std::optional<bool> Field::boolean() const {
  if (!value_->is_boolean()) {
    refuse_type(*this, "true or false");
    return std::nullopt;
  }
  return value_->get<bool>();
}

std::optional<std::int64_t> Field::integer(std::int64_t minimum, std::int64_t maximum) const {
  const std::string expected =
      "an integer from " + std::to_string(minimum) + " to " + std::to_string(maximum);
  if (!value_->is_number_integer()) {
    refuse_type(*this, expected);
    return std::nullopt;
  }
  constexpr auto kLargest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  const bool fits = !value_->is_number_unsigned() || value_->get<std::uint64_t>() <= kLargest;
  if (!fits || value_->get<std::int64_t>() < minimum || value_->get<std::int64_t>() > maximum) {
    refuse("is out of range; give " + expected);
    return std::nullopt;
  }
  return value_->get<std::int64_t>();
}

std::optional<Bytes> Field::size(SizeRule rule) const {
  return read_quantity<Bytes>(
      *this, rule, "a size such as \"512M\", or an integer in " + unit_of(rule.bare_unit), parse_size);
}

std::optional<Milliseconds> Field::duration(DurationRule rule) const {
  return read_quantity<Milliseconds>(
      *this, rule, "a duration such as \"90s\", or an integer in " + unit_of(rule.bare_unit), parse_duration);
}

std::optional<std::vector<Field>> Field::members(const char* expected) const {
  if (!value_->is_object()) {
    refuse_type(*this, expected);
    return std::nullopt;
  }
  std::vector<Field> fields;
  const auto& members = value_->get_ref<const Json::object_t&>();
  fields.reserve(members.size());
  for (const auto& [key, value] : members) {
    fields.push_back(child(key, value));
  }
  return fields;
}

std::optional<std::vector<Field>> Field::elements(const char* expected) const {
  if (!value_->is_array()) {
    refuse_type(*this, expected);
    return std::nullopt;
  }
  std::vector<Field> fields;
  fields.reserve(value_->size());
  for (std::size_t index = 0; index < value_->size(); ++index) {
    fields.push_back(child(std::to_string(index), (*value_)[index]));
  }
  return fields;
}

std::string tidy_absolute(std::string_view path) {
  std::string result;
  for (const std::string_view part : components(path)) {
    result += '/';
    result += part;
  }
  return result.empty() ? "/" : result;
}

std::string shown(const Json& value) {
  if (value.is_structured()) {
    return type_phrase(value);
  }
  if (!value.is_string()) {
    return value.dump();
  }
  const auto& text = value.get_ref<const std::string&>();
  const auto quote = [](const std::string& part) {
    return Json(part).dump(-1, ' ', false, Json::error_handler_t::replace);
  };
  if (text.size() <= kMaximumShown) {
    return quote(text);
  }
  return quote(std::string(whole_characters(text, kMaximumShown)) + "…");
}

}  // namespace berth
