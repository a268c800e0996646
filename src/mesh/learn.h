/* Taking in what peers tell: ANN, DIGEST and the SYNC messages. */
#ifndef DERPMESH_MESH_LEARN_H
#define DERPMESH_MESH_LEARN_H

#include "mesh/state.h"

/* A proven link is in use from now on: asks for the peer's set. */
void learn_start(struct mesh *m, struct link *l);
/* Asks again when announcements were missed, not too often. */
void learn_tick(struct mesh *m, struct link *l);
/* A message of one of these types on a proven link in use.  NULL, or why the link has to be closed. */
const char *learn_input(struct mesh *m, struct link *l, uint32_t type, const struct meshmsg_in *in);

/* The peer says that a key is not there, in answer to a frame.  NULL, or why the link has to be closed. */
const char *learn_not_here(struct mesh *m, struct link *l, const struct meshmsg_in *in);
/* The same on a link that is not in use: what it tells is void, but a question that it answers is answered. */
const char *learn_unused(struct link *l, uint32_t type, const struct meshmsg_in *in);

#endif
