/* Telling the peers of our set. */
#ifndef DERPMESH_MESH_ANNOUNCE_H
#define DERPMESH_MESH_ANNOUNCE_H

#include "mesh/state.h"

/* The link is in use from now on, or one of the maps has changed: which part of our set does the peer get? */
void announce_scope(struct mesh *m, struct link *l);
/* The peer asked for our set: for what has changed since what it holds, if that can be told. */
void announce_sync(struct mesh *m, struct link *l, const struct meshmsg_moment *held);
/* The peer's copy is not as it should be; these are its bucket hashes. */
void announce_buckets(struct mesh *m, struct link *l, const struct meshmsg_moment *held,
                      const uint64_t bucket[static MESHMSG_BUCKETS_N]);
/* Sends what is due on a link, as far as its window allows; what is left goes when a mark is acknowledged. */
void announce_flush(struct mesh *m, struct link *l);
/* With a ping: says what the peer's copy should add up to, when it is time for that. */
void announce_digest(struct mesh *m, struct link *l);
/* Whether something waits for room in the window. */
bool announce_pending(const struct link *l);
/* Nothing more is told on this link. */
void announce_stop(struct link *l);

/* A slot leaves its place in a scope's list, newer is the one behind it; and it has come to the end of the list. */
void announce_moves(struct mesh *m, int scope, uint32_t slot, uint32_t newer);
void announce_changed(struct mesh *m, int scope, uint32_t slot, bool up);

#endif
