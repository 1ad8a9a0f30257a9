// MetricsPage: figures as Prometheus reads them, "text/plain; version=0.0.4"
// (https://prometheus.io/docs/instrumenting/exposition_formats/). A value; pure.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace berth {

class MetricsPage {
 public:
  static constexpr const char* kContentType = "text/plain; version=0.0.4; charset=utf-8";

  /// What only grows while berthd runs; its name ends in _total.
  void counter(std::string_view name, std::string_view help, double value);
  void gauge(std::string_view name, std::string_view help, double value);
  /// One figure for each value of a label.
  using Labelled = std::vector<std::pair<std::string, double>>;
  void counters(std::string_view name, std::string_view help, std::string_view label, const Labelled& values);
  void gauges(std::string_view name, std::string_view help, std::string_view label, const Labelled& values);

  const std::string& text() const { return text_; }

 private:
  void head(std::string_view name, std::string_view type, std::string_view help);
  void figure(std::string_view name, std::string_view label, std::string_view label_value, double value);

  std::string text_;
};

}  // namespace berth
