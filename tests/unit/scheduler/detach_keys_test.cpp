// The keys that leave a terminal.
#include <catch2/catch.hpp>
#include <stdexcept>
#include <string>

#include "scheduler/detach_keys.h"

namespace berth {
namespace {

TEST_CASE("the sequence is found wherever it is cut, and what is none is passed on") {
  DetachKeys keys = DetachKeys::parse(DetachKeys::kDefault);
  CHECK(keys.pass("ab") == "ab");
  CHECK(keys.pass("c\x10") == "c");  // held back
  CHECK(keys.pass("d") ==
        "\x10"
        "d");
  CHECK(keys.pass("\x10\x10") == "\x10");
  CHECK_FALSE(keys.found());
  CHECK(keys.pass("\x11"
                  "after")
            .empty());
  CHECK(keys.found());
  CHECK(keys.pass("later").empty());
}

TEST_CASE("keys are characters and ctrl- with a letter") {
  DetachKeys keys = DetachKeys::parse("ctrl-a,d");
  CHECK(keys.pass("xd\x01"
                  "d") == "xd");
  CHECK(keys.found());
  DetachKeys last = DetachKeys::parse("ctrl-_");
  CHECK(last.pass("\x1f").empty());
  CHECK(last.found());
  DetachKeys none = DetachKeys::parse("none");
  CHECK(none.pass("\x10\x11") == "\x10\x11");
  CHECK_FALSE(none.found());
}

TEST_CASE("what is no key is refused") {
  for (const char* text : {"", "ctrl-", "ctrl-1", "ctrl-ab", "ab", "a,", ",a", "Ctrl-p"}) {
    CHECK_THROWS_AS(DetachKeys::parse(text), std::invalid_argument);
  }
}

}  // namespace
}  // namespace berth
