#include "schemas/job_file.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <system_error>

#include "schemas/job_json.h"
#include "schemas/job_reader.h"
#include "schemas/job_schema_gate.h"
#include "schemas/json_text.h"

namespace berth {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaximumFileBytes = std::size_t{64} << 20U;

std::vector<JobSpec> read_document(const Json& document, ReadContext& context) {
  std::vector<JobSpec> jobs;
  const Field root(document, "", context);
  if (!document.is_array()) {
    jobs.push_back(read_job(root));
    return jobs;
  }
  if (document.empty()) {
    root.refuse_plainly("holds no jobs; write at least one");
  }
  jobs.reserve(document.size());
  for (std::size_t index = 0; index < document.size(); ++index) {
    jobs.push_back(read_job(root.child(std::to_string(index), document[index])));
  }
  return jobs;
}

struct FileCloser {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

[[noreturn]] void refuse_file(const std::string& name, const char* action, int error_number) {
  throw InputError(name, "",
                   std::string("cannot ") + action + " it: " + std::generic_category().message(error_number) +
                       "; check the path and its permissions");
}

/// Of a program that was meant as the job's command.
std::string command_hint(const std::string& name) {
  std::error_code error;
  const bool is_program = std::filesystem::is_regular_file(name, error) && ::access(name.c_str(), X_OK) == 0;
  return is_program ? " (a command goes after --: -- " + name + " …)" : "";
}

std::string read_all(std::FILE* file, const std::string& name) {
  std::string text;
  char buffer[65536];
  while (const std::size_t count = std::fread(buffer, 1, sizeof buffer, file)) {
    text.append(buffer, count);
    if (text.size() > kMaximumFileBytes) {
      throw InputError(name, "", "is larger than a job file may be (64 MiB); split it" + command_hint(name));
    }
  }
  if (std::ferror(file) != 0) {
    refuse_file(name, "read", errno);
  }
  return text;
}

/// Where relative paths of a file start. What is read through a descriptor ("/dev/stdin", "/dev/fd/3") has no
/// folder that the caller could mean.
std::filesystem::path directory_of(const std::string& path) {
  std::error_code error;
  if (path != "-" && std::filesystem::is_regular_file(path, error)) {
    std::filesystem::path folder = std::filesystem::absolute(path).lexically_normal().parent_path();
    if (folder != "/dev" && folder != "/dev/fd" && !folder.string().starts_with("/proc/")) {
      return folder;
    }
  }
  return std::filesystem::current_path(error);  // empty when it is gone
}

}  // namespace

namespace {

enum class Gate { schema, readers };

std::vector<JobSpec> parse_jobs(std::string_view text, const std::string& file_name,
                                const std::filesystem::path& directory, Gate gate) {
  ReadContext context{file_name, directory, {}};
  const std::optional<Json> document = parse_json(text, file_name, context.faults);
  if (!document) {
    throw InputError(std::move(context.faults));
  }
  std::vector<JobSpec> jobs = read_document(*document, context);
  if (context.faults.empty() && gate == Gate::schema) {
    if (std::optional<InputFault> fault = schema_fault(text, file_name)) {
      context.faults.push_back(std::move(*fault));
    }
  }
  if (!context.faults.empty()) {
    sort_by_position(context.faults, *document);
    throw InputError(std::move(context.faults));
  }
  return jobs;
}

}  // namespace

std::vector<JobSpec> parse_job_file(std::string_view text, const std::string& file_name,
                                    const std::filesystem::path& directory) {
  return parse_jobs(text, file_name, directory, Gate::schema);
}

std::vector<JobSpec> parse_many_jobs(std::string_view text, const std::string& file_name,
                                     const std::filesystem::path& directory) {
  return parse_jobs(text, file_name, directory, Gate::readers);
}

std::string_view interpreter_of(std::string_view script) {
  if (!script.starts_with("#!")) {
    return {};
  }
  std::string_view line = script.substr(2, script.find('\n') - 2);
  line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
  return line.substr(0, line.find_first_of(" \t"));
}

std::string escape_pattern(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    escaped.append(c == '%' ? 2 : 1, c);
  }
  return escaped;
}

JsonExtent extent_of_json(std::string_view text) {
  JsonExtent extent{1, 1};
  std::size_t depth = 0;
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  const bool is_array = first != std::string_view::npos && text[first] == '[';
  for (std::size_t at = 0; at < text.size(); ++at) {
    switch (text[at]) {
      case '"':
        while (++at < text.size() && text[at] != '"') {
          at += text[at] == '\\' ? 1U : 0U;
        }
        break;
      case '[':
      case '{':
        ++depth;
        ++extent.values;
        break;
      case ']':
      case '}':
        depth -= depth > 0 ? 1U : 0U;
        break;
      case ',':
        ++extent.values;
        extent.elements += is_array && depth == 1 ? 1U : 0U;
        break;
      default:
        break;
    }
  }
  return extent;
}

std::string excess_of_request(std::string_view text) {
  constexpr std::size_t kMostJobs = 100'000;
  constexpr std::size_t kMostValues = 2'000'000;
  const JsonExtent extent = extent_of_json(text);
  return extent.elements <= kMostJobs && extent.values <= kMostValues
             ? ""
             : "one request holds at most " + std::to_string(kMostJobs) + " jobs, and " +
                   std::to_string(kMostValues) +
                   " values in them; send several, or an array of tasks (\"array\")";
}

std::vector<std::string> split_job_array(std::string_view text, std::size_t most) {
  constexpr std::string_view kSpace = " \t\r\n";
  const std::size_t open = text.find_first_not_of(kSpace);
  const std::size_t close = text.find_last_not_of(kSpace);
  if (open == std::string_view::npos || text[open] != '[' || text[close] != ']') {
    return {};
  }
  std::vector<std::string> pieces;
  std::size_t depth = 0;
  std::size_t elements = 0;
  std::size_t first = open + 1;
  const auto end_piece = [&](std::size_t end) {
    pieces.push_back("[" + std::string(text.substr(first, end - first)) + "]");
    first = end + 1;
    elements = 0;
  };
  for (std::size_t at = open + 1; at < close; ++at) {
    switch (text[at]) {
      case '"':
        while (++at < close && text[at] != '"') {
          at += text[at] == '\\' ? 1U : 0U;
        }
        break;
      case '[':
      case '{':
        ++depth;
        break;
      case ']':
      case '}':
        if (depth == 0) {
          return {};
        }
        --depth;
        break;
      case ',':
        if (depth == 0 && ++elements == most) {
          end_piece(at);
        }
        break;
      default:
        break;
    }
  }
  if (depth != 0) {
    return {};
  }
  end_piece(close);
  return pieces;
}

JobSpec parse_stored_job(std::string_view text, const std::string& name) {
  ReadContext context{name, "/", {}, true};
  const std::optional<Json> document = parse_json(text, name, context.faults);
  JobSpec spec;
  if (document) {
    spec = read_job(Field(*document, "", context));
  }
  if (!context.faults.empty()) {
    throw InputError(std::move(context.faults));
  }
  return spec;
}

JobText read_job_text(const std::string& path) {
  if (path == "-") {
    return {"standard input", read_all(stdin, "standard input"), directory_of(path)};
  }
  const std::unique_ptr<std::FILE, FileCloser> file(std::fopen(path.c_str(), "re"));
  if (!file) {
    refuse_file(path, "open", errno);
  }
  return {path, read_all(file.get(), path), directory_of(path)};
}

void JobText::check_is_json() const {
  // A byte order mark and a comment are told better by who parses it.
  constexpr std::string_view kBegins = "{[/\xEF";
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && kBegins.find(text[first]) == std::string_view::npos) {
    throw InputError(
        name, "",
        "is neither a script, whose first line begins with #! (#!/bin/sh), nor a job file, which "
        "is JSON and begins with { or [" +
            command_hint(name));
  }
}

std::vector<JobSpec> JobText::parse() const {
  check_is_json();
  return parse_job_file(text, name, directory);
}

JobSpec validated(const JobSpec& spec, const std::string& source) {
  std::error_code ignored;
  ReadContext context{source, std::filesystem::current_path(ignored), {}};
  const Json document = to_json(spec);
  JobSpec result = read_job(Field(document, "", context));
  if (!context.faults.empty()) {
    sort_by_position(context.faults, document);
    throw InputError(std::move(context.faults));
  }
  return result;
}

}  // namespace berth
