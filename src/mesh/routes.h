/* Where frames for a key go: one thread's own copy of the answer.
 *
 * Every worker holds one and reads it without a lock; the control thread sends each change through the
 * worker's inbox (node/inbox.h), in order.  Local clients win over remote nodes.
 * Thread: the worker that owns it. */
#ifndef DERPMESH_MESH_ROUTES_H
#define DERPMESH_MESH_ROUTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/key.h"

/* A connection of any thread: never a pointer.  gen is never used twice, so a stale name meets nobody. */
struct conn_ref {
    uint64_t gen; /* 0: none */
    uint32_t slot;
    uint32_t worker;
};

enum { NODE_NONE = 0xffffffff };

struct routes;

struct routes *routes_new(uint64_t seed); /* NULL without memory */
void routes_free(struct routes *r);

/* The connection of this node that serves the key, or NULL. */
const struct conn_ref *routes_local(const struct routes *r, const struct derp_key *key);
int routes_local_set(struct routes *r, const struct derp_key *key,
                     const struct conn_ref *at); /* 0, -1 no memory */
/* Forgets the key if it still points at that connection (gen), or whatever it points at if gen is 0. */
void routes_local_del(struct routes *r, const struct derp_key *key, uint64_t gen);

/* The index of the mesh node (mesh.h) to send to, or NODE_NONE. */
uint32_t routes_remote(const struct routes *r, const struct derp_key *key);
int routes_remote_set(struct routes *r, const struct derp_key *key,
                      uint32_t node); /* NODE_NONE deletes; 0, -1 no memory */

/* Walks the local ones by position: from 0 while it returns a key, changing nothing meanwhile. */
const struct derp_key *routes_local_at(const struct routes *r, size_t i);
size_t routes_n_local(const struct routes *r);
size_t routes_n_remote(const struct routes *r);
size_t routes_bytes(const struct routes *r);

#endif
