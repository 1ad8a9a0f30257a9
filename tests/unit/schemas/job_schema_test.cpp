// The JSON Schema, the parser, the canonical form and the documentation tell the same story.
#include <catch2/catch.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "schemas/job_file.h"
#include "schemas/job_reader.h"
#include "schemas/job_schema_gate.h"
#include "tests/unit/schemas/job_file_corpus.h"

namespace berth {
namespace {

using nlohmann::json;

json schema() {
  return json::parse(job_schema_text());
}

/// Calls visit(path, object schema) for every object schema with properties, as the parser names paths.
template <typename Visitor>
void for_each_object(const json& node, const std::string& path, Visitor visit) {
  for (const char* key : {"anyOf", "items"}) {
    if (node.contains(key)) {
      const std::string below = std::string(key) == "items" ? path + "/*" : path;
      const json branches = node[key].is_array() ? node[key] : json::array({node[key]});
      for (const json& branch : branches) {
        for_each_object(branch, below, visit);
      }
    }
  }
  if (node.contains("properties")) {
    visit(path, node);
    for (const auto& property : node["properties"].items()) {
      for_each_object(property.value(), path + "/" + property.key(), visit);
    }
  }
}

TEST_CASE("the embedded schema is the file in the source tree") {
  CHECK(job_schema_text() == read_text(BERTH_SOURCE_DIR "/schemas/job.schema.json"));
  CHECK(schema()["$schema"] == "http://json-schema.org/draft-07/schema#");
}

TEST_CASE("the schema has exactly the fields that the parser knows") {
  std::map<std::string, std::set<std::string>> in_schema;
  for_each_object(schema()["definitions"]["job"], "", [&](const std::string& path, const json& node) {
    for (const auto& property : node["properties"].items()) {
      in_schema[path].insert(property.key());
    }
  });
  std::map<std::string, std::set<std::string>> in_parser;
  for (const ObjectFields& object : known_fields()) {
    in_parser[object.path] = {object.names.begin(), object.names.end()};
  }
  CHECK(in_schema == in_parser);
}

TEST_CASE("every object of the schema is closed and every field has a description") {
  int fields = 0;
  for_each_object(schema()["definitions"]["job"], "", [&](const std::string& path, const json& node) {
    INFO(path);
    CHECK(node.value("additionalProperties", true) == false);
    for (const auto& property : node["properties"].items()) {
      INFO(property.key());
      CHECK(property.value().value("description", "").size() > 10);
      ++fields;
    }
  });
  CHECK(fields > 60);
}

TEST_CASE("fields whose capability comes later say so in the schema and are refused by name") {
  int later = 0;
  const json properties = schema()["definitions"]["job"]["properties"];
  for (const auto& property : properties.items()) {
    const bool is_later = property.value()["description"].get<std::string>().starts_with("Not supported yet");
    const json job{{"argv", {"true"}}, {property.key(), "x"}};
    std::string faults;
    try {
      parse_job_file(job.dump(), "f", "/");
    } catch (const InputError& error) {
      faults = error.what();
    }
    INFO(property.key());
    CHECK((faults.find("\"" + property.key() + "\" is not supported yet") != std::string::npos) == is_later);
    later += is_later ? 1 : 0;
  }
  CHECK(later == 4);
}

TEST_CASE("the schema accepts what the parser accepts, and refuses what breaks its structure") {
  for (const char* folder : {"good", "bad/meaning"}) {
    for (const CorpusFile& file : corpus(folder)) {
      INFO(file.path);
      CHECK_FALSE(schema_fault(file.text, file.name));
    }
  }
  for (const CorpusFile& file : corpus("bad/structure")) {
    INFO(file.path);
    CHECK(schema_fault(file.text, file.name));
  }
}

/// A job that runs `true`, with the members of `more`.
std::string job_with(const std::string& more) {
  return R"({"argv": ["true"], )" + more + "}";
}

TEST_CASE("the schema alone refuses what can be stated of one field") {
  for (const char* job : {"{}", "[{}]", R"({"argv": []})", R"({"argv": [""]})", R"({"script": "#!"})"}) {
    INFO(job);
    CHECK(schema_fault(job, "f"));
  }
  for (const char* more :
       {R"("time_limit": "0")",
        R"("time_limit": "00:00")",
        R"("memory_per_node": "0")",
        R"("qos": "x")",
        R"("memory_per_node": "0.0G")",
        R"("array": "x")",
        R"("array": "1-")",
        R"("array": "1,,2")",
        R"("array": "1-2-3")",
        R"("array": "1%0")",
        R"("array": "")",
        R"("dependency": "before:1")",
        R"("dependency": "afterok:x")",
        R"("dependency": "afterok:1+5")",
        R"("dependency": "")",
        R"("dependency": "singleton:")",
        R"("limits": {"io": [{"device": "/dev/", "read_bps": "1M"}]})",
        R"("begin_time": "soon")",
        R"("begin_time": "now+")",
        R"("deadline": "x")",
        R"("retry": {"on": ["COMPLETED"]})",
        R"("kill_warning_signal": "USR1")",
        R"("isolation": {"rate": {"in": "1M"}})",
        R"("isolation": {"network": "shared:-x"})",
        R"("isolation": {"tmpfs": {"/proc/x": "1M"}})",
        R"("isolation": {"user": "1000:"})",
        R"("isolation": {"mounts": [{"target": "/a"}]})",
        R"("name": "..")",
        R"("isolation": {"mounts": [{"type": "tmpfs", "target": "/a", "size": 1, "read_only": true}]})"}) {
    INFO(more);
    CHECK(schema_fault(job_with(more), "f"));
  }
}

TEST_CASE("the schema takes every form that the parser does") {
  for (const char* more : {R"("array": "1,3,5-7")",
                           R"("array": "0-20:4%2")",
                           R"("array": "5:2,")",
                           R"("dependency": "singleton")",
                           R"("dependency": "after:1,afterany:2:3_4,singleton")",
                           R"("dependency": "afterok:1?afternotok:2")",
                           R"("begin_time": "2026-11-24")",
                           R"("begin_time": "20:30:15.5")",
                           R"("begin_time": "7:30 PM")",
                           R"("begin_time": "NOW+2hours")",
                           R"("begin_time": "now")",
                           R"("begin_time": "Tomorrow")",
                           R"("begin_time": "fika")",
                           R"("begin_time": "12/24")",
                           R"("begin_time": "12.24.26")",
                           R"("begin_time": "1224")",
                           R"("begin_time": "2026-11-24T06:00:00+01:00")",
                           R"("memory_per_node": ".5G")",
                           R"("time_limit": "0:00:01")",
                           R"("grace_period": "0")",
                           R"("limits": {"swap": "0", "net_class": "0:1"})",
                           R"("retry": {"max": 1, "on": ["failed", "NF"]})",
                           R"("isolation": {"mounts": [{"source": "/x", "target": "//./process"}]})",
                           R"("isolation": {"devices": ["/./dev/fuse"], "egress": "public", "publish": []})",
                           R"("isolation": {"root": {"path": "/r", "writable": true}, "overlay": false})"}) {
    INFO(more);
    CHECK_NOTHROW(parse_many_jobs(job_with(more), "f", "/"));
    CHECK_FALSE(schema_fault(job_with(more), "f"));
  }
  CHECK_NOTHROW(parse_job_file(R"({"script": "#! /bin/sh\n", "argv": []})", "f", "/"));
}

TEST_CASE("a job is refused alike with the schema and without it") {
  CHECK_THROWS_AS(parse_many_jobs(job_with(R"("schema_version": 1.0)"), "f", "/"), InputError);
  CHECK_THROWS_AS(parse_job_file(job_with(R"("schema_version": 1.0)"), "f", "/"), InputError);
}

constexpr const char* kGateFault = "does not match the schema";

/// What the parser says; kGateFault is in it when only the gate behind its own checks refused.
std::string faults_of(const json& document) {
  try {
    parse_job_file(document.dump(), "f", "/");
    return "";
  } catch (const InputError& error) {
    return error.what();
  }
}

/// The same documents with each value in turn replaced: whatever the parser takes, the schema takes.
TEST_CASE("the parser never takes what the schema refuses") {
  const json odd_values = json::parse(
      R"([null, true, 0, -1, 1, 1.5, 1e300, 99999999999, "", "1", "x", "/x", "0", [], [0], [""], ["x"],
                                          {}, {"": 0}, {"x": 1}, {"x": "1"}, {"/x": "1M"}])");
  int taken = 0;
  for (const CorpusFile& file : corpus("good")) {
    const json document = json::parse(file.text.substr(file.text.find_first_of("[{")));
    std::set<std::string> places;
    const json leaves = document.flatten();
    for (const auto& leaf : leaves.items()) {
      for (json::json_pointer pointer(leaf.key()); !pointer.empty(); pointer = pointer.parent_pointer()) {
        places.insert(pointer.to_string());
      }
    }
    for (const std::string& place : places) {
      for (const json& odd : odd_values) {
        json changed = document;
        changed[json::json_pointer(place)] = odd;
        INFO(changed);
        const std::string faults = faults_of(changed);
        taken += faults.empty() ? 1 : 0;
        CHECK(faults.find(kGateFault) == std::string::npos);
      }
    }
  }
  CHECK(taken > 100);
}

/// The branch of a field's schema that has both bounds; null when none has.
json bounded_branch(const json& field) {
  const json branches = field.contains("anyOf") ? field["anyOf"] : json::array({field});
  for (const json& branch : branches) {
    if (branch.contains("minimum") && branch.contains("maximum")) {
      return branch;
    }
  }
  return nullptr;
}

TEST_CASE("numbers have the same bounds in the schema and in the parser") {
  const json full = json::parse(corpus_file("good/every_field.json").text);
  int checked = 0;
  for_each_object(schema()["definitions"]["job"], "", [&](const std::string& path, const json& node) {
    for (const auto& property : node["properties"].items()) {
      const json bounds = bounded_branch(property.value());
      if (bounds.is_null()) {
        continue;
      }
      std::string place = path + "/" + property.key();
      if (const std::size_t star = place.find('*'); star != std::string::npos) {
        place.replace(star, 1, "0");
      }
      const auto expect = [&](const json& value, bool is_taken) {
        json job = full;
        job[json::json_pointer(place)] = value;
        INFO(place << " = " << value);
        const std::string faults = faults_of(job);
        const bool passes_own_checks = faults.empty() || faults.find(kGateFault) != std::string::npos;
        CHECK(passes_own_checks == is_taken);
        CHECK(schema_fault(job.dump(), "f").has_value() != is_taken);
      };
      const json& minimum = bounds["minimum"];
      const json& maximum = bounds["maximum"];
      expect(minimum, true);
      expect(maximum, true);
      if (bounds["type"] == "integer") {
        expect(minimum.get<std::int64_t>() - 1, false);
        expect(maximum.get<std::int64_t>() + 1, false);
      } else {
        expect(minimum.get<double>() - 0.001, false);
        expect(maximum.get<double>() + 0.001, false);
      }
      ++checked;
    }
  });
  CHECK(checked > 12);
}

TEST_CASE("the canonical form of a full job has every field of the schema but the short forms") {
  const json job = json::parse(
      to_json_text(parse_job_file(corpus_file("good/every_field.json").text, "f", "/jobs").at(0)));
  for_each_object(schema()["definitions"]["job"], "", [&](const std::string& path, const json& node) {
    if (path == "/isolation/tmpfs/*" || path == "/isolation/egress/*") {
      return;
    }
    for (const auto& property : node["properties"].items()) {
      const bool is_later =
          property.value()["description"].get<std::string>().starts_with("Not supported yet");
      std::string place = path + "/" + property.key();
      // A job with a terminal has no standard_input; another test writes one.
      if (is_later || place == "/isolation/tmpfs" || place == "/terminal") {
        continue;
      }
      const std::size_t star = place.find('*');
      bool found = false;
      for (int index = 0; index < 2; ++index) {
        const std::string at = star == std::string::npos
                                   ? place
                                   : place.substr(0, star) + std::to_string(index) + place.substr(star + 1);
        found = found || job.contains(json::json_pointer(at));
      }
      INFO(place);
      CHECK(found);
    }
  });
}

TEST_CASE("docs/job-file.md describes every field of the schema") {
  const std::string text = read_text(BERTH_SOURCE_DIR "/docs/job-file.md");
  REQUIRE_FALSE(text.empty());
  for_each_object(schema()["definitions"]["job"], "", [&](const std::string& path, const json& node) {
    for (const auto& property : node["properties"].items()) {
      INFO(path << "/" << property.key());
      CHECK(text.find("`" + property.key() + "`") != std::string::npos);
    }
  });
}

}  // namespace
}  // namespace berth
