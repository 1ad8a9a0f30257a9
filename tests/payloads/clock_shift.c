/* Preloaded into berthd and its runners (LD_PRELOAD): the system clock as a test sets it, while the machine's
   own stays as it is. The file that CLOCK_SHIFT_FILE names holds by how many seconds, as a 64-bit number; a
   change is seen at once. The monotonic clock is left alone, as a change of the system clock leaves it alone.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t shifted_by_none;
static volatile int64_t* shift = &shifted_by_none;

__attribute__((constructor)) static void find_shift(void) {
  const char* path = getenv("CLOCK_SHIFT_FILE");
  const int descriptor = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (descriptor >= 0) {
    void* const mapped = mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, descriptor, 0);
    if (mapped != MAP_FAILED) {
      shift = mapped;
    }
    close(descriptor);
  }
}

int clock_gettime(clockid_t clock, struct timespec* now) {
  const int result = (int)syscall(SYS_clock_gettime, clock, now);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    now->tv_sec += *shift;
  }
  return result;
}

int gettimeofday(struct timeval* restrict now, void* restrict zone) {
  (void)zone;
  struct timespec time;
  const int result = clock_gettime(CLOCK_REALTIME, &time);
  now->tv_sec = time.tv_sec;
  now->tv_usec = time.tv_nsec / 1000;
  return result;
}

time_t time(time_t* now) {
  struct timespec time;
  clock_gettime(CLOCK_REALTIME, &time);
  if (now) {
    *now = time.tv_sec;
  }
  return time.tv_sec;
}
