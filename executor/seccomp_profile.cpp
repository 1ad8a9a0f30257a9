#include "executor/seccomp_profile.h"

namespace berth {

std::span<const sock_filter> default_seccomp_program() {
  static constexpr sock_filter kProgram[] = {
#include "seccomp_program.inc"
  };
  return kProgram;
}

}  // namespace berth
