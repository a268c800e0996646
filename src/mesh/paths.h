/* The way to each node: its direct connection, or one other node between.  What neighbours say of their neighbours. */
#ifndef DERPMESH_MESH_PATHS_H
#define DERPMESH_MESH_PATHS_H

#include "mesh/state.h"

/* Something about links, neighbours or the map has changed: chooses anew for all nodes, tells the node and the places. */
void paths_update(struct mesh *m);
/* Tells the node how data for the peer leaves, if that is not as it was told last. */
void paths_tell_node(struct mesh *m, struct peer *p);
/* The direct connection to a peer that worked stands in doubt, or is lost. */
void paths_flapped(struct mesh *m, struct peer *p);
/* The direct connection works (again): it is trusted at once, or after a while if it did not last. */
void paths_recovered(struct mesh *m, struct peer *p);
/* What we tell of ourselves has changed: neighbours hear of it soon. */
void paths_tell_soon(struct mesh *m);

/* LINKS and UNREACH came in on a direct link.  NULL, or why it has to be closed. */
const char *paths_links(struct mesh *m, struct link *l, const struct meshmsg_in *in);
const char *paths_unreach(struct mesh *m, struct link *l, const struct meshmsg_in *in);

/* How good a peer's direct connection is now. */
enum grade paths_direct(const struct mesh *m, const struct peer *p);
enum mesh_why paths_why(const struct mesh *m, const struct peer *p);
/* Whether that peer could pass something on to p now. */
bool paths_passes(const struct mesh *m, const struct peer *transit, const struct peer *p);

void paths_tick(struct mesh *m);
uint64_t paths_next(const struct mesh *m);

#endif
