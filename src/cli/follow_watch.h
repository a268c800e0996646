/* What follow knows of the world: asks every node for STUN four times a second (of a thousand nodes once), by HTTPS now and then, and the others about
 * one that is silent.
 *
 *   follow.c ──tick──▶ follow_watch.c ──▶ follow_stun.c   one UDP socket a node
 *                                     ──▶ follow_ask.c    one HTTPS question a connection
 *                             │
 *                             ▼ answers, votes
 *                       follow_plan.c
 *
 * Owner: follow.c.  Thread: its loop's.  Everything ends by follow_watch_stop and the loop run to its end. */
#ifndef DERPMESH_CLI_FOLLOW_WATCH_H
#define DERPMESH_CLI_FOLLOW_WATCH_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "cli/follow_plan.h"
#include "node/resolve.h"
#include "node/stream.h"
#include "proto/stun.h"

/* ---- follow_ask.c ---- */

struct follow_ask;
/* status: of the answer, 0 if there was none, which why then says.  body is NUL-terminated.  Called once. */
typedef void (*follow_answer_cb)(void *ctx, int status, const char *body, const char *why);
struct follow_question {
    struct stream_io *io;
    SSL_CTX *tls;
    const struct derpmap_node *node; /* lives as long as the question */
    const struct sockaddr *addr;     /* with DERPPort */
    const char *target;              /* "/derp/probe"; copied, at most 511 bytes */
    follow_answer_cb done;
    void *ctx;
};
/* NULL without memory: done is not called then. */
struct follow_ask *follow_ask_new(const struct follow_question *q);
void follow_ask_cancel(struct follow_ask *a); /* done follows, from the loop */

/* ---- follow_stun.c ---- */

enum { FOLLOW_TXIDS = 8 };
struct follow_stun {
    struct stream_io *io; /* its loop and read buffer */
    uv_udp_t *udp;        /* NULL: none now */
    uint8_t txid[FOLLOW_TXIDS][STUN_TXID_LEN];
    unsigned sent;
    void (*heard)(void *ctx);
    void *ctx;
};
/* One request to addr; after another address than before, follow_stun_stop first.  Failures are silence. */
void follow_stun_ask(struct follow_stun *s, const struct sockaddr *addr);
void follow_stun_stop(struct follow_stun *s);

/* ---- follow_watch.c ---- */

struct follow_watch;
struct follow_watch_params {
    struct stream_io *io;
    SSL_CTX *tls;
    const struct derpmap *map;
    struct follow_plan *plan;
};
struct follow_watch *follow_watch_new(const struct follow_watch_params *p); /* NULL without memory */
void follow_watch_tick(struct follow_watch *w, uint64_t now);               /* ten times a second */
void follow_watch_stop(struct follow_watch *w);
void follow_watch_free(struct follow_watch *w); /* after the loop has ended */

#endif
