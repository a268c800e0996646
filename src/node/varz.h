/* The counters of a node under derper's names, for whoever has dashboards of them.
 *
 * Source: derpserver's ExpVar, tailscale.com/tsweb/varz, net/stunserver; tests/integration/derper compares the names
 * with a real derper's.
 * Owner: server_run.  Thread: varz_text: any; keys and the like are the control thread's to set. */
#ifndef DERPMESH_NODE_VARZ_H
#define DERPMESH_NODE_VARZ_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "node/config.h"

struct worker;
struct bootstrap;

struct varz {
    struct worker *const *workers;
    uint32_t n_workers;
    struct bootstrap *bootstrap; /* NULL: none */
    time_t started;
    _Atomic uint64_t keys, connections; /* of clients here */
    _Atomic uint64_t remote_keys;       /* of clients of other nodes */
    _Atomic bool rated;                 /* -rate-config was given: only then derper tells */
    _Atomic uint64_t rate, burst;       /* of that */
    _Atomic uint64_t more_connections;  /* so far: second, third… connections of a key */
};

/* At the start and at a reload. */
void varz_set(struct varz *v, const struct config *c);
/* The text of /debug/varz, malloc'd; NULL without memory. */
char *varz_text(const struct varz *v, size_t *len);

#endif
