/* Connections before login, counted over all workers: in all, and per IPv4 address or IPv6 /64.
 *
 * Counters in a fixed table hashed by prefix with a secret seed: two prefixes may share one (then both are
 * limited together, which errs on the safe side).  Thread: any, lock-free. */
#ifndef DERPMESH_NODE_LIMITS_H
#define DERPMESH_NODE_LIMITS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "node/conn.h"

enum { LIMITS_BUCKETS = 16384 };

struct login_limits {
    uint64_t seed;
    _Atomic uint32_t max_total, max_prefix; /* changed by a reload */
    _Atomic uint32_t max_clients;
    _Atomic uint32_t total;
    _Atomic uint32_t clients;
    _Atomic bool draining, full; /* full: from max_clients until 90 % of it are left */
    /* New connections in time (limits_accept): each moves due by interval, which may be window ahead of now. */
    _Atomic uint64_t accept_interval, accept_window, accept_due; /* ns; interval 0: no limit */
    _Atomic uint16_t prefix[LIMITS_BUCKETS];
};

struct config;
/* Zeroes the counters; seed is secret.  limits_set takes the figures of a configuration, also at a reload. */
void limits_init(struct login_limits *l, uint64_t seed);
void limits_set(struct login_limits *l, const struct config *c);
/* Bytes of memory that this process may count on: the machine's or its cgroup's, whichever is less. */
uint64_t limits_memory(void);

enum limits_answer { LIMITS_OK, LIMITS_TOTAL, LIMITS_PREFIX };
/* Counts one more, unless that is too many. */
enum limits_answer limits_login_enter(struct login_limits *l, const struct conn_addr *a);
void limits_login_leave(struct login_limits *l, const struct conn_addr *a);
/* Whether one more connection may be accepted now (ns); false: it is to wait. */
bool limits_accept(struct login_limits *l, uint64_t now);
/* A login became a client: false if there are too many. */
bool limits_client_enter(struct login_limits *l);
void limits_client_leave(struct login_limits *l);
/* Whether the process may open one more descriptor now; where it may not, libuv closes new connections without a word. */
bool limits_descriptor_left(void);
/* Whether new connections are not wanted now: full or draining.  Says so in the log when it becomes full or not. */
bool limits_shut(struct login_limits *l);
uint32_t limits_prefix_count(const struct login_limits *l, const struct conn_addr *a);

#endif
