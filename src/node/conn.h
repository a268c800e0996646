/* One connection of a worker, from accept to close: a login first, then a client or a mesh link.
 *
 *   accepted → LOGIN (session.c: TLS, HTTP, DERP login) → CLIENT (relay.c)
 *                                                       → LINK   (link_io.c)
 *                                                       → WATCHER (derper_watch.c: a real derper)
 *   dialled  → LINK (link_io.c)
 *
 * Owner: its worker.  Thread: the worker's.  Dies: in the worker's conn_free, after the stream's closed().
 * Invariant: conns.slot[c->slot] == c from conn_add to conn_remove, and gen is never used twice. */
#ifndef DERPMESH_NODE_CONN_H
#define DERPMESH_NODE_CONN_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "mesh/routes.h"
#include "node/pause.h"
#include "node/rate.h"
#include "node/resume.h"
#include "node/stream.h"
#include "proto/key.h"

enum conn_kind { CONN_LOGIN, CONN_CLIENT, CONN_LINK, CONN_WATCHER };

struct worker;
struct login;       /* login.h: what only a connection before login needs */
struct link;        /* link_io.c */
struct derper_peer; /* derper_peer.c */
struct heard_entry;

/* IPv4 as ::ffff:a.b.c.d, so that any check by address sees one form. */
struct conn_addr {
    uint8_t ip[16];
    uint16_t port;
};

struct conn {
    struct stream stream; /* first: stream callbacks get back to the conn */
    struct worker *worker;
    uint64_t gen;
    uint32_t slot;
    uint8_t kind;     /* enum conn_kind */
    bool home;        /* client: NotePreferred said so */
    bool active;      /* client: packets for its key go here (one of several connections) */
    bool not_ideal;   /* client: it came because another node of the region did not answer */
    bool announced;   /* client: the control thread knows of it */
    bool doubted;     /* client: its key is at home elsewhere now; does anybody still answer here? */
    uint8_t not_here; /* tokens for PeerGone NotHere */
    uint64_t not_here_at;
    uint64_t busy_at;    /* client: ms, when a node was last told that it sends too much */
    struct derp_key key; /* client's, or a link's peer's */
    uint32_t skip;       /* bytes of an unknown frame still to be thrown away */
    struct conn_addr addr;
    struct login *login;
    struct link *link;
    struct derper_peer *derper; /* link: not one of ours, but to a real derper */
    uint32_t node;              /* link: the node that it has proven to be, else NODE_NONE */
    uint16_t n_heard;
    struct heard_entry *heard; /* peers this client has heard from: heard.h */
    /* timer wheel: wheel.h */
    struct conn *wheel_prev, *wheel_next;
    uint32_t wheel_slot;
    uint64_t keepalive_at; /* client: ms */
    uint64_t leave_at;     /* client: ms when it is closed, the node drains; 0: it may stay */
    uint64_t client_since; /* client: ms of its login */
    struct pause pause;
    struct resume resume; /* client: it sends faster than it may */
    struct rate rate;     /* client: how fast it may send */
};

static inline struct conn *conn_of(struct stream *s)
{
    return (struct conn *)s;
}

struct conn_table {
    struct conn **slot;
    uint32_t *free_ring; /* slots free, first in first out */
    uint32_t n_slots, cap, free_head, n_free;
    uint64_t next_gen; /* worker << 48 | counter */
    uint32_t n_conns;
};

int conn_table_init(struct conn_table *t, uint32_t worker);
void conn_table_deinit(struct conn_table *t);
int conn_add(struct conn_table *t, struct conn *c); /* sets slot, gen and node; 0 or -1 no memory */
void conn_remove(struct conn_table *t, struct conn *c);
/* The connection of that name, or NULL if it is gone. */
static inline struct conn *conn_get(const struct conn_table *t, uint32_t slot, uint64_t gen)
{
    if (slot >= t->n_slots || !t->slot[slot] || t->slot[slot]->gen != gen)
        return NULL;
    return t->slot[slot];
}

/* "1.2.3.4:567" or "[2001:db8::1]:567" into buf, which is returned. */
enum { CONN_ADDR_TEXT = 64 };
const char *conn_addr_text(char buf[static CONN_ADDR_TEXT], const struct conn_addr *a);
void conn_addr_set(struct conn_addr *a, const struct sockaddr *sa);

#endif
