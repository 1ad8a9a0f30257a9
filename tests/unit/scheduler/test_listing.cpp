#include "scheduler/listing.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>

#include "schemas/input_error.h"
#include "schemas/usage_fields.h"
#include "store/job_store.h"
#include "tests/unit/scheduler/listing_fixtures.h"

namespace berth {
namespace {

using Catch::Matchers::Contains;

std::string listing(const std::string& format, const ListingStyle& style = {},
                    const std::vector<AccountingRecord>& records = {ended_record(), pending_record()}) {
  use_utc();
  return format_listing(records, parse_format(format), style, at(100));
}

ListingStyle parsable2() {
  ListingStyle style;
  style.form = ListingStyle::Form::parsable2;
  style.header = false;
  return style;
}

/// One cell of a record, at full width.
std::string cell(const std::string& column, const AccountingRecord& record) {
  std::string text = listing(column, parsable2(), {record});
  text.pop_back();
  return text;
}

std::string format_faults(const std::string& format) {
  try {
    parse_format(format);
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("a list that takes more than it may is not made") {
  ListingStyle style = parsable2();
  CHECK(listing("JobID,User,JobID,User", style).size() > 20);
  style.most_bytes = 20;
  CHECK_THROWS_AS(listing("JobID,User,JobID,User", style), TooMuch);
  style.form = ListingStyle::Form::table;
  CHECK_THROWS_AS(listing("JobID,User,JobID,User", style), TooMuch);
  CHECK(listing("User%2", style) == "a+\nb+\n");
}

TEST_CASE("the default table looks as sacct's does") {
  use_utc();
  const std::vector<AccountingRecord> records{ended_record(), running_record(), pending_record()};
  CHECK(
      format_listing(records, default_format(), {}, at(100)) ==
      "JobID           JobName      User  AllocCPUS         State ExitCode    Elapsed   TotalCPU     MaxRSS\n"
      "------------ ---------- --------- ---------- ------------- -------- ---------- ---------- ----------\n"
      "12               render       ada          2 OUT_OF_MEMORY      0:9   00:01:00  00:30.250       256M\n"
      "13           an-encode+       bob          1       RUNNING      0:0   00:01:30\n"
      "13           an-encode+       bob          0       PENDING      0:0   00:00:00\n");
}

TEST_CASE("a width cuts with +, and a negative one aligns left") {
  CHECK(listing("jobname%6,State%-8,USER%-5") ==
        "JobNa+ State    User\n"
        "------ -------- -----\n"
        "render OUT_OF_+ ada\n"
        "an-en+ PENDING  bob\n");
}

TEST_CASE("parsable forms keep the full width, with the delimiter asked for") {
  ListingStyle style;
  style.form = ListingStyle::Form::parsable2;
  CHECK(listing("JobID,JobName%3,State,MaxRSS", style) ==
        "JobID|JobName|State|MaxRSS\n"
        "12|render|OUT_OF_MEMORY|256M\n"
        "13|an-encode-with-a-long-name|PENDING|\n");
  style.form = ListingStyle::Form::parsable;
  style.delimiter = ";";
  style.header = false;
  CHECK(listing("JobID,State", style) == "12;OUT_OF_MEMORY;\n13;PENDING;\n");
}

TEST_CASE("without a header there are no dashes either") {
  ListingStyle style;
  style.header = false;
  CHECK(listing("JobID%-4", style) == "12\n13\n");
}

TEST_CASE("cells say what is known of an ended job") {
  const AccountingRecord record = ended_record();
  const std::vector<std::pair<std::string, std::string>> expected{
      {"JobID", "12"},
      {"Attempt", "1"},
      {"UID", "1001"},
      {"JobUser", "render"},
      {"Account", "films"},
      {"Partition", ""},
      {"ExitCode", "0:9"},
      {"DerivedExitCode", "0:9"},
      {"Cause", "out_of_memory"},
      {"LimitHit", "memory_per_node"},
      {"LimitValue", "512M"},
      {"LimitCgroup", "/berth/run-1-2/job-12.1"},
      {"Submit", "2026-11-23T17:00:00"},
      {"Start", "2026-11-23T17:00:10"},
      {"End", "2026-11-23T17:01:10"},
      {"ElapsedRaw", "60"},
      {"Timelimit", "00:10:00"},
      {"ReqCPUS", "2"},
      {"ReqMem", "512M"},
      {"AllocMem", "512M"},
      {"NNodes", "1"},
      {"NodeList", "node1"},
      {"CPUList", "0-1"},
      {"MemNodes", "0"},
      {"Slot", "cpu0-1"},
      {"WorkDir", "/tmp"},
      {"Command", "/usr/bin/render --frame 12"},
      {"CPUTime", "00:02:00"},
      {"CPUTimeRAW", "120"},
      {"UserCPU", "00:00:30"},
      {"SystemCPU", "00:00.250"},
      {"OOMKills", "1"},
      {"OutputBytes", "0"},
      {"Reason", "None"},
  };
  for (const auto& [column, text] : expected) {
    INFO(column);
    CHECK(cell(column, record) == text);
  }
}

TEST_CASE("what was not measured is empty, what is not yet is Unknown") {
  const AccountingRecord record = pending_record();
  CHECK(cell("Start", record) == "Unknown");
  CHECK(cell("End", record) == "Unknown");
  CHECK(cell("NodeList", record) == "None assigned");
  CHECK(cell("Timelimit", record) == "UNLIMITED");
  CHECK(cell("ReqMem", record).empty());
  CHECK(cell("MaxRSS", record).empty());
  CHECK(cell("MaxSwap", ended_record()).empty());
}

TEST_CASE("the reason of a pending job and a failed launch show") {
  AccountingRecord record = pending_record();
  record.reason = "Resources";
  CHECK(cell("Reason", record) == "Resources");
  record.outcome.emplace();
  record.outcome->cause = Cause::launch_failed;
  record.outcome->stage = "exec";
  record.outcome->error_number = 2;
  CHECK(cell("ExitCode", record) == "127:0");
}

TEST_CASE("an array that did not complete has no exit code") {
  AccountingRecord record = pending_record();
  CHECK(cell("ExitCode", record) == "0:0");
  record.state = JobState::completed;
  CHECK(cell("ExitCode", record) == "0:0");
  record.state = JobState::failed;
  CHECK(cell("ExitCode", record).empty());
}

TEST_CASE("the message of an array that has ended says where its tasks are") {
  AccountingRecord record = pending_record();
  change_spec(record, [](JobSpec& spec) { spec.array = "0-3"; });
  CHECK(cell("Message", record).empty());
  record.state = JobState::failed;
  CHECK(cell("Message", record) == "its tasks have records of their own: berth history 13");
}

TEST_CASE("elapsed time never runs backwards") {
  AccountingRecord record = running_record();
  CHECK(cell("Elapsed", record) == "00:01:30");
  record.start = at(105);  // the wall clock was set back
  CHECK(cell("Elapsed", record) == "00:00:00");
}

TEST_CASE("elapsed time that was not measured is an empty cell, though there are instants") {
  AccountingRecord record = ended_record();
  record.state = JobState::node_fail;
  record.usage.wall.reset();
  for (const char* column : {"Elapsed", "ElapsedRaw", "CPUTime", "CPUTimeRAW"}) {
    INFO(column);
    CHECK(cell(column, record).empty());
  }
  CHECK(cell("End", record) == "2026-11-23T17:01:10");
  record.start.reset();  // it never ran
  CHECK(cell("Elapsed", record) == "00:00:00");
}

TEST_CASE("a name cannot break a line, steer the terminal, or be cut inside a character") {
  AccountingRecord record = pending_record();
  change_spec(record, [](JobSpec& spec) { spec.name = "a\n\x1b[2Jb"; });
  CHECK(cell("JobName", record) == "a??[2Jb");
  change_spec(record, [](JobSpec& spec) { spec.name = "größenwahn"; });
  ListingStyle style;
  style.header = false;
  CHECK(listing("JobName%6", style, {record}) == "größe+\n");
  CHECK(listing("JobName%12", style, {record}) == "  größenwahn\n");
}

TEST_CASE("an unknown column is refused with the nearest one and the list, all faults at once") {
  const std::string faults = format_faults("JobIDs,State,maxrs,Elapsed%0,User%x");
  CHECK_THAT(faults, Contains("\"JobIDs\" is not a column; the nearest one is JobID (there are JobID "));
  CHECK_THAT(faults, Contains("the nearest one is MaxRSS"));
  CHECK_THAT(faults, Contains("\"Elapsed%0\""));
  CHECK_THAT(faults, Contains("\"User%x\""));
  CHECK_THAT(format_faults(""), Contains("names no column"));
  CHECK_THAT(format_faults(","), Contains("names no column"));
  CHECK(format_faults("JOBID,,state%-30").empty());
}

TEST_CASE("columns have distinct names, a width, a description, and a cell for a record without anything") {
  std::set<std::string_view> names;
  for (const ListingColumn& column : listing_columns()) {
    INFO(column.name);
    CHECK(names.insert(column.name).second);
    CHECK(column.width != 0);
    CHECK_FALSE(column.description.empty());
    CHECK_NOTHROW(column.cell(AccountingRecord{}, at(0)));
  }
  CHECK(long_format().size() == names.size());
  CHECK_THAT(listing_help(),
             Contains("MaxRSS           Highest memory charged to it, page cache included\n"));
}

TEST_CASE("every counter of Usage has a column") {
  // Each counter alone must change some cell.
  Usage none;
  std::size_t index = 0;
  for_each_usage_field(none, [&](std::string_view name, const auto&) {
    AccountingRecord record = ended_record();
    record.usage = {};
    std::size_t current = 0;
    for_each_usage_field(record.usage, [&](std::string_view, auto& counter) {
      if (current++ == index) {
        using Counter = typename std::remove_reference_t<decltype(counter)>::value_type;
        counter = Counter(7'000'000);
      }
    });
    AccountingRecord without = ended_record();
    without.usage = {};
    bool shows = false;
    for (const ListingColumn& column : listing_columns()) {
      shows = shows || column.cell(record, at(0)) != column.cell(without, at(0));
    }
    INFO(name);
    CHECK(shows);
    ++index;
  });
}

TEST_CASE("docs/accounting.md describes every column and every counter") {
  std::ifstream file(BERTH_SOURCE_DIR "/docs/accounting.md");
  const std::string page{std::istreambuf_iterator<char>(file), {}};
  for (const ListingColumn& column : listing_columns()) {
    const int width = std::abs(column.width);
    CHECK_THAT(page,
               Contains("| `" + std::string(column.name) + "` | " + std::to_string(width) +
                        (column.width < 0 ? ", left | " : " | ") + std::string(column.description) + " |"));
  }
  const Usage none;
  for_each_described_usage_field(none, [&](const auto& field, const auto&) {
    CHECK_THAT(page, Contains("`" + std::string(field.key) + "`"));
    CHECK_THAT(page, Contains("`" + std::string(field.name) + "`"));
  });
}

TEST_CASE("a table's bound counts the blanks that are cut from the ends of its lines") {
  const std::vector<AccountingRecord> records{pending_record(), pending_record()};
  ListingStyle style;
  style.header = false;
  const std::vector<ChosenColumn> columns = parse_format("Partition%1000,Partition%1000");
  style.most_bytes = 4'010;
  CHECK(format_listing(records, columns, style, at(0)) == "\n\n");
  style.most_bytes = 3'000;
  CHECK_THROWS_AS(format_listing(records, columns, style, at(0)), TooMuch);
}

TEST_CASE("a list has a bound on its columns and on their widths together") {
  std::string wide = "State%1000";
  for (int column = 0; column < 16; ++column) {
    wide += ",State%-1000";
  }
  CHECK_THROWS_WITH(parse_format(wide), Contains("--format: makes lines of 17000 characters"));
}

TEST_CASE("the JSON listing is one object with all records") {
  const std::vector<AccountingRecord> records{ended_record(), pending_record()};
  CHECK(listing_json(records) ==
        "{\"jobs\":[\n" + to_json_text(records[0]) + ",\n" + to_json_text(records[1]) + "\n]}\n");
  CHECK(listing_json({}) == "{\"jobs\":[\n]}\n");
}

}  // namespace berth
