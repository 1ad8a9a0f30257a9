#include "schemas/cpu_set.h"

#include <catch2/catch.hpp>
#include <stdexcept>

namespace berth {
namespace {

using Catch::Matchers::Contains;

TEST_CASE("CPU lists are those of cpuset(7)") {
  CHECK(CpuSet::parse("0-3,8") == CpuSet{0, 1, 2, 3, 8});
  CHECK(CpuSet::parse("8,0-3,2") == CpuSet{0, 1, 2, 3, 8});
  CHECK(CpuSet::parse("0-9:3") == CpuSet{0, 3, 6, 9});
  CHECK(CpuSet::parse("") == CpuSet{});
  CHECK(CpuSet::parse("\n") == CpuSet{});
  CHECK(CpuSet::parse("0-1\n") == CpuSet{0, 1});
  CHECK(CpuSet::parse("65535").members() == std::vector<unsigned>{65535});
}

TEST_CASE("what is not a CPU list is refused with the reason") {
  for (const char* list : {",", "0,", ",0", "-1", "0-", "a", "0 1", "0;1", "1:2", "0-1:", "0--1"}) {
    INFO(list);
    CHECK_THROWS_WITH(CpuSet::parse(list), Contains("is not a list of CPUs"));
  }
  CHECK_THROWS_WITH(CpuSet::parse(std::string("0\0\x1b", 3)), Contains("\"0??\" is not a list of CPUs"));
  CHECK_THROWS_WITH(CpuSet::parse("3-1"), Contains("runs backwards"));
  CHECK_THROWS_WITH(CpuSet::parse("0-3:0"), Contains("stride"));
  CHECK_THROWS_WITH(CpuSet::parse("65536"), Contains("numbers end at 65535"));
  CHECK_THROWS_WITH(CpuSet::parse("99999999999"), Contains("numbers end at 65535"));
}

TEST_CASE("a list reads back from its shortest form") {
  CHECK(CpuSet{}.to_list().empty());
  CHECK(CpuSet{5}.to_list() == "5");
  CHECK(CpuSet{1, 0, 3, 8, 9, 10}.to_list() == "0-1,3,8-10");
  CHECK(CpuSet::range(60, 130).to_list() == "60-130");
  CHECK(CpuSet::parse(CpuSet{0, 63, 64, 127, 1023}.to_list()) == CpuSet{0, 63, 64, 127, 1023});
}

TEST_CASE("sets are equal when their members are, whatever was erased before") {
  CpuSet set{1, 200};
  set.erase(200);
  set.erase(65535);
  CHECK(set == CpuSet{1});
  CHECK((CpuSet{1, 200} & CpuSet{1, 300}) == CpuSet{1});
  CHECK((CpuSet{1, 200} - CpuSet{200}) == CpuSet{1});
  CHECK((CpuSet{1} | CpuSet{200}) == CpuSet{1, 200});
  CHECK((CpuSet{1} - CpuSet{1}).empty());
}

TEST_CASE("containment, intersection and size") {
  const CpuSet set = CpuSet::range(0, 127);
  CHECK(set.size() == 128);
  CHECK(set.contains(127));
  CHECK_FALSE(set.contains(128));
  CHECK(set.intersects(CpuSet{127, 500}));
  CHECK_FALSE(set.intersects(CpuSet{500}));
  CHECK_THROWS_AS(CpuSet{65536}, std::invalid_argument);
}

}  // namespace
}  // namespace berth
