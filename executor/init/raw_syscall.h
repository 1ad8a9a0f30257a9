// System calls without libc, for the freestanding init. Each returns the kernel's value: negative errno on
// failure. No global state, so every function is safe after vfork.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace berth::init {

#if defined(__x86_64__)
inline long syscall6(long number, long a, long b, long c, long d, long e, long f) {
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
}
#elif defined(__aarch64__)
inline long syscall6(long number, long a, long b, long c, long d, long e, long f) {
  register long x8 asm("x8") = number;
  register long x0 asm("x0") = a;
  register long x1 asm("x1") = b;
  register long x2 asm("x2") = c;
  register long x3 asm("x3") = d;
  register long x4 asm("x4") = e;
  register long x5 asm("x5") = f;
  asm volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
  return x0;
}
#else
#error "berth's init knows x86-64 and arm64"
#endif

inline long as_argument(long value) {
  return value;
}
inline long as_argument(int value) {
  return value;
}
inline long as_argument(unsigned value) {
  return static_cast<long>(value);
}
inline long as_argument(unsigned long value) {
  return static_cast<long>(value);
}
inline long as_argument(const void* value) {
  return reinterpret_cast<long>(value);
}

/// clone(2) with CLONE_VM: the child runs `entry` on a stack of its own, which grows down from `stack_end`
/// (aligned to 16 bytes), and never returns. The child's pid, or a negative errno.
inline long clone_on_stack(long number, unsigned long flags, char* stack_end, void (*entry)()) {
#if defined(__x86_64__)
  long result;
  register long r10 asm("r10") = 0;
  register long r8 asm("r8") = 0;
  asm volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "xor %%ebp, %%ebp\n\t"
      "call *%[entry]\n\t"
      "hlt\n"
      "1:"
      : "=a"(result)
      : "a"(number), "D"(flags), "S"(stack_end), "d"(0l), "r"(r10), "r"(r8), [entry] "b"(entry)
      : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register long x8 asm("x8") = number;
  register long x0 asm("x0") = static_cast<long>(flags);
  register char* x1 asm("x1") = stack_end;
  register long x2 asm("x2") = 0;
  register long x3 asm("x3") = 0;
  register long x4 asm("x4") = 0;
  register void (*x9)() asm("x9") = entry;
  asm volatile(
      "svc 0\n\t"
      "cbnz x0, 1f\n\t"
      "mov x29, xzr\n\t"
      "blr x9\n\t"
      "brk 0\n"
      "1:"
      : "+r"(x0)
      : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x9)
      : "memory");
  return x0;
#endif
}

/// sys(SYS_read, fd, buffer, size) …: up to six arguments.
template <typename... Arguments>
inline long sys(long number, Arguments... arguments) {
  static_assert(sizeof...(Arguments) <= 6);
  const long values[7] = {as_argument(arguments)..., 0};
  return syscall6(number, values[0], sizeof...(Arguments) > 1 ? values[1] : 0,
                  sizeof...(Arguments) > 2 ? values[2] : 0, sizeof...(Arguments) > 3 ? values[3] : 0,
                  sizeof...(Arguments) > 4 ? values[4] : 0, sizeof...(Arguments) > 5 ? values[5] : 0);
}

}  // namespace berth::init
