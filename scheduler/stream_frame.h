// StreamFrame: what `berth exec` or `berth attach` and the job's runner say to each other once the HTTP
// connection has become a stream of frames. docs/berthd.md describes it for other clients.
//
//   frame: one byte of kind, four bytes of length (big endian), the payload
//
// Pure; safe from any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace berth {

struct StreamFrame {
  enum class Kind : std::uint8_t {
    input = 0,   ///< to the command: standard input; empty: its end
    output = 1,  ///< from it
    error = 2,
    window = 3,    ///< to it: rows and columns of the terminal, two bytes each, big endian
    signal = 4,    ///< to it: the signal's number, one byte
    end = 5,       ///< from it, the last: {"exit_status": 0, "message": "…"}
    attached = 6,  ///< from a job, the first: {"attempt": 1, "terminal": true}
  };
  Kind kind = Kind::input;
  std::string payload;
};

struct TerminalWindow {
  std::uint16_t rows = 24;
  std::uint16_t columns = 80;
};

std::string to_frame(StreamFrame::Kind kind, std::string_view payload);
std::string window_payload(TerminalWindow window);
/// Nothing when it is none.
std::optional<TerminalWindow> parse_window(std::string_view payload);

/// Takes frames out of a stream of bytes.
class StreamFrameReader {
 public:
  static constexpr std::size_t kLargestPayload = std::size_t{64} << 10U;

  void append(std::string_view bytes) { buffer_ += bytes; }
  /// The next whole frame; nothing when more bytes are needed. Throws std::runtime_error on what is no frame.
  std::optional<StreamFrame> next();

 private:
  std::string buffer_;
  std::size_t position_ = 0;  // what is before has been taken
};

}  // namespace berth
