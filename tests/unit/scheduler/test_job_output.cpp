#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <fstream>
#include <iterator>
#include <string>

#include "scheduler/job_output.h"
#include "scheduler/job_streams.h"
#include "scheduler/log.h"
#include "tests/support/temporary_directory.h"

namespace berth {
namespace {

struct Pipe {
  Pipe() {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    reader = ends[0];
    writer = ends[1];
    ::signal(SIGPIPE, SIG_IGN);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  ~Pipe() {
    close_reader();
    ::close(writer);
  }
  void close_reader() {
    if (reader >= 0) {
      ::close(reader);
    }
    reader = -1;
  }
  /// What is there now.
  std::string read() const {
    ::fcntl(reader, F_SETFL, O_NONBLOCK);
    std::string text;
    char buffer[65536];
    for (ssize_t size = 0; (size = ::read(reader, buffer, sizeof buffer)) > 0;) {
      text.append(buffer, static_cast<std::size_t>(size));
    }
    return text;
  }
  int reader = -1;
  int writer = -1;
};

std::string contents(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

TEST_CASE("output is passed on byte for byte") {
  const Pipe pipe;
  OutputTarget target(pipe.writer, "a pipe");
  const std::string bytes("a\0b\n\xff no newline", 16);
  target.write(bytes);
  CHECK(pipe.read() == bytes);
}

TEST_CASE("a reader that went away ends the forwarding without a fault") {
  Pipe pipe;
  OutputTarget target(pipe.writer, "a pipe");
  pipe.close_reader();
  target.write("x");
  CHECK(target.is_closed());
  target.write("y");
  CHECK_FALSE(target.has_pending());
}

TEST_CASE("a slow reader does not block and loses nothing") {
  const Pipe pipe;
  OutputTarget target(pipe.writer, "a pipe");
  std::string sent;
  for (int i = 0; i < 40; ++i) {
    const std::string block(10'000, static_cast<char>('a' + i % 26));
    target.write(block);
    sent += block;
  }
  REQUIRE(target.has_pending());
  std::string received;
  while (target.has_pending()) {
    received += pipe.read();
    target.flush_some();
  }
  received += pipe.read();
  CHECK(received == sent);
}

TEST_CASE("an interrupt ends the wait for a reader that never reads") {
  const Pipe pipe;
  const Pipe interrupt;
  OutputTarget target(pipe.writer, "a pipe");
  target.write(std::string(1'000'000, 'x'));
  REQUIRE(target.has_pending());
  REQUIRE(::write(interrupt.writer, "!", 1) == 1);
  target.flush_all(interrupt.reader);
  CHECK(target.has_pending());
}

TEST_CASE("a full disk ends the forwarding") {
  set_log_level(LogLevel::off);
  const int full = ::open("/dev/full", O_WRONLY | O_CLOEXEC);
  OutputTarget target(full, "/dev/full");
  target.write("x");
  CHECK(target.is_closed());
  ::close(full);
}

TEST_CASE("each complete line is prefixed, however it arrives in pieces") {
  const Pipe pipe;
  OutputTarget target(pipe.writer, "a pipe");
  LinePrefixer prefixer(target, "job | ");
  prefixer.write("on");
  CHECK(pipe.read().empty());
  prefixer.write("e\ntwo\n\nth");
  CHECK(pipe.read() == "job | one\njob | two\njob | \n");
  prefixer.finish();
  CHECK(pipe.read() == "job | th\n");
  prefixer.finish();
  CHECK(pipe.read().empty());
}

TEST_CASE("a line without end is broken, not kept in memory") {
  const Pipe pipe;
  OutputTarget target(pipe.writer, "a pipe");
  LinePrefixer prefixer(target, "j | ");
  prefixer.write(std::string(LinePrefixer::kLongestLine, 'x'));
  target.flush_some();
  CHECK_FALSE(pipe.read().empty());
}

JobSpec spec_named(const std::string& name) {
  JobSpec spec;
  spec.name = name;
  spec.argv = {"true"};
  return spec;
}

void send(const StreamSink& sink, const std::string& text) {
  sink(text.data(), text.size());
}

TEST_CASE("with several jobs names are padded and both streams go their way") {
  const Pipe output;
  const Pipe error;
  OutputTarget standard_output(output.writer, "standard output");
  OutputTarget standard_error(error.writer, "standard error");
  StreamOptions options;
  options.prefix = true;
  options.name_columns = 5;
  JobStreams streams(options, standard_output, standard_error);
  const auto first = streams.open(1, spec_named("a"));
  const auto second = streams.open(2, spec_named("bbbbb"));
  send(first.standard_output, "x\nun");
  send(second.standard_output, "y\n");
  send(first.standard_error, "z\n");
  streams.close(1);
  streams.close(2);
  CHECK(output.read() == "a     | x\nbbbbb | y\na     | un\n");
  CHECK(error.read() == "a     | z\n");
}

TEST_CASE("with --json what a job prints goes to standard error") {
  const Pipe output;
  const Pipe error;
  OutputTarget standard_output(output.writer, "standard output");
  OutputTarget standard_error(error.writer, "standard error");
  StreamOptions options;
  options.output_to_error = true;
  JobStreams streams(options, standard_output, standard_error);
  send(streams.open(1, spec_named("a")).standard_output, "x");
  CHECK(output.read().empty());
  CHECK(error.read() == "x");
}

TEST_CASE("one file for both streams keeps their order, and patterns make one file a job") {
  const TemporaryDirectory directory;
  const Pipe pipe;
  OutputTarget target(pipe.writer, "standard output");
  StreamOptions options;
  options.owner = {::getuid(), ::getgid(), "ann"};
  JobStreams streams(options, target, target);
  JobSpec spec = spec_named("n");
  spec.standard_output = directory.path() + "/%x-%j";
  const auto job = streams.open(7, spec);
  send(job.standard_output, "1");
  CHECK(job.joined);  // one pipe for both: the executor gives the job the same end twice
  CHECK_FALSE(job.standard_error);
  send(job.standard_output, "23");
  streams.close(7);
  CHECK(contents(directory.path() + "/n-7") == "123");
  CHECK(pipe.read().empty());
}

TEST_CASE("a job whose file cannot be opened leaves none open") {
  const TemporaryDirectory directory;
  const Pipe pipe;
  OutputTarget target(pipe.writer, "standard output");
  StreamOptions options;
  options.owner = {::getuid(), ::getgid(), "ann"};
  JobStreams streams(options, target, target);
  JobSpec spec = spec_named("n");
  spec.standard_output = directory.path() + "/out";
  spec.standard_error = directory.path() + "/none/err";
  const int before = ::dup(0);
  ::close(before);
  CHECK_THROWS_WITH(streams.open(1, spec), Catch::Contains("/none/err") && Catch::Contains("make it first"));
  const int after = ::dup(0);
  ::close(after);
  CHECK(before == after);
}

}  // namespace
}  // namespace berth
