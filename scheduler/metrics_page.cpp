#include "scheduler/metrics_page.h"

#include <array>
#include <charconv>

namespace berth {
namespace {

/// In a label's value backslash, quote and line break are escaped.
std::string escaped(std::string_view text) {
  std::string out;
  for (const char each : text) {
    if (each == '\n') {
      out += "\\n";
      continue;
    }
    if (each == '\\' || each == '"') {
      out += '\\';
    }
    out += each;
  }
  return out;
}

}  // namespace

void MetricsPage::head(std::string_view name, std::string_view type, std::string_view help) {
  text_.append("# HELP ").append(name).append(" ").append(help);
  text_.append("\n# TYPE ").append(name).append(" ").append(type).append("\n");
}

void MetricsPage::figure(std::string_view name, std::string_view label, std::string_view label_value,
                         double value) {
  text_.append(name);
  if (!label.empty()) {
    text_.append("{").append(label).append("=\"").append(escaped(label_value)).append("\"}");
  }
  std::array<char, 32> digits{};
  const auto written = std::to_chars(digits.begin(), digits.end(), value);
  text_.append(" ").append(digits.begin(), written.ptr).append("\n");
}

void MetricsPage::counter(std::string_view name, std::string_view help, double value) {
  head(name, "counter", help);
  figure(name, "", "", value);
}

void MetricsPage::gauge(std::string_view name, std::string_view help, double value) {
  head(name, "gauge", help);
  figure(name, "", "", value);
}

void MetricsPage::counters(std::string_view name, std::string_view help, std::string_view label,
                           const Labelled& values) {
  head(name, "counter", help);
  for (const auto& [label_value, value] : values) {
    figure(name, label, label_value, value);
  }
}

void MetricsPage::gauges(std::string_view name, std::string_view help, std::string_view label,
                         const Labelled& values) {
  head(name, "gauge", help);
  for (const auto& [label_value, value] : values) {
    figure(name, label, label_value, value);
  }
}

}  // namespace berth
