#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "scheduler/command_line.h"
#include "scheduler/completion.h"
#include "scheduler/help.h"
#include "scheduler/manual_page.h"
#include "schemas/job_file.h"

namespace berth {
namespace {

using Words = std::vector<std::string>;

std::string usage_fault(const Words& words) {
  try {
    parse_command_line(words);
  } catch (const UsageError& error) {
    return error.what();
  }
  return {};
}

int usage_status(const Words& words) {
  try {
    parse_command_line(words);
  } catch (const UsageError& error) {
    return error.status();
  }
  return 0;
}

TEST_CASE("option values are taken after a space, after an equals sign and stuck to the letter") {
  for (const Words& words : {Words{"run", "--mem", "2G", "--", "x"}, Words{"run", "--mem=2G", "--", "x"}}) {
    CHECK(parse_command_line(words).value("mem") == "2G");
  }
  for (const Words& words : {Words{"run", "-c", "3", "--", "x"}, Words{"run", "-c3", "--", "x"}}) {
    CHECK(parse_command_line(words).value("cpus-per-task") == "3");
  }
}

TEST_CASE("everything after two dashes belongs to the job's command") {
  const CommandLine line =
      parse_command_line({"run", "-c", "2", "--", "make", "-c", "--mem", "9", "--", "x"});
  CHECK(line.value("cpus-per-task") == "2");
  CHECK_FALSE(line.has("mem"));
  CHECK(line.job_command == Words{"make", "-c", "--mem", "9", "--", "x"});
  CHECK(line.operands.empty());
}

TEST_CASE("what follows a script is the script's, and what follows another file is not") {
  const auto parse = [](const Words& words) {
    return parse_command_line(words, [](const std::string& operand) { return operand.ends_with(".sh"); });
  };
  // Values of options are no operands, however the option is written.
  for (const Words& begin :
       {Words{"run", "-vqc", "2"}, Words{"run", "-vqc2"}, Words{"run", "--cpus-per-task", "2"},
        Words{"run", "--cpus-per-task=2"}, Words{"run", "-J", "x.sh", "-c", "2"}}) {
    Words words = begin;
    words.insert(words.end(), {"a.sh", "-c", "3", "--", "b.sh"});
    const CommandLine line = parse(words);
    CHECK(line.value("cpus-per-task") == "2");
    CHECK(line.operands == Words{"a.sh"});
    CHECK(line.job_command == Words{"-c", "3", "--", "b.sh"});
  }
  CHECK(parse({"submit", "a.sh"}).job_command == Words{});
  const CommandLine files = parse({"run", "a.json", "--slots", "2", "b.json"});
  CHECK(files.value("slots") == "2");
  CHECK(files.operands == Words{"a.json", "b.json"});
  CHECK(parse({"run", "--", "a.sh", "-c"}).job_command == Words{"a.sh", "-c"});
  CHECK(parse({"check", "a.sh", "--schema"}).has("schema"));
  CHECK_THROWS_AS(parse({"run", "--no-such", "a.sh"}), UsageError);
}

TEST_CASE("two dashes end the options of a command that takes files") {
  const CommandLine line = parse_command_line({"check", "--", "--odd.json"});
  CHECK(line.operands == Words{"--odd.json"});
  CHECK_FALSE(line.job_command.has_value());
}

TEST_CASE("global options are taken before and after the command") {
  CHECK(parse_command_line({"--database", "run", "history"}).value("database") == "run");
  CHECK(parse_command_line({"history", "--database=x"}).value("database") == "x");
  CHECK(parse_command_line({"-vv", "history", "-v"}).count("verbose") == 3);
}

TEST_CASE("a command that reads no database refuses one") {
  for (const char* command : {"queue", "logs", "wait", "why", "submit", "check", "cancel"}) {
    CHECK_THAT(usage_fault({command, "--database", "x", "1"}), Catch::Contains("leave --database out"));
    CHECK_THAT(usage_fault({"--database", "x", command, "1"}), Catch::Contains("leave --database out"));
  }
  for (const char* command : {"history", "show", "efficiency", "run"}) {
    CHECK(usage_fault({command, "--database", "x", "1"}).empty());
  }
  CHECK(usage_fault({"report", "--database", "x"}).empty());
}

TEST_CASE("negative numbers are values") {
  CHECK(parse_command_line({"run", "--nice", "-5", "--", "x"}).value("nice") == "-5");
  CHECK(parse_command_line({"run", "--priority=-5", "--", "x"}).value("priority") == "-5");
}

TEST_CASE("the last of an option given twice wins, a repeatable one keeps all") {
  const CommandLine line =
      parse_command_line({"run", "-t", "1", "--mount", "/a", "-t", "2", "--mount", "/b", "--", "x"});
  CHECK(line.value("time") == "2");
  CHECK(line.values("mount") == Words{"/a", "/b"});
}

TEST_CASE("lists that select jobs are added up, and marked so") {
  for (const char* command : {"history", "report", "queue", "cancel"}) {
    for (const Option& option : find_command(command)->options) {
      CAPTURE(command, option.name);
      const bool is_selection = option.argument == "LIST" && option.name != "format";
      CHECK(option.repeatable == is_selection);
    }
  }
}

TEST_CASE("an unknown option names the nearest known one") {
  CHECK_THAT(usage_fault({"run", "--memm", "1", "--", "x"}), Catch::Contains("did you mean --mem?"));
  CHECK_THAT(usage_fault({"run", "--netwrok=none", "--", "x"}), Catch::Contains("did you mean --network?"));
  CHECK_THAT(usage_fault({"history", "--fromat", "x"}), Catch::Contains("did you mean --format?"));
  CHECK_THAT(usage_fault({"run", "--qqqqqq", "--", "x"}), !Catch::Contains("did you mean"));
}

TEST_CASE("abbreviations are refused, with the whole name") {
  CHECK_THAT(usage_fault({"run", "--cpus-per", "1", "--", "x"}),
             Catch::Contains("did you mean --cpus-per-task?"));
}

TEST_CASE("an unknown command names the nearest known one, never a hidden one") {
  CHECK_THAT(usage_fault({"rnu"}), Catch::Contains("did you mean \"run\"?"));
  CHECK_THAT(usage_fault({"chekc", "x"}), Catch::Contains("did you mean \"check\"?"));
  CHECK_THAT(usage_fault({"generat"}), !Catch::Contains("generate\"?"));
  CHECK_THAT(usage_fault({"make"}), Catch::Contains("berth run -- make"));
}

TEST_CASE("of options that exclude each other the last one given counts") {
  const CommandLine line = parse_command_line({"submit", "--no-requeue", "--requeue", "--", "x"});
  CHECK(line.last_of({"requeue", "no-requeue"}) == "requeue");
  CHECK(parse_command_line({"submit", "--", "x"}).last_of({"requeue", "no-requeue"}).empty());
}

TEST_CASE("sbatch's options that are absent are refused by name with a remedy") {
  for (const AbsentOption& absent : absent_options()) {
    CAPTURE(absent.name);
    const std::string command(absent.command.empty() ? "run" : absent.command);
    CHECK_THAT(usage_fault({command, "--" + std::string(absent.name) + "=1"}),
               Catch::Contains("not supported yet"));
    CHECK_FALSE(absent.remedy.empty());
  }
  CHECK_THAT(usage_fault({"run", "-a", "1-3", "--", "x"}), Catch::Contains("-a is not supported yet"));
  CHECK_THAT(usage_fault({"queue", "-S", "t"}),
             Catch::Contains("-S is not supported yet; jobs are in order"));
  CHECK_THAT(usage_fault({"doctor", "-S"}), !Catch::Contains("supported"));
}

TEST_CASE("an option may have a value of its own before a word that is no number") {
  const auto nice = [](const std::vector<std::string>& words) {
    return parse_command_line(words, [](const std::string& word) { return word == "job.sh"; });
  };
  CHECK(nice({"submit", "--nice", "--wrap", "true"}).value("nice") == "100");
  CHECK(nice({"submit", "--nice", "--wrap", "true"}).value("wrap") == "true");
  CHECK(nice({"submit", "--wrap", "true", "--nice"}).value("nice") == "100");
  CHECK(nice({"submit", "--nice", "-5", "--wrap", "true"}).value("nice") == "-5");
  CHECK(nice({"submit", "--nice=7", "--wrap", "true"}).value("nice") == "7");
  const CommandLine input = nice({"submit", "--nice", "-"});
  CHECK(input.value("nice") == "100");
  CHECK(input.operands == std::vector<std::string>{"-"});
  CHECK(nice({"submit", "--nice", "+"}).value("nice") == "100");
  const CommandLine script = nice({"submit", "--nice", "job.sh", "--nice", "x"});
  CHECK(script.value("nice") == "100");
  CHECK(script.operands == std::vector<std::string>{"job.sh"});
  CHECK(script.job_command == std::vector<std::string>{"--nice", "x"});
  CHECK(nice({"run", "--comment", "--nice", "--", "x"}).value("comment") == "--nice");
}

TEST_CASE("Docker's and nsjail's words are refused with what to use, where they mean something else too") {
  CHECK_THAT(usage_fault({"run", "--rm", "--", "x"}), Catch::Contains("leave it out"));
  CHECK_THAT(usage_fault({"run", "-m", "512m", "--", "x"}), Catch::Contains("--mem"));
  CHECK_THAT(usage_fault({"submit", "-w", "/srv", "--", "x"}), Catch::Contains("-D"));
  CHECK_THAT(usage_fault({"run", "--time_limit", "9", "--", "x"}), Catch::Contains("use --time"));
  CHECK_THAT(usage_fault({"run", "-it", "--", "bash"}), Catch::Contains("use --pty"));
  CHECK_THAT(usage_fault({"run", "-h", "web", "--", "x"}), Catch::Contains("--hostname"));
  CHECK_THAT(usage_fault({"queue", "-h", "-o", "JobID"}), Catch::Contains("without the header use -n"));
  CHECK(parse_command_line({"queue", "-h"}).has("help"));
  CHECK(parse_command_line({"run", "-c", "2", "-h", "--", "x"}).has("help"));
  CHECK(parse_command_line({"run", "-h", "a.sh", "b"}, [](const auto&) { return true; }).has("help"));
  // Of sbatch, and nothing to exec.
  CHECK_THAT(usage_fault({"exec", "-w", "/", "36", "--", "sh"}), Catch::Contains("use -D"));
  CHECK_THAT(usage_fault({"exec", "--array", "1", "36", "--", "sh"}), !Catch::Contains("submit"));
  CHECK_THAT(usage_fault({"exec", "36", "ps"}), Catch::Contains("after \"--\": -- ps"));
  CHECK_THAT(usage_fault({"signal", "-s", "USR1", "36"}), Catch::Contains("berth signal USR1 36"));
}

TEST_CASE("Slurm's programs and Docker's commands are told as berth's commands") {
  CHECK_THAT(usage_fault({"ps"}), Catch::Contains("use berth queue") && Catch::Contains("berth run -- ps"));
  CHECK_THAT(usage_fault({"sacctmgr", "x"}), Catch::Contains("nothing like it"));
  CHECK_THAT(usage_fault({"sacct", "-X"}), Catch::Contains("use berth history"));
  CHECK_THAT(usage_fault({"sbatch", "x"}), Catch::Contains("use berth submit"));
}

TEST_CASE("missing and superfluous values are named") {
  CHECK_THAT(usage_fault({"run", "--mem"}), Catch::Contains("--mem=SIZE"));
  CHECK_THAT(usage_fault({"run", "--overlay=yes", "--", "x"}), Catch::Contains("takes no value"));
}

TEST_CASE("wrong usage is 125 for run, whose other statuses are the job's, and 2 elsewhere") {
  CHECK(usage_status({"run", "--memm"}) == 125);
  CHECK(usage_status({"history", "--memm"}) == 2);
  CHECK(usage_status({"frob"}) == 2);
  CHECK(usage_status({}) == 2);
  CHECK(usage_status({"show"}) == 2);
  CHECK(usage_status({"doctor", "x"}) == 2);
  CHECK(usage_status({"help", "run", "check"}) == 2);
}

TEST_CASE("help needs no operands") {
  CHECK(parse_command_line({"show", "--help"}).has("help"));
  CHECK(parse_command_line({"--help"}).command == nullptr);
}

TEST_CASE("names and letters are unique within a command and beside the global ones") {
  for (const CommandSpec* command : commands()) {
    std::set<std::string_view> names;
    std::set<char> letters;
    for (const auto& table : {global_options(), command->options}) {
      for (const Option& option : table) {
        CAPTURE(command->name, option.name);
        CHECK(names.insert(option.name).second);
        CHECK((option.letter == 0 || letters.insert(option.letter).second));
        CHECK_FALSE(option.description.empty());
        CHECK(option.description.back() != '.');
        CHECK((option.completion == Completion::words ||
               (option.completion == Completion::columns && !option.words.empty())) != option.words.empty());
      }
    }
  }
}

TEST_CASE("no option that is absent exists") {
  for (const AbsentOption& absent : absent_options()) {
    for (const Option& option : find_command(absent.command.empty() ? "run" : absent.command)->options) {
      CAPTURE(absent.name, absent.command);
      CHECK(option.name != absent.name);
      CHECK((absent.letter == 0 || option.letter != absent.letter));
    }
  }
}

/// JSON pointers of the fields that can be set: objects with properties are entered.
void collect_fields(const nlohmann::json& schema, const nlohmann::json& properties, const std::string& prefix,
                    std::vector<std::string>& fields) {
  for (const auto& [name, property] : properties.items()) {
    if (property.value("description", "").starts_with("Not supported yet")) {
      continue;
    }
    nlohmann::json resolved = property;
    if (property.contains("$ref")) {
      const std::string reference = property["$ref"];
      resolved = schema.at(nlohmann::json::json_pointer(reference.substr(1)));
    }
    std::string field = prefix;
    field.append("/").append(name);
    if (resolved.contains("properties") && (name == "limits" || name == "isolation")) {
      collect_fields(schema, resolved["properties"], field, fields);
    } else {
      fields.push_back(std::move(field));
    }
  }
}

TEST_CASE("every field of a job file has an option") {
  const auto schema = nlohmann::json::parse(job_schema_text());
  const auto& job = schema.contains("properties") ? schema : schema.at("definitions").at("job");
  std::vector<std::string> fields;
  collect_fields(schema, job.at("properties"), "", fields);
  REQUIRE(fields.size() > 40);
  // Given otherwise: the version is fixed, the command and the script are operands, the umask is the
  // caller's, and isolation.tmpfs is a short form of the tmpfs mounts that --mount makes.
  const std::set<std::string> elsewhere{"/schema_version", "/argv", "/script", "/umask", "/isolation/tmpfs"};
  for (const std::string& field : fields) {
    CAPTURE(field);
    CHECK((elsewhere.contains(field) || option_of_field(*find_command("submit"), field) != nullptr));
  }
}

TEST_CASE("a field's option is the one with the longest pointer") {
  const CommandSpec& run = *find_command("run");
  CHECK(option_of_field(run, "/isolation/root/path")->name == "root");
  CHECK(option_of_field(run, "/isolation/root/writable")->name == "root-writable");
  CHECK(option_of_field(run, "/isolation/mounts/0/target")->name == "mount");
  CHECK(option_of_field(run, "/kill_warning_delay")->name == "signal");
  CHECK(option_of_field(run, "/nowhere") == nullptr);
}

TEST_CASE("help of every command shows usage, options, examples and exit status within the width") {
  for (const CommandSpec* command : commands()) {
    const std::string help = command_help(*command, 80);
    CAPTURE(command->name);
    CHECK_THAT(help, Catch::StartsWith("Usage: berth " + std::string(command->name)));
    CHECK_THAT(help, Catch::Contains("\nExit status:\n"));
    CHECK((command->hidden || help.find("\nExamples:\n  $ berth") != std::string::npos ||
           help.find("\nExamples:\n") != std::string::npos));
    for (const Option& option : command->options) {
      CHECK_THAT(help, Catch::Contains("--" + std::string(option.name)));
    }
  }
}

TEST_CASE("help of check reads so") {
  CHECK_THAT(command_help(*find_command("check"), 80), Catch::StartsWith(R"(Usage: berth check FILE…
       berth check --schema

Validates job files and scripts (as berth submit takes them) without running
anything and prints every fault of every file, one line each: file, JSON
pointer, what is wrong, and what to do.

Exits with 0 when all files are valid and with 1 otherwise.

Options:
      --schema                Prints the JSON Schema of job files (draft 7) and
                              exits

Options of every command:
  -h, --help                  Prints this help and exits
)"));
}

TEST_CASE("berthd's help and its manual page have its options, signals and examples") {
  for (const std::string& text : {daemon_help(80), daemon_manual_page()}) {
    for (const char* word :
         {"config", "restore", "SIGHUP", "systemctl reload berthd", "Wrong usage or configuration."}) {
      CHECK_THAT(text, Catch::Contains(word));
    }
  }
  CHECK_THAT(daemon_help(80), Catch::StartsWith("Usage: berthd [--config FILE]"));
}

TEST_CASE("hidden commands are in no listing") {
  CHECK_THAT(program_help(80), !Catch::Contains("generate "));
  CHECK_THAT(program_manual_page(), !Catch::Contains("generate"));
  CHECK_THAT(bash_completion(""), !Catch::Contains("generate "));
}

TEST_CASE("manual pages escape what roff would change") {
  const std::string page = command_manual_page(*find_command("run"));
  CHECK_THAT(page, Catch::StartsWith(".\\\""));
  CHECK_THAT(page, Catch::Contains("\\fB\\-\\-cpus\\-per\\-task\\fR=\\fIN\\fR"));
  CHECK_THAT(page, Catch::Contains("\\[u2026]"));
  CHECK_THAT(page, !Catch::Contains("…"));
  CHECK_THAT(page, !Catch::Contains("\n'"));
}

TEST_CASE("the nearest word is near") {
  CHECK(nearest_word("runn", {"run", "show"}) == "run");
  CHECK(nearest_word("rnu", {"run", "show"}) == "run");
  CHECK(nearest_word("eff", {"efficiency", "show"}) == "efficiency");
  CHECK(nearest_word("zzz", {"run", "show"}).empty());
  CHECK(nearest_word("", {"run"}).empty());
}

}  // namespace
}  // namespace berth
