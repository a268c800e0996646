/* Tunnels: control between two nodes over one that reaches both, sealed end to end. */
#ifndef DERPMESH_MESH_TUNNEL_H
#define DERPMESH_MESH_TUNNEL_H

#include "mesh/state.h"

/* Sends the message in m->out on a tunnel. */
void tunnel_send(struct mesh *m, struct link *l);
/* Our end is gone: the other end hears of it. */
void tunnel_close(struct mesh *m, const struct link *l);
/* AUTH was verified on a tunnel: everything from here on is sealed.  Before auth_wipe. */
void tunnel_seal(struct link *l);
/* A tunnel has ended, and whether it was proven. */
void tunnel_ended(struct mesh *m, struct peer *p, const struct link *l);
/* A peer's direct connection is lost: what went over it ends. */
void tunnel_carrier_lost(struct mesh *m, const struct peer *transit);

/* TUNNEL came in on a peer's direct connection: for us, or to be passed on.  NULL, or why that has to be closed. */
const char *tunnel_input(struct mesh *m, struct link *carrier, const struct meshmsg_in *in);

/* Opens a tunnel to a peer that control does not reach otherwise. */
void tunnel_tick(struct mesh *m, struct peer *p);
uint64_t tunnel_next(const struct peer *p);

#endif
