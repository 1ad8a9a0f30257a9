#include "scheduler/job_streams.h"

#include <unistd.h>

#include <utility>

namespace berth {

struct JobStreams::Job {
  ~Job() {
    for (const int descriptor : descriptors) {
      ::close(descriptor);
    }
  }
  Job() = default;
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  std::vector<int> descriptors;
  std::vector<std::unique_ptr<OutputTarget>> files;
  std::vector<std::unique_ptr<LinePrefixer>> prefixers;
};

namespace {

StreamState state_of(const OutputTarget& target) {
  return target.is_closed()      ? StreamState::closed
         : target.is_congested() ? StreamState::wait
                                 : StreamState::more;
}

}  // namespace

JobStreams::JobStreams(StreamOptions options, OutputTarget& standard_output, OutputTarget& standard_error)
    : options_(std::move(options)), standard_output_(standard_output), standard_error_(standard_error) {}

JobStreams::~JobStreams() = default;

JobStreams::Streams JobStreams::open(JobId id, const JobSpec& spec) {
  auto job = std::make_unique<Job>();
  const PatternValues values{id, spec.name, options_.owner.name};
  Streams streams;
  streams.standard_input = options_.inherited_input;
  if (!spec.standard_input.empty()) {
    streams.standard_input = open_input_file(expand_pattern(spec.standard_input, values), options_.owner);
    job->descriptors.push_back(streams.standard_input);
  }
  const std::string output = expand_pattern(spec.standard_output, values);
  const std::string error = expand_pattern(spec.standard_error, values);
  streams.standard_output =
      output.empty()
          ? stream_sink(*job, spec.name, options_.output_to_error ? standard_error_ : standard_output_)
          : file_sink(*job, output, spec);
  // One file for both streams is opened once, so that what is written first stays first.
  streams.joined = (error.empty() && !output.empty()) || (!error.empty() && error == output);
  if (!streams.joined) {
    streams.standard_error =
        error.empty() ? stream_sink(*job, spec.name, standard_error_) : file_sink(*job, error, spec);
  }
  jobs_[id] = std::move(job);
  return streams;
}

void JobStreams::close(JobId id) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) {
    return;
  }
  for (const auto& prefixer : found->second->prefixers) {
    prefixer->finish();
  }
  for (const auto& file : found->second->files) {
    lost_output_ = lost_output_ || file->has_failed();
  }
  jobs_.erase(found);
}

bool JobStreams::has_lost_output() const {
  return lost_output_ || standard_output_.has_failed() || standard_error_.has_failed();
}

void JobStreams::add_pending(std::vector<pollfd>& descriptors) const {
  for (const OutputTarget* target : {&standard_output_, &standard_error_}) {
    if (target->has_pending()) {
      descriptors.push_back({target->descriptor(), POLLOUT, 0});
    }
  }
}

bool JobStreams::flush_some() {
  standard_output_.flush_some();
  standard_error_.flush_some();
  return !standard_output_.is_congested() && !standard_error_.is_congested();
}

StreamSink JobStreams::stream_sink(Job& job, const std::string& name, OutputTarget& target) {
  if (!options_.prefix) {
    return [&target](const char* data, std::size_t size) {
      target.write({data, size});
      return state_of(target);
    };
  }
  std::string prefix = name;
  prefix.append(options_.name_columns > name.size() ? options_.name_columns - name.size() : 0, ' ');
  job.prefixers.push_back(std::make_unique<LinePrefixer>(target, prefix + " | "));
  return [prefixer = job.prefixers.back().get(), &target](const char* data, std::size_t size) {
    prefixer->write({data, size});
    return state_of(target);
  };
}

StreamSink JobStreams::file_sink(Job& job, const std::string& path, const JobSpec& spec) {
  const int descriptor = open_output_file(path, spec.open_mode, options_.owner, spec.umask);
  job.descriptors.push_back(descriptor);
  job.files.push_back(std::make_unique<OutputTarget>(descriptor, path));
  return [file = job.files.back().get(), &owner = options_.owner](const char* data, std::size_t size) {
    const AsOwner as_owner(owner);
    file->write({data, size});
    return StreamState::more;  // a full disk is warned of once; the job goes on
  };
}

}  // namespace berth
