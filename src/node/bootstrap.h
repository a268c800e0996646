/* /bootstrap-dns: addresses of some host names, for clients whose own DNS is broken.
 *
 * Source: cmd/derper bootstrap_dns.go.  Names are looked up in the background, at once and every ten minutes;
 * answers come from what the last look-up brought, and never wait.
 * Thread: bootstrap_start, _set, _stop: the control loop's; bootstrap_answer, bootstrap_count: any. */
#ifndef DERPMESH_NODE_BOOTSTRAP_H
#define DERPMESH_NODE_BOOTSTRAP_H

#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "node/config.h"

struct bootstrap;

/* NULL without memory.  Looks up what c says: nothing under our own name. */
struct bootstrap *bootstrap_start(uv_loop_t *loop, const struct config *c);
/* A reload: the names may have changed. */
void bootstrap_set(struct bootstrap *b, const struct config *c);
/* A look-up under way goes on; what is found then is thrown away.  The loop must run until it is over. */
void bootstrap_stop(struct bootstrap *b);
void bootstrap_free(struct bootstrap *b); /* after the loop has ended; NULL is nothing */

/* The JSON for a request with that value of "q" (n = 0: none), malloc'd; *len may be 0.  NULL without memory. */
char *bootstrap_answer(struct bootstrap *b, const char *q, size_t n, size_t *len);

enum bootstrap_count {
    BOOTSTRAP_REQUESTS,
    BOOTSTRAP_PUBLISHED_HITS,
    BOOTSTRAP_PUBLISHED_MISSES,
    BOOTSTRAP_UNPUBLISHED_HITS,
    BOOTSTRAP_UNPUBLISHED_MISSES,
    BOOTSTRAP_QUERIED_DOMAINS,
    BOOTSTRAP_COUNTS
};
uint64_t bootstrap_count(struct bootstrap *b, enum bootstrap_count which);

/* ---- for tests ---- */

/* One list of names, looked up now: {"name": ["ip", …], …} with tabs, as Go's MarshalIndent prints it. malloc'd;
 * "null" if nothing was found; NULL without memory. */
char *bootstrap_look_up(const char *names);

#endif
