// What one handler of berthd's event loop throws, when it was called by another that has to go on.
#pragma once

#include <boost/asio/post.hpp>
#include <exception>

namespace berth {

/// In a catch block: what was caught is thrown again by `loop` itself, an executor or a context, in its turn.
/// There it is logged, as of one job or request, and nothing else is lost.
template <typename Loop>
void throw_from(Loop&& loop) {
  boost::asio::post(loop, [thrown = std::current_exception()] { std::rethrow_exception(thrown); });
}

/// Calls it; what it throws is thrown from `loop`.
template <typename Loop, typename Call>
void call_apart(Loop&& loop, const Call& call) {
  try {
    call();
  } catch (...) {
    throw_from(loop);
  }
}

}  // namespace berth
