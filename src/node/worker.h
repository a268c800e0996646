/* A worker: one thread, one event loop, its own listening sockets, connections and routes.
 *
 * Happy path: accept → session (TLS, HTTP, login) → relay; at the end of each turn touched streams are flushed and
 * batches for other workers posted.  It learns everything else through its inbox.
 * Owner: server.c makes and frees it; between start and IN_STOPPED only its own thread touches it, but for inbox and stats. */
#ifndef DERPMESH_NODE_WORKER_H
#define DERPMESH_NODE_WORKER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdatomic.h>
#include <uv.h>

#include "node/conn.h"
#include "node/inbox.h"
#include "node/link_watch.h"
#include "node/refuse.h"
#include "node/relay.h"
#include "node/site.h"
#include "node/stats.h"
#include "node/stun_udp.h"
#include "node/wheel.h"

enum { WORKERS_MAX = 64, WORKER_LISTEN_MAX = 4 };

struct dialing;
struct watcher;
struct varz;         /* varz.h */
struct login_limits; /* limits.h: counted over all workers */

struct worker_listener {
    uv_tcp_t tcp;
    uint8_t port_kind; /* enum http_port */
    bool used;         /* fd is a socket of ours, bound */
    bool on;           /* … that listens, by tcp */
    bool closing;      /* tcp is being closed */
    bool pending;      /* a connection waits that there was no memory for */
    int fd;
    struct worker *worker;
};

/* What admission says of a connection; why: what a no is counted as. */
struct worker_answer {
    struct conn_ref ref;
    struct derp_key key;
    bool yes;
    enum stat_id why;
};

struct worker {
    uint32_t index, n_workers;
    uv_thread_t thread;
    uv_loop_t loop;
    struct inbox inbox;
    struct stats stats;
    struct stream_io io;
    struct relay relay;
    struct wheel wheel;
    struct site *site;
    struct login_limits *limits;
    const struct varz *varz;           /* of the whole node; NULL: none */
    struct inbox *control;             /* the control thread's */
    struct worker **workers;           /* all of them, for their inboxes */
    struct conn *logins, *logins_last; /* connections before login, oldest first */
    struct watcher *watchers;          /* derper_watch.c: real derpers that want to know our clients */
    struct dialing *dialing;           /* link_io.c: dials under way */
    struct worker_listener listeners[WORKER_LISTEN_MAX];
    struct refusal refusal;
    uint64_t descriptors_due; /* loop time of the next look */
    struct stun_udp stun;
    bool stun_on, started, stopping, rest_stopped;
    bool keep_sockets; /* others hold the listening sockets too: they are closed here, not shut down */
    atomic_uint_fast32_t beat; /* at each tick: the loop turns */
    bool shut;                 /* gate.c: takes no new connections */
    uint64_t drain_until;      /* ms: by then all clients have been sent away; 0: they may stay */
    uv_timer_t tick;
    uv_check_t check;
    struct pauses pauses; /* senders whose receiver is full */
    struct link_watches link_watches;
    struct resumes resumes;        /* clients faster than client_rate */
    struct worker_answer *answers; /* of this turn */
    uint32_t n_answers, cap_answers;
    bool accept_later;    /* newcomers have had their share of this turn */
    uint64_t last_slowed; /* generation: one IN_SLOW_DOWN a turn */
};

struct worker_params {
    uint32_t index, n_workers;
    struct worker **workers;
    struct inbox *control;
    struct site *site; /* a reference is taken */
    struct login_limits *limits;
    const struct varz *varz;
    uint64_t seed; /* for hash tables */
    size_t budget; /* bytes of queues */
    /* Sockets already bound (SO_REUSEPORT): < 0 none.  Owned by the worker from now on. */
    int derp_fd, http_fd, stun_fd;
    bool keep_sockets;
};

/* Allocates and initialises; nothing runs yet.  NULL with err. */
struct worker *worker_new(const struct worker_params *p, char *err, size_t err_len);
/* Its listening sockets, at most max, into fds; how many.  The control thread's, too. */
int worker_sockets(const struct worker *w, int *fds, int max);
int worker_start(struct worker *w); /* 0 or libuv error: starts the thread */
/* After IN_STOPPED (or if never started): joins and frees. */
void worker_free(struct worker *w);

/* Tells the other workers that packets for c's key go to c. */
void worker_share_local(struct worker *w, const struct conn *c);
/* The stream of c has closed: takes it off the tables and frees it. */
void worker_conn_free(struct conn *c);
/* While stopping: goes on once the last connection and dial are over. */
void worker_stop_rest(struct worker *w);
/* Posts to the control thread with key and ref of a connection. */
void worker_tell(struct worker *w, enum inbox_type type, const struct conn *c, bool flag);

#endif
