/* Memory for what is established (reserve.h).
 *
 * Happy path: malloc answers, and nothing here is touched.  Where it does not, the smallest block that is large enough is
 * taken from a list; blocks are told from others by their address.
 * Fails: the reserve is used up, or what is asked for is larger than its largest block: NULL, as malloc. */
#include "node/reserve.h"

#include <malloc.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { N_CLASSES = 3, PROBE = 1 << 20 };

/* TLS's small things and flows of a queue; records with their heads, in OpenSSL's buffers and in queues; the largest frames.
 * A read or a write holds a record's buffer for a moment only, so these are enough for thousands of connections. */
static const struct {
    uint32_t size, count;
} classes[N_CLASSES] = {{1024, 1024}, {18 << 10, 128}, {72 << 10, 8}};

struct block {
    struct block *next;
};

/* Owner: the process; dies with it.  Invariant: a block of class i is on list[i] or given out. */
static struct {
    pthread_mutex_t lock;
    uint8_t *begin[N_CLASSES + 1]; /* of each class's blocks, and the end */
    struct block *list[N_CLASSES];
    _Atomic uint32_t given[N_CLASSES];
} reserve = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* The class of a block of the reserve, -1 for other memory. */
static int class_of(const void *p)
{
    const uint8_t *b = p;
    if (b < reserve.begin[0] || b >= reserve.begin[N_CLASSES])
        return -1;
    int i = 0;
    while (b >= reserve.begin[i + 1])
        i++;
    return i;
}

static void *take(size_t n)
{
    struct block *b = NULL;
    pthread_mutex_lock(&reserve.lock);
    for (int i = 0; i < N_CLASSES && !b; i++) {
        if (n > classes[i].size || !reserve.list[i])
            continue;
        b = reserve.list[i];
        reserve.list[i] = b->next;
        atomic_fetch_add_explicit(&reserve.given[i], 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&reserve.lock);
    return b;
}

static void give_back(void *p, int cls)
{
    struct block *b = p;
    pthread_mutex_lock(&reserve.lock);
    b->next = reserve.list[cls];
    reserve.list[cls] = b;
    atomic_fetch_sub_explicit(&reserve.given[cls], 1, memory_order_relaxed);
    pthread_mutex_unlock(&reserve.lock);
}

void *reserve_malloc(size_t n)
{
    void *p = malloc(n);
    return p ? p : take(n);
}

void reserve_free(void *p)
{
    int cls = class_of(p);
    if (cls < 0)
        free(p);
    else
        give_back(p, cls);
}

void *reserve_realloc(void *p, size_t n)
{
    if (!p)
        return reserve_malloc(n);
    if (n == 0) {
        reserve_free(p);
        return NULL;
    }
    int cls = class_of(p);
    if (cls >= 0 && n <= classes[cls].size)
        return p;
    if (cls < 0) {
        void *grown = realloc(p, n);
        if (grown)
            return grown;
    }
    size_t had = cls >= 0 ? classes[cls].size : malloc_usable_size(p);
    void *q = reserve_malloc(n);
    if (!q)
        return NULL;
    memcpy(q, p, had < n ? had : n);
    reserve_free(p);
    return q;
}

static void *on_ssl_malloc(size_t n, const char *file, int line)
{
    (void)file;
    (void)line;
    return reserve_malloc(n);
}

static void *on_ssl_realloc(void *p, size_t n, const char *file, int line)
{
    (void)file;
    (void)line;
    return reserve_realloc(p, n);
}

static void on_ssl_free(void *p, const char *file, int line)
{
    (void)file;
    (void)line;
    reserve_free(p);
}

int reserve_init(void)
{
    size_t total = 0;
    for (int i = 0; i < N_CLASSES; i++)
        total += (size_t)classes[i].size * classes[i].count;
    uint8_t *at = malloc(total);
    if (!at)
        return -1;
    for (int i = 0; i < N_CLASSES; i++) {
        reserve.begin[i] = at;
        at += (size_t)classes[i].size * classes[i].count;
    }
    reserve.begin[N_CLASSES] = at;
    for (int i = 0; i < N_CLASSES; i++)
        for (uint32_t k = 0; k < classes[i].count; k++) {
            struct block *b = (struct block *)(reserve.begin[i] + (size_t)k * classes[i].size);
            b->next = reserve.list[i];
            reserve.list[i] = b;
        }
    return CRYPTO_set_mem_functions(on_ssl_malloc, on_ssl_realloc, on_ssl_free) ? 0 : -1;
}

bool reserve_has(const void *p)
{
    return class_of(p) >= 0;
}

bool reserve_short(void)
{
    for (int i = 0; i < N_CLASSES; i++)
        if (atomic_load_explicit(&reserve.given[i], memory_order_relaxed) > classes[i].count / 2)
            return true;
    void *volatile probe = malloc(PROBE); /* volatile: a compiler may leave out what is freed unused */
    if (!probe)
        return true;
    free(probe);
    return false;
}
