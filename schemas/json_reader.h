// Typed reading of a job file's values: each call returns the value, or records a fault that names the
// value, what is wrong with it and what to do, and returns nothing. After kMostFaults it throws InputError.
//
// For the .cpp files of this folder, which alone see nlohmann's headers. Single-threaded.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "schemas/input_error.h"
#include "schemas/quantities.h"

namespace berth {

/// What all fields of one file share.
struct ReadContext {
  std::string file;
  std::filesystem::path directory;  ///< absolute; relative paths start here. Empty: there is none
  std::vector<InputFault> faults;
  /// A job that was taken already, perhaps by an older berth with fewer rules: those it may not know are not
  /// asked for.
  bool is_stored = false;

  /// True when one of the faults from number `first` on is at `pointer` or below it: rules over several
  /// fields then say nothing.
  bool is_faulty(const std::string& pointer, std::size_t first) const;
};

/// Which numbers a field takes, and what an integer without a unit counts.
struct SizeRule {
  Bytes bare_unit = 1;
  bool zero_allowed = false;
};
struct DurationRule {
  Milliseconds bare_unit{1000};
  bool zero_allowed = false;
};
enum class Emptiness { refused, allowed };

/// One value and where it is. Refers to the document, the context and the field around it, which outlive it:
/// where it is gets written down only for a fault.
class Field {
 public:
  Field(const nlohmann::ordered_json& value, std::string pointer, ReadContext& context);

  const nlohmann::ordered_json& value() const { return *value_; }
  std::string pointer() const;
  ReadContext& context() const { return *context_; }
  Field child(std::string_view token, const nlohmann::ordered_json& value) const;

  /// Records `"value" <message>`.
  void refuse(const std::string& message) const;
  /// Records `<message>` alone, for what is missing.
  void refuse_plainly(const std::string& message) const;

  /// UTF-8 without NUL bytes.
  std::optional<std::string> text(Emptiness empty = Emptiness::refused) const;
  /// Text of one line: without control characters, unless it is stored.
  std::optional<std::string> word() const;
  /// A host path, made absolute against the context's directory.
  std::optional<std::string> host_path() const;
  /// An absolute path inside the job, without ".." components.
  std::optional<std::string> inside_path() const;
  std::optional<bool> boolean() const;
  std::optional<std::int64_t> integer(std::int64_t minimum, std::int64_t maximum) const;
  std::optional<Bytes> size(SizeRule rule) const;
  std::optional<Milliseconds> duration(DurationRule rule) const;

  /// The members of an object, or the elements of an array, as fields; a fault and nothing otherwise.
  std::optional<std::vector<Field>> members(const char* expected) const;
  std::optional<std::vector<Field>> elements(const char* expected) const;
  /// The last token of the pointer, unescaped: the key of a member.
  const std::string& key() const { return key_; }

 private:
  const nlohmann::ordered_json* value_;
  const Field* parent_ = nullptr;
  std::string base_;  // the pointer of a field without a parent
  std::string key_;
  ReadContext* context_;
};

/// An absolute path without "." components, repeated and trailing slashes. ".." stays: after a symbolic
/// link it does not undo the component before it.
std::string tidy_absolute(std::string_view path);

/// `value` as JSON, cut to what fits in a message.
std::string shown(const nlohmann::ordered_json& value);

}  // namespace berth
