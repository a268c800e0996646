/* Links: their life from the 101 answer to the end, liveness, and which of two links of a pair stays. */
#ifndef DERPMESH_MESH_LINK_H
#define DERPMESH_MESH_LINK_H

#include "mesh/state.h"

struct link *link_find(const struct mesh *m, uint64_t id);
/* The windowed minimum of its round-trip times, NEVER: not known yet. */
uint64_t link_rtt(const struct link *l);
struct link *link_new(struct mesh *m, uint64_t id,
                      const struct mesh_link_info *info); /* NULL without memory */
/* One control message came in, or out of a tunnel.  May end the link. */
void link_input(struct mesh *m, struct link *l, const uint8_t *payload, size_t len);
/* Which of a peer's direct connection and tunnel control uses. */
void link_choose(struct mesh *m, struct peer *p);
/* Sends the message in msg over a connection. */
void link_send_frame(struct mesh *m, struct link *l, struct meshmsg *msg);
/* Sends the message in m->out. */
void link_send(struct mesh *m, struct link *l);
/* Sends a PING whose PONG will acknowledge all that was sent before it. */
void link_mark(struct mesh *m, struct link *l);
/* Tells the hash of our map if the other side knows another one, and what else depends on the map. */
void link_map_changed(struct mesh *m, struct link *l);
/* AUTH was verified: the link becomes the peer's, waits for the old instance's answer, or goes. */
void link_proven(struct mesh *m, struct link *l);
/* The proven link is the peer's from now on: what was in its place is let go of. */
void link_use(struct mesh *m, struct link *l);

/* suspect or down have changed. */
void link_judged(struct mesh *m, struct link *l, bool was_suspect);

/* The end of a link, which is freed.  LINK_END_BYE says BYE first (bye), LINK_END_CLOSE only closes,
 * LINK_END_CLOSED: the connection is closed already. */
enum link_end_how { LINK_END_CLOSED, LINK_END_CLOSE, LINK_END_BYE };
void link_end(struct mesh *m, struct link *l, enum link_end_how how, enum meshmsg_bye bye, const char *why);

/* The peer has lost its connection in use; it was good: dialled again without waiting. */
void peer_lost(struct mesh *m, struct peer *p, bool was_good);

/* Deadlines, pings, silence, what is due to be told.  May end the link. */
void link_tick(struct mesh *m, struct link *l);
uint64_t link_next(const struct mesh *m, const struct link *l);
void links_free(struct mesh *m);

#endif
