/* Lanes: connections of a pair that carry data, so that control never waits behind it and no loss stops all of it. */
#ifndef DERPMESH_MESH_LANES_H
#define DERPMESH_MESH_LANES_H

#include "mesh/state.h"

/* The peer's control link is this one from now on: lanes of the same instance stay, others go. */
void lanes_link_used(struct mesh *m, struct peer *p, bool same_instance);
/* The peer has lost its control link. */
void lanes_link_lost(struct mesh *m, struct peer *p);
/* Gives up what is being dialled. */
void lanes_cancel(struct mesh *m, struct peer *p);
/* Ends them all at once: the peer is not wanted any more. */
void lanes_close(struct mesh *m, struct peer *p);

/* A connection that was dialled for a lane has opened: asks.  May end the link. */
void lanes_opened(struct mesh *m, struct link *l);
/* LANE came: the dialer's on a new connection, the acceptor's on one that asked.  May end the link. */
void lanes_input(struct mesh *m, struct link *l, const struct meshmsg_in *in);
/* A link that is, or was to be, a lane of that peer has ended. */
void lanes_ended(struct mesh *m, struct peer *p, const struct link *l, const char *why);

/* Whose lane is dialled under that number; *index: which one.  NULL: nobody's. */
struct peer *lanes_by_dial(const struct mesh *m, uint64_t dial, uint32_t *index);
void lanes_dial_failed(struct mesh *m, struct peer *p, uint32_t index, const char *why);

/* The peer's own connections that data may take now. */
void lanes_fill(const struct mesh *m, const struct peer *p, struct mesh_path *path);
/* Whether there are any: an accepted control link alone may not carry data until its dialer has spoken after the proof. */
bool lanes_carry(const struct mesh *m, const struct peer *p);

void lanes_tick(struct mesh *m, struct peer *p);
uint64_t lanes_next(const struct peer *p);

#endif
