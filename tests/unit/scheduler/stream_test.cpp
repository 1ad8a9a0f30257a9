// Frames and requests of berth exec.
#include <catch2/catch.hpp>
#include <stdexcept>

#include "scheduler/stream_frame.h"
#include "scheduler/stream_request.h"
#include "schemas/input_error.h"

namespace berth {
namespace {

TEST_CASE("a stream of frames is taken apart wherever it is cut") {
  const std::string text = to_frame(StreamFrame::Kind::input, "keys") +
                           to_frame(StreamFrame::Kind::input, "") +
                           to_frame(StreamFrame::Kind::window, window_payload({50, 300}));
  StreamFrameReader reader;
  std::vector<StreamFrame> frames;
  for (const char byte : text) {
    reader.append({&byte, 1});
    while (const auto frame = reader.next()) {
      frames.push_back(*frame);
    }
  }
  REQUIRE(frames.size() == 3);
  CHECK(frames[0].payload == "keys");
  CHECK(frames[1].payload.empty());
  const auto window = parse_window(frames[2].payload);
  REQUIRE(window);
  CHECK((window->rows == 50 && window->columns == 300));
  CHECK_FALSE(parse_window("abc"));
}

TEST_CASE("many small frames that came at once are taken apart in proportion to their number") {
  constexpr std::size_t kFrames = 400'000;  // each of which moved all that followed it, for minutes in all
  std::string text;
  for (std::size_t index = 0; index < kFrames; ++index) {
    text += to_frame(StreamFrame::Kind::signal, std::string(1, static_cast<char>(index % 100)));
  }
  text += to_frame(StreamFrame::Kind::input, std::string(StreamFrameReader::kLargestPayload, 'x'));
  StreamFrameReader reader;
  reader.append(text);
  bool in_order = true;
  for (std::size_t index = 0; index < kFrames; ++index) {
    const auto frame = reader.next();
    in_order = in_order && frame && frame->payload == std::string(1, static_cast<char>(index % 100));
  }
  CHECK(in_order);
  const auto last = reader.next();
  REQUIRE(last);
  CHECK(last->payload.size() == StreamFrameReader::kLargestPayload);
  CHECK_FALSE(reader.next());
}

TEST_CASE("what is no frame is refused") {
  StreamFrameReader kind;
  kind.append(std::string("\x09\0\0\0\0", 5));
  CHECK_THROWS_AS(kind.next(), std::runtime_error);
  StreamFrameReader size;
  size.append(std::string("\0\xff\xff\xff\xff", 5));
  CHECK_THROWS_AS(size.next(), std::runtime_error);
}

TEST_CASE("a request to run a command is read and handed on whole") {
  StreamRequest request = parse_stream_request(
      R"({"argv": ["ls", "-l"], "environment": {"A": "b=c"}, "current_working_directory": "/tmp", "terminal": {"rows": 7, "columns": 9}})");
  request.id = {36, 2};
  const StreamRequest copy = parse_handed_over(to_json_text(request));
  CHECK(copy.argv == std::vector<std::string>{"ls", "-l"});
  CHECK(copy.environment.at("A") == "b=c");
  CHECK(copy.current_working_directory == "/tmp");
  CHECK((copy.id.job_id == 36 && copy.id.attempt == 2));
  REQUIRE(copy.terminal);
  CHECK((copy.terminal->rows == 7 && copy.terminal->columns == 9));
}

TEST_CASE("a request to attach is read and handed on whole") {
  StreamRequest request = parse_attach_request(R"({"terminal": {"rows": 7, "columns": 9}})");
  request.id = {36, 2};
  const StreamRequest copy = parse_handed_over(to_json_text(request));
  CHECK(copy.attach);
  CHECK((copy.id.job_id == 36 && copy.id.attempt == 2));
  REQUIRE(copy.terminal);
  CHECK((copy.terminal->rows == 7 && copy.terminal->columns == 9));
  CHECK_FALSE(parse_attach_request("").terminal);
  CHECK_FALSE(parse_stream_request(R"({"argv": ["ls"]})").attach);
  CHECK_THROWS_AS(parse_attach_request(R"({"argv": ["ls"]})"), InputError);
  CHECK_THROWS_AS(parse_attach_request(R"({"terminal": 7})"), InputError);
}

TEST_CASE("faults of a request name their pointer") {
  const auto pointer_of = [](const char* body) {
    try {
      parse_stream_request(body);
    } catch (const InputError& error) {
      return error.faults().front().pointer;
    }
    return std::string("none");
  };
  CHECK(pointer_of("{}") == "/argv");
  CHECK(pointer_of(R"({"argv": []})") == "/argv");
  CHECK(pointer_of(R"({"argv": "ls"})") == "/argv");
  CHECK(pointer_of(R"({"argv": ["l\u0000s"]})") == "/argv");
  CHECK(pointer_of(R"({"argv": ["ls"], "user": "root"})") == "/user");
  CHECK(pointer_of(R"({"argv": ["ls"], "environment": {"A=B": ""}})") == "/environment/A=B");
  CHECK(pointer_of(R"({"argv": ["ls"], "current_working_directory": "tmp"})") ==
        "/current_working_directory");
  CHECK(pointer_of(R"({"argv": ["ls"], "terminal": {"rows": 70000}})") == "/terminal/rows");
  CHECK(pointer_of("[") == "");
}

}  // namespace
}  // namespace berth
