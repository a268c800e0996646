/* How far the other sides' TCP has come with what we send on links: a sign of life where pongs queue behind data.
 *
 * While something is not acknowledged on any link of a worker, each is looked at every LINK_WATCH_MS.
 * Owner and thread: the worker. */
#ifndef DERPMESH_NODE_LINK_WATCH_H
#define DERPMESH_NODE_LINK_WATCH_H

#include <stdint.h>
#include <sys/queue.h>
#include <uv.h>

struct conn;

enum { LINK_WATCH_MS = 100 };

/* A link's part.  conn is set by its owner before link_watch_add. */
struct link_watch {
    LIST_ENTRY(link_watch) entry;
    struct conn *conn; /* NULL: not watched */
    uint64_t acked;    /* as told last */
    uint64_t settled;  /* bytes_out of the stream when all was acknowledged last */
};

struct link_watches {
    uv_timer_t timer; /* runs while there is a link */
    LIST_HEAD(, link_watch) all;
    /* More bytes of all that was sent on c have been acknowledged. */
    void (*acked)(struct conn *c, uint64_t bytes);
};

void link_watches_init(struct link_watches *all, uv_loop_t *loop,
                       void (*acked)(struct conn *c, uint64_t bytes));
void link_watches_stop(struct link_watches *all); /* closes the timer */
void link_watch_add(struct link_watches *all, struct link_watch *w);
void link_watch_remove(struct link_watches *all, struct link_watch *w); /* nothing if it was not added */

#endif
