/* Holding back what we tell of keys that flap. */
#ifndef DERPMESH_MESH_HOLD_H
#define DERPMESH_MESH_HOLD_H

#include "mesh/state.h"

void hold_deinit(struct mesh *m);
/* A client has come, left, or changed: true if that is told later (ours_release), with all that happens until then. */
bool hold_back(struct mesh *m, uint32_t slot);
/* A client has left: its slot is kept for a while (ours_forget), so that it is known again if it returns.  False without
 * memory: the slot is free now. */
bool hold_linger(struct mesh *m, uint32_t slot);
void hold_tick(struct mesh *m);
uint64_t hold_next(const struct mesh *m);
size_t hold_bytes(const struct mesh *m);

#endif
