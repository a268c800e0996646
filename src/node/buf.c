/* Chunk pool: three size classes with short free lists.
 *
 * Happy path: get from the list, fill, queue, send, put back.  Without memory get returns NULL and the caller
 * drops the frame and counts it. */
#include "node/buf.h"

#include <stdlib.h>

#include "node/reserve.h"

static const uint32_t class_cap[3] = {CHUNK_SMALL, CHUNK_RECORD, CHUNK_LARGE};
static const unsigned class_keep[3] = {1024, 256, 8};

static int class_of(size_t want)
{
    return want <= CHUNK_SMALL ? 0 : want <= CHUNK_RECORD ? 1 : 2;
}

void buf_pool_init(struct buf_pool *p)
{
    *p = (struct buf_pool){0};
}

void buf_pool_deinit(struct buf_pool *p)
{
    for (int i = 0; i < 3; i++) {
        while (p->free[i]) {
            struct chunk *c = p->free[i];
            p->free[i] = c->next;
            reserve_free(c);
        }
        p->n_free[i] = p->n_idle[i] = 0;
    }
}

size_t buf_pool_trim(struct buf_pool *p)
{
    size_t bytes = 0;
    for (int i = 0; i < 3; i++) {
        for (unsigned n = (p->n_idle[i] + 1) / 2; n > 0; n--) {
            struct chunk *c = p->free[i];
            p->free[i] = c->next;
            p->n_free[i]--;
            bytes += c->cap;
            reserve_free(c);
        }
        p->n_idle[i] = p->n_free[i];
    }
    return bytes;
}

struct chunk *buf_get(struct buf_pool *p, size_t want)
{
    int cls = class_of(want);
    struct chunk *c = p->free[cls];
    if (c) {
        p->free[cls] = c->next;
        p->n_free[cls]--;
        if (p->n_free[cls] < p->n_idle[cls])
            p->n_idle[cls] = p->n_free[cls];
    } else {
        c = reserve_malloc(sizeof(*c) + class_cap[cls]);
        if (!c)
            return NULL;
        c->cap = class_cap[cls];
    }
    c->next = NULL;
    c->off = c->len = c->packets = 0;
    p->held += c->cap;
    return c;
}

void buf_put(struct buf_pool *p, struct chunk *c)
{
    int cls = class_of(c->cap);
    p->held -= c->cap;
    if (p->n_free[cls] >= class_keep[cls] || reserve_has(c)) {
        reserve_free(c);
        return;
    }
    c->next = p->free[cls];
    p->free[cls] = c;
    p->n_free[cls]++;
}
