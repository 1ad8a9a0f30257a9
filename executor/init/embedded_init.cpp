#include "executor/init/embedded_init.h"

asm(".section .rodata\n"
    ".balign 16\n"
    "berth_init_begin:\n"
    ".incbin \"" BERTH_INIT_FILE
    "\"\n"
    "berth_init_end:\n"
    ".previous\n");

extern "C" {
extern const char berth_init_begin[] __attribute__((visibility("hidden")));
extern const char berth_init_end[] __attribute__((visibility("hidden")));
}

namespace berth {

std::string_view embedded_init() {
  return {berth_init_begin, static_cast<std::size_t>(berth_init_end - berth_init_begin)};
}

}  // namespace berth
