/* What relay.c and relay_node.c share: the run, and where it can go. */
#ifndef DERPMESH_NODE_RELAY_PARTS_H
#define DERPMESH_NODE_RELAY_PARTS_H

#include "node/relay.h"

struct run {
    struct derp_key dst;
    uint8_t *start;
    uint32_t len, packets;
    bool urgent; /* disco: one frame a run */
    /* where it came in */
    struct conn *from;        /* a client of this worker; NULL: from elsewhere */
    struct conn_ref from_ref; /* the sender's connection on another worker; gen 0: unknown */
    uint64_t sender;          /* whose share of a queue it takes */
    uint8_t hops;
    struct node_id src_node;
};

/* relay.c */
void run_drop(struct relay *r, enum stat_id why, uint32_t packets);
enum sendq_class run_class(const struct run *run);
/* The sender fills the queue of full faster than it drains: read it a little later. */
void run_slow_down(struct relay *r, const struct run *run, struct conn *full);
/* Adds the run to this turn's batch for another worker; node NODE_NONE: for a client there. */
void run_to_worker(struct relay *r, const struct run *run, const struct conn_ref *to, uint32_t node);
/* To the client of this node that it is for.  False if there is none. */
bool run_to_local(struct relay *r, const struct run *run);
/* Closes c; -1, for input functions. */
ssize_t conn_refuse(struct relay *r, struct conn *c, enum stat_id why, const char *text);

/* relay_busy.c */
/* c's queue is full of what this run's sender sends from another node: that node is told, seldom. */
void run_tell_busy(struct relay *r, const struct run *run, struct conn *c);
/* Whether the destination, at another node, is busy with what this run's sender sends: then the run is dropped. */
bool run_is_too_much(struct relay *r, const struct run *run);

/* relay_node.c */
/* To a node of the mesh, by whatever way it is reached.  False if it is not. */
bool run_to_node(struct relay *r, const struct run *run, uint32_t node);
/* A run that another worker gave us for a node: onto this connection. */
void run_to_link(struct relay *r, const struct run *run, struct conn *link, const struct node_id *dst_node);

/* relay_derper.c */
/* To a client of a real derper, which c is a connection to. */
void run_to_derper(struct relay *r, const struct run *run, struct conn *c);

#endif
