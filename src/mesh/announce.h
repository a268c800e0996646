/* Our own clients, and telling them to the peers. */
#ifndef DERPMESH_MESH_ANNOUNCE_H
#define DERPMESH_MESH_ANNOUNCE_H

#include "mesh/state.h"

int announce_init(struct mesh *m, uint64_t seed); /* 0, -1 no memory */
void announce_deinit(struct mesh *m);

int announce_up(struct mesh *m, const struct derp_key *key, bool home); /* 0, -1 no memory */
void announce_home(struct mesh *m, const struct derp_key *key, bool home);
void announce_down(struct mesh *m, const struct derp_key *key);
/* A derper of our region has got, lost, or cannot reach a client any more: says of the key what is true now. */
void announce_derper(struct mesh *m, const struct derp_key *key);
/* Our client of that key, or NULL. */
const struct local_slot *announce_local(const struct mesh *m, const struct derp_key *key);

/* The peer asked for all of our set (again). */
void announce_sync(struct mesh *m, struct link *l);
/* Sends what is due on a link, as far as its window allows; what is left goes when a mark is acknowledged. */
void announce_flush(struct mesh *m, struct link *l);
/* Whether something waits for room in the window. */
bool announce_pending(const struct link *l);

#endif
