/* Holding back keys that flap: a client that comes and goes again and again is told of later and later.
 *
 * Each change of a key heats it by one, HOLD_COOL_MS cool it by one.  Up to HOLD_FREE changes are told at once: a login, a
 * move, a few reconnects.  From then on what the key has become is told after a delay that doubles with each further change, up to
 * HOLD_MAX_MS; what happens within the delay is told once, as it is at the end, or not at all.  Until then the slot
 * says to everybody what it said before.
 * Happy path: hold_back → held queue of that delay → hold_tick → ours_release.
 * How it fails: without memory nothing is held back. */
#include "mesh/hold.h"

#include <stdlib.h>

#include "mesh/ours.h"

static void cool(const struct mesh *m, struct local_slot *s)
{
    uint64_t cooled = (m->now - s->heat_at) / HOLD_COOL_MS;
    s->heat = cooled >= s->heat ? 0 : (uint8_t)(s->heat - cooled);
    s->heat_at += cooled * HOLD_COOL_MS;
    if (s->heat == 0)
        s->heat_at = m->now;
}

bool hold_back(struct mesh *m, uint32_t slot)
{
    struct local_slot *s = &m->slot[slot];
    cool(m, s);
    if (s->heat < HOLD_FREE + HOLD_STEPS)
        s->heat++;
    if (s->held_until)
        return true;
    if (s->heat <= HOLD_FREE)
        return false;
    unsigned step = s->heat - HOLD_FREE - 1u;
    uint64_t delay = (uint64_t)HOLD_FIRST_MS << step;
    uint64_t until = m->now + (delay < HOLD_MAX_MS ? delay : HOLD_MAX_MS);
    if (key_queue_push(&m->held[step], &s->key, until, slot) != 0)
        return false;
    s->held_until = until;
    m->count.held_back++;
    return true;
}

bool hold_linger(struct mesh *m, uint32_t slot)
{
    struct local_slot *s = &m->slot[slot];
    uint64_t until = m->now + HOLD_LINGER_MS;
    if (key_queue_push(&m->lingering, &s->key, until, slot) != 0)
        return s->held_until != 0; /* then ours_release frees it */
    s->lingers_until = until;
    return true;
}

static void held_tick(struct mesh *m, struct key_queue *q)
{
    while (key_queue_due(q, m->now)) {
        struct key_timer t = key_queue_head(q);
        key_queue_pop(q);
        struct local_slot *s = &m->slot[t.node];
        if (s->held_until != t.at)
            continue;
        s->held_until = 0;
        ours_release(m, t.node);
    }
}

void hold_tick(struct mesh *m)
{
    for (int i = 0; i < HOLD_STEPS; i++)
        held_tick(m, &m->held[i]);
    while (key_queue_due(&m->lingering, m->now)) {
        struct key_timer t = key_queue_head(&m->lingering);
        key_queue_pop(&m->lingering);
        struct local_slot *s = &m->slot[t.node];
        if (s->lingers_until != t.at || s->used)
            continue; /* it is here, or has left again later */
        s->lingers_until = 0;
        if (!s->held_until)
            ours_forget(m, t.node);
    }
}

uint64_t hold_next(const struct mesh *m)
{
    uint64_t next = m->lingering.n ? key_queue_head(&m->lingering).at : NEVER;
    for (int i = 0; i < HOLD_STEPS; i++)
        if (m->held[i].n && key_queue_head(&m->held[i]).at < next)
            next = key_queue_head(&m->held[i]).at;
    return next;
}

void hold_deinit(struct mesh *m)
{
    for (int i = 0; i < HOLD_STEPS; i++)
        free(m->held[i].e);
    free(m->lingering.e);
}

size_t hold_bytes(const struct mesh *m)
{
    size_t n = m->lingering.cap;
    for (int i = 0; i < HOLD_STEPS; i++)
        n += m->held[i].cap;
    return n * sizeof(struct key_timer);
}
