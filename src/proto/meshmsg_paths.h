/* Messages about ways between nodes: what neighbours are like, control through a node between, and what leads nowhere.
 *
 * Specification: docs/protocol.md §5. */
#ifndef DERPMESH_PROTO_MESHMSG_PATHS_H
#define DERPMESH_PROTO_MESHMSG_PATHS_H

#include <stddef.h>
#include <stdint.h>

#include "proto/meshmsg.h"

enum { MESHMSG_NEIGHBOURS_MAX = 900 }; /* entries in one LINKS: 900 × 17 bytes < MESHMSG_MAX */

/* Flags of LINKS: each of them says that the sender carries nothing for others (any more). */
enum { MESHMSG_DRAINING = 1, MESHMSG_NO_TRANSIT = 2, MESHMSG_OVERLOADED = 4 };
enum meshmsg_neighbour_state { MESHMSG_NEIGHBOUR_UP, MESHMSG_NEIGHBOUR_SUSPECT, MESHMSG_NEIGHBOUR_DOWN };
struct meshmsg_neighbour {
    struct node_id node;
    uint32_t state; /* enum meshmsg_neighbour_state; others come from later versions */
    uint32_t rtt_ms;
};

/* What a TUNNEL carries from one end to the other. */
enum meshmsg_tunnel_kind {
    MESHMSG_TUNNEL_CLEAR,  /* a control message: HELLO or AUTH */
    MESHMSG_TUNNEL_SEALED, /* a control message, encrypted for the other end */
    MESHMSG_TUNNEL_REFUSED /* from the node between, to the end that sent: it cannot or will not pass it on */
};
struct meshmsg_tunnel {
    struct node_id to, from; /* the two ends */
    uint64_t number;         /* of the tunnel, chosen by the end that opened it */
    uint32_t kind;
    const uint8_t *body; /* in place */
    size_t len;
};

/* Neighbours of a LINKS being read, in place. */
struct meshmsg_neighbours {
    struct mpread r;
    uint32_t left;
};

/* ---- reading: 0 or -1 ---- */

int meshmsg_read_links(const struct meshmsg_in *in, uint32_t *flags, struct meshmsg_neighbours *list);
/* 1: a neighbour, 0: no more, -1: malformed. */
int meshmsg_neighbour_next(struct meshmsg_neighbours *list, struct meshmsg_neighbour *n);
int meshmsg_read_tunnel(const struct meshmsg_in *in, struct meshmsg_tunnel *t);
/* BUSY: packets from src to dst had better not be sent for so many ms. */
int meshmsg_read_busy(const struct meshmsg_in *in, struct derp_key *dst, struct derp_key *src, uint32_t *ms);
int meshmsg_read_unreach(const struct meshmsg_in *in, struct node_id *node);

/* ---- writing: always fits ---- */

/* n ≤ MESHMSG_NEIGHBOURS_MAX */
void meshmsg_links(struct meshmsg *m, uint32_t flags, const struct meshmsg_neighbour *e, uint32_t n);
/* t->len ≤ MESHMSG_MAX + 16 */
void meshmsg_tunnel(struct meshmsg *m, const struct meshmsg_tunnel *t);
void meshmsg_busy(struct meshmsg *m, const struct derp_key *dst, const struct derp_key *src, uint32_t ms);
void meshmsg_unreach(struct meshmsg *m, const struct node_id *node);

#endif
