#include "schemas/daemon_config.h"

#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "tests/support/temporary_directory.h"
#include "tests/unit/schemas/job_file_corpus.h"

namespace berth {
namespace {

using Catch::Matchers::Contains;

std::vector<std::string> pointers(const std::string& text, const DaemonConfigCheck& check = {}) {
  try {
    parse_daemon_config(text, "file", check);
  } catch (const InputError& error) {
    std::vector<std::string> found;
    for (const InputFault& fault : error.faults()) {
      CHECK(fault.file == "file");
      found.push_back(fault.pointer);
    }
    return found;
  }
  return {};
}

/// Each key that holds a value has a description, and is in the page: `a.b`, or `.b` in a row of its
/// neighbours'.
void check_keys(const nlohmann::json& object, const std::string& prefix, const std::string& page) {
  for (const auto& [key, node] : object.at("properties").items()) {
    if (node.contains("properties")) {
      check_keys(node, prefix + key + ".", page);
      continue;
    }
    INFO(prefix << key);
    std::string whole = "`";
    whole.append(prefix).append(key).append("`");
    std::string neighbour = "`.";
    neighbour.append(key).append("`");
    CHECK_FALSE(node.value("description", "").empty());
    CHECK((key == "schema_version" || page.find(whole) != std::string::npos ||
           (!prefix.empty() && page.find(neighbour) != std::string::npos)));
  }
}

}  // namespace

TEST_CASE("the schema of the configuration and docs/berthd.md describe every key") {
  const std::string page = read_text(BERTH_SOURCE_DIR "/docs/berthd.md");
  check_keys(nlohmann::json::parse(read_text(BERTH_SOURCE_DIR "/schemas/berthd.schema.json")), "", page);
}

TEST_CASE("every fault of a configuration is told, in the order of the file") {
  CHECK(pointers(R"({"runners": -1, "log_level": "x", "foo": 1, "pool": {"memory": "0", "cpu": "0"},
                     "socket": "here", "runtime_directory": "/)" +
                 std::string(60, 'x') + R"(", "history": {"backup": {"every": true}}})") ==
        std::vector<std::string>{"/runners", "/log_level", "/foo", "/pool/memory", "/pool/cpu", "/socket",
                                 "/runtime_directory", "/history/backup/every"});
  CHECK_THROWS_WITH(parse_daemon_config(R"({"user_limit": {}})", "file"), Contains("\"user_limits\""));
  CHECK(pointers("[]").size() == 1);
  CHECK(pointers("{}").empty());
}

TEST_CASE("what a further check finds is told with the rest, and is not asked of what is no JSON") {
  const auto check = [](const DaemonConfig& config, std::vector<InputFault>& faults) {
    CHECK(config.armed_ahead == 3);
    CHECK(config.file == "file");
    faults.push_back({"file", "/armed_ahead", "too many"});
  };
  CHECK(pointers(R"({"runners": "many", "armed_ahead": 3, "pool": 1})", check) ==
        std::vector<std::string>{"/runners", "/armed_ahead", "/pool"});
  CHECK(pointers("{", check) == std::vector<std::string>{""});
}

TEST_CASE("an empty configuration and a comment in one are called so") {
  CHECK_THROWS_WITH(parse_daemon_config("", "file"), Contains("every key"));
  CHECK_THROWS_WITH(parse_daemon_config("{} // none", "file"), Contains("not allowed in a configuration"));
}

TEST_CASE("only a regular file is read, and only the default may be missing") {
  const TemporaryDirectory temporary;
  const std::string& folder = temporary.path();
  const std::string fifo = folder + "/fifo";
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  for (const std::string& path : {folder, fifo, std::string("/dev/zero")}) {
    CHECK_THROWS_WITH(load_daemon_config(path, true), Contains(path + ": is not a regular file"));
  }
  CHECK_THROWS_WITH(load_daemon_config(folder + "/none", false), Contains("No such file"));
  CHECK(load_daemon_config(folder + "/none", true) == DaemonConfig{});
}

}  // namespace berth
