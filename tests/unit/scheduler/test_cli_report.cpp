#include "scheduler/cli_report.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <sstream>

#include "scheduler/command.h"
#include "schemas/input_error.h"
#include "store/job_store.h"

namespace berth {
namespace {

using Catch::Matchers::Contains;

std::vector<ReportRow> rows() {
  ReportRow row;
  row.key = "Förderband";
  row.jobs = 3;
  row.attempts = 4;
  row.states = {{JobState::completed, 3}, {JobState::preempted, 1}};
  row.elapsed = std::chrono::microseconds(20);
  row.oom_kills = 0;
  return {row};
}

std::string report(const std::string& format, const ListingStyle& style = {}) {
  return format_report(rows(), ReportKey::account, format, style);
}

TEST_CASE("the first column is called after what the rows are about, and columns are found in any case") {
  CHECK(report("key%-10,JOBS%4") ==
        "Account    Jobs\n"
        "---------- ----\n"
        "Förderband    3\n");
  CHECK(report("account%-10,jobs%4") == report("key%-10,JOBS%4"));
  CHECK(format_report(rows(), ReportKey::name, "name", {}) ==
        format_report(rows(), ReportKey::name, "JobName", {}));
}

TEST_CASE("a cell of a report is cut by characters, never inside one") {
  ListingStyle style;
  style.header = false;
  CHECK(report("Key%-4", style) == "För+\n");
  CHECK(report("Key%2", style) == "F+\n");
}

TEST_CASE("a report's format may have empty words, but names a column") {
  CHECK(report("Jobs,,Failed,") == report("Jobs,Failed"));
  for (const char* nothing : {"", ","}) {
    CHECK_THROWS_WITH(report(nothing), Contains("--format: names no column (use Key, Jobs"));
  }
}

TEST_CASE("parsable reports keep the full width") {
  ListingStyle style;
  style.header = false;
  style.form = ListingStyle::Form::parsable2;
  CHECK(report("Key%2,Attempts,Completed,Other", style) == "Förderband|4|3|1\n");
  style.form = ListingStyle::Form::parsable;
  style.delimiter = ";";
  CHECK(report("Jobs", style) == "3;\n");
}

TEST_CASE("widths are bounded and columns that there are not are refused, with the remedy") {
  CHECK_THROWS_WITH(report("Jobs%1001"), Contains("from 1 to 1000"));
  CHECK_THROWS_WITH(report("Jobs%0"), Contains("Jobs%20"));
  CHECK_THROWS_WITH(report("Jobs%x"), Contains("--format"));
  CHECK_THROWS_WITH(report("Works"), Contains("there is no column \"Works\"") && Contains("OOMKills"));
}

TEST_CASE("what a line of a report costs has a bound, and so has the report") {
  std::string wide = "Other%1000";
  for (int column = 0; column < 16; ++column) {
    wide += ",Other%1000";
  }
  CHECK_THROWS_WITH(report(wide),
                    Contains("--format: makes lines of 17000 characters; they have at most 16384"));
  std::string many = "Jobs%1";
  for (int column = 0; column < 200; ++column) {
    many += ",Jobs%1";
  }
  CHECK_THROWS_WITH(report(many), Contains("--format: names 201 columns; a list has at most 200"));
  CHECK_THROWS_WITH(checked_delimiter(std::string(17, '|')),
                    Contains("--delimiter: is longer than 16 bytes"));
  ListingStyle style;
  style.most_bytes = 20;
  CHECK_THROWS_AS(report("Key,Jobs", style), TooMuch);
  CHECK_THROWS_AS(report_json(rows(), ReportKey::account, style), TooMuch);
}

TEST_CASE("the completion offers the columns that there are") {
  std::string names;
  std::istringstream lines{report_help()};
  for (std::string line; std::getline(lines, line);) {
    names += (names.empty() ? "" : " ") + line.substr(0, line.find(' '));
  }
  const auto options = find_command("report")->options;
  const auto format = std::find_if(options.begin(), options.end(),
                                   [](const Option& option) { return option.name == "format"; });
  REQUIRE(format != options.end());
  CHECK(format->words == names);
}

TEST_CASE("what --by takes is said when it is something else") {
  ReportRequest request;
  request.by = "moon";
  CHECK_THROWS_WITH(make_report_filter(request, Timestamp{}), Contains("user, account, name or day"));
  request.by = "day";
  CHECK(make_report_filter(request, Timestamp{}).key == ReportKey::day);
}

TEST_CASE("the JSON of a report names its key as --by does") {
  CHECK(report_json(rows(), ReportKey::account) ==
        R"({"by":"account","rows":[{"account":"Förderband","jobs":3,"attempts":4,)"
        R"("states":{"COMPLETED":3,"PREEMPTED":1},"elapsed_usec":20,"oom_kills":0}]})"
        "\n");
}

TEST_CASE("a cell of what was not measured is empty") {
  ListingStyle style;
  style.header = false;
  style.form = ListingStyle::Form::parsable2;
  CHECK(report("Elapsed,CPUTime,TotalCPU,CPUEff,MemGiBh,OOMKills,MaxElapsed,MaxRSS", style) ==
        "00:00:00|||||0||\n");
}

TEST_CASE("the longest time and the highest memory of an attempt are told where they were measured") {
  std::vector<ReportRow> some = rows();
  some.front().longest = std::chrono::seconds(90);
  some.front().memory_peak = Bytes{3} << 20U;
  ListingStyle style;
  style.header = false;
  style.form = ListingStyle::Form::parsable2;
  CHECK(format_report(some, ReportKey::name, "MaxElapsed,MaxRSS", style) == "00:01:30|3M\n");
  CHECK_THAT(report_json(some, ReportKey::name),
             Contains(R"("oom_kills":0,"elapsed_max_usec":90000000,"memory_peak":3145728})"));
}

TEST_CASE("CPU efficiency is of the attempts of which the granted time was measured") {
  std::vector<ReportRow> some = rows();
  some.front().cpu_granted = std::chrono::seconds(40);
  some.front().cpu_used = std::chrono::seconds(60);
  some.front().granted_to_compare = std::chrono::seconds(40);
  some.front().used_to_compare = std::chrono::seconds(30);
  ListingStyle style;
  style.header = false;
  style.form = ListingStyle::Form::parsable2;
  CHECK(format_report(some, ReportKey::account, "TotalCPU,CPUEff", style) == "00:01:00|75.0%\n");
}

TEST_CASE("memory times hours beyond 64 bits is told as it is") {
  std::vector<ReportRow> large = rows();
  large.front().memory_granted = 0x1p40 * 1e9;  // 1 TiB for 30 years
  ListingStyle style;
  style.header = false;
  style.form = ListingStyle::Form::parsable2;
  CHECK(format_report(large, ReportKey::account, "MemGiBh", style) == "284444444.44\n");
  CHECK_THAT(report_json(large, ReportKey::account),
             Contains("\"memory_granted_byte_seconds\":1.099511627776e+21,"));
}

}  // namespace
}  // namespace berth
