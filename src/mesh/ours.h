/* Our own set: our clients in their slots, and the parts of it (scopes) that different peers are told. */
#ifndef DERPMESH_MESH_OURS_H
#define DERPMESH_MESH_OURS_H

#include "mesh/state.h"

int ours_init(struct mesh *m, uint64_t seed); /* 0, -1 no memory */
void ours_deinit(struct mesh *m);

int ours_up(struct mesh *m, const struct derp_key *key, bool home); /* 0, -1 no memory */
void ours_home(struct mesh *m, const struct derp_key *key, bool home);
void ours_down(struct mesh *m, const struct derp_key *key);
/* A derper of our region has got, lost, or cannot reach a client any more: says of the key what is true now. */
void ours_derper(struct mesh *m, const struct derp_key *key);
/* Our client of that key (no derper's), or NULL. */
const struct local_slot *ours_local(const struct mesh *m, const struct derp_key *key);

/* A key has become at home elsewhere or is so no longer, or (all) a peer can be reached or not: who has to know of the
 * key's connection here may be others now. */
void ours_elsewhere(struct mesh *m, const struct derp_key *key);
void ours_elsewhere_all(struct mesh *m);

/* The key is at home at a peer, as of that age. */
void ours_newer_home(struct mesh *m, const struct derp_key *key, uint32_t age);
/* What was held back of a slot is told now; the slot of a client that has left long ago is free. */
void ours_release(struct mesh *m, uint32_t slot);
void ours_forget(struct mesh *m, uint32_t slot);

/* What a scope says of a slot. */
void ours_entry(const struct mesh *m, int scope, uint32_t slot, struct meshmsg_entry *e);
/* Whether a scope says that the key is here. */
bool ours_told(const struct mesh *m, int scope, const struct derp_key *key);
/* The oldest slot of a scope's list that has changed after seq, or SLOT_NONE. */
uint32_t ours_since(const struct mesh *m, int scope, uint64_t seq);
/* The 1024 bucket hashes of a scope: a walk over all slots. */
void ours_buckets(const struct mesh *m, int scope, uint64_t bucket[static MESHMSG_BUCKETS_N]);
size_t ours_bytes(const struct mesh *m);

#endif
