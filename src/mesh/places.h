/* Which peers serve which keys, and which of them is the best: the mesh's own table behind ops->route. */
#ifndef DERPMESH_MESH_PLACES_H
#define DERPMESH_MESH_PLACES_H

#include "mesh/state.h"

int places_init(struct mesh *m, uint64_t seed); /* 0, -1 no memory */
void places_deinit(struct mesh *m);

/* The peer announces a key under a slot; flags as in the message.  0, -1 no memory, -2 slot too high. */
int place_up(struct mesh *m, struct peer *p, uint32_t slot, const struct derp_key *key, uint32_t flags,
             uint32_t age);
/* The peer's slot is empty now; nothing if it was. */
void place_down(struct mesh *m, struct peer *p, uint32_t slot);

/* The same by key, for a peer that names no slots (a derper); and whether it has named it since its set began. */
void place_leave(struct mesh *m, struct peer *p, const struct derp_key *key);
bool place_confirmed(const struct mesh *m, const struct peer *p, const struct derp_key *key);

/* Whether a derper of our region serves the key. */
enum places_derper { PLACES_DERPER_NONE, PLACES_DERPER_LOST, PLACES_DERPER_UP };
enum places_derper places_derper(const struct mesh *m, const struct derp_key *key);

/* A full set begins: the former one stays usable until the end, then goes where it was not confirmed. */
void places_sync_begin(struct mesh *m, struct peer *p, uint64_t boot);
void places_sync_end(struct mesh *m, struct peer *p);
/* The bucket hashes of the set as we hold it: a walk over it. */
void places_buckets(const struct mesh *m, const struct peer *p, uint64_t bucket[static MESHMSG_BUCKETS_N]);
/* Forgets at most max places of a peer; certain: its keys have left it for good.  True when none is left. */
bool places_drop(struct mesh *m, struct peer *p, uint32_t max, bool certain);
/* Says gone of at most max keys from slot *cursor on that have no other place which can be reached.  True at the end. */
bool places_gone(struct mesh *m, const struct peer *p, uint32_t *cursor, uint32_t max);
/* peer_rank has changed: routes of all its keys anew. */
void places_rank_changed(struct mesh *m, struct peer *p);
/* It is a derper now, or is none any more: announces its keys, or takes that back. */
void places_announce(struct mesh *m, const struct peer *p);

void place_glean(struct mesh *m, struct peer *p, const struct derp_key *key);
/* The peer says that the key is not there.  True if it was gleaned, and is forgotten. */
bool place_unglean(struct mesh *m, struct peer *p, const struct derp_key *key);
/* Whether the peer has announced the key. */
bool place_announced(const struct mesh *m, const struct peer *p, const struct derp_key *key);
/* Whether the key is at home at a peer that we hear of. */
bool places_home(const struct mesh *m, const struct derp_key *key);
/* Whether a peer that can be reached says that it serves the key. */
bool places_held(const struct mesh *m, const struct derp_key *key);
uint32_t places_highest_age(const struct mesh *m, const struct derp_key *key);
size_t places_where(const struct mesh *m, const struct derp_key *key, struct mesh_location *out, size_t max);

void places_tick(struct mesh *m);
uint64_t places_next(const struct mesh *m);
size_t places_bytes(const struct mesh *m);

#endif
