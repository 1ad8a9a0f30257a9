// The device program run by a small interpreter of the instructions that it uses: what the kernel would
// answer, without a kernel.
#include <catch2/catch.hpp>
#include <cstring>

#include "executor/device_program.h"

using namespace berth;

namespace {

/// bpf(2)'s verdict on one access. Fails the test on any instruction that the interpreter does not know,
/// on a jump out of the program and on a program that does not end.
int run(const std::vector<bpf_insn>& program, const bpf_cgroup_dev_ctx& context) {
  std::uint64_t registers[11] = {};
  constexpr std::uint64_t kContext = 0x1000;  // only ever used as the base of a load
  registers[BPF_REG_1] = kContext;
  std::size_t at = 0;
  for (std::size_t steps = 0; steps < program.size() + 1; ++steps) {
    REQUIRE(at < program.size());
    const bpf_insn& now = program[at++];
    std::uint64_t& target = registers[now.dst_reg];
    const auto immediate = static_cast<std::uint32_t>(now.imm);
    switch (now.code) {
      case BPF_LDX | BPF_W | BPF_MEM: {
        REQUIRE(registers[now.src_reg] == kContext);
        std::uint32_t word = 0;
        REQUIRE(static_cast<std::size_t>(now.off) + sizeof word <= sizeof context);
        std::memcpy(&word, reinterpret_cast<const char*>(&context) + now.off, sizeof word);
        target = word;
        break;
      }
      case BPF_ALU | BPF_AND | BPF_K:
        target = static_cast<std::uint32_t>(target) & immediate;
        break;
      case BPF_ALU | BPF_RSH | BPF_K:
        target = static_cast<std::uint32_t>(target) >> immediate;
        break;
      case BPF_ALU | BPF_MOV | BPF_X:
        target = static_cast<std::uint32_t>(registers[now.src_reg]);
        break;
      case BPF_ALU64 | BPF_MOV | BPF_K:
        target = immediate;
        break;
      case BPF_JMP32 | BPF_JNE | BPF_K:
        REQUIRE(now.off >= 0);  // forward only: the verifier refuses nothing then
        at += static_cast<std::uint32_t>(target) != immediate ? static_cast<std::size_t>(now.off) : 0;
        break;
      case BPF_JMP | BPF_EXIT:
        return static_cast<int>(registers[BPF_REG_0]);
      default:
        FAIL("unknown instruction " << int{now.code});
    }
  }
  FAIL("the program does not end");
  return -1;
}

bool allows(const std::vector<DeviceRule>& rules, char type, unsigned access, unsigned major,
            unsigned minor) {
  bpf_cgroup_dev_ctx context{};
  context.access_type =
      access << 16 | static_cast<unsigned>(type == 'b' ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR);
  context.major = major;
  context.minor = minor;
  const int verdict = run(device_program(rules), context);
  REQUIRE((verdict == 0 || verdict == 1));
  return verdict == 1;
}

constexpr unsigned kRead = BPF_DEVCG_ACC_READ, kWrite = BPF_DEVCG_ACC_WRITE, kMknod = BPF_DEVCG_ACC_MKNOD;

}  // namespace

TEST_CASE("without a rule every access is denied") {
  CHECK_FALSE(allows({}, 'c', kRead, 1, 3));
  CHECK_FALSE(allows({}, 'b', kMknod, 8, 0));
}

TEST_CASE("an access is allowed by the rules of one device or not at all") {
  const std::vector<DeviceRule> rules{{'c', 1, 3, "rw"}, {'c', 136, std::nullopt, "rw"},
                                      {'b', 8, 16, "r"}, {'c', 10, 229, "rwm"},
                                      {'c', 10, 5, "r"}, {'c', 10, 5, "w"}};
  CHECK(allows(rules, 'c', kRead, 1, 3));
  CHECK(allows(rules, 'c', kRead | kWrite, 1, 3));
  CHECK_FALSE(allows(rules, 'c', kMknod, 1, 3));
  CHECK_FALSE(allows(rules, 'c', kRead | kMknod, 1, 3));
  CHECK_FALSE(allows(rules, 'c', kRead, 1, 4));
  CHECK_FALSE(allows(rules, 'c', kRead, 2, 3));
  CHECK_FALSE(allows(rules, 'b', kRead, 1, 3));
  CHECK(allows(rules, 'c', kWrite, 136, 0));
  CHECK(allows(rules, 'c', kWrite, 136, 1048575));
  CHECK(allows(rules, 'b', kRead, 8, 16));
  CHECK_FALSE(allows(rules, 'b', kWrite, 8, 16));
  CHECK_FALSE(allows(rules, 'b', kRead, 8, 0));
  CHECK(allows(rules, 'c', kRead | kWrite | kMknod, 10, 229));
  CHECK(allows(rules, 'c', kRead, 10, 5));
  CHECK(allows(rules, 'c', kWrite, 10, 5));
  CHECK(allows(rules, 'c', kRead | kWrite, 10, 5));  // two rules of one device are one
  CHECK_FALSE(allows(rules, 'c', kRead | kMknod, 10, 5));
}

TEST_CASE("equal rules make equal programs, different rules different ones") {
  const std::vector<DeviceRule> one{{'c', 1, 3, "rw"}}, other{{'c', 1, 3, "r"}};
  const auto bytes = [](const std::vector<DeviceRule>& rules) {
    const std::vector<bpf_insn> program = device_program(rules);
    return std::string(reinterpret_cast<const char*>(program.data()), program.size() * sizeof(bpf_insn));
  };
  CHECK(bytes(one) == bytes(one));
  CHECK(bytes(one) != bytes(other));
}
