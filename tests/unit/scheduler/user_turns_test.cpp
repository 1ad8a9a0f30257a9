#include "scheduler/user_turns.h"

#include <catch2/catch.hpp>
#include <future>
#include <string>

namespace berth {

TEST_CASE("users take turns, and what each asks for keeps its order") {
  std::promise<void> begun;
  std::promise<void> all_asked;
  std::promise<std::string> all_done;
  std::string done;
  UserTurns turns;
  turns.post(1, [&] {
    begun.set_value();
    all_asked.get_future().wait();
  });
  begun.get_future().wait();
  for (const char piece : {'a', 'b', 'c'}) {
    turns.post(1, [&done, piece] { done += piece; });
  }
  turns.post(2, [&done] { done += 'x'; });
  turns.post(3, [&done] { done += 'y'; });
  turns.post(2, [&done] { done += 'z'; });
  turns.post_next(3, [&done] { done += 'w'; });
  turns.post(1, [&] { all_done.set_value(done); });
  all_asked.set_value();
  CHECK(all_done.get_future().get() == "axwbzyc");
}

}  // namespace berth
