#include "executor/device_program.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

namespace berth {
namespace {

// Registers: r1 is the context at entry and scratch after the loads; r0 the answer.
constexpr unsigned char kType = BPF_REG_2, kAccess = BPF_REG_3, kMajor = BPF_REG_4, kMinor = BPF_REG_5;

bpf_insn instruction(int code, unsigned char destination, unsigned char source, std::size_t jump,
                     int immediate) {
  bpf_insn made{};
  made.code = static_cast<unsigned char>(code);
  made.dst_reg = destination & 0xFU;
  made.src_reg = source & 0xFU;
  made.off = static_cast<short>(jump);
  made.imm = immediate;
  return made;
}

bpf_insn load(unsigned char destination, std::size_t offset) {
  return instruction(BPF_LDX | BPF_W | BPF_MEM, destination, BPF_REG_1, offset, 0);
}

bpf_insn alu32(int operation, unsigned char destination, unsigned immediate) {
  return instruction(BPF_ALU | operation | BPF_K, destination, 0, 0, static_cast<int>(immediate));
}

/// Jumps over `skipped` instructions when destination != immediate, compared as 32 bits.
bpf_insn skip_unless_equal(unsigned char destination, unsigned immediate, std::size_t skipped) {
  return instruction(BPF_JMP32 | BPF_JNE | BPF_K, destination, 0, skipped, static_cast<int>(immediate));
}

void append_answer(std::vector<bpf_insn>& program, int answer) {
  program.push_back(instruction(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, answer));
  program.push_back(instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0));
}

unsigned access_bits(const std::string& access) {
  unsigned bits = 0;
  for (const char letter : access) {
    bits |= letter == 'r'   ? static_cast<unsigned>(BPF_DEVCG_ACC_READ)
            : letter == 'w' ? static_cast<unsigned>(BPF_DEVCG_ACC_WRITE)
            : letter == 'm' ? static_cast<unsigned>(BPF_DEVCG_ACC_MKNOD)
                            : 0U;
  }
  return bits;
}

struct Rule {
  char type;
  unsigned major;
  std::optional<unsigned> minor;
  unsigned access;
};

/// Rules of one device are one rule, as devices.allow of v1 merges them.
std::vector<Rule> merged(const std::vector<DeviceRule>& rules) {
  std::vector<Rule> made;
  for (const DeviceRule& rule : rules) {
    const auto same = std::find_if(made.begin(), made.end(), [&](const Rule& known) {
      return known.type == rule.type && known.major == rule.major && known.minor == rule.minor;
    });
    if (same != made.end()) {
      same->access |= access_bits(rule.access);
    } else {
      made.push_back({rule.type, rule.major, rule.minor, access_bits(rule.access)});
    }
  }
  return made;
}

void append_rule(std::vector<bpf_insn>& program, const Rule& rule) {
  constexpr std::size_t kAnswerLength = 2, kAccessLength = 3;
  const unsigned type = rule.type == 'b' ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR;
  std::size_t left = (rule.minor ? 1U : 0U) + 1 + kAccessLength + kAnswerLength;  // after the type's check
  program.push_back(skip_unless_equal(kType, type, left));
  program.push_back(skip_unless_equal(kMajor, rule.major, --left));
  if (rule.minor) {
    program.push_back(skip_unless_equal(kMinor, *rule.minor, --left));
  }
  // Any access beyond the rule's: (access & ~allowed) != 0.
  program.push_back(instruction(BPF_ALU | BPF_MOV | BPF_X, BPF_REG_1, kAccess, 0, 0));
  program.push_back(alu32(BPF_AND, BPF_REG_1, ~rule.access));
  program.push_back(skip_unless_equal(BPF_REG_1, 0, kAnswerLength));
  append_answer(program, 1);
}

int bpf(int command, bpf_attr& attributes) noexcept {
  return static_cast<int>(::syscall(SYS_bpf, command, &attributes, sizeof attributes));
}

}  // namespace

std::vector<bpf_insn> device_program(const std::vector<DeviceRule>& rules) {
  std::vector<bpf_insn> program{
      // access_type is access << 16 | type
      load(kType, offsetof(bpf_cgroup_dev_ctx, access_type)),
      load(kAccess, offsetof(bpf_cgroup_dev_ctx, access_type)),
      alu32(BPF_AND, kType, 0xFFFF),
      alu32(BPF_RSH, kAccess, 16),
      load(kMajor, offsetof(bpf_cgroup_dev_ctx, major)),
      load(kMinor, offsetof(bpf_cgroup_dev_ctx, minor)),
  };
  for (const Rule& rule : merged(rules)) {
    append_rule(program, rule);
  }
  append_answer(program, 0);
  return program;
}

UniqueFd load_device_program(const std::vector<bpf_insn>& instructions) noexcept {
  bpf_attr attributes{};
  attributes.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  attributes.insns = reinterpret_cast<std::uintptr_t>(instructions.data());
  attributes.insn_cnt = static_cast<unsigned>(instructions.size());
  attributes.license = reinterpret_cast<std::uintptr_t>("Proprietary");  // it calls no GPL-only helper
  std::memcpy(attributes.prog_name, "berth_devices", sizeof "berth_devices");
  return UniqueFd{bpf(BPF_PROG_LOAD, attributes)};  // close-on-exec, as every bpf(2) descriptor
}

int attach_device_program(int program, int cgroup) noexcept {
  bpf_attr attributes{};
  attributes.target_fd = static_cast<unsigned>(cgroup);
  attributes.attach_bpf_fd = static_cast<unsigned>(program);
  attributes.attach_type = BPF_CGROUP_DEVICE;
  attributes.attach_flags = BPF_F_ALLOW_MULTI;
  return bpf(BPF_PROG_ATTACH, attributes) == 0 ? 0 : errno;
}

int detach_device_program(int program, int cgroup) noexcept {
  bpf_attr attributes{};
  attributes.target_fd = static_cast<unsigned>(cgroup);
  attributes.attach_bpf_fd = static_cast<unsigned>(program);
  attributes.attach_type = BPF_CGROUP_DEVICE;
  return bpf(BPF_PROG_DETACH, attributes) == 0 ? 0 : errno;
}

std::vector<UniqueFd> attached_device_programs(int cgroup) {
  unsigned ids[64];  // the kernel's own limit, BPF_CGROUP_MAX_PROGS
  bpf_attr attributes{};
  attributes.query.target_fd = static_cast<unsigned>(cgroup);
  attributes.query.attach_type = BPF_CGROUP_DEVICE;
  attributes.query.prog_ids = reinterpret_cast<std::uintptr_t>(ids);
  attributes.query.prog_cnt = static_cast<unsigned>(std::size(ids));
  std::vector<UniqueFd> programs;
  if (bpf(BPF_PROG_QUERY, attributes) != 0) {
    return programs;
  }
  for (unsigned i = 0; i < attributes.query.prog_cnt; ++i) {
    bpf_attr by_id{};
    by_id.prog_id = ids[i];
    if (UniqueFd program{bpf(BPF_PROG_GET_FD_BY_ID, by_id)}) {
      programs.push_back(std::move(program));
    }
  }
  return programs;
}

}  // namespace berth
