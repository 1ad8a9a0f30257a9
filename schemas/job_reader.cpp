#include "schemas/job_reader.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>

#include "schemas/cpu_set.h"
#include "schemas/job_file.h"
#include "schemas/queue_reader.h"
#include "schemas/signals.h"
#include "schemas/terminal_text.h"
#include "schemas/utf8.h"

namespace berth {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaximumJobName = 255;              // NAME_MAX: %x puts the name into file names
constexpr std::size_t kMaximumArgument = 131'071;         // MAX_ARG_STRLEN without its NUL (execve(2))
constexpr std::int64_t kMaximumPriority = 4'294'967'294;  // Slurm's
constexpr std::int64_t kMaximumNice = 2'147'483'645;      // Slurm's (sbatch(1), --nice)

// ---- the command ----

void read_name(const Field& field, JobSpec& spec) {
  const std::optional<std::string> name = field.word();
  if (!name) {
    return;
  }
  if (name->find('/') != std::string::npos || *name == "." || *name == "..") {
    field.refuse("cannot be part of a file name; use a name without \"/\"");
  } else if (name->size() > kMaximumJobName) {
    field.refuse("is longer than a file name may be (255 bytes)");
  } else {
    spec.name = *name;
  }
}

void read_script(const Field& field, JobSpec& spec) {
  const std::optional<std::string> script = field.text();
  if (!script) {
    return;
  }
  if (!interpreter_of(*script).starts_with('/')) {
    field.refuse("does not begin with an interpreter; make its first line #!/bin/sh or the like");
    return;
  }
  // The kernel would look for an interpreter whose name ends in a carriage return. Refused by sbatch
  // likewise.
  if (!field.context().is_stored && script->find("\r\n") != std::string::npos) {
    field.refuse_plainly("has DOS line breaks (\\r\\n); give it those of UNIX (\\n), as dos2unix does");
    return;
  }
  spec.script = *script;
}

void read_argv(const Field& field, JobSpec& spec) {
  const auto elements = field.elements("an array of strings such as [\"make\", \"-j2\"]");
  if (!elements) {
    return;
  }
  for (const Field& element : *elements) {
    const std::optional<std::string> argument = element.text(Emptiness::allowed);
    if (argument && argument->size() > kMaximumArgument) {
      element.refuse("is longer than an argument may be (131071 bytes); pass it in a file");
    }
    spec.argv.push_back(argument.value_or(""));
  }
}

void add_variable(const Field& field, const std::string& name, const std::string& value, JobSpec& spec) {
  const bool is_refused = !field.context().is_stored && has_control(name);
  if (name.empty() || is_refused || name.find('=') != std::string::npos) {
    field.refuse_plainly("is not the name of a variable; use one without \"=\" and control characters");
  } else if (name.size() + 1 + value.size() > kMaximumArgument) {
    field.refuse_plainly("is longer than a variable may be (131071 bytes); pass it in a file");
  } else if (!spec.environment.emplace(name, value).second) {
    field.refuse_plainly("sets " + name + " a second time; keep one");
  }
}

/// Slurm's form: "NAME=value".
void read_assignment(const Field& field, JobSpec& spec) {
  const std::optional<std::string> text = field.text();
  if (!text) {
    return;
  }
  const std::size_t equals = text->find('=');
  if (equals == std::string::npos) {
    field.refuse("is not an assignment (use \"NAME=value\")");
    return;
  }
  add_variable(field, text->substr(0, equals), text->substr(equals + 1), spec);
}

void read_environment(const Field& field, JobSpec& spec) {
  if (field.value().is_array()) {
    const std::vector<Field> elements = *field.elements("");
    for (const Field& element : elements) {
      read_assignment(element, spec);
    }
    return;
  }
  const auto members = field.members("an object such as {\"NAME\": \"value\"}");
  if (!members) {
    return;
  }
  for (const Field& member : *members) {
    const Json key = member.key();
    const auto name = Field(key, member.pointer(), member.context()).text(Emptiness::allowed);
    const auto value = member.text(Emptiness::allowed);
    if (name && value) {
      add_variable(member, *name, *value, spec);
    }
  }
}

/// Patterns that are expanded when the job starts: %j %A %a (with a width: %5j), %x, %u and %% (sbatch(1),
/// "filename pattern").
bool has_known_patterns(std::string_view path) {
  for (std::size_t at = path.find('%'); at != std::string_view::npos; at = path.find('%', at)) {
    const std::size_t letter = path.find_first_not_of("0123456789", at + 1);
    const std::string_view known = letter == at + 1 ? "jAaxu%" : "jAa";
    if (letter == std::string_view::npos || known.find(path[letter]) == std::string_view::npos) {
      return false;
    }
    at = letter + 1;
  }
  return true;
}

/// A percent sign in the folder of the job file is not a pattern.
std::string without_directory_patterns(const std::string& path, const std::string& written,
                                       const std::filesystem::path& directory) {
  if (written.front() == '/') {
    return path;
  }
  const std::size_t folder = std::min(tidy_absolute(directory.string()).size(), path.size());
  return escape_pattern(path.substr(0, folder)) + path.substr(folder);
}

template <auto Part>
void read_pattern_path(const Field& field, JobSpec& spec) {
  const std::optional<std::string> written = field.text();
  const std::optional<std::string> path = written ? field.host_path() : std::nullopt;
  if (!path) {
    return;
  }
  if (!has_known_patterns(*written)) {
    field.refuse("has an unknown pattern (use %j %A %a %5j %x %u, or %% for a percent sign)");
    return;
  }
  spec.*Part = without_directory_patterns(*path, *written, field.context().directory);
}

void read_open_mode(const Field& field, JobSpec& spec) {
  const std::optional<std::string> mode = field.text();
  if (mode && *mode != "truncate" && *mode != "append") {
    field.refuse("is not a mode (use \"truncate\" or \"append\")");
  } else if (mode) {
    spec.open_mode = *mode == "append" ? OpenMode::append : OpenMode::truncate;
  }
}

void read_umask(const Field& field, JobSpec& spec) {
  constexpr unsigned kMost = 0777;
  constexpr int kOctal = 8;
  const std::optional<std::string> text = field.text();
  if (!text) {
    return;
  }
  unsigned mask = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), mask, kOctal);
  if (error != std::errc() || end != text->data() + text->size() || mask > kMost || text->size() > 4) {
    field.refuse("is no umask (use octal digits, such as \"022\" or \"0077\")");
    return;
  }
  spec.umask = mask;
}

// ---- numbers and times ----

void read_memory(const Field& field, JobSpec& spec) {
  spec.memory_per_node = field.size({kMebibyte, false});
  if (!field.context().is_stored && spec.memory_per_node && *spec.memory_per_node < kLeastMemory) {
    field.refuse("is too small for any job (at least " + format_size(kLeastMemory) + ")");
  }
}

void read_cpus(const Field& field, JobSpec& spec) {
  if (const auto cpus = field.integer(1, CpuSet::kMaximumCpu + 1)) {
    spec.cpus_per_task = static_cast<unsigned>(*cpus);
  }
}

void read_signal(const Field& field, JobSpec& spec) {
  std::optional<int> number;
  if (field.value().is_string()) {
    number = parse_signal(field.value().get_ref<const std::string&>());
  } else if (field.value().is_number_unsigned()) {
    number = parse_signal(field.value().dump());
  }
  if (!number) {
    field.refuse("is not a signal (use \"USR1\", \"SIGUSR1\" or 10)");
    return;
  }
  spec.kill_warning_signal = *number;
}

void read_warning_flags(const Field& field, JobSpec& spec) {
  const auto elements = field.elements("an array such as [\"BATCH_JOB\"]");
  if (!elements) {
    return;
  }
  for (const Field& element : *elements) {
    const std::optional<std::string> flag = element.text();
    if (flag && *flag != "BATCH_JOB") {
      element.refuse("is not a flag (use \"BATCH_JOB\": the main process alone is warned)");
    } else if (flag) {
      spec.kill_warning_batch_job = true;
    }
  }
}

void read_schema_version(const Field& field, JobSpec& /*spec*/) {
  if (!field.value().is_number_integer() || field.value() != 1) {
    field.refuse("is not a version that this berth knows; use 1");
  }
}

// ---- fields that are words of the vocabulary, but whose capability comes later ----

void refuse_unsupported(const Field& field, const std::string& remedy) {
  field.refuse_plainly('"' + field.key() + "\" is not supported yet; " + remedy);
}

void refuse_now(const Field& field, JobSpec& /*spec*/) {
  refuse_unsupported(field, "remove it");
}

constexpr Member<JobSpec> kJobMembers[] = {
    {"schema_version", read_schema_version},
    {"name", read_name},
    {"script", read_script},
    {"argv", read_argv},
    {"current_working_directory",
     [](const Field& field, JobSpec& spec) {
       spec.current_working_directory = field.host_path().value_or("");
     }},
    {"environment", read_environment},
    {"standard_input", read_pattern_path<&JobSpec::standard_input>},
    {"standard_output", read_pattern_path<&JobSpec::standard_output>},
    {"standard_error", read_pattern_path<&JobSpec::standard_error>},
    {"open_mode", read_open_mode},
    {"umask", read_umask},
    {"terminal", [](const Field& field, JobSpec& spec) { spec.terminal = field.boolean().value_or(false); }},
    {"account", [](const Field& field, JobSpec& spec) { spec.account = field.word().value_or(""); }},
    {"comment",
     [](const Field& field, JobSpec& spec) { spec.comment = field.text(Emptiness::allowed).value_or(""); }},
    {"priority", [](const Field& field,
                    JobSpec& spec) { spec.priority = field.integer(0, kMaximumPriority).value_or(0); }},
    {"nice", [](const Field& field,
                JobSpec& spec) { spec.nice = field.integer(-kMaximumNice, kMaximumNice).value_or(0); }},
    {"cpus_per_task", read_cpus},
    {"memory_per_node", read_memory},
    {"time_limit",
     [](const Field& field, JobSpec& spec) {
       spec.time_limit = field.duration({std::chrono::minutes(1), false});
     }},
    {"kill_warning_signal", read_signal},
    {"kill_warning_delay",
     [](const Field& field, JobSpec& spec) {
       spec.kill_warning_delay = field.duration({}).value_or(spec.kill_warning_delay);
     }},
    {"kill_warning_flags", read_warning_flags},
    {"grace_period",
     [](const Field& field, JobSpec& spec) {
       spec.grace_period = field.duration({std::chrono::seconds(1), true}).value_or(spec.grace_period);
     }},
    {"no_output_timeout",
     [](const Field& field, JobSpec& spec) { spec.no_output_timeout = field.duration({}); }},
    {"limits", [](const Field& field, JobSpec& spec) { read_limits(field, spec.limits); }},
    {"isolation", [](const Field& field, JobSpec& spec) { read_isolation(field, spec.isolation); }},
    {"array", read_array},
    {"begin_time", read_begin_time},
    {"deadline", read_deadline},
    {"dependency", read_dependency},
    {"hold", [](const Field& field, JobSpec& spec) { spec.hold = field.boolean().value_or(false); }},
    {"licenses", refuse_now},
    {"partition", refuse_now},
    {"qos", refuse_now},
    {"requeue", [](const Field& field, JobSpec& spec) { spec.requeue = field.boolean().value_or(false); }},
    {"reservation", refuse_now},
    {"retry", read_retry},
};

// ---- rules over several fields ----

/// Rules speak only of fields that were read without a fault.
class Rules {
 public:
  Rules(const Field& job, std::size_t first_fault) : job_(job), first_fault_(first_fault) {}

  void check(const JobSpec& spec) const {
    check_command(spec);
    if (given("kill_warning_signal") && !given("time_limit")) {
      refuse("kill_warning_signal", "needs a time_limit to warn of; add \"time_limit\"");
    } else if (spec.kill_warning_signal != 0 && spec.time_limit &&
               spec.kill_warning_delay >= *spec.time_limit) {
      refuse(given("kill_warning_delay") ? "kill_warning_delay" : "kill_warning_signal",
             "would be sent as the job begins, " + format_duration(spec.kill_warning_delay) +
                 " before its time_limit of " + format_duration(*spec.time_limit) +
                 "; give a shorter \"kill_warning_delay\"");
    }
    for (const char* of_signal : {"kill_warning_delay", "kill_warning_flags"}) {
      if (given(of_signal) && !given("kill_warning_signal")) {
        refuse(of_signal, "has no effect without \"kill_warning_signal\"; add it, e.g. \"USR1\"");
      }
    }
    if (spec.begin_time && spec.deadline && *spec.begin_time >= *spec.deadline) {
      refuse("deadline", "is not after its begin_time, so that the job could never start; give a later one");
    }
    for (const char* stream : {"standard_input", "standard_error"}) {
      if (spec.terminal && given(stream)) {
        refuse(stream, "does not go with \"terminal\", which is the job's input and output; remove one");
      }
    }
  }

 private:
  bool given(const char* key) const { return job_.value().contains(key); }

  void refuse(const std::string& token, const std::string& message) const {
    const std::string pointer = token.empty() ? job_.pointer() : job_.pointer() + '/' + token;
    if (token.empty() || !job_.context().is_faulty(pointer, first_fault_)) {
      job_.context().faults.push_back({job_.context().file, pointer, message});
    }
  }

  void check_command(const JobSpec& spec) const {
    if (given("script")) {
      return;
    }
    if (!given("argv")) {
      refuse("", "has no command; add \"argv\": [\"COMMAND\", …] or a \"script\"");
    } else if (job_.value()["argv"].empty()) {
      refuse("argv", "is empty; give the command as its first element");
    } else if (!spec.argv.empty() && spec.argv.front().empty()) {
      refuse("argv/0", "is empty; give the command");
    }
  }

  const Field& job_;
  std::size_t first_fault_;
};

/// The last component of the command, as a name.
std::string default_name(const JobSpec& spec) {
  if (!spec.script.empty() || spec.argv.empty()) {
    return "script";
  }
  const std::string file_name = spec.argv.front().substr(spec.argv.front().rfind('/') + 1);
  std::string name(whole_characters(file_name, kMaximumJobName));
  return name.empty() || name == "." || name == ".." || has_control(name) ? "job" : name;
}

// ---- unknown keys ----

struct Alias {
  const char* word;
  const char* field;
};

/// What people write from other tools, where the distance between the words is no help.
constexpr Alias kAliases[] = {
    {"command", "argv"},
    {"cmd", "argv"},
    {"args", "argv"},
    {"arguments", "argv"},
    {"cpus", "cpus_per_task"},
    {"cores", "cpus_per_task"},
    {"ncpus", "cpus_per_task"},
    {"mem", "memory_per_node"},
    {"memory", "memory_per_node"},
    {"ram", "memory_per_node"},
    {"time", "time_limit"},
    {"timeout", "time_limit"},
    {"walltime", "time_limit"},
    {"wall", "time_limit"},
    {"cwd", "current_working_directory"},
    {"chdir", "current_working_directory"},
    {"workdir", "current_working_directory"},
    {"work_dir", "current_working_directory"},
    {"env", "environment"},
    {"stdin", "standard_input"},
    {"stdout", "standard_output"},
    {"output", "standard_output"},
    {"stderr", "standard_error"},
    {"error", "standard_error"},
    {"job_name", "name"},
    {"signal", "kill_warning_signal"},
    {"max_output", "limits/output"},
    {"gpus", "isolation/devices"},
    {"pty", "terminal"},
    {"tty", "terminal"},
    {"interactive", "terminal"},
};

/// Another place in a job where a field of this very name is, as a pointer; "" when there is none.
std::string place_elsewhere(const std::string& key, const std::string& path) {
  for (const ObjectFields& object : known_fields()) {
    const bool has_key = std::find(object.names.begin(), object.names.end(), key) != object.names.end();
    if (has_key && object.path != path) {
      return object.path + '/' + key;
    }
  }
  return "";
}

std::string suggestion(const std::string& key, const std::string& path) {
  if (path.empty()) {
    for (const Alias& alias : kAliases) {
      if (key == alias.word) {
        return std::string("use /") + alias.field;
      }
    }
  }
  std::string nearest;
  std::size_t least = std::numeric_limits<std::size_t>::max();
  for (const ObjectFields& object : known_fields()) {
    for (const std::string& name : object.names) {
      const std::size_t distance = object.path == path ? edit_distance(key, name) : least;
      if (distance < least) {
        least = distance;
        nearest = name;
      }
    }
  }
  const std::string elsewhere = place_elsewhere(key, path);
  if (!elsewhere.empty() && least > 1) {
    return "that field is " + elsewhere;
  }
  return (least <= 2 ? "did you mean \"" : "the nearest one is \"") + nearest + '"' + (least <= 2 ? "?" : "");
}

}  // namespace

std::size_t edit_distance(std::string_view left, std::string_view right) {
  std::vector<std::size_t> row(right.size() + 1);
  for (std::size_t column = 0; column < row.size(); ++column) {
    row[column] = column;
  }
  for (std::size_t line = 1; line <= left.size(); ++line) {
    std::size_t diagonal = row[0];
    row[0] = line;
    for (std::size_t column = 1; column < row.size(); ++column) {
      const std::size_t replaced = diagonal + (left[line - 1] == right[column - 1] ? 0 : 1);
      diagonal = row[column];
      row[column] = std::min({replaced, row[column] + 1, row[column - 1] + 1});
    }
  }
  return row.back();
}

const std::vector<ObjectFields>& known_fields() {
  static const std::vector<ObjectFields> kFields = [] {
    std::vector<ObjectFields> all{names_of<JobSpec>("", kJobMembers)};
    for (const auto& part : {limits_fields(), isolation_fields(), retry_fields()}) {
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }();
  return kFields;
}

void refuse_unknown(const Field& field, const std::string& path) {
  constexpr std::size_t kLongestKey = 64;  // beyond it no word is near, and distances take time
  const std::string key = field.key().substr(0, kLongestKey);
  field.refuse_plainly("is not a known field; " + suggestion(key, path));
}

JobSpec read_job(const Field& field) {
  const std::size_t first_fault = field.context().faults.size();
  JobSpec spec;
  if (!field.value().is_object()) {
    field.refuse("is not a job (write an object such as {\"argv\": [\"true\"]})");
    return spec;
  }
  read_members<JobSpec>(field, kJobMembers, "", spec);
  if (!field.context().is_stored) {
    Rules(field, first_fault).check(spec);
  }
  if (spec.name.empty()) {
    spec.name = default_name(spec);
  }
  if (spec.current_working_directory.empty()) {
    spec.current_working_directory = field.context().directory.string();
    const Field directory = field.child("current_working_directory", field.value());
    if (field.context().is_faulty(directory.pointer(), first_fault)) {
      return spec;
    }
    if (spec.current_working_directory.empty()) {
      directory.refuse_plainly(
          "is left out, and the current directory is gone; change to another or name one");
    } else if (!is_utf8(spec.current_working_directory)) {
      directory.refuse_plainly(
          "is left out, and the name of the folder that it would be is not UTF-8, which a record cannot "
          "hold; name one");
    }
  }
  return spec;
}

}  // namespace berth
