#include "scheduler/api_routes.h"

#include <algorithm>
#include <array>

namespace berth {
namespace {

constexpr std::array kRoutes{
    ApiRoute{ApiCall::submit, "POST", "/v1/jobs", "directory file test_only"},
    ApiRoute{ApiCall::list, "GET", "/v1/jobs", "state user limit"},
    ApiRoute{ApiCall::show, "GET", "/v1/jobs/{job_id}", "as zone"},
    ApiRoute{ApiCall::update, "PATCH", "/v1/jobs/{job_id}", ""},
    ApiRoute{ApiCall::wait, "GET", "/v1/jobs/{job_id}/wait", ""},
    ApiRoute{ApiCall::why, "GET", "/v1/jobs/{job_id}/why", ""},
    ApiRoute{ApiCall::output, "GET", "/v1/jobs/{job_id}/output", "stream offset follow"},
    ApiRoute{ApiCall::exec, "POST", "/v1/jobs/{job_id}/exec", ""},
    ApiRoute{ApiCall::attach, "POST", "/v1/jobs/{job_id}/attach", "after_attempt wait"},
    ApiRoute{ApiCall::cancel, "POST", "/v1/jobs/{job_id}/cancel", "at_once state"},
    ApiRoute{ApiCall::hold, "POST", "/v1/jobs/{job_id}/hold", ""},
    ApiRoute{ApiCall::release, "POST", "/v1/jobs/{job_id}/release", ""},
    ApiRoute{ApiCall::requeue, "POST", "/v1/jobs/{job_id}/requeue", ""},
    ApiRoute{ApiCall::suspend, "POST", "/v1/jobs/{job_id}/suspend", ""},
    ApiRoute{ApiCall::resume, "POST", "/v1/jobs/{job_id}/resume", ""},
    ApiRoute{ApiCall::signal, "POST", "/v1/jobs/{job_id}/signal", "signal batch"},
    ApiRoute{ApiCall::history, "GET", "/v1/history",
             "start end users states accounts names jobs last as format long noheader delimiter zone"},
    ApiRoute{ApiCall::report, "GET", "/v1/report",
             "by start end users accounts as format noheader delimiter zone"},
    ApiRoute{ApiCall::top, "GET", "/v1/top", ""},
    ApiRoute{ApiCall::events, "GET", "/v1/events", "after follow"},
    ApiRoute{ApiCall::slots, "GET", "/v1/slots", ""},
    ApiRoute{ApiCall::metrics, "GET", "/metrics", ""},  // where every scraper looks
    ApiRoute{ApiCall::drain, "POST", "/v1/drain", ""},
    ApiRoute{ApiCall::undrain, "POST", "/v1/undrain", ""},
};

bool is_at(const std::vector<std::string>& path, std::string_view route) {
  for (const std::string& segment : path) {
    if (route.empty()) {
      return false;
    }
    route.remove_prefix(1);  // the slash
    const std::string_view word = route.substr(0, route.find('/'));
    route.remove_prefix(word.size());
    if (word != segment && word != "{job_id}") {
      return false;
    }
  }
  return route.empty();
}

std::vector<std::string_view> parameters_of(const ApiRoute& route) {
  std::vector<std::string_view> names;
  std::string_view rest = route.parameters;
  while (!rest.empty()) {
    const std::size_t space = std::min(rest.find(' '), rest.size());
    names.push_back(rest.substr(0, space));
    rest.remove_prefix(std::min(space + 1, rest.size()));
  }
  return names;
}

}  // namespace

std::span<const ApiRoute> api_routes() {
  return kRoutes;
}

ApiMatch match_route(std::string_view method, const std::vector<std::string>& path) {
  ApiMatch match;
  for (const ApiRoute& route : kRoutes) {
    if (is_at(path, route.path)) {
      match.methods += std::string(route.method) + (route.method == "GET" ? ", HEAD, " : ", ");
      if (route.method == method) {
        match.call = route.call;
        match.parameters = parameters_of(route);
      }
    }
  }
  match.methods += match.methods.empty() ? "" : "OPTIONS";
  return match;
}

}  // namespace berth
