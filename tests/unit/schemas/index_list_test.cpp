#include "schemas/index_list.h"

#include <catch2/catch.hpp>
#include <vector>

#include "schemas/dependency.h"

namespace berth {
namespace {

TEST_CASE("lists of array indexes are read, taken from and written") {
  for (const char* text : {"0-15", "1,3,5-7", "0-20:4", "7", ""}) {
    CHECK(IndexList::parse(text).to_text() == text);
  }
  IndexList list = IndexList::parse("0-10:5,20");
  CHECK(list.size() == 4);
  CHECK(list.contains(5));
  CHECK_FALSE(list.contains(6));
  CHECK(list.take_first() == 0U);
  CHECK(list.to_text() == "5-10:5,20");
  CHECK(list.erase(20));
  CHECK_FALSE(list.erase(20));
  CHECK(list.take_first() == 5U);
  CHECK(list.take_first() == 10U);
  CHECK_FALSE(list.take_first());
  IndexList split = IndexList::parse("0-9");
  CHECK(split.erase(4));
  CHECK(split.to_text() == "0-3,5-9");
  split.insert(4);
  split.insert(7);
  CHECK(split.to_text() == "0-3,4,5-9");
  CHECK(IndexList::parse("0-999999").size() == 1'000'000);
}

TEST_CASE("what is no list of array indexes is refused") {
  for (const char* text : {"x", "5-1", "1-", "-3", "1,1", "0-9,5", "10000000", "1-2-3", "1 2"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(IndexList::parse(text), std::invalid_argument);
  }
  CHECK(parse_array("0-9%3").limit == 3);
  CHECK_THROWS_AS(parse_array("0-9%0"), std::invalid_argument);
  CHECK_THROWS_AS(parse_array(""), std::invalid_argument);
  std::string many;
  for (unsigned task = 0; task < 20'000; task += 2) {
    many += (many.empty() ? "" : ",") + std::to_string(task);
  }
  CHECK(parse_new_array(many).tasks.size() == 10'000);
  CHECK_THROWS_AS(parse_new_array(many + ",20000"), std::invalid_argument);
  CHECK(parse_array(many + ",20000").tasks.size() == 10'001);  // one that is stored
}

TEST_CASE("dependencies are read, all of them or any") {
  const Dependency all = parse_dependency("afterok:1:2,singleton");
  CHECK(all.conditions.size() == 3);
  CHECK_FALSE(all.any);
  CHECK(all.conditions[1].job == 2);
  CHECK(all.conditions[2].type == Dependency::Type::singleton);
  CHECK(parse_dependency("afterany:1?afternotok:2").any);
  const Dependency task = parse_dependency("afterok:12_0:13");
  CHECK((task.conditions[0].job == 12 && task.conditions[0].task == 0U));
  CHECK_FALSE(task.conditions[1].task);
  for (const char* text : {"", "before:1", "afterok", "afterok:", "afterok:x", "afterok:0",
                           "afterok:1,after:2?after:3", "afterok:1_", "afterok:_1", "afterok:1_x",
                           "after:1+5", "aftercorr:1", "singleton:", "singleton:1", "singleton:,afterok:1"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(parse_dependency(text), std::invalid_argument);
  }
}

TEST_CASE("the ends and the step of a list of indexes") {
  const auto ends = [](const char* text) {
    const IndexList list = IndexList::parse(text);
    return std::vector<unsigned>{list.lowest(), list.highest(), list.step()};
  };
  using Numbers = std::vector<unsigned>;
  CHECK(ends("0-15") == Numbers{0, 15, 1});
  CHECK(ends("0-22:4") == Numbers{0, 20, 4});
  CHECK(ends("7") == Numbers{7, 7, 1});
  CHECK(ends("9,3,6") == Numbers{3, 9, 3});
  CHECK(ends("0-8:4,10") == Numbers{0, 10, 2});
}

TEST_CASE("a dependency counts what it says twice once, and has an end") {
  CHECK(parse_dependency("afterany:1:1:2,afterok:1,afterany:2:1_0").conditions.size() == 4);
  std::string text = "afterany";
  for (int job = 1; job <= 10'000; ++job) {
    text += ":" + std::to_string(job);
  }
  CHECK(parse_new_dependency(text + ":1:2").conditions.size() == 10'000);
  CHECK_THROWS_WITH(parse_new_dependency(text + ":10001"), Catch::Contains("more than 10000 jobs"));
  CHECK(parse_dependency(text + ":10001").conditions.size() == 10'001);  // one that is stored
  std::string repeated = "afterany";
  while (repeated.size() <= std::size_t{256} * 1024) {
    repeated += ":1";
  }
  CHECK_THROWS_WITH(parse_new_dependency(repeated), Catch::Contains("longer than 256 KiB"));
}

TEST_CASE("a condition holds, may yet hold, or never") {
  using Type = Dependency::Type;
  CHECK(fulfilment(Type::afterok, JobState::running) == Fulfilment::no);
  CHECK(fulfilment(Type::afterok, JobState::completed) == Fulfilment::yes);
  CHECK(fulfilment(Type::afterok, JobState::failed) == Fulfilment::never);
  CHECK(fulfilment(Type::afternotok, JobState::completed) == Fulfilment::never);
  CHECK(fulfilment(Type::afternotok, JobState::cancelled) == Fulfilment::yes);
  CHECK(fulfilment(Type::afterany, JobState::failed) == Fulfilment::yes);
  CHECK(fulfilment(Type::after, JobState::pending) == Fulfilment::no);
  CHECK(fulfilment(Type::after, JobState::running) == Fulfilment::yes);
}

}  // namespace
}  // namespace berth
