/* Who may open a connection: counters shared by all workers.
 *
 * Happy path: enter adds one in all and one in the bucket of the address's prefix, leave takes both away.
 * Failure: over a limit, enter undoes itself and says which limit it was.  Counts may be above the limit for
 * the moment in which two threads find out at once; they are never lost. */
#include "node/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <uv.h>

#include "node/config.h"

enum {
    CLIENT_MEMORY = 32 << 10, /* a connection's, with some of its queue */
    DESCRIPTORS_KEPT = 256    /* for listeners, links, files, the admin socket */
};

void limits_init(struct login_limits *l, uint64_t seed)
{
    l->seed = seed;
    atomic_init(&l->max_total, 0);
    atomic_init(&l->max_prefix, 0);
    atomic_init(&l->max_clients, 0);
    atomic_init(&l->total, 0);
    atomic_init(&l->clients, 0);
    atomic_init(&l->draining, false);
    atomic_init(&l->full, false);
    atomic_init(&l->accept_interval, 0);
    atomic_init(&l->accept_window, 0);
    atomic_init(&l->accept_due, 0);
    for (int i = 0; i < LIMITS_BUCKETS; i++)
        atomic_init(&l->prefix[i], 0);
}

/* A number in a small file of the kernel, or the maximum where there is none or it says "max". */
static uint64_t read_limit(const char *path)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return UINT64_MAX;
    unsigned long long v;
    int n = fscanf(f, "%llu", &v);
    fclose(f);
    return n == 1 ? v : UINT64_MAX;
}

/* Version 2 by our own path of /proc/self/cgroup; in a container that is "/". */
static uint64_t cgroup_memory(void)
{
    uint64_t least = read_limit("/sys/fs/cgroup/memory.max");
    FILE *f = fopen("/proc/self/cgroup", "re");
    char line[512], path[600];
    while (f && fgets(line, sizeof(line), f)) {
        if (strncmp(line, "0::/", 4) != 0)
            continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(path, sizeof(path), "/sys/fs/cgroup%s/memory.max", line + 3);
        uint64_t v = read_limit(path);
        if (v < least)
            least = v;
    }
    if (f)
        fclose(f);
    return least;
}

uint64_t limits_memory(void)
{
    uint64_t total = uv_get_total_memory(), constrained = uv_get_constrained_memory(),
             cgroup = cgroup_memory();
    if (constrained && constrained < total)
        total = constrained;
    return cgroup < total ? cgroup : total;
}

static uint32_t clients_possible(uint32_t logins)
{
    struct rlimit nofile;
    uint64_t files = 1024;
    if (getrlimit(RLIMIT_NOFILE, &nofile) == 0)
        files = nofile.rlim_cur;
    uint64_t kept = DESCRIPTORS_KEPT + logins;
    /* Where descriptors are few, logins share them with clients. */
    uint64_t by_files = files > 2 * kept ? files - kept : files / 2;
    uint64_t by_memory = limits_memory() / 2 / CLIENT_MEMORY;
    uint64_t n = by_files < by_memory ? by_files : by_memory;
    return n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
}

void limits_set(struct login_limits *l, const struct config *c)
{
    uint32_t clients = c->max_clients ? c->max_clients : clients_possible(c->login_limit);
    uint32_t prefix = c->login_limit_ip < UINT16_MAX ? c->login_limit_ip : UINT16_MAX - 1;
    atomic_store_explicit(&l->max_total, c->login_limit, memory_order_relaxed);
    atomic_store_explicit(&l->max_prefix, prefix, memory_order_relaxed);
    atomic_store_explicit(&l->max_clients, clients, memory_order_relaxed);
    uint64_t interval = 0, window = 0;
    if (c->derper && isfinite(c->derper->accept_limit)) {
        interval = (uint64_t)fmin(1e9 / c->derper->accept_limit, 1e15) + 1;
        window = (uint64_t)fmin((double)interval * c->derper->accept_burst, 1e18);
    }
    atomic_store_explicit(&l->accept_window, window, memory_order_relaxed);
    atomic_store_explicit(&l->accept_interval, interval, memory_order_relaxed);
}

bool limits_accept(struct login_limits *l, uint64_t now)
{
    uint64_t interval = atomic_load_explicit(&l->accept_interval, memory_order_relaxed), next;
    uint64_t window = atomic_load_explicit(&l->accept_window, memory_order_relaxed);
    uint64_t due = atomic_load_explicit(&l->accept_due, memory_order_relaxed);
    if (interval == 0)
        return true;
    do {
        next = (due > now ? due : now) + interval;
        if (next - now > window)
            return false;
    } while (!atomic_compare_exchange_weak_explicit(&l->accept_due, &due, next, memory_order_relaxed,
                                                    memory_order_relaxed));
    return true;
}

/* An IPv4 address whole, of an IPv6 address the /64. */
static uint32_t bucket_of(const struct login_limits *l, const struct conn_addr *a)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    uint8_t key[crypto_shorthash_KEYBYTES] = {0}, hash[crypto_shorthash_BYTES];
    memcpy(key, &l->seed, sizeof(l->seed));
    size_t n = memcmp(a->ip, mapped, sizeof(mapped)) == 0 ? 16 : 8;
    crypto_shorthash(hash, a->ip, n, key);
    uint32_t v;
    memcpy(&v, hash, sizeof(v));
    return v % LIMITS_BUCKETS;
}

enum limits_answer limits_login_enter(struct login_limits *l, const struct conn_addr *a)
{
    if (atomic_fetch_add_explicit(&l->total, 1, memory_order_relaxed) >=
        atomic_load_explicit(&l->max_total, memory_order_relaxed)) {
        atomic_fetch_sub_explicit(&l->total, 1, memory_order_relaxed);
        return LIMITS_TOTAL;
    }
    _Atomic uint16_t *p = &l->prefix[bucket_of(l, a)];
    uint16_t n = atomic_load_explicit(p, memory_order_relaxed);
    do {
        if (n >= atomic_load_explicit(&l->max_prefix, memory_order_relaxed)) {
            atomic_fetch_sub_explicit(&l->total, 1, memory_order_relaxed);
            return LIMITS_PREFIX;
        }
    } while (!atomic_compare_exchange_weak_explicit(p, &n, (uint16_t)(n + 1), memory_order_relaxed,
                                                    memory_order_relaxed));
    return LIMITS_OK;
}

void limits_login_leave(struct login_limits *l, const struct conn_addr *a)
{
    atomic_fetch_sub_explicit(&l->prefix[bucket_of(l, a)], 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&l->total, 1, memory_order_relaxed);
}

bool limits_client_enter(struct login_limits *l)
{
    if (atomic_fetch_add_explicit(&l->clients, 1, memory_order_relaxed) <
        atomic_load_explicit(&l->max_clients, memory_order_relaxed))
        return true;
    atomic_fetch_sub_explicit(&l->clients, 1, memory_order_relaxed);
    return false;
}

void limits_client_leave(struct login_limits *l)
{
    atomic_fetch_sub_explicit(&l->clients, 1, memory_order_relaxed);
}

bool limits_descriptor_left(void)
{
    int fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return errno != EMFILE && errno != ENFILE;
    close(fd);
    return true;
}

bool limits_shut(struct login_limits *l)
{
    uint32_t n = atomic_load_explicit(&l->clients, memory_order_relaxed);
    uint32_t max = atomic_load_explicit(&l->max_clients, memory_order_relaxed);
    bool was = atomic_load_explicit(&l->full, memory_order_relaxed);
    bool full = was ? (uint64_t)n * 10 > (uint64_t)max * 9 : n >= max;
    if (full != was && atomic_compare_exchange_strong(&l->full, &was, full))
        log_warn("serve",
                 full ? "full: listeners are closed, STUN is silent clients=%u max_clients=%u"
                      : "no longer full: listeners are open again clients=%u max_clients=%u",
                 n, max);
    return full || atomic_load_explicit(&l->draining, memory_order_relaxed);
}

uint32_t limits_prefix_count(const struct login_limits *l, const struct conn_addr *a)
{
    return atomic_load_explicit(&l->prefix[bucket_of(l, a)], memory_order_relaxed);
}
