// JobStreams: what each job of a run has as standard input, output and error.
//
// Owns the files that it opens for a job, from open() to close(). Single-threaded.
#pragma once

#include <poll.h>

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "scheduler/job_output.h"
#include "scheduler/output_files.h"
#include "schemas/job_spec.h"

namespace berth {

/// What the reader of a stream asks for, in the words of executor.h's SinkState.
enum class StreamState { more, wait, closed };
using StreamSink = std::function<StreamState(const char* data, std::size_t size)>;

struct StreamOptions {
  FileOwner owner;               ///< who files are opened as, and %u
  bool prefix = false;           ///< "name | " before each streamed line
  std::size_t name_columns = 0;  ///< names are padded to it
  bool output_to_error = false;  ///< streamed standard output goes to our standard error (--json)
  int inherited_input = -1;      ///< for jobs that name no standard_input; -1: /dev/null
};

class JobStreams {
 public:
  struct Streams {
    int standard_input = -1;  ///< owned by JobStreams until close(); -1: /dev/null
    StreamSink standard_output;
    StreamSink standard_error;
    bool joined = false;  ///< both go to one file: standard_error is empty
  };

  JobStreams(StreamOptions options, OutputTarget& standard_output, OutputTarget& standard_error);
  ~JobStreams();

  /// Opens what the job names. Throws std::system_error that names the file; nothing stays open then.
  Streams open(JobId job, const JobSpec& spec);
  /// Completes unfinished lines and closes the job's files.
  void close(JobId job);

  /// Output that waits for its reader: descriptors to poll, and the attempt to write on.
  void add_pending(std::vector<pollfd>& descriptors) const;
  /// True when the readers have caught up.
  bool flush_some();

  /// True when a full disk or the like kept something that a job wrote from where it was to go.
  bool has_lost_output() const;

 private:
  struct Job;
  StreamSink stream_sink(Job& job, const std::string& name, OutputTarget& target);
  StreamSink file_sink(Job& job, const std::string& path, const JobSpec& spec);

  StreamOptions options_;
  OutputTarget& standard_output_;
  OutputTarget& standard_error_;
  std::map<JobId, std::unique_ptr<Job>> jobs_;
  bool lost_output_ = false;  ///< of jobs that are closed
};

}  // namespace berth
