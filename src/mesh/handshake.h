/* HELLO and AUTH on a link: what we say, and whether to believe the other side. */
#ifndef DERPMESH_MESH_HANDSHAKE_H
#define DERPMESH_MESH_HANDSHAKE_H

#include "mesh/state.h"

/* The link has just opened: the dialer's HELLO leaves.  May end the link. */
void handshake_start(struct mesh *m, struct link *l);
/* A frame on a link that is not yet proven.  May end the link. */
void handshake_input(struct mesh *m, struct link *l, const uint8_t *payload, size_t len);
/* Counts, logs (rarely, where strangers can cause it) and ends the link. */
void handshake_refuse(struct mesh *m, struct link *l, enum refusal why, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif
