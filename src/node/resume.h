/* Connections that are read again at a time of their own: a heap by that time.
 *
 * Owner and thread: one per worker.  Invariant: at[c->resume.slot] == c for each c that is in it. */
#ifndef DERPMESH_NODE_RESUME_H
#define DERPMESH_NODE_RESUME_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct conn;

/* What a connection keeps of this. */
struct resume {
    uint64_t at; /* ms */
    uint32_t slot;
    bool on;
};

struct resumes {
    uv_timer_t timer; /* of the first in the heap */
    struct conn **at;
    uint32_t n, cap;
};

void resumes_init(struct resumes *r, uv_loop_t *loop);
void resumes_stop(struct resumes *r); /* closes the timer */
void resumes_deinit(struct resumes *r);

/* Stops reading c until ms (loop time); if it is stopped already, until the later of the two. 0, or -1 without memory: c goes on
 * being read. */
int resume_at(struct resumes *r, struct conn *c, uint64_t ms);
/* Reads c again now; nothing if it is not in it. */
void resume_now(struct resumes *r, struct conn *c);
/* c goes. */
void resume_forget(struct resumes *r, struct conn *c);

#endif
