// The channels of init: packets with descriptors from the executor and to the waiting job, reports back
// (sandbox_protocol.h; unix(7), SCM_RIGHTS).
#include <sys/syscall.h>

#include "executor/init/freestanding.h"
#include "executor/init/raw_syscall.h"
#include "executor/init/sandbox.h"

namespace berth::init {
namespace {

constexpr int kSolSocket = 1;
constexpr int kScmRights = 1;
constexpr int kCmsgCloexec = 0x40000000;
constexpr int kNoSignal = 0x4000;  // MSG_NOSIGNAL
struct Iovec {
  void* base;
  size_t size;
};
struct Msghdr {
  void* name;
  int name_size;
  Iovec* iov;
  size_t iov_count;
  void* control;
  size_t control_size;
  int flags;
};
struct Cmsghdr {
  size_t size;
  int level;
  int type;
};
constexpr size_t kControlSize = sizeof(Cmsghdr) + sizeof(int) * kMaximumDescriptors;

}  // namespace

PacketBuffer init_buffer;

Packet receive_packet(int socket, PacketBuffer& buffer) {
  alignas(8) char control[kControlSize];
  Iovec iov{buffer.data, sizeof buffer.data};
  Msghdr message{nullptr, 0, &iov, 1, control, sizeof control, 0};
  long size;
  do {
    size = sys(SYS_recvmsg, socket, &message, kCmsgCloexec);
  } while (size == -4 /* EINTR */);
  if (size <= 0) {
    sys(SYS_exit_group, 0);
  }
  uint32_t count = 0;
  const auto* header = reinterpret_cast<const Cmsghdr*>(control);
  if (message.control_size >= sizeof(Cmsghdr) && header->level == kSolSocket && header->type == kScmRights) {
    const auto* received = reinterpret_cast<const int*>(control + sizeof(Cmsghdr));
    for (; count < (header->size - sizeof(Cmsghdr)) / sizeof(int); ++count) {
      buffer.descriptors[count] = received[count];
    }
  }
  return {buffer.data, static_cast<size_t>(size), buffer.descriptors, count};
}

long send_packet(int socket, const void* data, size_t size, const int* sent, size_t count) {
  alignas(8) char control[kControlSize];
  auto* header = reinterpret_cast<Cmsghdr*>(control);
  header->size = sizeof(Cmsghdr) + sizeof(int) * count;
  header->level = kSolSocket;
  header->type = kScmRights;
  auto* place = reinterpret_cast<int*>(control + sizeof(Cmsghdr));
  for (size_t index = 0; index < count; ++index) {
    place[index] = sent[index];
  }
  Iovec iov{const_cast<void*>(data), size};
  const Msghdr message{nullptr, 0, &iov, 1, control, (header->size + 7) / 8 * 8, 0};
  return sys(SYS_sendmsg, socket, &message, kNoSignal);
}

long open_plan(const Packet& packet, ReceivedPlan& received) {
  auto* plan = reinterpret_cast<Plan*>(packet.data);
  received = {plan, packet.descriptors, packet, -1};
  if (plan->size <= packet.size) {
    return 0;
  }
  received.memory = packet.descriptors[0];
  ++received.descriptors;
  const long mapped = sys(SYS_mmap, 0, static_cast<size_t>(plan->size), 3 /* READ|WRITE */,
                          2 /* MAP_PRIVATE */, received.memory, 0);
  // The bare system call answers with a number. NOLINTNEXTLINE(performance-no-int-to-ptr)
  received.plan = mapped < 0 ? nullptr : reinterpret_cast<Plan*>(mapped);
  return mapped < 0 ? mapped : 0;
}

ReceivedPlan receive_plan(int socket, PacketBuffer& buffer) {
  const Packet packet = receive_packet(socket, buffer);
  if (packet.size < sizeof(Plan) ||
      reinterpret_cast<const Plan*>(packet.data)->descriptor_count != packet.descriptor_count) {
    fail(Step::receive, -71 /* EPROTO */, "plan");
  }
  ReceivedPlan received;
  expect(open_plan(packet, received), Step::receive, "plan");
  if (received.plan->mount_count > sandbox::kMaximumMounts) {
    fail(Step::receive, -7 /* E2BIG */, "mounts");
  }
  return received;
}

void send_report(const sandbox::Report& message) {
  const size_t size = offsetof(sandbox::Report, object) + length(message.object) + 1;
  sys(SYS_sendto, sandbox::kChannelFd, &message, size, kNoSignal, 0, 0);
}

void report_terminal(int master) {
  sandbox::Report message{};
  message.kind = sandbox::ReportKind::terminal;
  message.step = Step::open_terminal;
  message.command = command_number;
  expect(send_packet(sandbox::kChannelFd, &message, offsetof(sandbox::Report, object) + 1, &master, 1),
         Step::open_terminal, "sendmsg");
}

void fail(Step step, long negative_errno, const char* object) {
  const bool is_job = command_number == 0 && sys(SYS_getpid) != 1;
  sandbox::Report message{};
  message.kind = command_number == 0 ? sandbox::ReportKind::failed : sandbox::ReportKind::command_failed;
  message.step = step;
  message.error = static_cast<int32_t>(-negative_errno);
  message.command = command_number;
  copy(message.object, object, sizeof message.object);
  send_report(message);
  if (is_job) {
    sys(SYS_write, kFailureFd, "", 1);
  }
  sys(SYS_exit_group, 125);
  __builtin_unreachable();
}

}  // namespace berth::init
