#include "scheduler/api_routes.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cctype>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

namespace berth {
namespace {

std::string upper(std::string word) {
  std::transform(word.begin(), word.end(), word.begin(), [](unsigned char c) { return std::toupper(c); });
  return word;
}

std::string listed(const std::set<std::string>& parameters) {
  std::string text;
  for (const std::string& name : parameters) {
    text += " " + name;
  }
  return text;
}

TEST_CASE("berthd has the routes and parameters that its description has, and no others") {
  std::ifstream file(BERTH_SOURCE_DIR "/schemas/berthd.openapi.json");
  const nlohmann::json api = nlohmann::json::parse(file);
  std::set<std::string> described;
  for (const auto& [path, operations] : api.at("paths").items()) {
    for (const auto& [method, operation] : operations.items()) {
      std::set<std::string> parameters;
      for (const auto& parameter : operation.value("parameters", nlohmann::json::array())) {
        if (parameter.at("in") == "query") {
          parameters.insert(parameter.at("name").get<std::string>());
        }
      }
      described.insert(upper(method) + " " + path + listed(parameters));
    }
  }
  std::set<std::string> routes;
  std::set<ApiCall> calls;
  for (const ApiRoute& route : api_routes()) {
    std::set<std::string> parameters;
    std::istringstream words{std::string(route.parameters)};
    parameters.insert(std::istream_iterator<std::string>(words), std::istream_iterator<std::string>());
    routes.insert(std::string(route.method) + " " + std::string(route.path) + listed(parameters));
    calls.insert(route.call);
  }
  CHECK(routes == described);
  CHECK(calls.size() == api_routes().size());
}

TEST_CASE("a path has its methods, and each of them one call") {
  CHECK(match_route("GET", {"v1", "jobs"}).call == ApiCall::list);
  CHECK(match_route("POST", {"v1", "jobs"}).call == ApiCall::submit);
  CHECK(match_route("GET", {"v1", "jobs"}).parameters ==
        std::vector<std::string_view>{"state", "user", "limit"});
  CHECK(match_route("POST", {"v1", "drain"}).parameters.empty());
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
