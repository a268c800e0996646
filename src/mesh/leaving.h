/* Keys that may have left the mesh, until that is certain: the door to ops->gone. */
#ifndef DERPMESH_MESH_LEAVING_H
#define DERPMESH_MESH_LEAVING_H

#include "mesh/state.h"

int leaving_init(struct mesh *m, uint64_t seed); /* 0, -1 no memory */
void leaving_deinit(struct mesh *m);

/* A place of the key, here or elsewhere, went by announcement. */
void leaving_add(struct mesh *m, const struct derp_key *key);
/* The key has a place: it has not left. */
void leaving_cancel(struct mesh *m, const struct derp_key *key);
bool leaving_has(const struct mesh *m, const struct derp_key *key);

void leaving_tick(struct mesh *m);
uint64_t leaving_next(const struct mesh *m);
size_t leaving_bytes(const struct mesh *m);

#endif
