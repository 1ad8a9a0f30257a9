#include "schemas/terminal_text.h"

#include <catch2/catch.hpp>

namespace berth {
namespace {

TEST_CASE("characters that move a terminal's cursor or turn its text are found and replaced") {
  CHECK(printable("a\x1b[31m\x7f\n") == "a?[31m??");
  CHECK(printable("\xc2\x9b"
                  "31mEVIL\xe2\x80\xae\xe2\x80\xa8x\xe2\x81\xa6") == "?31mEVIL??x?");
  CHECK(with_controls_escaped("\x01\xc2\x85\xe2\x80\xae") == "\\u0001\\u0085\\u202e");
  CHECK(has_control("x\xe2\x81\xa9"));
  CHECK(printable("a\xe2\x80\x8b"
                  "b\xe2\x81\xa0\xd8\x9c\xef\xbb\xbf") == "a?b???");
  CHECK(json_with_controls_escaped("{\"a\":\"\xef\xbb\xbf\"}") == "{\"a\":\"\\ufeff\"}");
  CHECK(json_with_controls_escaped("{\"a\":\"\xd8\x9c\"}") == "{\"a\":\"\\u061c\"}");
}

TEST_CASE("other text is left as it is") {
  const char* text = "caf\xc3\xa9 \xe2\x80\x94 \xe2\x80\xa6 \xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x9a\xa2";
  CHECK(printable(text) == text);
  CHECK_FALSE(has_control(text));
  CHECK(printable("\xe2\x80") == "\xe2\x80");  // cut in the middle
  CHECK(printable("").empty());
  const char* joined = "\xd9\x85\xdb\x8c\xe2\x80\x8c\xd8\xae \xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x94\xa7";
  CHECK(printable(joined) == joined);
  CHECK(printable_lines("a\nb\r\x1b") == "a\nb??");
}

}  // namespace
}  // namespace berth
