/* shim.so: what a program is told by LD_PRELOAD while it runs: another wall clock, allocations that fail.
 *
 * The file named by SHIM_FILE (at least 64 bytes) is mapped; whoever writes to it changes what happens, at once.  It
 * holds numbers of 64 bits in the machine's order:
 *   0  nanoseconds that the wall clock (CLOCK_REALTIME and what follows from it) is ahead; the monotonic clock is left alone
 *   1  allocations of at least this size fail; 0: none fail
 *   2  of those, one in so many (0 and 1: each)
 *   3  how many have failed; counted here
 *
 * Fails: without the file everything is as without the library. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { CONTROL_SIZE = 64 };

struct control {
    _Atomic int64_t wall_ahead;
    _Atomic uint64_t fail_size, fail_every, failed;
};

/* A library that comes between has no one to give it a context. */
static struct control *control;
static _Atomic uint64_t asked;

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t k, size_t n);
void *__libc_realloc(void *p, size_t n);

__attribute__((constructor)) static void open_control(void)
{
    const char *path = getenv("SHIM_FILE");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *p = mmap(NULL, CONTROL_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p != MAP_FAILED)
        control = p;
    close(fd);
}

/* ---- memory ---- */

static int must_fail(size_t n)
{
    uint64_t least = control ? control->fail_size : 0, every;
    if (least == 0 || n < least)
        return 0;
    every = control->fail_every;
    if (every > 1 && ++asked % every != 0)
        return 0;
    control->failed++;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t n)
{
    return must_fail(n) ? NULL : __libc_malloc(n);
}

void *calloc(size_t k, size_t n)
{
    return n != 0 && k <= SIZE_MAX / n && must_fail(k * n) ? NULL : __libc_calloc(k, n);
}

void *realloc(void *p, size_t n)
{
    return n != 0 && must_fail(n) ? NULL : __libc_realloc(p, n);
}

/* ---- the wall clock ---- */

static void add_ns(struct timespec *t, int64_t ns)
{
    int64_t sum = t->tv_nsec + ns % 1000000000;
    t->tv_sec += ns / 1000000000;
    if (sum < 0 || sum >= 1000000000) {
        t->tv_sec += sum < 0 ? -1 : 1;
        sum += sum < 0 ? 1000000000 : -1000000000;
    }
    t->tv_nsec = sum;
}

int clock_gettime(clockid_t id, struct timespec *t)
{
    int rc = (int)syscall(SYS_clock_gettime, id, t);
    if (rc == 0 && control && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE || id == CLOCK_TAI))
        add_ns(t, control->wall_ahead);
    return rc;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
    struct timespec t;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &t) < 0)
        return -1;
    *tv = (struct timeval){t.tv_sec, t.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *out)
{
    struct timespec t = {0};
    clock_gettime(CLOCK_REALTIME, &t);
    if (out)
        *out = t.tv_sec;
    return t.tv_sec;
}
