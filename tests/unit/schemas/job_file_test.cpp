#include "schemas/job_file.h"

#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "tests/unit/schemas/job_file_corpus.h"

namespace berth {
namespace {

using namespace std::chrono_literals;
using Catch::Matchers::Contains;

const char* const kDirectory = "/jobs";

JobSpec parse_one(const std::string& text, const std::string& directory = kDirectory) {
  return parse_job_file(text, "job.json", directory).at(0);
}

std::string faults_of(const std::string& text, const std::string& file_name = "job.json") {
  try {
    parse_job_file(text, file_name, kDirectory);
  } catch (const InputError& error) {
    return std::string(error.what()) + '\n';
  }
  return "";
}

/// The faults of what a command line could have made.
std::string faults_of(const JobSpec& spec) {
  try {
    validated(spec, "command line");
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

JobSpec minimal_spec() {
  JobSpec spec;
  spec.argv = {"true"};
  return spec;
}

TEST_CASE("what an older build took is read from the database by the rules of that build") {
  std::string mounts;
  for (int index = 0; index < 200; ++index) {
    mounts += (index > 0 ? "," : "") + (R"({"source": "/x", "target": "/m)" + std::to_string(index) + "\"}");
  }
  for (const std::string& field :
       {std::string(R"("name": "a\u200bc")"), std::string(R"("account": "a\u2060c")"),
        std::string(R"("environment": {"A\ufeff": "1"})"), std::string(R"("memory_per_node": "100K")"),
        R"("isolation": {"mounts": [)" + mounts + "]}"}) {
    INFO(field);
    const std::string text = R"({"argv": ["true"], )" + field + "}";
    CHECK(!faults_of(text).empty());
    CHECK_NOTHROW(parse_stored_job(text, "job 1"));
  }
}

TEST_CASE("every good job file is taken, and its jobs read back from their canonical form") {
  const auto files = corpus("good");
  REQUIRE(files.size() >= 10);
  for (const CorpusFile& file : files) {
    INFO(file.name);
    for (const JobSpec& spec : parse_job_file(file.text, file.name, kDirectory)) {
      CHECK(parse_one(to_json_text(spec), "/elsewhere") == spec);
      CHECK(validated(spec, "again") == spec);
    }
  }
}

TEST_CASE("every bad job file is refused with exactly its faults, in the order of the file") {
  for (const char* folder : {"bad/text", "bad/structure", "bad/meaning"}) {
    const auto files = corpus(folder);
    REQUIRE(files.size() >= 10);
    for (const CorpusFile& file : files) {
      INFO(file.path);
      CHECK(faults_of(file.text, file.name) == file.faults);
    }
  }
}

TEST_CASE("a job's umask is octal text") {
  CHECK_FALSE(parse_one(R"({"argv": ["true"]})").umask);
  for (const char* text : {"77", "077", "0077"}) {
    const JobSpec spec = parse_one(R"({"argv": ["true"], "umask": ")" + std::string(text) + "\"}");
    CHECK(spec.umask == 077U);
    CHECK(to_json_text(spec).find(R"("umask":"0077")") != std::string::npos);
  }
  CHECK(to_json_text(parse_one(R"({"argv": ["true"], "umask": "0"})")).find(R"("umask":"0000")") !=
        std::string::npos);
  for (const char* text : {"", "8", "1777", "00022", "-1", "0x2", "22 "}) {
    CHECK_THROWS_AS(parse_one(R"({"argv": ["true"], "umask": ")" + std::string(text) + "\"}"), InputError);
  }
  CHECK_THROWS_AS(parse_one(R"({"argv": ["true"], "umask": 18})"), InputError);
}

TEST_CASE("the name that a command gives its job is UTF-8 and without controls") {
  const auto name_of = [](const std::string& command) {
    return parse_one(R"({"argv": ["/bin/)" + command + "\"]}").name;
  };
  CHECK(name_of("true") == "true");
  CHECK(name_of(R"(\u009b2J)") == "job");
  CHECK(name_of(R"(\u202etxt)") == "job");
  CHECK(name_of(std::string(254, 'x') + "éé") == std::string(254, 'x'));
  CHECK(name_of(std::string(253, 'x') + "éé") == std::string(253, 'x') + "é");
}

TEST_CASE("a folder whose name is not UTF-8 is no working directory and begins no path") {
  const char* const kLatin = "/caf\xe9";
  const auto faults_in = [&](const std::string& members) {
    try {
      parse_job_file(R"({"argv": ["true"])" + members + "}", "job.json", kLatin);
    } catch (const InputError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK_THAT(faults_in(""),
             Contains("job.json: /current_working_directory: is left out") && Contains("not UTF-8"));
  CHECK_THAT(faults_in(R"(, "current_working_directory": "sub")"),
             Contains("\"sub\" is relative to a folder"));
  CHECK(faults_in(R"(, "current_working_directory": "/tmp", "standard_output": "/tmp/out")").empty());
}

TEST_CASE("a job's terminal is read and written") {
  const JobSpec spec = parse_one(R"({"argv": ["bash"], "terminal": true})");
  CHECK(spec.terminal);
  CHECK(parse_one(to_json_text(spec)) == spec);
  CHECK_FALSE(parse_one(R"({"argv": ["bash"]})").terminal);
}

TEST_CASE("every field of a job file reaches the job") {
  const JobSpec spec = parse_one(corpus_file("good/every_field.json").text);
  CHECK(spec.name == "everything");
  CHECK(spec.umask == 027U);
  CHECK(spec.script.starts_with("#!/usr/bin/env bash\n"));
  CHECK(spec.argv == std::vector<std::string>{"-x", "ü"});
  CHECK(spec.current_working_directory == "/jobs/work");
  CHECK(spec.environment == std::map<std::string, std::string>{{"LANG", "C.UTF-8"}, {"EMPTY", ""}});
  CHECK(spec.standard_input == "/jobs/input.txt");
  CHECK(spec.standard_output == "/jobs/out/%x-%j.txt");
  CHECK(spec.standard_error == "/var/log/%u-%A%%.txt");
  CHECK(spec.open_mode == OpenMode::append);
  CHECK(spec.account == "chemistry");
  CHECK(spec.comment == "two\nlines");
  CHECK(spec.priority == 100);
  CHECK(spec.nice == -5);
  CHECK(spec.cpus_per_task == 2);
  CHECK(spec.memory_per_node == Bytes{512} << 20U);
  CHECK(spec.time_limit == 10min);
  CHECK(spec.kill_warning_signal == 10);
  CHECK(spec.kill_warning_delay == 30s);
  CHECK(spec.kill_warning_batch_job);
  CHECK(spec.grace_period == 10s);
  CHECK(spec.no_output_timeout == 5min);
  CHECK(spec.limits.cpu_time == 20min);
  CHECK(spec.limits.cpu_quota == 1.5);
  CHECK(spec.limits.cpu_weight == 200U);
  CHECK(spec.limits.swap == Bytes{64} << 20U);
  CHECK(spec.limits.pids == 256U);
  CHECK(spec.limits.output == Bytes{10} << 20U);
  CHECK(spec.limits.tmpfs == Bytes{128} << 20U);
  CHECK(spec.limits.open_files == 1024U);
  CHECK(spec.limits.file_size == Bytes{1} << 30U);
  CHECK(spec.limits.core_size == Bytes{1} << 20U);
  CHECK(spec.limits.stack_size == Bytes{8} << 20U);
  CHECK(spec.limits.locked_memory == Bytes{64} << 10U);
  CHECK(spec.limits.io == std::vector<IoLimit>{{"/dev/vda", Bytes{10} << 20U, Bytes{5} << 20U, 1000, 500},
                                               {"254:16", 1, {}, {}, {}}});
  CHECK(spec.limits.hugetlb == std::map<std::string, Bytes>{{"2MB", Bytes{64} << 20U}, {"1GB", 0}});
  CHECK(spec.limits.net_class == 0x100001U);
  CHECK(spec.isolation.network.mode == NetworkMode::shared);
  CHECK(spec.isolation.network.egress.rules.size() == 5);
  CHECK(spec.isolation.network.egress.rules.at(3).host == "*.example.org");
  CHECK(spec.isolation.network.rate_in == Bytes{10} * 1024 * 1024);
  CHECK(spec.isolation.root == "/srv/root");
  CHECK(spec.isolation.root_writable);
  CHECK_FALSE(spec.isolation.overlay);
  using Kind = Mount::Kind;
  CHECK(spec.isolation.mounts == std::vector<Mount>{{Kind::bind, "/jobs/data", "/data", false, {}},
                                                    {Kind::tmpfs, "", "/scratch", true, Bytes{1} << 30U},
                                                    {Kind::bind, "/opt/tools", "/opt/tools", true, {}},
                                                    {Kind::tmpfs, "", "/cache", true, Bytes{16} << 20U}});
  CHECK(spec.isolation.hostname == "node-1.example");
  CHECK(spec.isolation.user == "alice");
  CHECK(spec.isolation.devices == std::vector<std::string>{"/dev/fuse"});
  CHECK(spec.isolation.seccomp);
  CHECK(spec.isolation.time_offset_monotonic_seconds == -5);
  CHECK(spec.isolation.time_offset_boottime_seconds == 86400);
}

TEST_CASE("integers of Slurm's fields carry Slurm's unit, integers of ours bytes and seconds") {
  const JobSpec spec = parse_one(corpus_file("good/integers.json").text);
  CHECK(spec.memory_per_node == Bytes{512} << 20U);
  CHECK(spec.time_limit == 90min);
  CHECK(spec.kill_warning_delay == 30s);
  CHECK(spec.grace_period == 0s);
  CHECK(spec.no_output_timeout == 10min);
  CHECK(spec.limits.cpu_time == 1h);
  CHECK(spec.limits.swap == 0U);
  CHECK(spec.limits.output == Bytes{1} << 20U);
  CHECK(spec.isolation.user == "1000");
}

TEST_CASE("what a job leaves out has the documented default") {
  const JobSpec spec = parse_one(R"({"argv": ["/usr/bin/make", "-j2"]})");
  JobSpec expected;
  expected.name = "make";
  expected.argv = {"/usr/bin/make", "-j2"};
  expected.current_working_directory = kDirectory;
  CHECK(spec == expected);
  CHECK(parse_one(R"({"script": "#!/bin/sh\n", "argv": ["x"]})").name == "script");
  CHECK(parse_one(R"({"argv": ["/"]})").name == "job");
  CHECK(parse_one(R"({"argv": ["a\nb"]})").name == "job");
}

TEST_CASE("a percent sign in the folder of a job file is not a pattern") {
  const JobSpec spec =
      parse_one(R"({"argv": ["true"], "standard_output": "%j", "standard_error": "/a/%j"})", "/100%j");
  CHECK(spec.standard_output == "/100%%j/%j");
  CHECK(spec.standard_error == "/a/%j");
  CHECK(parse_one(to_json_text(spec), "/100%j") == spec);
}

TEST_CASE("a path keeps its parent components, for a symbolic link may come before them") {
  CHECK(parse_one(R"({"argv": ["true"], "standard_input": "./a//../b/"})").standard_input == "/jobs/a/../b");
}

TEST_CASE("how much a text holds is told without parsing it") {
  CHECK(extent_of_json("").values == 1);
  CHECK(extent_of_json("").elements == 1);
  CHECK(extent_of_json(R"({"argv": ["a", "b,[{", "\\"], "x": {}})").elements == 1);
  CHECK(extent_of_json(R"({"argv": ["a", "b,[{", "\\"], "x": {}})").values == 7);
  CHECK(extent_of_json(R"( [{"argv": ["a", "b"]}, {"argv": ["\",["]} , {}] )").elements == 3);
  CHECK(extent_of_json("[[1,2],[3]]").elements == 2);
  CHECK(extent_of_json("]]]],[").values > 1);
  const std::string many = "[{}" + [] {
    std::string text;
    for (int i = 0; i < 999; ++i) {
      text += ",{}";
    }
    return text;
  }() + "]";
  CHECK(extent_of_json(many).elements == 1000);
  CHECK(extent_of_json(many).values >= 1001);
  CHECK(excess_of_request(many).empty());
  CHECK(excess_of_request("[" + std::string(99'999, ',') + "]").empty());
  CHECK_FALSE(excess_of_request("[" + std::string(100'000, ',') + "]").empty());
}

TEST_CASE("a file of many jobs names the job of each fault") {
  CHECK(faults_of(R"([{"argv": ["true"]}, {"argv": ["true"], "nice": "x"}, {}])") ==
        "job.json: /1/nice: \"x\" is a string; give an integer from -2147483645 to 2147483645\n"
        "job.json: /2: has no command; add \"argv\": [\"COMMAND\", …] or a \"script\"\n");
}

/// The jobs of all pieces; nothing where there are none, or one of them is refused.
std::vector<JobSpec> parse_pieces(const std::string& text, std::size_t most) {
  std::vector<JobSpec> jobs;
  try {
    for (const std::string& piece : split_job_array(text, most)) {
      const std::vector<JobSpec> some = parse_many_jobs(piece, "job.json", kDirectory);
      REQUIRE(some.size() <= most);
      jobs.insert(jobs.end(), some.begin(), some.end());
    }
  } catch (const InputError&) {
    return {};
  }
  return jobs;
}

std::vector<JobSpec> parse_whole(const std::string& text) {
  try {
    return parse_many_jobs(text, "job.json", kDirectory);
  } catch (const InputError&) {
    return {};
  }
}

/// The form, with texts in the places of their marks.
std::string filled(const std::string& form, const std::map<char, std::string>& texts) {
  std::string whole;
  for (const char mark : form) {
    const auto found = texts.find(mark);
    whole += found == texts.end() ? std::string(1, mark) : found->second;
  }
  return whole;
}

TEST_CASE("an array of jobs in pieces is the same jobs, and no other text is taken in pieces") {
  std::vector<CorpusFile> files = corpus("good");
  const std::vector<CorpusFile> bad = corpus("bad");
  const std::string plain = R"({"argv": ["true"]})";
  const std::string awkward = R"({"argv": ["]}[{,\"],\\", "\\\""], "comment": "[\"", "name": "\\"})";
  files.insert(files.end(), bad.begin(), bad.end());
  for (const char* text : {"", " ", "[]", "[ ]", "[", "]", "[,]", "[[]]", "[{}]", "{}", "\"[]\"", "[\"]"}) {
    files.push_back({"", text, text, ""});
  }
  std::size_t taken = 0;
  for (const CorpusFile& file : files) {
    INFO(file.name);
    const std::string& text = file.text;
    for (const char* form :
         {"$", "[$]", "[$,@]", "[@,\n$ , #]\n", "[@,#,$,@,@]", "[@,]$", "[@],[$]", "[@$]"}) {
      const std::string whole = filled(form, {{'$', text}, {'@', plain}, {'#', awkward}});
      const std::vector<JobSpec> expected = parse_whole(whole);
      const bool is_array = whole.find_first_not_of(" \t\r\n") == whole.find('[');
      for (const std::size_t most : {1U, 2U, 3U, 100U}) {
        CHECK(parse_pieces(whole, most) == (is_array ? expected : std::vector<JobSpec>{}));
      }
      taken += is_array ? expected.size() : 0;
    }
  }
  CHECK(taken > 100);
}

TEST_CASE("arguments and variables end where execve ends") {
  const std::string longest(131'071, 'x');
  CHECK(faults_of(R"({"argv": ["true", ")" + longest + R"("]})").empty());
  CHECK_THAT(faults_of(R"({"argv": ["true", "x)" + longest + R"("]})"),
             Contains("/argv/1") && Contains("131071 bytes"));
  CHECK_THAT(faults_of(R"({"argv": ["true"], "environment": {"A": ")" + longest + R"("}})"),
             Contains("/environment/A") && Contains("131071 bytes"));
}

TEST_CASE("hostile sizes neither crash nor take long") {
  CHECK_THAT(faults_of(std::string(1'000'000, '[')), Contains("nested too deeply"));
  std::string keys = R"({"argv": ["true"], "environment": {)";
  for (int index = 0; index < 50'000; ++index) {
    keys += (index == 0 ? "\"V" : ", \"V") + std::to_string(index) + "\": \"x\"";
  }
  CHECK(parse_one(keys + "}}").environment.size() == 50'000);
  const std::string long_text(1'000'000, '0');
  CHECK_THAT(faults_of(R"({"argv": ["true"], "memory_per_node": ")" + long_text + "\"}"),
             Contains("too long"));
  CHECK_THAT(faults_of("{\"" + long_text + "\": 1}"), Contains("is not a known field"));
  CHECK(parse_one(R"({"argv": ["true"], "comment": ")" + long_text + "\"}").comment == long_text);
  CHECK(parse_one(R"({"script": "#!/bin/sh\n)" + long_text + "\"}").script.size() == long_text.size() + 10);
}

TEST_CASE("so many faults are told, and the rest is not looked for") {
  std::string unknown = R"({"argv": ["true"])";
  std::string repeated = R"({"argv": ["true"])";
  for (int index = 0; index < 1000; ++index) {
    unknown += ", \"priorit" + std::to_string(index) + "\": 1";
    repeated += R"(, "nice": 1)";
  }
  for (const std::string& text : {unknown + "}", repeated + "}"}) {
    const std::string faults = faults_of(text);
    CHECK(std::count(faults.begin(), faults.end(), '\n') == kMostFaults + 1);
    CHECK(faults.ends_with("these are the first 100\n"));
  }
}

TEST_CASE("a command-line job is checked by the rules of job files") {
  JobSpec spec = minimal_spec();
  const JobSpec valid = validated(spec, "command line");
  CHECK(valid.name == "true");
  CHECK(valid.current_working_directory == std::filesystem::current_path());
  spec.cpus_per_task = 0;
  spec.name = "a/b";
  spec.grace_period = -5ms;
  spec.limits.cpu_quota = std::numeric_limits<double>::quiet_NaN();
  spec.isolation.root_writable = true;
  CHECK(faults_of(spec) ==
        "command line: /name: \"a/b\" cannot be part of a file name; use a name without \"/\"\n"
        "command line: /cpus_per_task: 0 is out of range; give an integer from 1 to 65536\n"
        "command line: /grace_period: \"-5ms\" is not a duration (use 90s, 10min, 1-12:00:00 …)\n"
        "command line: /limits/cpu_quota: null is out of range; give a number of CPUs from 0.01 to 65536\n"
        "command line: /isolation/root/path: \"\" is empty; leave the field out or give it a value");
}

TEST_CASE("a command line with bytes that JSON cannot hold is refused") {
  JobSpec spec = minimal_spec();
  for (const char* bytes : {"caf\xe9", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82"}) {
    spec.argv = {"echo", bytes};
    CHECK_THAT(faults_of(spec), Contains("command line: /argv/1") && Contains("is not valid UTF-8"));
  }
  spec.argv = {"echo", "ü€𝄞"};
  CHECK(faults_of(spec).empty());
  spec.argv = {"echo", std::string("a\0b", 3)};
  CHECK_THAT(faults_of(spec), Contains("NUL byte"));
  CHECK_THAT(faults_of(JobSpec{}), Contains("has no command"));
}

/// A folder that is removed with what is in it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "berth-job-file-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::filesystem::path path() const { return path_; }

 private:
  std::filesystem::path path_;
};

TEST_CASE("relative paths of a loaded file start at its own folder") {
  const TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "job.json";
  std::ofstream(file) << R"({"argv": ["true"], "standard_output": "out.txt"})";
  const JobSpec spec = read_job_text(file.string()).parse().at(0);
  CHECK(spec.current_working_directory == folder.path());
  CHECK(spec.standard_output == folder.path() / "out.txt");
}

TEST_CASE("a file that cannot be read is a fault that names it") {
  CHECK_THROWS_WITH(
      read_job_text("/nonexistent/job.json"),
      "/nonexistent/job.json: cannot open it: No such file or directory; check the path and its permissions");
  CHECK_THROWS_WITH(read_job_text("/tmp"), Contains("/tmp: cannot read it: Is a directory"));
}

}  // namespace
}  // namespace berth
