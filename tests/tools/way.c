/* One direction between two ports of a wire (wire.h).
 *
 * Happy path: way_take puts a packet behind those under way with the time when it is due, way_run delivers it then.
 * Fails: a packet that is cut off, lost by chance, beyond the bound of the queue or not taken by its port is dropped and
 * counted under that name; so is one for which there is no memory (as full). */
#include "wire.h"

#include <stdlib.h>
#include <string.h>

struct packet {
    struct packet *next;
    uint64_t due;
    size_t len;
    uint8_t bytes[];
};

/* splitmix64: a seed of any quality gives a good sequence. */
static uint64_t next_random(struct way *w)
{
    uint64_t z = w->random += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

static double chance(struct way *w)
{
    return (double)(next_random(w) >> 11) / (double)(1ULL << 53);
}

void way_init(struct way *w, uint64_t seed)
{
    memset(w, 0, sizeof *w);
    w->random = seed;
}

/* Bytes that wait for the rate now. */
static uint64_t backlog(const struct way *w, uint64_t now)
{
    if (w->rate == 0 || w->free_at <= now)
        return 0;
    return (uint64_t)((double)(w->free_at - now) * (double)w->rate / 8e9);
}

static void deliver_now(struct way *w, const uint8_t *bytes, size_t len, way_deliver *deliver, void *ctx)
{
    if (deliver(ctx, bytes, len))
        w->n.sent++;
    else
        w->n.refused++;
}

void way_take(struct way *w, const uint8_t *bytes, size_t len, uint64_t now, way_deliver *deliver, void *ctx)
{
    /* Drawn for each packet, so that the sequence does not depend on the other conditions. */
    double lost = chance(w);
    if (w->cut) {
        w->n.cut++;
        return;
    }
    if (lost < w->loss) {
        w->n.lost++;
        return;
    }
    if ((w->rate > 0 && backlog(w, now) + len > w->queue) || w->waiting + len > WIRE_WAITING_MAX) {
        w->n.full++;
        return;
    }
    uint64_t due = now;
    if (w->rate > 0) {
        if (w->free_at > now)
            due = w->free_at;
        due += (uint64_t)((double)len * 8e9 / (double)w->rate);
        w->free_at = due;
    }
    due += w->delay;
    if (w->jitter > 0)
        due += (uint64_t)(chance(w) * (double)w->jitter);
    if (!w->head && due <= now) {
        deliver_now(w, bytes, len, deliver, ctx);
        return;
    }
    struct packet *p = malloc(sizeof *p + len);
    if (!p) {
        w->n.full++;
        return;
    }
    p->next = NULL;
    p->due = due; /* those before it hold it up */
    p->len = len;
    memcpy(p->bytes, bytes, len);
    if (w->head)
        w->tail->next = p;
    else
        w->head = p;
    w->tail = p;
    w->waiting += len;
}

void way_run(struct way *w, uint64_t now, way_deliver *deliver, void *ctx)
{
    while (w->head && w->head->due <= now) {
        struct packet *p = w->head;
        w->head = p->next;
        w->waiting -= p->len;
        if (w->cut)
            w->n.cut++;
        else
            deliver_now(w, p->bytes, p->len, deliver, ctx);
        free(p);
    }
}

uint64_t way_next(const struct way *w)
{
    return w->head ? w->head->due : UINT64_MAX;
}
