#include "scheduler/metrics_page.h"

#include <catch2/catch.hpp>

namespace berth {
namespace {

TEST_CASE("a page of metrics has a type and a sentence for each name, and one line for each figure") {
  MetricsPage page;
  page.counter("a_total", "All of it.", 1'000'000'000);
  page.gauge("b_bytes", "Some of it.", 0.5);
  page.counters("c_total", "By state.", "state", {{"COMPLETED", 3}, {"FAILED", 0}});
  page.gauges("d", "None yet.", "state", {});
  CHECK(page.text() ==
        "# HELP a_total All of it.\n# TYPE a_total counter\na_total 1e+09\n"
        "# HELP b_bytes Some of it.\n# TYPE b_bytes gauge\nb_bytes 0.5\n"
        "# HELP c_total By state.\n# TYPE c_total counter\n"
        "c_total{state=\"COMPLETED\"} 3\nc_total{state=\"FAILED\"} 0\n"
        "# HELP d None yet.\n# TYPE d gauge\n");
}

TEST_CASE("what a label's value must not hold as it is, is escaped") {
  MetricsPage page;
  page.gauges("a", "Help.", "name", {{"one \"two\" \\ three\nfour", 1}});
  CHECK(page.text() == "# HELP a Help.\n# TYPE a gauge\na{name=\"one \\\"two\\\" \\\\ three\\nfour\"} 1\n");
}

}  // namespace
}  // namespace berth
