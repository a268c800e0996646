/* Senders whose receiver is full are read a little later.
 *
 * A packet that is decrypted only to be dropped is work for nothing, and without any pause a flood costs the whole core.
 * So a sender rests until the queue that it filled has drained; but never longer than PAUSE_MAX_MS, because it may also
 * send to others: a receiver that stalls for good delays them by that and no more.  The limit starts low and doubles
 * each time it was reached.  After a pause a sender is read a little at first: many that wait for one queue would else fill
 * it in one turn beyond what it may hold.
 * Owner and thread: the worker. */
#ifndef DERPMESH_NODE_PAUSE_H
#define DERPMESH_NODE_PAUSE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <uv.h>

struct conn;

enum {
    PAUSE_LEVELS = 5,
    PAUSE_MIN_MS = 1,
    PAUSE_MAX_MS = PAUSE_MIN_MS << (PAUSE_LEVELS - 1),
    PAUSE_FORGIVE_MS = 100 /* without a pause: the limit starts low again */
};

/* What a connection keeps of this. */
struct pause {
    TAILQ_ENTRY(conn) same_level; /* while paused */
    LIST_ENTRY(conn) same_cause;  /* while it waits for a certain queue */
    LIST_HEAD(, conn) waiting;    /* those that wait for this connection's queue */
    uint64_t until;               /* ms: when it ends at the latest, or did end */
    uint8_t level;
    bool on, has_cause;
};

struct pauses {
    uv_timer_t timer;                       /* runs while anybody is paused */
    TAILQ_HEAD(, conn) level[PAUSE_LEVELS]; /* first in, first out */
};

void pauses_init(struct pauses *p, uv_loop_t *loop);
void pauses_stop(struct pauses *p); /* closes the timer */

/* Stops reading c until full has drained, or for the time of its level.  full NULL: a queue of another worker;
 * that one cannot tell when it has drained, so the pause is the shortest.  Nothing if c is paused already; else true. */
bool pause_start(struct pauses *p, struct conn *c, struct conn *full);
/* c's queue has drained: those that waited for it are read again. */
void pause_relieve(struct pauses *p, struct conn *c);
/* c goes: takes it off, and lets go of those that waited for it. */
void pause_forget(struct pauses *p, struct conn *c);

#endif
