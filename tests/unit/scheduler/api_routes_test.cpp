#include "scheduler/api_routes.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cctype>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

namespace berth {
namespace {

std::string upper(std::string word) {
  std::transform(word.begin(), word.end(), word.begin(), [](unsigned char c) { return std::toupper(c); });
  return word;
}

TEST_CASE("berthd has the routes that its description has, and no others") {
  std::ifstream file(BERTH_SOURCE_DIR "/schemas/berthd.openapi.json");
  const nlohmann::json api = nlohmann::json::parse(file);
  std::set<std::string> described;
  for (const auto& [path, operations] : api.at("paths").items()) {
    for (const auto& [method, operation] : operations.items()) {
      described.insert(upper(method) + " " + path);
    }
  }
  std::set<std::string> routes;
  std::set<ApiCall> calls;
  for (const ApiRoute& route : api_routes()) {
    routes.insert(std::string(route.method) + " " + std::string(route.path));
    calls.insert(route.call);
  }
  CHECK(routes == described);
  CHECK(calls.size() == api_routes().size());
}

TEST_CASE("a path has its methods, and each of them one call") {
  CHECK(match_route("GET", {"v1", "jobs"}).call == ApiCall::list);
  CHECK(match_route("POST", {"v1", "jobs"}).call == ApiCall::submit);
  CHECK(match_route("PATCH", {"v1", "jobs", "36_4"}).call == ApiCall::update);
  CHECK(match_route("POST", {"v1", "jobs", "36", "cancel"}).call == ApiCall::cancel);
  const ApiMatch other = match_route("DELETE", {"v1", "jobs", "36"});
  CHECK_FALSE(other.call);
  CHECK(other.methods == "GET, HEAD, PATCH, OPTIONS");
  for (const std::vector<std::string>& path : {std::vector<std::string>{},
                                               {"v1"},
                                               {"v2", "jobs"},
                                               {"v1", "jobs", "36", "nothing"},
                                               {"v1", "jobs", "36", "cancel", "now"},
                                               {"v1", "{job_id}"}}) {
    CHECK(match_route("GET", path).methods.empty());
  }
}

}  // namespace
}  // namespace berth
