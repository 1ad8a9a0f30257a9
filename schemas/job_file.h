// Job files: JSON text to JobSpecs, every fault at once; and a JobSpec back to canonical JSON.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "schemas/input_error.h"
#include "schemas/job_spec.h"

namespace berth {

/// Parses and validates one file's text: one job object or an array of 1 to many. `file_name` is used
/// in faults; `directory` (absolute) resolves relative paths and is the default working directory; empty,
/// when there is none, it makes faults of what needs one. Throws InputError with every fault of the file;
/// nothing is created.
std::vector<JobSpec> parse_job_file(std::string_view text, const std::string& file_name,
                                    const std::filesystem::path& directory);

/// As parse_job_file() without the second check by the JSON Schema, which takes ten times as long: a test
/// proves that the readers refuse whatever the schema refuses. For a service that reads many.
std::vector<JobSpec> parse_many_jobs(std::string_view text, const std::string& file_name,
                                     const std::filesystem::path& directory);

/// The program that a script's first line names, "/bin/sh" of "#!/bin/sh -e"; empty when it names none.
std::string_view interpreter_of(std::string_view script);

/// As a part of a path with patterns (%j …) that stands for itself: a percent sign twice.
std::string escape_pattern(std::string_view text);

/// How much a JSON text holds, told without parsing it: what parsing it would take is some hundred bytes for
/// each value and some thousand for each job.
struct JsonExtent {
  std::size_t values = 0;    ///< at most, also of text that is no JSON
  std::size_t elements = 0;  ///< of the outermost array; 1 when that is no array
};
JsonExtent extent_of_json(std::string_view text);

/// Why berthd does not take a text of jobs as one request, which must not take all memory; empty when it
/// does.
std::string excess_of_request(std::string_view text);

/// The elements of an array of jobs in pieces of at most `most` elements, each of them an array again, so
/// that several threads can parse one text; none when the brackets of `text` are not those of one array.
/// Where parse_many_jobs() takes every piece, it takes the whole, for the same jobs; where not, the whole has
/// to be asked for its faults.
std::vector<std::string> split_job_array(std::string_view text, std::size_t most);

/// One job whose text to_json_text() made: read by the same rules, without the second check by the JSON
/// Schema.
JobSpec parse_stored_job(std::string_view text, const std::string& name);

/// What a user names as a job: a job file or a script.
struct JobText {
  std::string name;                 ///< for faults: as it was given, "standard input" for "-"
  std::string text;                 ///< the whole
  std::filesystem::path directory;  ///< where relative paths start: the file's folder, else the current one;
                                    ///< empty when that is gone

  bool is_script() const { return text.starts_with("#!"); }
  /// Throws InputError for what nobody can have meant as a job file. Empty text is left to parse().
  void check_is_json() const;
  /// By the rules of job files.
  std::vector<JobSpec> parse() const;
};

/// Reads all of a file or a pipe, to its end; "-" is standard input. What cannot be read is an InputError.
JobText read_job_text(const std::string& path);

/// Checks a JobSpec that was not parsed from a file (command-line options) by the same rules:
/// it is rendered to JSON, parsed, and faults come out with `source` as their file.
JobSpec validated(const JobSpec& spec, const std::string& source);

/// Canonical JSON (one object); parse_job_file(to_json(spec)) gives an equal spec.
std::string to_json_text(const JobSpec& spec);

/// The JSON Schema (schemas/job.schema.json), embedded at build time.
std::string_view job_schema_text();

}  // namespace berth
