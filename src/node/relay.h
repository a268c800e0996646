/* The relay of one worker: frames of clients and links in, frames to clients and links out.
 *
 * A packet's way: relay_client_input walks the plaintext of one read in place, rewrites SendPacket to RecvPacket
 * (type and key, same length), keeps frames to one destination together as a run, and gives each run to a local client's
 * queue, another worker's inbox, or a mesh link's queue.  What goes nowhere is counted, never silent.
 * Owner and thread: the worker. */
#ifndef DERPMESH_NODE_RELAY_H
#define DERPMESH_NODE_RELAY_H

#include <stdint.h>
#include <sys/types.h>

#include "mesh/mesh.h"
#include "mesh/routes.h"
#include "node/conn.h"
#include "node/heard.h"
#include "node/inbox.h"
#include "node/stats.h"

/* A mesh node as this worker knows it. */
struct relay_node {
    struct node_id id;
    struct node_path path;
    uint64_t unreach_at; /* ms: when it was last told that a packet could not be handed on */
};

/* What src sends to dst, elsewhere, is dropped until then (ms of the loop's time): see relay_busy.c. */
struct relay_busy {
    struct derp_key dst, src;
    uint64_t until;
};
enum { RELAY_BUSY_MAX = 64 };

/* Runs for one other worker, gathered in this turn. */
struct relay_batch {
    uint8_t *bytes;
    size_t len, cap;
    uint32_t packets;
};
enum { RELAY_BATCH_MAX = 4 << 20 };

/* The way up, to the worker. */
struct relay_ops {
    /* A destination is not known: read now what other threads have told about routes. */
    void (*catch_up)(void *ctx);
    /* A frame came from a connection that is not its key's active one. */
    void (*active)(void *ctx, struct conn *c);
    void (*home)(void *ctx, struct conn *c);
    /* A key not known in the mesh sent through that node. */
    void (*glean)(void *ctx, const struct derp_key *key, const struct node_id *node);
    /* That node sent a packet here for a key that is not here. */
    void (*not_here)(void *ctx, const struct derp_key *key, const struct node_id *node);
    /* src, a client of that node, sends c more than it takes: had better not for so many ms. */
    void (*client_busy)(void *ctx, const struct conn *c, const struct derp_key *src,
                        const struct node_id *node, uint32_t ms);
    /* A packet that came on this link for that node could not be handed on (at most every MESH_UNREACH_EVERY_MS a node). */
    void (*unreach)(void *ctx, struct conn *link, const struct node_id *node);
    /* A control frame's payload came on a link. */
    void (*link_control)(void *ctx, struct conn *c, const uint8_t *payload, size_t len);
    /* Read c again when full has drained, or a moment later.  full NULL: what is full is not a connection of this worker. */
    void (*slow_down)(void *ctx, struct conn *c, struct conn *full);
    /* The same for one of another worker. */
    void (*slow_down_other)(void *ctx, const struct conn_ref *from);
    /* Close c, counted under why. */
    void (*close)(void *ctx, struct conn *c, enum stat_id why, const char *text);
};

struct relay {
    const struct relay_ops *ops;
    void *ctx;
    uint32_t worker, n_workers;
    struct node_id self;
    struct conn_table conns;
    struct routes *routes;
    struct heard *heard;
    struct stats *stats;
    struct relay_node *nodes;
    uint32_t n_nodes;
    struct relay_busy busy[RELAY_BUSY_MAX];
    uint64_t busy_until;       /* the latest of them */
    bool transit_off;          /* packets between other nodes are not carried */
    uint32_t last_transit;     /* a guess: the node that the last packet in transit was for */
    struct relay_batch *batch; /* by worker */
    struct derp_key last_gleaned;
    struct derp_key last_not_here; /* the key that a node was told of, … */
    uint64_t not_here_at;          /* … and when (ms) */
    size_t payload; /* of the frames that the last relay_client_input took, without their headers */
};

int relay_init(struct relay *r, uint64_t seed); /* 0 or -1 no memory; the plain members are set before */
void relay_deinit(struct relay *r);

/* Plaintext of a logged-in client.  Returns bytes done with; -1 if the connection was closed. */
ssize_t relay_client_input(struct relay *r, struct conn *c, uint8_t *buf, size_t n);
/* A ForwardPacket, of at least two keys: a real derper's client sends to one of ours or beyond us. */
void relay_from_derper(struct relay *r, const struct frame *f);
/* The answer to a Ping of at least DERP_PING_MIN bytes. */
void relay_pong(struct relay *r, struct conn *c, const struct frame *f);
/* What is left of an unknown frame, so far as it has come. */
size_t conn_skip_some(struct conn *c, size_t n);
/* Plaintext of a mesh link; ready: it has proven itself, data may pass. */
ssize_t relay_link_input(struct relay *r, struct conn *c, uint8_t *buf, size_t n, bool ready);
/* The bytes of an IN_DATA message.  Batches for others are in r->batch: the worker posts and empties them each turn. */
void relay_inbox(struct relay *r, uint8_t *bytes, size_t len);

/* How data for a node leaves from now on; 0 or -1 no memory. */
int relay_node_path(struct relay *r, uint32_t node, const struct node_id *id, const struct node_path *path);
/* Another node says that its client dst takes less than src sends. */
void relay_busy(struct relay *r, const struct derp_key *dst, const struct derp_key *src, uint64_t until);
/* Tells the clients of this worker that heard from key. */
void relay_gone(struct relay *r, const struct derp_key *key);

#endif
