/* Real derpers of our region, which are peers without a link of this protocol. */
#ifndef DERPMESH_MESH_DERPER_H
#define DERPMESH_MESH_DERPER_H

#include "mesh/state.h"

/* Whether the peer is to be taken for a derper from now on; what it was before ends. */
void derper_set(struct mesh *m, struct peer *p, bool derper);
/* A derper's: its set is complete; its keys have been said gone. */
void derper_tick(struct mesh *m, struct peer *p);

#endif
