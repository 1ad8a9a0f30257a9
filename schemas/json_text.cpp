#include "schemas/json_text.h"

#include <algorithm>
#include <charconv>
#include <forward_list>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

namespace berth {

namespace {

using Json = nlohmann::ordered_json;

// Far more than any file needs; every further level is a mistake or an attack on the stack.
constexpr std::size_t kMaximumDepth = 32;

std::string line_and_column(std::string_view text, std::size_t position) {
  // nlohmann counts the characters read, the offending one included; at the end of the text that is one
  // more than there are.
  const std::size_t offset = std::min(position == 0 ? 0 : position - 1, text.size());
  const std::string_view before = text.substr(0, offset);
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const std::size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0
  return "line " + std::to_string(line) + ", column " + std::to_string(offset - line_start + 1);
}

/// "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error …" without its head.
std::string plain_reason(std::string_view what) {
  const std::size_t column = what.find("column ");
  const std::size_t colon = what.find(": ", column == std::string_view::npos ? 0 : column);
  return std::string(colon == std::string_view::npos ? what : what.substr(colon + 2));
}

/// True when the last character before `offset` that is not white space is a comma.
bool follows_comma(std::string_view text, std::size_t offset) {
  const std::size_t last = text.substr(0, offset).find_last_not_of(" \t\r\n");
  return last != std::string_view::npos && text[last] == ',';
}

/// Builds the value from nlohmann's events, which unlike its own builder show repeated keys.
class Builder : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view text, const std::string& file_name, std::vector<InputFault>& faults,
          const TextKind& kind)
      : text_(text), file_name_(file_name), faults_(faults), kind_(kind) {}

  Json take_root() { return std::move(root_); }

  bool null() override { return add(Json()); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(std::int64_t value) override { return add(value); }
  bool number_unsigned(std::uint64_t value) override { return add(value); }
  bool number_float(double value, const std::string& /*text*/) override { return add(value); }
  bool string(std::string& value) override { return add(std::move(value)); }
  bool binary(Json::binary_t& /*value*/) override { return false; }
  bool start_object(std::size_t /*size*/) override { return open(Json::object()); }
  bool start_array(std::size_t /*size*/) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(std::string& name) override {
    Level& level = levels_.back();
    level.key = name;
    level.repeated = !is_new(level, name);
    if (level.repeated) {
      fault(child_pointer(pointer(), name), "is given twice in one object; keep one");
      if (faults_.size() >= kMostFaults) {
        faults_.push_back(too_many_faults(file_name_));
        return false;
      }
    }
    return true;
  }

  bool parse_error(std::size_t position, const std::string& /*token*/,
                   const Json::exception& error) override {
    const std::size_t offset = std::min(position == 0 ? 0 : position - 1, text_.size());
    std::string message = line_and_column(text_, position) + ": ";
    if (text_.find_first_not_of(" \t\r\n") == std::string_view::npos) {
      message = "is empty (" + std::string(kind_.least) + ")";
    } else if (starts_comment(offset)) {
      message += "comments are not allowed in " + std::string(kind_.name) + "; remove it";
    } else if (error.id == kNumberOverflow) {
      message += "a number is too large";
    } else if (const std::string reason = plain_reason(error.what());
               reason.find("UTF-8") != std::string::npos) {
      message += "the text is not UTF-8; save the file as UTF-8";
    } else if (offset < text_.size() &&
               std::string_view("]}").find(text_[offset]) != std::string_view::npos &&
               follows_comma(text_, offset)) {
      message += "a comma before \"" + std::string(1, text_[offset]) + "\" is not JSON; remove it";
    } else {
      message += reason;
    }
    fault("", message);
    return false;
  }

 private:
  static constexpr int kNumberOverflow = 406;  // json.exception.out_of_range.406

  /// From so many members on an object's keys are in a set: comparing with each would take time by the
  /// square.
  static constexpr std::size_t kManyMembers = 24;

  struct Level {
    Json* container;
    std::string key;
    bool repeated = false;
    std::unordered_set<std::string> keys = {};  // of an object of many members
  };

  static bool is_new(Level& level, const std::string& name) {
    const auto& members = level.container->get_ref<const Json::object_t&>();
    if (members.size() < kManyMembers) {
      return std::none_of(members.begin(), members.end(),
                          [&](const auto& member) { return member.first == name; });
    }
    if (level.keys.empty()) {
      for (const auto& [key, value] : members) {
        level.keys.insert(key);
      }
    }
    return level.keys.insert(name).second;
  }

  /// Of the innermost open container.
  std::string pointer() const {
    std::string result;
    for (std::size_t index = 0; index + 1 < levels_.size(); ++index) {
      const Level& level = levels_[index];
      result = child_pointer(
          result, level.container->is_array() ? std::to_string(level.container->size() - 1) : level.key);
    }
    return result;
  }

  void fault(std::string pointer, std::string message) {
    faults_.push_back({file_name_, std::move(pointer), std::move(message)});
  }

  /// The lexer reads one character on from the "/" or "#".
  bool starts_comment(std::size_t offset) const {
    for (const std::size_t start : {offset, offset == 0 ? 0 : offset - 1}) {
      const std::string_view rest = text_.substr(start, 2);
      if (rest == "//" || rest == "/*" || rest.starts_with('#')) {
        return true;
      }
    }
    return false;
  }

  /// Puts a value into the open container. Appends to the object's underlying vector: ordered_json's own
  /// insertion compares with every key before it.
  Json* place(Json value) {
    if (levels_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Level& level = levels_.back();
    if (level.container->is_array()) {
      level.container->push_back(std::move(value));
      return &level.container->back();
    }
    if (level.repeated) {
      return &discarded_.emplace_front(std::move(value));
    }
    auto& members = level.container->get_ref<Json::object_t&>();
    members.push_back({level.key, std::move(value)});
    return &members.back().second;
  }

  bool add(Json value) {
    place(std::move(value));
    return true;
  }

  bool open(Json container) {
    if (levels_.size() == kMaximumDepth) {
      const Level& level = levels_.back();
      fault(child_pointer(pointer(),
                          level.container->is_array() ? std::to_string(level.container->size()) : level.key),
            "is nested too deeply (" + std::string(kind_.name) + " needs " + std::string(kind_.levels) +
                " levels)");
      return false;
    }
    levels_.push_back({place(std::move(container)), {}});
    return true;
  }

  bool close() {
    levels_.pop_back();
    return true;
  }

  std::string_view text_;
  const std::string& file_name_;
  std::vector<InputFault>& faults_;
  const TextKind& kind_;
  Json root_;
  std::forward_list<Json> discarded_;  // values of repeated keys: they stay alive while they are filled
  std::vector<Level> levels_;
};

/// A token of a pointer as the key that it is (RFC 6901, section 4).
std::string unescaped(std::string_view token) {
  std::string key;
  for (std::size_t at = 0; at < token.size(); ++at) {
    const bool is_escape = token[at] == '~' && at + 1 < token.size();
    key += !is_escape ? token[at] : token[++at] == '1' ? '/' : '~';
  }
  return key;
}

using Place = std::vector<std::size_t>;

/// Which value of the document, which of its values, and so on; as far as there are such. Lists that are
/// compared as words are have the order of the text.
Place place_of(std::string_view pointer, const Json& document) {
  Place place;
  const Json* value = &document;
  while (value != nullptr && !pointer.empty()) {
    pointer.remove_prefix(1);  // the slash
    const std::string_view token = pointer.substr(0, pointer.find('/'));
    pointer.remove_prefix(token.size());
    std::size_t index = 0;
    const Json* found = nullptr;
    if (value->is_array()) {
      const bool is_number =
          std::from_chars(token.data(), token.data() + token.size(), index).ec == std::errc();
      found = is_number && index < value->size() ? &(*value)[index] : nullptr;
    } else if (value->is_object()) {
      const auto& members = value->get_ref<const Json::object_t&>();
      const auto member = std::find_if(members.begin(), members.end(),
                                       [key = unescaped(token)](const auto& m) { return m.first == key; });
      index = static_cast<std::size_t>(member - members.begin());
      found = member == members.end() ? nullptr : &member->second;
    }
    value = found;
    if (value != nullptr) {
      place.push_back(index);
    }
  }
  return place;
}

}  // namespace

std::optional<Json> parse_json(std::string_view text, const std::string& file_name,
                               std::vector<InputFault>& faults, const TextKind& kind) {
  Builder builder(text, file_name, faults, kind);
  if (!Json::sax_parse(text, &builder)) {
    return std::nullopt;
  }
  return builder.take_root();
}

Json require_json(std::string_view text, const std::string& file_name, const TextKind& kind) {
  std::vector<InputFault> faults;
  std::optional<Json> value = parse_json(text, file_name, faults, kind);
  if (!value || !faults.empty()) {
    throw InputError(std::move(faults));
  }
  return *std::move(value);
}

void sort_by_position(std::vector<InputFault>& faults, const Json& document) {
  std::vector<std::pair<Place, InputFault>> placed;
  placed.reserve(faults.size());
  for (InputFault& fault : faults) {
    Place place = place_of(fault.pointer, document);
    placed.emplace_back(std::move(place), std::move(fault));
  }
  std::stable_sort(placed.begin(), placed.end(),
                   [](const auto& left, const auto& right) { return left.first < right.first; });
  std::transform(placed.begin(), placed.end(), faults.begin(),
                 [](auto& one) { return std::move(one.second); });
}

std::string child_pointer(const std::string& pointer, std::string_view token) {
  std::string result = pointer + '/';
  for (const char c : token) {
    if (c == '~') {
      result += "~0";
    } else if (c == '/') {
      result += "~1";
    } else {
      result += c;
    }
  }
  return result;
}

}  // namespace berth
