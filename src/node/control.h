/* The control thread: the only one that knows the whole node.
 *
 *   workers ──inbox──► control ──► clients (who is here) ──► mesh (who is elsewhere)
 *      ▲                                                        │
 *      └──────────────────── inboxes ◄── mesh_io.c ◄────────────┘  mesh_ops
 *
 * Glossary: a link's number in the mesh is the gen of its connection; a *dial* is a link that is being set
 * up.
 * Owner: server_run.  Thread: the main thread's loop, for everything but the inbox.  Nothing here blocks:
 * files are read and written on libuv's thread pool (reload.c, pins).  Dies: control_close, loop run to its
 * end, control_deinit.
 * Invariant: mesh is NULL only before control_start and after control_stop. */
#ifndef DERPMESH_NODE_CONTROL_H
#define DERPMESH_NODE_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "mesh/mesh.h"
#include "node/admission.h"
#include "node/clients.h"
#include "node/inbox.h"
#include "node/keystore.h"
#include "node/limits.h"
#include "node/listen.h"
#include "node/site.h"
#include "node/stats.h"
#include "node/varz.h"
#include "node/worker.h"

enum { CONTROL_SAMPLE_MS = 10000, CONTROL_SAMPLES = 6 };

struct control_dial {
    uint64_t number;
    uint32_t worker;
};

/* A peer by its index in the mesh: since when data can (or cannot) go there. */
struct control_node {
    uint64_t since; /* ms; 0: never had a link */
    bool linked;
};

/* Certificate files that are not taken over: what is wrong with them. */
struct control_cert {
    enum tls_fault fault;
    char text[1024]; /* "" if they are all right */
};

struct admit_io;    /* admit_io.c */
struct control_pin; /* mesh_io.c: a node key to be stored */

struct control {
    uv_loop_t *loop;
    struct inbox inbox;
    struct site *site; /* counted */
    struct mesh *mesh;
    struct clients *clients;
    struct worker **workers;
    uint32_t n_workers, n_stopped;
    struct login_limits *limits;
    const struct keystore *keystore;
    const struct listen_plan *plan;
    struct varz *varz;      /* NULL: none */
    struct conn_ref *links; /* of the mesh, by no order */
    size_t n_links, cap_links;
    struct control_dial *dials;
    size_t n_dials, cap_dials;
    struct control_node *nodes;
    size_t n_nodes, cap_nodes;
    const struct derpmap *shown_map; /* what shown is for */
    int *shown;                      /* by a peer's index in the mesh: its place in that map, -1 none */
    uint32_t n_shown;
    struct admit_io *admit;
    struct control_pin *pins, *pins_tail; /* to be stored, the first is under way */
    uv_prepare_t prepare;
    uv_timer_t timer, sample;
    uint64_t timer_at;                         /* when timer fires; UINT64_MAX: it does not */
    uint64_t started, site_since;              /* ms */
    uint64_t samples[CONTROL_SAMPLES][STAT_N]; /* sums every CONTROL_SAMPLE_MS, in a ring */
    unsigned sample_at;
    bool draining;
    uint64_t drain_since;       /* ms */
    struct control_cert cert;   /* kept by cert_watch.c */
    char acme[512];             /* acme.c: why there is no new certificate; "" if all is well */
    char refused[2048];         /* why the last reload changed nothing; "" if it did */
    void (*on_site)(void *ctx); /* another site is served; NULL: nobody asks */
    void *site_ctx;
    /* Starts another process that takes this one's place; done is called once with NULL or a sentence.  -1 with a sentence. */
    int (*hand_over)(void *ctx, void (*done)(void *ctx, const char *err), void *done_ctx, char *err,
                     size_t err_len);
    void (*on_stopped)(void *ctx); /* all workers have said IN_STOPPED */
    void *ctx;
};

/* The plain members from loop to keystore, plan, on_stopped and ctx are set before.  A reference of site is
 * taken over. 0, or a libuv error. */
int control_init(struct control *c, uint64_t seed);
/* Once the workers exist (running or not): makes the mesh.  0, or -1 with a sentence. */
int control_start(struct control *c, char *err, size_t err_len);
/* Serves this from now on: tells workers and mesh.  The reference is taken over. */
void control_set_site(struct control *c, struct site *site);
/* Closes the listeners and sends all clients away within ms, or opens and keeps those that are left.  The node stays in the
 * mesh, which is told. */
void control_drain(struct control *c, uint64_t ms);
void control_undrain(struct control *c);
/* Closes a client's connections to this node, which an operator asked for.  How many. */
size_t control_kick(struct control *c, const struct derp_key *key);
/* Ends the mesh and asks all workers to stop; on_stopped follows. */
void control_stop(struct control *c, bool keep_sockets);
void control_close(struct control *c);  /* closes its handles */
void control_deinit(struct control *c); /* after the loop has ended and the workers are freed */

uint64_t control_now(void); /* ms, monotonic */
/* A counter summed over the workers, and how much of it came in about the last minute. */
uint64_t control_stat(const struct control *c, enum stat_id which);
uint64_t control_stat_recent(const struct control *c, enum stat_id which);

/* Whether a peer has a link, and since when that is so (ms). */
bool control_peer_linked(const struct control *c, uint32_t node, uint64_t *since);

/* ---- admit_io.c ---- */

struct control_admit_source {
    bool on, out;      /* out: its last answer was not usable */
    uint64_t out_s;    /* since when */
    const char *error; /* what was wrong */
    char name[256];    /* URL or path, without secrets */
};

struct control_admission {
    bool on; /* false: anyone may use this node */
    bool any, fail_open;
    struct admit_counts counts;
    struct control_admit_source url, socket;
    const char *allow_file;  /* NULL: none */
    const char *allow_error; /* why the file is not taken as it stands there; "" */
    size_t allow_keys;
    time_t allow_loaded;
};
void control_admission(const struct control *c, struct control_admission *out);

void control_admit_guest(struct control *c, const struct derp_key *key); /* see admission_guest */
int control_admit_init(struct control *c, uint64_t seed);                /* 0 or libuv error */
void control_admit_site(struct control *c);                              /* takes over what c->site says */
/* IN_ADMIT_ASK; IN_CLIENT_UP and _DOWN, after the registry. */
void control_admit_message(struct control *c, const struct inbox_msg *m);
void control_admit_close(struct control *c);
void control_admit_deinit(struct control *c);

/* ---- mesh_io.c ---- */

extern const struct mesh_ops control_mesh_ops;
/* Sends one worker or all a message like this one (without bytes). */
void control_tell(struct control *c, uint32_t worker, const struct inbox_msg *like);
void control_tell_all(struct control *c, const struct inbox_msg *like);
const struct conn_ref *control_link_find(const struct control *c, uint64_t gen);
int control_link_add(struct control *c, const struct conn_ref *ref); /* 0, -1 no memory */
void control_link_remove(struct control *c, uint64_t gen);
/* Forgets a dial that was answered; false if it is not known (any more). */
bool control_dial_take(struct control *c, uint64_t number);
void control_pins_free(struct control *c);

#endif
