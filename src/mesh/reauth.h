/* The proof of the mesh key, renewed on a live link. */
#ifndef DERPMESH_MESH_REAUTH_H
#define DERPMESH_MESH_REAUTH_H

#include "mesh/state.h"

/* The link has just been proven with key_id; its auth still has the MAC key. */
void reauth_start(struct mesh *m, struct link *l);
/* Says again which mesh keys we hold. */
void reauth_send(struct mesh *m, struct link *l);
/* REAUTH came in.  NULL, or why the link has to be closed. */
const char *reauth_input(struct mesh *m, struct link *l, const struct meshmsg_in *in);
/* With a ping: says it in time.  False if the other side has not for too long. */
bool reauth_tick(struct mesh *m, struct link *l);
/* Whether the other side has proven a mesh key that is still in our ring. */
bool reauth_holds(const struct mesh *m, const struct link *l);

#endif
