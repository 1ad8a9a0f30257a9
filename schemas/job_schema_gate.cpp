#include "schemas/job_schema_gate.h"

#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <valijson/adapters/nlohmann_json_adapter.hpp>
#include <valijson/schema.hpp>
#include <valijson/schema_parser.hpp>
#include <valijson/validation_results.hpp>
#include <valijson/validator.hpp>

#include "schemas/job_file.h"
#include "schemas/json_text.h"

namespace berth {

namespace {

using Adapter = valijson::adapters::NlohmannJsonAdapter;

/// Each text is compiled once; never freed: used until the process ends.
const valijson::Schema& compiled_schema(std::string_view schema_text) {
  static auto* const kSchemas = new std::map<const char*, const valijson::Schema*>;
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  const valijson::Schema*& compiled = (*kSchemas)[schema_text.data()];
  if (compiled == nullptr) {
    const nlohmann::json document = nlohmann::json::parse(schema_text);
    auto* schema = new valijson::Schema;
    valijson::SchemaParser(valijson::SchemaParser::kDraft7).populateSchema(Adapter(document), *schema);
    compiled = schema;
  }
  return *compiled;
}

/// valijson writes the way to a value as {"<root>", "[limits]", "[pids]"}.
std::string pointer_of(const std::vector<std::string>& context) {
  std::string pointer;
  for (std::size_t index = 1; index < context.size(); ++index) {
    const std::string& step = context[index];
    pointer = child_pointer(pointer, step.size() >= 2 ? step.substr(1, step.size() - 2) : step);
  }
  return pointer;
}

}  // namespace

std::optional<InputFault> schema_fault(std::string_view json_text, const std::string& file_name) {
  return schema_fault(job_schema_text(), json_text, file_name, "docs/job-file.md");
}

std::optional<InputFault> schema_fault(std::string_view schema_text, std::string_view json_text,
                                       const std::string& file_name, const std::string& manual) {
  const nlohmann::json document = nlohmann::json::parse(json_text);
  valijson::Validator validator(valijson::Validator::kStrongTypes);
  valijson::ValidationResults results;
  if (validator.validate(compiled_schema(schema_text), Adapter(document), &results)) {
    return std::nullopt;
  }
  // One fault gives a complaint at every level around it, and one for every branch of an anyOf.
  valijson::ValidationResults::Error innermost;
  valijson::ValidationResults::Error error;
  while (results.popError(error)) {
    if (error.context.size() > innermost.context.size()) {
      innermost = error;
    }
  }
  return InputFault{
      file_name, pointer_of(innermost.context),
      "does not match the schema: " + innermost.description + " (" + manual + " describes each field)"};
}

}  // namespace berth
