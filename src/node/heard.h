/* Who has heard from whom: for each client of this worker the peers whose packets it got, so that PeerGone goes to
 * exactly those whose magicsock may hold a route through us (compat.md, "Clients and PeerGone").
 *
 * Per client at most HEARD_PER_CLIENT, the longest not renewed goes first; per worker at most HEARD_MAX.
 * Owner and thread: the worker. */
#ifndef DERPMESH_NODE_HEARD_H
#define DERPMESH_NODE_HEARD_H

#include <stddef.h>
#include <stdint.h>

#include "node/conn.h"

enum { HEARD_PER_CLIENT = 256, HEARD_MAX = 1 << 20 };

struct heard;

struct heard *heard_new(uint64_t seed); /* NULL without memory */
void heard_free(struct heard *h);
/* c got a packet of peer.  Hot path: one look-up if known. */
void heard_note(struct heard *h, struct conn *c, const struct derp_key *peer);
/* peer is gone: calls tell for each client that heard from it, and forgets that. */
void heard_gone(struct heard *h, const struct derp_key *peer, void (*tell)(void *ctx, struct conn *c),
                void *ctx);
/* c closes: forgets what it heard. */
void heard_drop(struct heard *h, struct conn *c);
size_t heard_bytes(const struct heard *h);

#endif
