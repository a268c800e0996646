/* Does a connection still work?  Pongs, bytes that the other side acknowledges, and what follows from their absence. */
#ifndef DERPMESH_MESH_LIVENESS_H
#define DERPMESH_MESH_LIVENESS_H

#include "mesh/state.h"

/* A PONG came that answers a PING sent so long ago. */
void liveness_pong(struct mesh *m, struct link *l, uint64_t rtt);
/* The other side has got something of ours: its TCP or itself said so.  Counts for a while in place of a PONG. */
void liveness_progress(struct mesh *m, struct link *l);
/* What the other side says it has received of our control bytes, in all. */
void liveness_told(struct mesh *m, struct link *l, uint64_t received);
/* Data is under way: a fault has to be seen soon. */
void liveness_busy(struct mesh *m, struct link *l);

/* Judges the link, and tells the paths.  False if it has been without an answer for so long that it has to be closed. */
bool liveness_tick(struct mesh *m, struct link *l);
/* How long after one PING the next one is sent. */
uint64_t liveness_interval(const struct mesh *m, const struct link *l);
/* When the judgement may change if nothing comes. */
uint64_t liveness_next(const struct mesh *m, const struct link *l);

#endif
