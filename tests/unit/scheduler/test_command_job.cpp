#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <string>
#include <vector>

#include "scheduler/command_job.h"
#include "scheduler/run_jobs_input.h"
#include "schemas/input_error.h"
#include "tests/support/temporary_directory.h"

namespace berth {
namespace {

using Words = std::vector<std::string>;

const CallerContext kCaller{
    "/home/ann/project",
    {{"PATH", "/bin"}, {"CI", "true"}, {"HOME", "/home/ann"}, {"SUDO_UID", "1"}, {"A", "1"}}};

JobSpec job(Words options, const Words& command = {"/usr/bin/make", "all"}) {
  options.insert(options.begin(), "run");
  options.emplace_back("--");
  options.insert(options.end(), command.begin(), command.end());
  return job_from_options(parse_command_line(options), kCaller);
}

Words faults(const Words& options, const Words& command = {"true"}) {
  Words result;
  try {
    job(options, command);
  } catch (const InputError& error) {
    for (const InputFault& fault : error.faults()) {
      result.push_back(fault.to_string());
    }
  }
  return result;
}

TEST_CASE("a bare command gets its name from the program and its folder from the caller") {
  const JobSpec spec = job({});
  CHECK(spec.name == "make");
  CHECK(spec.argv == Words{"/usr/bin/make", "all"});
  CHECK(spec.current_working_directory == "/home/ann/project");
  CHECK(spec.isolation.network.mode == NetworkMode::loopback);
}

TEST_CASE("no time limit is written as for sbatch, or as zero in any form") {
  for (const char* none : {"0", "00:00", "0-0", "0-00:00:00", "UNLIMITED", "infinite"}) {
    CAPTURE(none);
    CHECK(job({"-t", none}).time_limit == std::nullopt);
  }
  CHECK(faults({"-t", "-"}).size() == 1);
  CHECK(faults({"-t", "never"}).size() == 1);
}

TEST_CASE("the caller's umask is the job's") {
  CHECK_FALSE(job({}).umask);
  CallerContext caller = kCaller;
  caller.umask = 077;
  CHECK(job_from_options(parse_command_line({"run", "--", "true"}), caller).umask == 077U);
  const mode_t before = ::umask(027);
  CHECK(caller_context().umask == 027U);
  ::umask(before);
}

TEST_CASE("sbatch's options fill the fields that they name in a job file") {
  const JobSpec spec = job({"-J",         "n",  "-c",       "2",         "-t",          "10",     "--mem",
                            "512",        "-A", "acct",     "--comment", "c d",         "--nice", "-3",
                            "--priority", "7",  "--signal", "B:USR1@90", "--open-mode", "append", "-o",
                            "out-%j",     "-e", "/abs/err", "-i",        "in",          "-D",     "sub"});
  CHECK(spec.name == "n");
  CHECK(spec.cpus_per_task == 2);
  CHECK(spec.time_limit == std::chrono::minutes(10));
  CHECK(spec.memory_per_node == Bytes{512} * 1024 * 1024);
  CHECK(spec.account == "acct");
  CHECK(spec.comment == "c d");
  CHECK(spec.nice == -3);
  CHECK(spec.priority == 7);
  CHECK(spec.kill_warning_signal == 10);
  CHECK(spec.kill_warning_delay == std::chrono::seconds(90));
  CHECK(spec.kill_warning_batch_job);
  CHECK(spec.open_mode == OpenMode::append);
  CHECK(spec.standard_output == "/home/ann/project/out-%j");
  CHECK(spec.standard_error == "/abs/err");
  CHECK(spec.standard_input == "/home/ann/project/in");
  CHECK(spec.current_working_directory == "/home/ann/project/sub");
}

TEST_CASE("berth's own options fill limits and isolation") {
  const JobSpec spec = job({"--cpu-time",
                            "90",
                            "--cpu-quota",
                            "0.5",
                            "--cpu-weight",
                            "200",
                            "--swap",
                            "1G",
                            "--pids",
                            "50",
                            "--output-limit",
                            "1M",
                            "--tmpfs",
                            "64M",
                            "--open-files",
                            "256",
                            "--file-size",
                            "2M",
                            "--core-size",
                            "3M",
                            "--stack-size",
                            "4M",
                            "--locked-memory",
                            "5M",
                            "--grace",
                            "3",
                            "--no-output-timeout",
                            "2",
                            "--network",
                            "none",
                            "--hostname",
                            "h1",
                            "--user",
                            "1000:100",
                            "--overlay",
                            "--device",
                            "/dev/fuse",
                            "--seccomp",
                            "none",
                            "--time-offset",
                            "monotonic=100,boottime=-5",
                            "--net-class",
                            "10:1",
                            "--hugetlb",
                            "2MB=4M",
                            "--io",
                            "254:0:read_bps=1M,write_iops=10"});
  CHECK(spec.limits.cpu_time == std::chrono::seconds(90));
  CHECK(spec.limits.cpu_quota == 0.5);
  CHECK(spec.limits.cpu_weight == 200U);
  CHECK(spec.limits.swap == Bytes{1} << 30U);
  CHECK(spec.limits.pids == 50U);
  CHECK(spec.limits.output == Bytes{1} << 20U);
  CHECK(spec.limits.tmpfs == Bytes{64} << 20U);
  CHECK(spec.limits.open_files == 256U);
  CHECK(spec.limits.file_size == Bytes{2} << 20U);
  CHECK(spec.limits.core_size == Bytes{3} << 20U);
  CHECK(spec.limits.stack_size == Bytes{4} << 20U);
  CHECK(spec.limits.locked_memory == Bytes{5} << 20U);
  CHECK(spec.limits.net_class == 0x100001U);
  CHECK(spec.limits.hugetlb.at("2MB") == Bytes{4} << 20U);
  REQUIRE(spec.limits.io.size() == 1);
  CHECK(spec.limits.io[0].device == "254:0");
  CHECK(spec.limits.io[0].read_bytes_per_second == 1U << 20U);
  CHECK(spec.limits.io[0].write_operations_per_second == 10U);
  CHECK(spec.grace_period == std::chrono::seconds(3));
  CHECK(spec.no_output_timeout == std::chrono::seconds(2));
  CHECK(spec.isolation.network.mode == NetworkMode::none);
  CHECK(spec.isolation.hostname == "h1");
  CHECK(spec.isolation.user == "1000:100");
  CHECK(spec.isolation.overlay);
  CHECK(spec.isolation.devices == Words{"/dev/fuse"});
  CHECK_FALSE(spec.isolation.seccomp);
  CHECK(spec.isolation.time_offset_monotonic_seconds == 100);
  CHECK(spec.isolation.time_offset_boottime_seconds == -5);
}

TEST_CASE("mounts are read in the short and the long form, read-only unless they say rw") {
  const auto mounts = job({"--mount", "/a", "--mount", "/b:/in", "--mount", "/c:/d:rw", "--mount", "/e:rw",
                           "--mount", "type=bind,source=/s,target=/t,rw", "--mount", "src=/u", "--mount",
                           "type=tmpfs,target=/scratch,size=64M"})
                          .isolation.mounts;
  REQUIRE(mounts.size() == 7);
  CHECK(mounts[0] == Mount{Mount::Kind::bind, "/a", "/a", true, {}});
  CHECK(mounts[1] == Mount{Mount::Kind::bind, "/b", "/in", true, {}});
  CHECK(mounts[2] == Mount{Mount::Kind::bind, "/c", "/d", false, {}});
  CHECK(mounts[3] == Mount{Mount::Kind::bind, "/e", "/e", false, {}});
  CHECK(mounts[4] == Mount{Mount::Kind::bind, "/s", "/t", false, {}});
  CHECK(mounts[5] == Mount{Mount::Kind::bind, "/u", "/u", true, {}});
  CHECK(mounts[6].kind == Mount::Kind::tmpfs);
  CHECK(mounts[6].target == "/scratch");
  CHECK(mounts[6].size == Bytes{64} << 20U);
}

TEST_CASE("all faults come at once, each with its option and its text") {
  const Words found = faults(
      {"--mem", "2GX", "--pids", "many", "--signal", "NOPE", "--network", "bridge", "--mount", "/a:/b:/c"});
  REQUIRE(found.size() == 5);
  std::string all;
  for (const std::string& fault : found) {
    all += fault + "\n";
  }
  CHECK_THAT(all, Catch::Contains("command line: --mem: \"2GX\" is not a size"));
  CHECK_THAT(all, Catch::Contains("--pids: \"many\""));
  CHECK_THAT(all, Catch::Contains("--signal: \"NOPE\""));
  CHECK_THAT(all, Catch::Contains("--network: \"bridge\" is not a network"));
  CHECK_THAT(all, Catch::Contains("--mount: \"/a:/b:/c\""));
}

TEST_CASE("an --env without a value names a variable that is set") {
  CHECK_THAT(faults({"--env", "MISSING"}).at(0), Catch::Contains("--env: \"MISSING\" is neither NAME=VALUE"));
}

TEST_CASE("of an option given twice the last one alone is judged and counts") {
  CHECK(
      job({"--nodes", "4", "--mem", "0", "-t", "bad", "-N", "1", "--mem", "4G", "-t", "1"}).memory_per_node ==
      Bytes{4} << 30U);
  const JobSpec spec =
      job({"-t", "10", "--network", "private", "--rate", "in=1M,out=1M", "--rate", "in=5M", "--time-offset",
           "boottime=1", "--time-offset", "boottime=2", "--signal", "B:USR1@300", "--signal", "TERM"});
  CHECK(spec.isolation.network.rate_in == Bytes{5} << 20U);
  CHECK_FALSE(spec.isolation.network.rate_out);
  CHECK(spec.isolation.time_offset_boottime_seconds == 2);
  CHECK(spec.kill_warning_signal == 15);
  CHECK(spec.kill_warning_delay == std::chrono::seconds(60));
  CHECK_FALSE(spec.kill_warning_batch_job);
}

TEST_CASE("of --mem and --mem-per-cpu the last one counts") {
  CHECK(job({"-c", "2", "--mem-per-cpu", "2G", "--mem", "3G"}).memory_per_node == Bytes{3} << 30U);
  CHECK(job({"-c", "2", "--mem", "0", "--mem-per-cpu", "2G"}).memory_per_node == Bytes{4} << 30U);
  CHECK_THAT(faults({"--mem-per-cpu", "2G", "--mem", "1K"}).at(0), Catch::Contains("--mem: \"1K\" "));
  CHECK_THAT(faults({"--mem", "2G", "--mem-per-cpu", "1K"}).at(0), Catch::Contains("--mem-per-cpu: \"1K\" "));
}

TEST_CASE("what an option says twice is refused") {
  for (const Words& options : {Words{"--io", "/dev/vda:read_bps=1M,read_bps=2M"},
                               Words{"--hugetlb", "2MB=64M", "--hugetlb", "2MB=32M"},
                               Words{"--time-offset", "boottime=1,boottime=2"},
                               Words{"--network", "private", "--rate", "in=1M,in=2M"}}) {
    const Words found = faults(options);
    CAPTURE(options);
    REQUIRE(found.size() == 1);
    CHECK_THAT(found[0], Catch::Contains("twice") || Catch::Contains("second time"));
  }
}

TEST_CASE("what a line of a script says about a mount, a device or a page size can be said otherwise") {
  CommandLine line = parse_command_line({"run", "--hugetlb", "2MB=64M", "--mount", "/b:/d:rw", "--mount",
                                         "/c", "--io", "/dev/vda:read_bps=2M", "--", "true"});
  const CommandLine written =
      parse_command_line({"run", "--hugetlb", "2MB=128M", "--hugetlb", "1GB=1G", "--mount", "/a:/d", "--io",
                          "/dev/vda:write_bps=1M", "--", "true"});
  CommandLine script = parse_command_line({"run", "--", "true"});
  script.append(written, "job.sh: line 2");
  line.inherit(script);
  const JobSpec spec = job_from_options(line, kCaller);
  CHECK(spec.limits.hugetlb ==
        std::map<std::string, Bytes>{{"2MB", Bytes{64} << 20U}, {"1GB", Bytes{1} << 30U}});
  REQUIRE(spec.isolation.mounts.size() == 2);
  CHECK(spec.isolation.mounts[0].source == "/b");
  REQUIRE(spec.limits.io.size() == 1);
  CHECK_FALSE(spec.limits.io[0].write_bytes_per_second);
}

TEST_CASE("a fault of what belongs to an option that was not given names one that was") {
  CHECK_THAT(faults({"--add-host", "a:10.0.0.1"}).at(0), Catch::StartsWith("command line: --add-host: "));
  CHECK_THAT(faults({"--dns-search", "a.org"}).at(0), Catch::StartsWith("command line: --dns-search: "));
  CHECK_THAT(faults({"--dns", "9.9.9.9", "--dns-search", "a.org"}).at(0),
             Catch::StartsWith("command line: --dns: "));
}

TEST_CASE("a memory factor is a number from 1 to 100") {
  for (const char* text : {"0", "nan", "inf", "-2", "101", "x"}) {
    CAPTURE(text);
    try {
      job_from_options(parse_command_line({"submit", "--retry", "1", "--memory-factor", text, "--", "true"}),
                       kCaller);
      FAIL("taken");
    } catch (const InputError& error) {
      CHECK_THAT(error.what(), Catch::Contains("--memory-factor: ") && Catch::Contains("from 1 to 100"));
    }
  }
}

TEST_CASE("mounts and roots that contradict themselves are refused in the words of the options") {
  const auto fault = [](const Words& options) {
    const Words found = faults(options);
    REQUIRE(found.size() == 1);
    return found[0];
  };
  CHECK_THAT(fault({"--mount", "type=tmpfs,target=/s"}), Catch::EndsWith("add one, e.g. size=64M"));
  CHECK_THAT(fault({"--mount", "ro,type=tmpfs,target=/s,size=1M"}), Catch::EndsWith("remove ro"));
  CHECK_THAT(fault({"--mount", "type=tmpfs,source=/x,target=/s,size=1M"}),
             Catch::Contains("has no source") && !Catch::Contains("\"source\""));
  CHECK_THAT(fault({"--mount", "source=/x,size=1M"}), Catch::Contains("bind mount, which has no size"));
  CHECK_THAT(fault({"--mount", "type=tmpfs,size=1M"}), Catch::EndsWith("add target=PATH"));
  CHECK_THAT(fault({"--root-writable"}), Catch::Contains("--root-writable: says nothing without --root"));
  CHECK(job({"--mount", "type=tmpfs,target=/s,size=1M,rw"}).isolation.mounts.size() == 1);
}

TEST_CASE("an empty value, as of a variable that is not set, is refused and not taken for none") {
  for (const char* option : {"--root", "--user", "-o", "-e", "-i", "-D", "-J", "-A", "--hostname", "--env",
                             "--export", "--mem", "-t", "--network", "--mount", "--device", "--nice"}) {
    const Words found = faults({option, ""});
    REQUIRE(found.size() == 1);
    CHECK_THAT(found[0], Catch::EndsWith(": \"\" is empty; leave the option out or give it a value"));
  }
  CHECK(faults({"--comment", ""}).empty());
  CHECK(job({"--env", "A="}).environment.at("A").empty());
}

TEST_CASE("what only the job file's rules find is named by option too") {
  const Words found = faults({"-c", "0", "--cpu-weight", "20000"});
  REQUIRE(found.size() == 2);
  CHECK_THAT(found[0] + found[1], Catch::Contains("--cpus-per-task") && Catch::Contains("--cpu-weight"));
  CHECK_THAT(found[0] + found[1], !Catch::Contains("/limits"));
  CHECK_THAT(faults({"--signal", "USR1"}).at(0), Catch::EndsWith("add --time"));
  CHECK_THAT(faults({"--signal", "USR1@60", "-t", "10s"}).at(0), Catch::EndsWith("give a shorter @SECONDS"));
  CHECK_THAT(faults({"--cpu-quota", "0"}).at(0), Catch::Contains("--cpu-quota: 0 is"));
  CHECK(
      in_terms_of_options(*find_command("run"), "job \"x\": limits.io: no; limits.memory_high, limits.iox") ==
      "job \"x\": --io: no; --memory-high, limits.iox");
}

TEST_CASE("a variable where Docker has one is not taken for the file of standard error") {
  for (const char* variable : {"FOO=1", "foo=bar", "VERSION=1.2", "PATH=/bin", "_X="}) {
    CAPTURE(variable);
    REQUIRE(faults({"-e", variable}).size() == 1);
    CHECK_THAT(faults({"-e", variable})[0], Catch::Contains("--env " + std::string(variable)));
  }
  for (const char* file : {"./FOO=1", "lr=0.1.err", "J=%j.err", "=x", "a-b=1", "1=2", "plain"}) {
    CAPTURE(file);
    CHECK(faults({"-e", file}).empty());
  }
}

TEST_CASE("text that is not UTF-8 is refused before it gets into a record") {
  CHECK(faults({}, {"cat", "\xff\xfe"}).size() == 1);
  CHECK(faults({"--comment", "\xc3\x28"}).size() == 1);
  CHECK(faults({"--comment", "grün …"}).empty());
}

TEST_CASE("the caller's environment is exported, but for what describes the session") {
  const JobSpec spec = job({});
  CHECK(spec.environment.at("CI") == "true");
  CHECK(spec.environment.at("PATH") == "/bin");
  CHECK_FALSE(spec.environment.contains("HOME"));
  CHECK_FALSE(spec.environment.contains("SUDO_UID"));
}

TEST_CASE("--export takes NONE, names, values and ALL among them") {
  for (const char* none : {"--export=NONE", "--export=none", "--export=Nil"}) {
    CHECK(job({none}).environment.empty());
  }
  CHECK(job({"--export=all"}).environment == job({"--export=ALL"}).environment);
  CHECK(job({"--export=A,X=y=z,MISSING"}).environment ==
        std::map<std::string, std::string>{{"A", "1"}, {"X", "y=z"}});
  const auto all = job({"--export=ALL,HOME,A=2"}).environment;
  CHECK(all.at("HOME") == "/home/ann");
  CHECK(all.at("A") == "2");
  CHECK(all.at("CI") == "true");
}

TEST_CASE("--export's values in quotes may hold commas, as for sbatch") {
  CHECK(exported_environment("A=\"x,y\",B='1',CI", kCaller.environment) ==
        std::map<std::string, std::string>{{"A", "x,y"}, {"B", "1"}, {"CI", "true"}});
  CHECK(exported_environment("A=\"x,B=it's", {}) ==
        std::map<std::string, std::string>{{"A", "\"x"}, {"B", "it's"}});
}

TEST_CASE("a job with a working directory of its own knows where it was submitted") {
  CHECK(job({"-D", "/scratch"}).environment.at("SLURM_SUBMIT_DIR") == "/home/ann/project");
  CHECK_FALSE(job({}).environment.contains("SLURM_SUBMIT_DIR"));
  CHECK(job({"-D", "/s", "--env", "SLURM_SUBMIT_DIR=/x"}).environment.at("SLURM_SUBMIT_DIR") == "/x");
}

TEST_CASE("--env is stronger than --export and keeps commas") {
  const auto environment = job({"--export=NONE", "--env", "X=1,2", "--env", "CI"}).environment;
  CHECK(environment == std::map<std::string, std::string>{{"X", "1,2"}, {"CI", "true"}});
}

TEST_CASE("a script is a job whose arguments follow it") {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/nightly.sh";
  std::ofstream(path) << "#!/bin/sh\necho $1\n";
  JobTexts texts;
  const CommandLine line =
      parse_command_line({"run", "-c", "2", path, "one", "-c", "3"},
                         [&](const std::string& operand) { return texts.is_script(operand); });
  const JobText* script = texts.script_of(line);
  REQUIRE(script != nullptr);
  const RequestedJobs requested = script_job(line, *script);
  REQUIRE(requested.jobs.size() == 1);
  const JobSpec& spec = requested.jobs[0].spec;
  CHECK(spec.script == "#!/bin/sh\necho $1\n");
  CHECK(spec.argv == Words{"one", "-c", "3"});
  CHECK(spec.name == "nightly.sh");
  CHECK(spec.cpus_per_task == 2);
  CHECK(requested.from_options);
}

TEST_CASE(
    "job files are read all, faults of all come at once, and options of a job are refused beside them") {
  const TemporaryDirectory directory;
  std::ofstream(directory.path() + "/good.json") << R"([{"argv":["a"]},{"argv":["b"]}])";
  std::ofstream(directory.path() + "/bad.json") << R"({"argvv":["a"]})";
  const std::string good = directory.path() + "/good.json";
  const std::string bad = directory.path() + "/bad.json";
  JobTexts texts;
  CHECK(requested_jobs(parse_command_line({"run", good, good}), texts).jobs.size() == 4);
  CHECK_THROWS_AS(requested_jobs(parse_command_line({"run", "--mem", "1G", good}), texts), UsageError);
  CHECK_NOTHROW(requested_jobs(parse_command_line({"run", "--slots", "1", "--json", good}), texts));
  CHECK_THROWS_AS(requested_jobs(parse_command_line({"run", good, "--", "make"}), texts), UsageError);
  CHECK_THROWS_AS(requested_jobs(parse_command_line({"run"}), texts), UsageError);
  try {
    requested_jobs(parse_command_line({"run", bad, good, directory.path() + "/none.json"}), texts);
    FAIL("accepted");
  } catch (const InputError& error) {
    CHECK(error.faults().front().file == bad);
    CHECK(error.faults().back().file == directory.path() + "/none.json");
  }
}

TEST_CASE("the bounds of the pool are checked") {
  const PoolBounds bounds =
      pool_bounds(parse_command_line({"run", "--slots", "3", "--cpus", "0-1", "--memory", "2G"}));
  CHECK(bounds.slots == 3U);
  CHECK(bounds.cpus == CpuSet{0, 1});
  CHECK(bounds.memory == Bytes{2} << 30U);
  try {
    pool_bounds(parse_command_line({"run", "--slots", "0", "--cpus", "x", "--memory", "y"}));
    FAIL("accepted");
  } catch (const InputError& error) {
    CHECK(error.faults().size() == 3);
  }
  CHECK_THROWS_WITH(pool_bounds(parse_command_line({"run", "--cpus", "1.5"})),
                    Catch::Contains("is --cpu-quota"));
}

}  // namespace
}  // namespace berth
