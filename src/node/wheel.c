/* The timer wheel: see wheel.h.  A deadline further away than one turn comes up early and is put back. */
#include "node/wheel.h"

#include <string.h>

#include "node/conn.h"

enum { NOT_ON_WHEEL = WHEEL_SLOTS };

void wheel_init(struct wheel *w, uint64_t now)
{
    memset(w, 0, sizeof(*w));
    w->tick = now / WHEEL_TICK_MS;
}

void wheel_remove(struct wheel *w, struct conn *c)
{
    if (c->wheel_slot == NOT_ON_WHEEL)
        return;
    if (c->wheel_prev)
        c->wheel_prev->wheel_next = c->wheel_next;
    else
        w->slot[c->wheel_slot] = c->wheel_next;
    if (c->wheel_next)
        c->wheel_next->wheel_prev = c->wheel_prev;
    c->wheel_prev = c->wheel_next = NULL;
    c->wheel_slot = NOT_ON_WHEEL;
}

void wheel_set(struct wheel *w, struct conn *c, uint64_t at)
{
    wheel_remove(w, c);
    uint64_t tick = (at + WHEEL_TICK_MS - 1) / WHEEL_TICK_MS;
    if (tick <= w->tick)
        tick = w->tick + 1;
    if (tick > w->tick + WHEEL_SLOTS - 1)
        tick = w->tick + WHEEL_SLOTS - 1;
    c->wheel_slot = (uint32_t)(tick % WHEEL_SLOTS);
    c->wheel_prev = NULL;
    c->wheel_next = w->slot[c->wheel_slot];
    if (c->wheel_next)
        c->wheel_next->wheel_prev = c;
    w->slot[c->wheel_slot] = c;
}

void wheel_turn(struct wheel *w, uint64_t now, void (*due)(void *ctx, struct conn *c, uint64_t now),
                void *ctx)
{
    uint64_t target = now / WHEEL_TICK_MS;
    if (target > w->tick + WHEEL_SLOTS)
        w->tick = target - WHEEL_SLOTS; /* slept for longer than a turn: each list once is enough */
    while (w->tick < target) {
        w->tick++;
        struct conn **list = &w->slot[w->tick % WHEEL_SLOTS];
        while (*list) {
            struct conn *c = *list;
            wheel_remove(w, c);
            due(ctx, c, now);
        }
    }
}
