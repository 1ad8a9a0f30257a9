#include "scheduler/stream_frame.h"

#include <stdexcept>

namespace berth {
namespace {

constexpr std::size_t kHeader = 5;

std::uint32_t byte_at(std::string_view text, std::size_t index) {
  return static_cast<unsigned char>(text[index]);
}

}  // namespace

std::string to_frame(StreamFrame::Kind kind, std::string_view payload) {
  const std::size_t size = payload.size();
  std::string frame{static_cast<char>(kind), static_cast<char>(size >> 24U & 0xFFU),
                    static_cast<char>(size >> 16U & 0xFFU), static_cast<char>(size >> 8U & 0xFFU),
                    static_cast<char>(size & 0xFFU)};
  return frame.append(payload);
}

std::string window_payload(TerminalWindow window) {
  return {static_cast<char>(window.rows >> 8U), static_cast<char>(window.rows & 0xFFU),
          static_cast<char>(window.columns >> 8U), static_cast<char>(window.columns & 0xFFU)};
}

std::optional<TerminalWindow> parse_window(std::string_view payload) {
  if (payload.size() != 4) {
    return std::nullopt;
  }
  return TerminalWindow{static_cast<std::uint16_t>(byte_at(payload, 0) << 8U | byte_at(payload, 1)),
                        static_cast<std::uint16_t>(byte_at(payload, 2) << 8U | byte_at(payload, 3))};
}

std::optional<StreamFrame> StreamFrameReader::next() {
  const std::string_view rest = std::string_view(buffer_).substr(position_);
  if (rest.size() < kHeader) {
    return std::nullopt;
  }
  const std::size_t size =
      byte_at(rest, 1) << 24U | byte_at(rest, 2) << 16U | byte_at(rest, 3) << 8U | byte_at(rest, 4);
  const std::uint32_t kind = byte_at(rest, 0);
  if (size > kLargestPayload || kind > static_cast<std::uint32_t>(StreamFrame::Kind::attached)) {
    throw std::runtime_error("a frame of kind " + std::to_string(kind) + " and " + std::to_string(size) +
                             " bytes is none of berth's");
  }
  if (rest.size() < kHeader + size) {
    return std::nullopt;
  }
  StreamFrame frame{static_cast<StreamFrame::Kind>(kind), std::string(rest.substr(kHeader, size))};
  position_ += kHeader + size;
  if (position_ == buffer_.size() || position_ > kLargestPayload) {  // not for each of many small ones
    buffer_.erase(0, position_);
    position_ = 0;
  }
  return frame;
}

}  // namespace berth
