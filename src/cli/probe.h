/* derpmesh probe: real DERP clients through every pair of nodes, and STUN to each.
 *
 *   probe.c ── a round ──▶ probe_stun.c   one request a node, thrice at most
 *                        ▶ probe_run.c    clients log in, then each pair's packets go there and back
 *                        ▶ probe_print.c  the matrix, or JSON
 *
 * Owner: probe.c makes a round and frees it.  Thread: one, with one event loop that lives as long as the round.
 * Nothing here waits for ever: every login, request and packet has its time-out. */
#ifndef DERPMESH_CLI_PROBE_H
#define DERPMESH_CLI_PROBE_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "node/derp_client.h"
#include "node/resolve.h"
#include "node/stats.h"
#include "node/stream.h"
#include "proto/derpmap.h"
#include "proto/key.h"
#include "proto/stun.h"

enum { PROBE_TEXT = 512, PROBE_STUN_TRIES = 3, PROBE_COUNT_MAX = 10000, PROBE_INTERVAL_MAX = 10000 };

struct probe_round;
struct probe_node;

enum probe_login { PROBE_UNUSED, PROBE_WAITING, PROBE_LOGGING_IN, PROBE_OPEN, PROBE_CLOSED };

/* One DERP client.  A node has two where packets shall go from it to itself. */
struct probe_client {
    struct probe_node *node;
    struct derp_client *derp; /* NULL before and after */
    struct derp_key key;
    enum probe_login state;
    uv_timer_t timer; /* of the login */
};

struct probe_stun {
    struct probe_node *node;
    struct resolve resolve;
    uv_udp_t udp[PROBE_STUN_TRIES];
    uint8_t txid[PROBE_STUN_TRIES][STUN_TXID_LEN];
    uint64_t sent[PROBE_STUN_TRIES]; /* ns */
    char addr[64];                   /* last asked */
    int tries, error;                /* a libuv error of the last try */
    uv_timer_t timer;
};

struct probe_node {
    struct probe_round *round;
    const struct derpmap_node *node;
    const struct derpmap_region *region;
    bool from, to;            /* a row, a column of the matrix */
    double login_ms, stun_ms; /* < 0: not there */
    char error[PROBE_TEXT];   /* "" or why there is no login */
    char stun_error[PROBE_TEXT];
    struct probe_client client[2];
    struct key_pair *keys; /* of the two clients; NULL: made */
    struct probe_stun stun;
};

enum probe_pair_state { PROBE_PAIR_WAITING, PROBE_PAIR_WARMING, PROBE_PAIR_SENDING, PROBE_PAIR_DONE };

/* Packets from one node's client to another's (or to the second client of the same node) and back. */
struct probe_pair {
    struct probe_node *from, *to;
    struct probe_client *src, *dst;
    enum probe_pair_state state;
    uv_timer_t timer;
    uint64_t until;    /* ms: when the present state is given up */
    uint64_t *sent_at; /* ns, by packet; only while it runs */
    double *rtt;       /* ms, by packet, < 0: not back */
    int sent, arrived, received, twice;
    bool warm_arrived; /* a first packet came to dst */
    double min_ms, median_ms, max_ms;
    char error[PROBE_TEXT]; /* "" if all came back */
};

struct probe_options {
    int count, interval_ms;
    int login_ms; /* time-out of a login */
    bool json, watch;
};

struct probe_round {
    const struct derpmap *map;
    struct probe_options options;
    uv_loop_t *loop;
    struct stats *stats;
    struct stream_io io;
    SSL_CTX *tls;      /* NULL: the nodes speak plain HTTP */
    uint8_t nonce[16]; /* in every packet of this round */
    struct probe_node *nodes;
    int n_nodes;
    struct probe_pair *pairs;
    int n_pairs;
    uv_timer_t stun_alone;
    int stun_left, logins_left, logins_running, pairs_left, pairs_running, next_pair;
    bool packets_begun;
    int misdelivered; /* packets that came to somebody else, or changed */
};

/* probe_stun.c: asks; probe_run_stun_done follows once. */
void probe_stun_start(struct probe_node *n);
/* probe_run.c: the whole round, until nothing of it is left on the loop. */
void probe_run(struct probe_round *r);
void probe_run_stun_done(struct probe_round *r);

/* probe_print.c.  True if all that was tried went well. */
bool probe_ok(const struct probe_round *r);
void probe_print(const struct probe_round *r);
void probe_print_json(const struct probe_round *r);

#endif
