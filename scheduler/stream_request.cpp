#include "scheduler/stream_request.h"

#include <nlohmann/json.hpp>

#include "schemas/input_error.h"
#include "schemas/json_text.h"

namespace berth {
namespace {

using OrderedJson = nlohmann::ordered_json;

bool is_text(const OrderedJson& value) {
  return value.is_string() && value.get_ref<const std::string&>().find('\0') == std::string::npos;
}

class BodyReader {
 public:
  explicit BodyReader(StreamRequest& request) : request_(request) {}

  void read(const std::string& name, const OrderedJson& value) {
    if (name == "argv") {
      read_argv(value);
    } else if (name == "environment") {
      read_environment(value);
    } else if (name == "current_working_directory") {
      if (!is_text(value) || !value.get_ref<const std::string&>().starts_with('/')) {
        refuse("/current_working_directory", "is not an absolute path inside the job");
      } else {
        request_.current_working_directory = value;
      }
    } else if (name == "terminal") {
      read_terminal(value);
    } else {
      refuse("/" + name, "is not known here; use argv, environment, current_working_directory and terminal");
    }
  }
  void refuse(const std::string& pointer, const std::string& message) {
    faults.push_back({"request", pointer, message});
  }

  std::vector<InputFault> faults;

 private:
  void read_argv(const OrderedJson& value) {
    for (const OrderedJson& word : value.is_array() ? value : OrderedJson::array({nullptr})) {
      if (!is_text(word)) {
        refuse("/argv", "is not a list of texts");
        return;
      }
      request_.argv.push_back(word);
    }
  }

  void read_environment(const OrderedJson& value) {
    if (!value.is_object()) {
      refuse("/environment", "is not an object of texts");
      return;
    }
    for (const auto& [name, text] : value.items()) {
      if (name.empty() || name.find('=') != std::string::npos || !is_text(text) ||
          !is_text(OrderedJson(name))) {
        refuse("/environment/" + name, "is not a variable: a name without =, and a text");
      } else {
        request_.environment[name] = text;
      }
    }
  }

  void read_terminal(const OrderedJson& value) {
    TerminalWindow window;
    const auto take = [&](const char* name, std::uint16_t& size) {
      const OrderedJson number = value.value(name, OrderedJson(size));
      const bool fits = number.is_number_unsigned() && number.get<std::uint64_t>() <= 0xFFFF;
      if (!fits) {
        refuse("/terminal/" + std::string(name), "is not a number from 0 to 65535");
      } else {
        size = number.get<std::uint16_t>();
      }
    };
    if (!value.is_object()) {
      refuse("/terminal", "is not an object with rows and columns");
      return;
    }
    take("rows", window.rows);
    take("columns", window.columns);
    request_.terminal = window;
  }

  StreamRequest& request_;
};

OrderedJson parse_object(std::string_view body) {
  if (body.size() > kLargestStreamRequest) {
    throw InputError("request", "",
                     "arguments and environment are longer than 128 KiB; put them into a file");
  }
  constexpr TextKind kRequest{"such a request", "two", "write an object"};
  OrderedJson value = require_json(body.empty() ? "{}" : body, "request", kRequest);
  if (!value.is_object()) {
    throw InputError("request", "", "the body is no JSON object");
  }
  return value;
}

}  // namespace

StreamRequest parse_stream_request(std::string_view body) {
  StreamRequest request;
  const OrderedJson value = parse_object(body);
  BodyReader reader(request);
  for (const auto& [name, member] : value.items()) {
    reader.read(name, member);
  }
  if (request.argv.empty() && reader.faults.empty()) {
    reader.refuse("/argv", "names no command");
  }
  if (!reader.faults.empty()) {
    throw InputError(std::move(reader.faults));
  }
  return request;
}

StreamRequest parse_attach_request(std::string_view body) {
  StreamRequest request;
  request.attach = true;
  const OrderedJson value = parse_object(body);
  BodyReader reader(request);
  for (const auto& [name, member] : value.items()) {
    if (name == "terminal") {
      reader.read(name, member);
    } else {
      reader.refuse("/" + name, "is not known here; use terminal");
    }
  }
  if (!reader.faults.empty()) {
    throw InputError(std::move(reader.faults));
  }
  return request;
}

std::string to_json_text(const StreamRequest& request) {
  OrderedJson value{
      {"job", request.id.job_id},           {"attempt", request.id.attempt},
      {"attach", request.attach},           {"argv", request.argv},
      {"environment", request.environment}, {"current_working_directory", request.current_working_directory}};
  if (request.terminal) {
    value["terminal"] = {{"rows", request.terminal->rows}, {"columns", request.terminal->columns}};
  }
  return value.dump();
}

StreamRequest parse_handed_over(std::string_view text) {
  const nlohmann::json value = nlohmann::json::parse(text);
  StreamRequest request;
  request.id = {value.at("job"), value.at("attempt")};
  request.attach = value.value("attach", false);  // a berthd from before there was such a thing
  request.argv = value.at("argv").get<std::vector<std::string>>();
  request.environment = value.at("environment").get<std::map<std::string, std::string>>();
  request.current_working_directory = value.at("current_working_directory");
  if (value.contains("terminal")) {
    request.terminal = TerminalWindow{value["terminal"].at("rows"), value["terminal"].at("columns")};
  }
  return request;
}

std::string streams_socket_of(const std::string& folder, const std::string& cgroup) {
  return folder + "/" + cgroup + ".streams";
}

}  // namespace berth
