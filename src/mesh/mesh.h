/* One node's part in the mesh: who the peers are, which links are proven, which keys live where.
 *
 * Glossary: a *peer* is another node of the derpMap; a *link* is one connection to a peer, carried by the node
 * (node/link_io), known here by a number; a *location* says that a peer serves a client key; *home* is the node whose
 * region the client prefers (NotePreferred), any other serving node is *visited*; *up* = the link has proven the mesh key.
 *
 * Pure: no sockets, no libuv, no clock (now, in milliseconds of a monotonic clock, is an argument), no randomness of
 * its own.  So a whole mesh of nodes runs in one process in virtual time (tests/unit/test_mesh_sim.c).
 * Thread: one (the control thread).  Calls into ops happen inside the mesh_* call that causes them, never later;
 * ops must not call back into the mesh.
 * Protocol: docs/protocol.md. */
#ifndef DERPMESH_MESH_MESH_H
#define DERPMESH_MESH_MESH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mesh/routes.h"
#include "proto/derpmap.h"
#include "proto/frame.h"
#include "proto/key.h"

struct mesh;
struct meshmsg;

enum mesh_log_level { MESH_LOG_DEBUG, MESH_LOG_INFO, MESH_LOG_WARN, MESH_LOG_ERROR };

/* How data for a node leaves.  The two halves are told together but mean different things: via is the choice between all
 * ways; n and link are the node's own connections, which may stand although via is another node (its data takes them then
 * never, but packets in transit for it take nothing else). */
enum { MESH_LANES_MAX = 4 };
struct mesh_path {
    uint32_t
        via; /* index of the node whose connections the data takes: itself (direct), or one between; NODE_NONE: none */
    uint8_t n; /* its own connections; data is spread over them by (source key, destination key) */
    uint64_t link[MESH_LANES_MAX];
};

/* The way up.  ctx is mesh_config.ctx. */
struct mesh_ops {
    /* Fills out with random bytes (tests: from a seed). */
    void (*random)(void *ctx, void *out, size_t len);
    /* Connect to this node (address, port, TLS and pin as the map says) and ask for Upgrade: derpmesh/1.
     * The answer is mesh_link_open(…, dial) or mesh_dial_failed(dial).
     * lane 0 is for the control connection; higher numbers had better be carried elsewhere, to share the work. */
    void (*dial)(void *ctx, uint64_t dial, const struct derpmap_node *node, uint32_t lane);
    /* Give up a dial that is under way; no answer is expected any more (a late one is ignored). */
    void (*dial_cancel)(void *ctx, uint64_t dial);
    /* Whether that node of the map is a real derper, which is no node of this mesh (NULL: none is); and log in to it as its
     * mesh peer: the answer is mesh_derper_open or mesh_dial_failed. */
    bool (*is_derper)(void *ctx, const struct derpmap_node *node);
    void (*dial_derper)(void *ctx, uint64_t dial, const struct derpmap_node *node);
    /* Send one whole 0x60 frame (header included) on a link.  Copied by the callee. */
    void (*send)(void *ctx, uint64_t link, const uint8_t *frame, size_t len);
    /* Close a link after what was sent; why is for the log.  mesh_link_closed is not called for it. */
    void (*close)(void *ctx, uint64_t link, const char *why);
    /* The link has proven to be that node's: data that comes in on it is good from now on. */
    void (*link_ready)(void *ctx, uint64_t link, uint32_t node);
    /* Data for node leaves so from now on.  Told only when it is another way than before. */
    void (*node_path)(void *ctx, uint32_t node, const struct mesh_path *path);
    /* The queue of dst at that node is full of what src sends: drop that here for so many ms. */
    void (*busy)(void *ctx, const struct derp_key *dst, const struct derp_key *src, uint32_t ms);
    /* The best location of a key elsewhere is now this node (NODE_NONE: nowhere else). */
    void (*route)(void *ctx, const struct derp_key *key, uint32_t node);
    /* A key that is connected here has become at home at another node, later than here: is anybody still there?  May be NULL. */
    void (*moved)(void *ctx, const struct derp_key *key);
    /* The key has left for certain (its owner announced it, no other location for MESH_GONE_HOLD_MS), or its node
     * cannot be reached for long (MESH_UNREACHABLE_MS): tell clients
     * that heard from it PeerGone. */
    void (*gone)(void *ctx, const struct derp_key *key);
    /* A peer's node key was seen for the first time and is trusted from now on: store it. */
    void (*pin)(void *ctx, const char *name, const struct derp_key *key);
    /* One event for a person; msg is one line without a newline and without secrets. */
    void (*log)(void *ctx, enum mesh_log_level level, const char *msg);
};

enum {
    MESH_GONE_HOLD_MS = 3000,     /* wait for another location before PeerGone */
    MESH_UNREACHABLE_MS = 10000,  /* a peer without a link for so long: PeerGone for its keys, paced */
    MESH_STOPPED_MS = 5000,       /* the same for one that said it stops */
    MESH_AUTH_TIMEOUT_MS = 10000, /* HELLO and AUTH done by then */
    MESH_PING_MS = 1000,
    MESH_UNREACH_EVERY_MS = 20,   /* UNREACH on one link is told at most so often */
    MESH_LINK_DEAD_MS = 60000,    /* without an answer: closed */
    MESH_BACKOFF_MAX_MS = 30000,  /* full jitter up to this */
    MESH_SECOND_DIALER_MS = 5000, /* the side that is not preferred dials too after this */
    MESH_GLEAN_MS = 120000,
    MESH_BUSY_MAX_MS = 200, /* no BUSY counts for longer */
    MESH_BUSY_EVERY_MS = 2, /* to one node, at most */
    MESH_ANN_MS = 20        /* ups leave at the latest after this */
};

struct mesh_pin {
    const char *name;
    struct derp_key key;
};

struct mesh_config {
    const struct mesh_ops *ops;
    void *ctx;
    const char *software; /* "derpmesh 0.1.0", told in HELLO */
    struct key_pair node_key;
    uint64_t boot;                   /* max(stored + 1, unix milliseconds) */
    uint8_t instance[16];            /* random, new at each start */
    const struct mesh_keys *keys;    /* copied */
    const struct derpmap *map;       /* borrowed until the next mesh_set_map or mesh_free */
    const struct derpmap_node *self; /* in map */
    const struct mesh_pin *pins;     /* known node keys; copied */
    size_t n_pins;
    unsigned lanes; /* connections for data to each node, beside the one for control; ≤ MESH_LANES_MAX */
    /* For tests, else NULL: writes each message anew before it leaves, as a later version would.  It may be given one that it
     * has written already. */
    void (*rewrite)(struct meshmsg *msg);
    bool accept_no_exporter; /* links without TLS exporter are good enough: a proxy ends TLS on the way */
};

struct mesh *mesh_new(const struct mesh_config *config, uint64_t now); /* NULL without memory */
void mesh_free(struct mesh *m); /* says BYE on every link, calls ops->close; no route calls */

/* Takes over a new map by difference of names: unchanged peers keep their links; peers no longer listed are closed;
 * peers reached otherwise (derpmap_node_same) are dialled anew before the old link goes.  self is this node in the
 * new map and has the same id as before. */
void mesh_set_map(struct mesh *m, const struct derpmap *map, const struct derpmap_node *self, uint64_t now);
/* New keyring: links proven with a key that is no longer in it are closed, others stay. */
void mesh_set_keys(struct mesh *m, const struct mesh_keys *keys, uint64_t now);

/* Keys that the operator names: a node of that name is taken with that key alone, whatever was seen first.  Links to a node
 * that is no longer named, or named with another key than it has proven, are closed.  Names may be of no node.
 * Borrowed until the next call or mesh_free. */
void mesh_set_pins(struct mesh *m, const struct mesh_pin *pins, size_t n, uint64_t now);

/* What this node does for others; told to its neighbours, which then send nothing over it that is for another node.
 * Nothing is set at first. */
struct mesh_carrying {
    bool transit_off; /* the operator does not want it */
    bool draining;
    bool overloaded;
};
void mesh_set_carrying(struct mesh *m, const struct mesh_carrying *c, uint64_t now);

/* Milliseconds of monotonic time when mesh_tick wants to be called next. */
uint64_t mesh_next(const struct mesh *m);
void mesh_tick(struct mesh *m, uint64_t now);

/* ---- links ---- */

struct mesh_link_info {
    bool dialer; /* we dialled; dial says which ops->dial it answers */
    uint64_t dial;
    bool has_exporter;    /* false: a proxy stands between and the operator said so */
    uint8_t exporter[32]; /* TLS exporter, label "EXPORTER-derpmesh-1" */
    const char *from;     /* the other side's address, for logs; copied */
};
/* A connection has answered 101 (either side).  link is a number never used before.  The dialer's HELLO leaves now. */
void mesh_link_open(struct mesh *m, uint64_t link, const struct mesh_link_info *info, uint64_t now);
/* One 0x60 frame's payload came in.  May call ops->close for this very link. */
void mesh_link_input(struct mesh *m, uint64_t link, const uint8_t *payload, size_t len, uint64_t now);
/* Bytes of data came in on a link (call at most every 100 ms; liveness). */
void mesh_link_alive(struct mesh *m, uint64_t link, uint64_t now);
/* So many bytes of all that was ever sent on the link have been acknowledged by the other side's TCP (call at most every 100 ms
 * while something is not acknowledged yet, and once when all is). */
void mesh_link_acked(struct mesh *m, uint64_t link, uint64_t bytes, uint64_t now);
void mesh_link_closed(struct mesh *m, uint64_t link, const char *why, uint64_t now);
void mesh_dial_failed(struct mesh *m, uint64_t dial, const char *why, uint64_t now);

/* A packet that came on this link for that node could not be passed on: says so (at most every MESH_UNREACH_EVERY_MS). */
/* A client of ours takes less than src, a client of that node, sends it: that node had better drop it for so many ms. */
void mesh_busy(struct mesh *m, const struct node_id *node, const struct derp_key *dst,
               const struct derp_key *src, uint32_t ms, uint64_t now);
void mesh_unreach(struct mesh *m, uint64_t link, const struct node_id *node, uint64_t now);

/* ---- clients of this node: the first and last connection of a key ---- */

int mesh_client_up(struct mesh *m, const struct derp_key *key, bool home, uint64_t now); /* 0, -1 no memory */
void mesh_client_home(struct mesh *m, const struct derp_key *key, bool home, uint64_t now);
void mesh_client_down(struct mesh *m, const struct derp_key *key, uint64_t now);

/* ---- real derpers of our region: the node has the connection, the mesh the keys of their clients (derper.c) ---- */

/* Logged in; link is a number as in mesh_link_open.  The derper names all of its clients now.  May call ops->close. */
void mesh_derper_open(struct mesh *m, uint64_t dial, uint64_t link, uint64_t now);
/* A client of that derper has come (again) or has left. */
void mesh_derper_key(struct mesh *m, uint64_t link, const struct derp_key *key, bool present, uint64_t now);
void mesh_derper_closed(struct mesh *m, uint64_t link, const char *why, uint64_t now);

/* A data frame from this key came over the link of that node: replies find their way for MESH_GLEAN_MS. */
void mesh_glean(struct mesh *m, const struct derp_key *key, const struct node_id *node, uint64_t now);

/* A data frame that named this node as its destination came in from that node for a key that is not here: it is told. */
void mesh_not_here(struct mesh *m, const struct derp_key *key, const struct node_id *entry, uint64_t now);

/* ---- looking ---- */

/* The index of a node, NODE_NONE if unknown.  Indices are small, and stay with a Name for the mesh's life. */
uint32_t mesh_node_index(const struct mesh *m, const struct node_id *id);
uint32_t mesh_n_nodes(const struct mesh *m);

enum mesh_peer_state {
    MESH_PEER_DOWN,
    MESH_PEER_DIALING,
    MESH_PEER_AUTH,
    MESH_PEER_UP,
    MESH_PEER_SUSPECT, /* it gives no answer */
    MESH_PEER_SILENT,  /* … for longer: the connection stands, but nothing is expected of it */
    MESH_PEER_TUNNEL,  /* no direct connection, but it is heard over another node */
    MESH_PEER_REMOVED
};
/* Why the path to a node is what it is. */
enum mesh_why {
    MESH_WHY_NONE,    /* there is none */
    MESH_WHY_DIRECT,  /* the direct connection works, or is all there is */
    MESH_WHY_NO_LINK, /* over another node: there is no direct connection */
    MESH_WHY_SILENT,  /* … the direct connection does not answer */
    MESH_WHY_HELD,    /* … it has just come back, and may not last */
    MESH_WHY_FASTER   /* … it is clearly slower */
};
struct mesh_peer_info {
    const char *name; /* the map's id of it */
    struct node_id id;
    int region_id;
    enum mesh_peer_state state;
    uint64_t link;        /* the direct connection; 0 if none */
    uint32_t control_via; /* control goes over this node; itself: directly; NODE_NONE: not at all */
    bool dialed_by_us;
    unsigned lanes;   /* that data may take now */
    bool derper;      /* a real one: n_keys are its clients */
    double rtt_ms;    /* windowed minimum; < 0 unknown */
    uint32_t via;     /* data goes over this node; itself: directly; NODE_NONE: there is no path */
    uint32_t cost_ms; /* of that path: sum of minimum RTTs */
    enum mesh_why why;
    bool routable;   /* packets for its keys are sent there */
    uint32_t n_keys; /* announced by it */
    bool map_differs;
    bool synced;
    uint64_t features; /* as it said itself in HELLO, to us: over a tunnel too */
    char software[32];
    char last_error[160]; /* why the last attempt or link ended; "" if none */
    uint64_t since;       /* now-value of the last state change */
};
/* False if there is no such index (or it is ourselves). */
bool mesh_peer(const struct mesh *m, uint32_t node, struct mesh_peer_info *out);

struct mesh_location {
    uint32_t node; /* NODE_NONE: this node */
    bool home, gleaned;
    bool derper; /* a client of a real derper that this node reaches */
};
/* All known locations of a key, best first; returns how many (at most max are written). */
size_t mesh_where(const struct mesh *m, const struct derp_key *key, struct mesh_location *out, size_t max);

/* Calls one for each key that is elsewhere, with what ops->route was told of it last. */
void mesh_each_route(const struct mesh *m, void (*one)(void *ctx, const struct derp_key *key, uint32_t node),
                     void *ctx);

struct mesh_counters {
    uint64_t ann_sent, ann_received, sync_sent, sync_received, refused_hello, refused_auth,
        refused_unknown_peer, refused_pin, bad_message, unknown_message, links_opened, links_closed,
        control_bytes_sent, control_bytes_received, gleaned, gone;
    /* Links refused before they were up, by reason (refused_hello counts the rest: malformed, late, too long). */
    uint64_t refused_version, refused_replay, refused_reflection, refused_name, refused_key, refused_exporter,
        refused_clone, refused_lane, refused_lane_peer, refused_lane_replay, refused_lane_auth;
    uint64_t lanes_opened;
    uint64_t tunnels_opened, tunnelled, tunnel_refused,
        tunnel_bad;        /* tunnelled: messages passed on for others */
    uint64_t suspects;     /* times that a link gave no answer */
    uint64_t path_changes; /* from one way to another */
    uint64_t unreach_sent, unreach_received, busy_sent, busy_received;
    uint64_t resyncs_asked;             /* gaps seen in a peer's announcements */
    uint64_t digests_good, digests_bad; /* a peer's set added up to what it said, or did not */
    uint64_t sync_changes_sent,
        sync_buckets_sent; /* of sync_sent: only what had changed, only some buckets */
    uint64_t entries_sent, entries_received;
    uint64_t held_back; /* changes of keys that flap, told later */
    uint64_t not_here_sent, not_here_received,
        not_here_disagreed; /* disagreed: it should be there as far as we know */
    uint64_t n_remote_keys;
    uint64_t bytes; /* memory of the key tables */
};
void mesh_counters(const struct mesh *m, struct mesh_counters *out);

#endif
