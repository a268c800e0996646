/* Timers of connections: a wheel of WHEEL_SLOTS lists, one turned every WHEEL_TICK_MS.
 *
 * One entry a connection, put where its next deadline falls (at most one turn ahead); the owner looks what is due and
 * puts it back.  Cheap for tens of thousands of keep-alives.  Thread: the worker's. */
#ifndef DERPMESH_NODE_WHEEL_H
#define DERPMESH_NODE_WHEEL_H

#include <stdint.h>

struct conn;

enum { WHEEL_TICK_MS = 250, WHEEL_SLOTS = 256 };

struct wheel {
    struct conn *slot[WHEEL_SLOTS];
    uint64_t tick; /* the last one handled */
};

void wheel_init(struct wheel *w, uint64_t now);
/* Calls back for c no earlier than at (ms), at the latest one tick after, or after one turn if that is sooner. */
void wheel_set(struct wheel *w, struct conn *c, uint64_t at);
void wheel_remove(struct wheel *w, struct conn *c);
/* Takes out everything due by now and calls due for each; due may set or free it. */
void wheel_turn(struct wheel *w, uint64_t now, void (*due)(void *ctx, struct conn *c, uint64_t now),
                void *ctx);

#endif
