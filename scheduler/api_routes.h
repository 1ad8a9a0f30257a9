// Which paths berthd's API has, and by which methods. schemas/berthd.openapi.json describes each; a test
// compares the two.
//
// Pure; safe from any thread.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace berth {

enum class ApiCall {
  submit,
  list,
  show,
  update,
  wait,
  why,
  output,
  exec,
  attach,
  cancel,
  hold,
  release,
  requeue,
  suspend,
  resume,
  signal,
  history,
  report,
  top,
  events,
  slots,
  metrics,
  drain,
  undrain,
};

struct ApiRoute {
  ApiCall call;
  std::string_view method;
  std::string_view path;        ///< {job_id} stands for any segment
  std::string_view parameters;  ///< of the query, with a space between
};
std::span<const ApiRoute> api_routes();

struct ApiMatch {
  std::optional<ApiCall> call;
  std::vector<std::string_view> parameters;  ///< of that call
  /// Of the path, as the header Allow lists them; empty: there is no such path.
  std::string methods;
};
/// `path` in decoded segments.
ApiMatch match_route(std::string_view method, const std::vector<std::string>& path);

}  // namespace berth
